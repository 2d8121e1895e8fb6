"""Whole runs of the discrete key-value bottleneck: resumed ones, and its statistics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import job as jobs
from pipeline.training.run import Run

WriteJob = Callable[..., Path]

BOOKS = {"count": 16, "keys": 32}


def run(job: Path, folder: str, **how: Any) -> dict[str, Any]:
    return Run(jobs.load(job), Path(folder), print).run(**how)


@pytest.mark.parametrize(
    "keys",
    [{"kind": "gaussian", "events": 400}, {"kind": "file", "path": "sample.csv"}],
    ids=["gaussian", "file"],
)
def test_a_resumed_run_ends_in_the_same_state(write_job: WriteJob, keys: dict[str, Any]) -> None:
    columns = ["date", "period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer"]
    rows = [",".join(str((i * (j + 3)) % 17 / 17) for j in range(7)) for i in range(200)]
    Path("sample.csv").write_text("\n".join([",".join(columns), *rows]))
    job = write_job(learner={"kind": "dkvb", "codebooks": BOOKS, "keys": keys})
    whole = run(job, "whole", max_events=2000)
    for stop in (300, 900):  # once before the keys of a Gaussian
        run(job, "cut", max_events=stop, resume=stop > 300)
    cut = run(job, "cut", max_events=2000, resume=True)
    assert cut["state_digest"] == whole["state_digest"]
    assert cut["metrics"]["learner/trained_keys"] == whole["metrics"]["learner/trained_keys"] > 0
    assert whole["metrics"]["online/accuracy"] > 0.6
