"""What a job without settings learns from tables: categories, numbers, gaps, late labels.

Margins are far from what was measured with five seeds, which stands beside each.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

from pipeline.config.job import load
from pipeline.training.builder import Parts, build

pytestmark = pytest.mark.claims

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("EVERLEARN_DATA") or ROOT.parent / "shared" / "data")
TAXI = DATA / "chicago_taxi.csv.gz"
ELEC2 = ROOT / "streams" / "data" / "elec2.parquet"
METRICS = ("online/auc", "online/log_loss", "online/accuracy")

Floats = NDArray[np.float64]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def learned(folder: Path, stream: dict[str, Any], seed: int, **job: Any) -> Parts:
    """Return a job after its whole stream."""
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump({"seed": seed, "stream": stream, **job}))
    parts = build(load(file))
    for batch in parts.reader.read({}):
        parts.loop.step(batch)
    parts.loop.finish(parts.reader.size)
    return parts


def scores(folder: Path, stream: dict[str, Any], seeds: int, **job: Any) -> Floats:
    """Return AUC, log-loss and accuracy of each seed: (seeds, 3)."""
    found = []
    for seed in range(seeds):
        results = learned(folder, stream, seed, **job).loop.results()
        found.append([results[name] for name in METRICS])
    return np.array(found)


def taxi() -> dict[str, Any]:
    if not TAXI.exists():
        pytest.skip(f"{TAXI.name} is not on this machine: name its folder in EVERLEARN_DATA")
    return {
        "path": str(TAXI),
        "label": "big_tip",
        "time": "trip_start_timestamp",
        "label_delay": {"events": 100},
    }


def elec2() -> dict[str, Any]:
    return {"path": str(ELEC2), "label": "class", "label_delay": {"events": 48}}


def test_taxi_without_settings_learns_every_event(tmp_path: Path) -> None:
    fates = learned(tmp_path, taxi(), 0).loop.ledger.fates()
    assert fates["learned"] == 15_002
    assert sum(fates.values()) == 15_002


def test_taxi_without_settings_beats_one_hot_regression(tmp_path: Path) -> None:
    """AUC .9487 ± .0001, log-loss .217 ± .001; river's one-hot regression .939 and .232."""
    auc, log_loss, _ = scores(tmp_path, taxi(), 3).mean(0)
    assert auc > 0.947
    assert log_loss < 0.222


def test_elec2_without_settings_beats_one_hot_regression(tmp_path: Path) -> None:
    """Accuracy .795 ± .001, AUC .870; river's logistic regression .781 and .851."""
    auc, _, accuracy = scores(tmp_path, elec2(), 2).mean(0)
    assert accuracy > 0.79
    assert auc > 0.865


@pytest.mark.parametrize("stream", [taxi, elec2])
def test_aggregates_make_nothing_worse(tmp_path: Path, stream: Any) -> None:
    """Taxi: AUC +.002, log-loss -.008. Elec2: accuracy +.015, log-loss -.023."""
    settings = stream()
    with_them = scores(tmp_path, settings, 2).mean(0)
    without = scores(tmp_path, {**settings, "aggregates": "none"}, 2).mean(0)
    assert with_them[0] > without[0] - 0.001
    assert with_them[1] < without[1] + 0.001


@pytest.mark.parametrize("learner", [None, "replay"])
def test_thousands_of_categories_are_learned(tmp_path: Path, learner: str | None) -> None:
    """5,000 ids in eight passes, each with a label of its own: .999 in the last 1,000."""
    rng = np.random.default_rng(0)
    ids = rng.integers(5000, size=40_000)
    rows = [f"u{i:05d},{'odd' if i % 2 else 'even'}" for i in ids]
    (tmp_path / "a.csv").write_text("\n".join(["id,label", *rows, ""]))
    stream = {
        "path": str(tmp_path / "a.csv"),
        "label": "label",
        "features": {"categorical": ["id"]},
    }
    job = {} if learner is None else {"learner": {"kind": learner, "steps": 2}}
    results = learned(tmp_path, stream, 0, **job).loop.results()
    assert results["online/accuracy_window"] > 0.97
