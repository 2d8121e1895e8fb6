"""Cells of a bench in a real MLflow: each once, whoever died and when."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlflow")

from pipeline.bench.mlflow_runs import CellTracker
from pipeline.tracking.mlflow_client import TrackError
from tests.support.mlflow import client

Everlearn = Callable[..., Any]
BENCH = ("bench", "split-digits", "--learner", "finetune", "--every", 100, "--out", "out")
FOLDER = Path("out/split-digits/finetune-seed-0")


def runs(uri: str, experiment: str = "bench split-digits") -> list[Any]:
    there = client(uri)
    known = there.get_experiment_by_name(experiment)
    return list(there.search_runs([known.experiment_id])) if known else []


def test_each_cell_is_a_run_with_curves_and_result(
    everlearn: Everlearn, uri: str, tmp_path: Path
) -> None:
    everlearn(*BENCH, "--learner", "no-change", "--seeds", 2, "--track", uri)
    logged = runs(uri)
    assert sorted((r.data.tags["learner"], r.data.params["seed"]) for r in logged) == [
        ("finetune", "0"),
        ("finetune", "1"),
        ("no-change", "0"),
        ("no-change", "1"),
    ]
    assert {r.info.status for r in logged} == {"FINISHED"}
    assert {r.data.tags["scenario"] for r in logged} == {"split-digits"}
    (run,) = [r for r in logged if r.info.run_name == "finetune-seed-0"]
    assert run.data.params["learner.model.hidden"] == "[128]"
    result = json.loads((FOLDER / "result.json").read_text())["result"]
    there = client(uri)
    for name, value in (
        ("stability/forgetting", result["metrics"]["forgetting"]),
        ("plasticity/weight_norm", result["metrics"]["weight_norm"]),
        ("online/accuracy", result["metrics"]["online_accuracy"]),
    ):
        curve = sorted(there.get_metric_history(run.info.run_id, name), key=lambda m: m.step)
        assert curve[-1].step == 1343
        assert curve[-1].value == pytest.approx(value, abs=1e-12)
        assert {m.step for m in curve} <= set(result["evaluations"]["events"])
    online = there.get_metric_history(run.info.run_id, "online/accuracy")
    assert sorted(m.step for m in online) == result["evaluations"]["events"]
    kept = there.download_artifacts(run.info.run_id, "result.json", str(tmp_path))
    assert json.loads(Path(kept).read_text())["result"] == result


def test_finished_cells_are_logged_once(everlearn: Everlearn, uri: str) -> None:
    everlearn(*BENCH, "--seeds", 1)
    everlearn(*BENCH, "--seeds", 2, "--track", uri)
    first = runs(uri)
    assert sorted(r.info.run_name for r in first) == ["finetune-seed-0", "finetune-seed-1"]
    everlearn(*BENCH, "--seeds", 2, "--track", uri)
    again = runs(uri)
    assert {r.info.run_id: r.info.end_time for r in again} == {
        r.info.run_id: r.info.end_time for r in first
    }


def test_interrupted_delivery_continues_in_its_run(everlearn: Everlearn, uri: str) -> None:
    everlearn(*BENCH, "--seeds", 1, "--track", uri)
    (run,) = runs(uri)
    # As after a bench that was killed before it ended the run.
    client(uri).update_run(run.info.run_id, status="RUNNING")
    everlearn(*BENCH, "--seeds", 1, "--track", uri)
    (again,) = runs(uri)
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")


def test_cell_that_runs_again_is_a_new_run(everlearn: Everlearn, uri: str) -> None:
    everlearn(*BENCH, "--seeds", 1, "--track", uri)
    everlearn(*BENCH, "--seeds", 1, "--track", uri, "--set", "learner.steps=2")
    logged = runs(uri)
    assert sorted(r.data.params["learner.steps"] for r in logged) == ["1", "2"]


@pytest.mark.parametrize("uri", ["runs", "file:///x", "sqlite://", "http://"])
def test_cell_tracker_refuses_an_invalid_uri(uri: str, tmp_path: Path) -> None:
    with pytest.raises(TrackError, match="--track: "):
        CellTracker(uri, tmp_path)
