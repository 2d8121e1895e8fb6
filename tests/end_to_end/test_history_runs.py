"""Whole runs of a click model over histories: resumed, on Ray, and served."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.config import job as jobs
from pipeline.config.sections import ServeConfig
from pipeline.serving.checkpoint_server import CheckpointServer
from pipeline.storage.checkpoints import read
from pipeline.training.builder import build
from pipeline.training.run import Run
from streams.operators.features.histories import NO_VALUE, Histories
from tests.support.http import ask, listening

EVENTS = 900
MODEL = {"kind": "deepfm", "hidden": [8]}
ASKED = [{"user": "u1", "item": "i1"}, {"user": "u1", "item": "i2"}, {"user": "new", "item": "i1"}]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job over clicks of users who like one half of the items."""
    rng = np.random.default_rng(7)
    with (tmp_path / "clicks.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user", "item", "clicked"])
        for user, item in rng.integers([6, 12], size=(EVENTS, 2)).tolist():
            liked = rng.random() < (0.9 if (user + item) % 2 == 0 else 0.1)
            rows.writerow([f"u{user}", f"i{item}", int(liked)])
    stream = {
        "path": "clicks.csv",
        "label": {"column": "clicked", "classes": [0, 1]},
        "features": {"categorical": ["user", "item"]},
        "label_delay": {"events": 20},
        "aggregates": "none",
        "history": {"by": "user", "of": "item", "length": 8, "keys": 64},
    }
    learner = {"kind": "click-model", "model": MODEL, "inputs": {"rows": 64}}
    file_of_job = tmp_path / "clicks.yaml"
    file_of_job.write_text(yaml.safe_dump({"stream": stream, "learner": learner}))
    return file_of_job


def run(job: Path, folder: str, **how: Any) -> dict[str, Any]:
    return Run(jobs.load(job), Path(folder), print).run(**how)


def test_runs_on_ray_and_resumed_ones_end_in_the_same_state(
    job: Path, everlearn: Callable[..., Any], summary: Callable[[Path], dict[str, Any]]
) -> None:
    pytest.importorskip("ray")
    everlearn("run", job, "--runner", "ray", "--run-dir", "ray")
    whole, other = run(job, "whole"), summary(Path("ray"))
    run(job, "cut", max_events=416)
    cut = run(job, "cut", resume=True)
    assert other["runner"] == "ray"
    assert whole["state_digest"] == other["state_digest"] == cut["state_digest"]


def test_served_answer_uses_the_history_of_the_user(job: Path) -> None:
    """A request states user and item alone; the history is that of the run."""
    run(job, "run")
    server = CheckpointServer(Path("run"), ServeConfig(), pytest.fail)
    with listening(server) as port:
        assert server.reload()
        reply = ask(port, "/predict", ASKED)
    assert reply.status == 200
    parts = build(jobs.load(job))
    parts.load(read(max(Path("run/checkpoints").iterdir())).state)
    question = next(parts.reader.read({}))[:3]
    users, items = ([event[name] for event in ASKED] for name in ("user", "item"))
    x = {"user": np.array(users, object), "item": np.array(items, object)}
    (operator,) = (each for each in parts.loop.operators if isinstance(each, Histories))
    asked = operator.view(replace(question, x=x, y=None))
    assert not isinstance(asked.x, np.ndarray)
    history = np.asarray(asked.x["history"])
    assert (history[:2] != NO_VALUE).all()
    assert (history[2] == NO_VALUE).all()
    learner = parts.loop.learner
    expected = learner.predict(asked).proba
    assert expected is not None
    np.testing.assert_allclose(reply.body["probabilities"], expected, rtol=1e-6)
    without = replace(asked, x={**asked.x, "history": np.full_like(history, NO_VALUE)})
    none = learner.predict(without).proba
    assert none is not None
    assert (np.abs(none - expected)[:2, 1] > 1e-3).all()
    assert none[2, 1] == expected[2, 1]
