"""What a description tells of histories, and of memories that correct a learner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from pipeline.callbacks.job_table import job_table
from pipeline.config.job import load
from pipeline.training.builder import build
from pipeline.training.description import JobDescription, describe

SKETCH = {"kind": "sketch", "tables": 4, "bits": 6}
LEARNERS: list[tuple[dict[str, Any], list[str]]] = [
    (
        {"kind": "error-memory", "base": "click-model"},
        ["the last 2,000 labels (ring), by the last hidden layer of click-model"],
    ),
    (
        {
            "kind": "segment-residuals",
            "by": ["user", ["user", "item"]],
            "half_lives": [50],
            "base": {
                "kind": "error-memory",
                "base": "click-model",
                "memory": SKETCH,
                "keys": {"kind": "inputs", "columns": ["a"]},
            },
        },
        [
            "errors by user, user and item, and of all, with half-lives of 50 labels",
            "sums of labels in 4 tables of 64 hashes, by a",
        ],
    ),
    ({"kind": "click-model"}, []),
]


@pytest.fixture
def described(tmp_path: Path) -> Callable[[Any], JobDescription]:
    rows = "".join(f"u{i % 5},v{i % 7},{i / 10},{i % 2}\n" for i in range(60))
    (tmp_path / "log.csv").write_text("user,item,a,click\n" + rows)
    history = {"by": "user", "of": "item", "length": 8, "positive": False}
    stream = {"path": "log.csv", "label": "click", "history": history}
    file = tmp_path / "job.yaml"

    def of(learner: Any) -> JobDescription:
        file.write_text(yaml.safe_dump({"stream": stream, "learner": learner}))
        loaded = load(file)
        return describe(loaded, build(loaded))

    return of


@pytest.mark.parametrize(("learner", "memories"), LEARNERS)
def test_a_description_names_history_and_memories(
    described: Callable[[Any], JobDescription], learner: dict[str, Any], memories: list[str]
) -> None:
    found = described(learner)
    assert found.history == "the last 8 of item by user"
    assert list(found.memories) == memories
    assert found.as_json()["memories"] == memories
    console = Console(width=120)
    with console.capture() as shown:
        console.print(job_table(found))
    assert f"history: {found.history}\n" in shown.get()
    for memory in memories:
        assert f"memory: {memory}\n" in shown.get()
