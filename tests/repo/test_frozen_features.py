"""The study of learners on frozen features: equal bytes, and its table."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.studies import frozen_features
from pipeline.bench.cell import Cell, build_cell, job_of


@pytest.mark.parametrize("learner", ["replay", "der++"])
def test_a_buffer_makes_the_state_as_large_as_stated(learner: str) -> None:
    text = f"{learner}:{frozen_features.SHARED % (0.003, 1)}"
    overrides = ["stream.encoder=identity"]
    size = 180_000
    equal = frozen_features.with_bytes(size, text, "split-digits", overrides)
    parts = build_cell(job_of(Cell("split-digits", equal, 0), overrides))
    for batch in parts.reader.batches(parts.reader.blocks({}, 64)):
        parts.loop.step(batch)
    held = parts.loop.learner.memory_bytes()
    assert size - 1000 < held <= size + 200  # a row, and digits of a counter


def test_table_lists_the_best_first_and_pairs_seeds() -> None:
    def result(
        learner: str, seed: int, acc: float, loss: float | None, cpu: float, size: int
    ) -> dict[str, Any]:
        metrics = {"acc": acc, "forgetting": 0.1, "aaa": 0.5}
        extra = {} if loss is None else {"test_log_loss": loss}
        costs = {"cpu_seconds": cpu, "state_bytes": size}
        return {"learner": learner, "seed": seed, "metrics": metrics | extra, **costs}

    shared = "optimizer={kind: adam, lr: 0.1},buffer.capacity=1234"
    results = [
        result("joint", 0, 0.5, 1.0, 2.0, 10**6),
        result("joint", 1, 0.7, 2.0, 4.0, 2 * 10**6),
        result("slda", 0, 0.6, None, 1.0, 10**4),
        result("slda", 1, 0.8, 1.0, 1.0, 10**4),
        result(f"replay:{shared}", 1, 0.4, 1.0, 1.0, 10**4),
    ]
    rows = [row.split(" | ") for row in frozen_features.table(results)[2:]]
    assert [row[0] for row in rows] == ["| slda", "| joint", "| replay, 1,234 events"]
    assert rows[0][1] == "70.0±14"
    assert rows[0][4] == "+10.0 [+10.0, +10.0]"
    assert rows[0][5:] == ["", "1.0", "0.01 MB", "2 |"]
    assert rows[1][4:] == ["", "1.500", "3.0", "2.00 MB", "2 |"]
    assert rows[2][4] == "-30.0"
