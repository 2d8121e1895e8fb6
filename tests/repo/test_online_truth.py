"""Forgetting that is measured online, on probes and with no task told, is the truth: a small part
of experiments/studies/online_truth.py, whose results have ten seeds of each."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("EVERLEARN_DATA") or ROOT.parent / "shared" / "data")
if not (DATA / "mnist-train-images-idx3-ubyte.gz").exists():
    pytest.skip(f"no MNIST in {DATA}", allow_module_level=True)


@pytest.fixture(scope="module")
def online_truth() -> ModuleType:
    file = ROOT / "experiments" / "studies" / "online_truth.py"
    spec = importlib.util.spec_from_file_location("online_truth", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["online_truth"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERLEARN_DATA", str(DATA))


@pytest.mark.claims
@pytest.mark.parametrize("learner", ["finetune", pytest.param("replay", marks=pytest.mark.claims)])
def test_2000_probes_a_segment_are_within_two_points(
    online_truth: ModuleType, learner: str, tmp_path: Path
) -> None:
    points = list(online_truth.points("2,000 split-mnist", learner, 0, tmp_path))
    assert len(points) >= 12
    assert min(point.probes for point in points) >= 2000
    for name in ("forgetting", "forgetting_initial"):
        off = [point.off(name) for point in points]
        assert max(off) < 0.02, (name, off)
    last = points[-1].truth["stability/forgetting"]
    assert last > (0.85 if learner == "finetune" else 0.1)  # there is something to be seen
    # It is seen as it happens: soon after the border, and not at the end of the next task alone.
    soon = next(point for point in points if point.events == 8000)
    assert soon.found["stability/forgetting"] > (0.8 if learner == "finetune" else 0.01)


@pytest.mark.claims
def test_by_default_the_interval_holds_the_truth(online_truth: ModuleType, tmp_path: Path) -> None:
    points = [
        point
        for scenario in ("split-mnist", "permuted-mnist")
        for point in online_truth.points(f"default {scenario}", "replay", 0, tmp_path)
    ]
    assert len(points) >= 26
    for name in ("forgetting", "forgetting_initial", "acc"):
        held = np.mean([point.held(name) for point in points])
        assert held >= 0.85, (name, held)  # 93% and more over ten seeds
