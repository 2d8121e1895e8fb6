"""Whole runs over event sequences: exact at any cut, resumed, on Ray, and refused where wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import learners
from learners.registry import load_object
from pipeline.config import job as jobs
from pipeline.training.builder import build
from pipeline.training.run import Run
from streams.core.state_dict import digest
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
