"""The table at the end of a run."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.callbacks.progress import table

METRICS = {
    "online/accuracy": 0.9,
    "online/f1": 0.8,
    "online/average_precision": 0.7,
    "online/macro_f1": 0.6,
}


def shown(matrix: list[list[int]] | None, metrics: dict[str, float]) -> dict[str, str]:
    """The rows of the table of a run with a confusion matrix."""
    summary: dict[str, Any] = {
        "job": "a",
        "seed": 1,
        "events": 100,
        "events_per_s": 10.0,
        "metrics": metrics,
        "fates": {"learned": 100},
        "awaiting": 0,
        "state_digest": "0" * 64,
    }
    if matrix is not None:
        summary["confusion"] = {"classes": [*range(len(matrix))], "matrix": matrix}
    names, values = (column.cells for column in table(summary).columns)
    return dict(zip(map(str, names), map(str, values), strict=True))


@pytest.mark.parametrize(
    ("matrix", "rows"),
    [
        (None, {"accuracy": "0.9000"}),
        ([[50, 5], [5, 40]], {"accuracy": "0.9000"}),
        ([[75, 5], [5, 15]], {"accuracy": "0.9000", "F1": "0.8000", "average precision": "0.7000"}),
        ([[90, 0, 0], [0, 5, 0], [0, 0, 5]], {"accuracy": "0.9000", "macro-F1": "0.6000"}),
    ],
)
def test_table_has_f1_where_classes_are_unequal(
    matrix: list[list[int]] | None, rows: dict[str, str]
) -> None:
    binary = matrix is None or len(matrix) == 2
    metrics = {k: v for k, v in METRICS.items() if binary or k not in list(METRICS)[1:3]}
    found = shown(matrix, metrics)
    others = ("events", "events/s", "learned", "state digest")
    assert {name: value for name, value in found.items() if name not in others} == rows
