"""Whole runs over event sequences: exact at any cut, resumed, on Ray, and refused where wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import learners
from learners.registry import load_object
from learners.sequences.forecast import mean
from pipeline.config import job as jobs
from pipeline.models.snapshot import InferenceModel
from pipeline.serving.answers import answer_request
from pipeline.serving.requests import RequestReader
from pipeline.training.builder import Parts, build
from pipeline.training.run import Run
from streams.core.state_dict import digest
from streams.operators.features.sequences import Sequences
from tests.support.sequences import sequence_job, write_events

KINDS = sorted(
    kind
    for kind, path in learners.KINDS.items()
    if path.startswith("learners.sequences") and "sequences" in load_object(path).handles
)
CONTROLS = [kind for kind in KINDS if load_object(learners.KINDS[kind]).per_event]


@pytest.fixture(autouse=True)
def _events(tmp_path: Path) -> None:
    write_events(tmp_path / "events.csv")


def run(job: Path, folder: str, **how: Any) -> dict[str, Any]:
    return Run(jobs.load(job), Path(folder), print).run(**how)


def example(kind: str) -> dict[str, Any]:
    return load_object(learners.KINDS[kind]).example("sequences")


@pytest.mark.parametrize("kind", CONTROLS)
def test_cuts_of_a_stream_do_not_matter(kind: str, tmp_path: Path) -> None:
    """Learner, operators and metrics end in the same bytes at any size of micro-batches."""
    found = []
    for size in (1, 32, 700):
        job = sequence_job(tmp_path / f"{size}.yaml", example(kind), batch_size=size)
        parts = build(jobs.load(job))
        for batch in parts.reader.read({}):
            parts.loop.step(batch)
        state = parts.state()
        state["learner"].pop("version")
        metrics = {k: v for k, v in parts.loop.results().items() if "label_lag" not in k}
        exact = {name: state[name] for name in ("learner", "operators")}
        found.append((digest(exact), state["metrics"]["predictions"], metrics))
    assert found[0] == found[1] == found[2]
    assert {"online/nll_time", "online/nll_type", "online/time_mae"} <= found[0][2].keys()


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_run_ends_in_the_same_state(kind: str, tmp_path: Path) -> None:
    job = sequence_job(tmp_path / "job.yaml", example(kind))
    whole = run(job, "whole")
    for stop in (416, 960):
        run(job, "cut", max_events=stop, resume=stop > 416)
    cut = run(job, "cut", resume=True)
    assert cut["state_digest"] == whole["state_digest"]
    assert cut["fates"] == whole["fates"]
    assert whole["fates"]["probe"] > 80
    assert whole["fates"]["unlabelled"] > 10  # what waits at the end
    assert sum(whole["fates"].values()) == whole["events"]


def test_run_on_ray_ends_in_the_same_state(
    tmp_path: Path, everlearn: Callable[..., Any], summary: Callable[[Path], dict[str, Any]]
) -> None:
    pytest.importorskip("ray")
    job = sequence_job(tmp_path / "job.yaml", {"kind": "recent-history"})
    everlearn("run", job, "--runner", "ray", "--run-dir", "ray")
    other, whole = summary(Path("ray")), run(job, "whole")
    assert other["runner"] == "ray"
    assert other["state_digest"] == whole["state_digest"]


def answers(parts: Parts, events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a server of the model of a run answers."""
    snapshot = parts.snapshot({})
    model = InferenceModel(parts.recipe, snapshot)
    body = answer_request(model, RequestReader(parts.recipe).read(events)).body
    found: dict[str, Any] = json.loads(body)
    return found


@pytest.mark.parametrize("kind", ["poisson", "recent-history", "hawkes"])
def test_server_answers_the_next_event_of_a_key(kind: str, tmp_path: Path) -> None:
    """A request states the key alone, or a time until which nothing came as well."""
    parts = build(jobs.load(sequence_job(tmp_path / "job.yaml", example(kind))))
    batches = list(parts.reader.read({}))
    for batch in batches[:-1]:
        parts.loop.step(batch)
    last = batches[-2]
    assert not isinstance(last.x, np.ndarray)
    user = last.x["user"].texts()[-1]  # type: ignore[union-attr]
    time = float(last.time[-1])
    later = {"user": user, "time": time + 2}
    found = answers(parts, [{"user": user}, {"user": "nobody"}, later])
    known, unknown, waited = found["next"]
    operator = next(o for o in parts.loop.operators if isinstance(o, Sequences))
    asked = operator.view(replace(last, time=np.full(len(last), np.nan)))
    expected = parts.loop.learner.predict(asked)
    assert expected.forecast is not None
    assert found["predictions"][0] == expected.classes[expected.value[-1]]
    assert found["probabilities"][0] == pytest.approx(expected.proba[-1])  # type: ignore[index]
    assert known["mean"] == pytest.approx(mean(expected.forecast)[-1], rel=1e-5)
    assert known["since"] == time
    levels = list(known["quantiles"].values())
    assert list(known["quantiles"]) == ["0.1", "0.5", "0.9"]
    assert levels == sorted(levels)
    assert unknown["since"] is None
    assert unknown["mean"] > 0
    assert waited["since"] == time + 2
    if kind == "hawkes":  # excitement has faded
        assert waited["mean"] > known["mean"]
    else:  # a constant rate has no memory
        assert waited == known | {"since": time + 2}


@pytest.mark.parametrize(
    ("learner", "stream", "match"),
    [
        ("finetune", {}, "handles .*, but the label of this stream is for sequences"),
        ("poisson", {"sequence": None}, "handles sequences, but .* change stream.sequence"),
        ("poisson", {"label_delay": {"events": 3}}, "stream.label_delay: .*: leave it out"),
        ("poisson", {"time": None}, "stream.sequence: .* state the column of their time"),
        ("poisson", {"sequence": {"by": "who"}}, "stream.sequence.by: .* 'who'"),
        ("poisson", {"sequence": {"by": "user", "horizon": 9.0, "expire": 1.0}}, "expire: "),
    ],
)
def test_jobs_that_cannot_be_are_refused(
    learner: str, stream: dict[str, Any], match: str, tmp_path: Path
) -> None:
    job = sequence_job(tmp_path / "job.yaml", {"kind": learner}, **stream)
    with pytest.raises(jobs.JobError, match=match):
        build(jobs.load(job))
