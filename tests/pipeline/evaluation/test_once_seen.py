"""Events learned once: which they are, that no memory holds them, and which of them are kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.errors import JobError
from pipeline.config.job import load
from pipeline.config.sections import OnceSeenConfig
from pipeline.evaluation.once_seen import OnceSeen, dense
from pipeline.storage.checkpoints import read
from pipeline.training.builder import Parts, build
from streams.core.batch import Batch
from streams.core.state_dict import digest
from streams.operators.holdout import HoldOut

WriteJob = Callable[..., Path]
ONCE = {"share": 0.05, "capacity": 200}


def events(start: int, stop: int) -> Batch:
    n = np.arange(start, stop)
    return Batch(n * 10, n * 1.0, n[:, None] * 1.0, n * 0, n, n % 2, classes=("a", "b"))


def fed(once: OnceSeen, n: int, size: int = 32, folding: int = 0) -> OnceSeen:
    """n events in micro-batches, the i-th of which is the i-th update."""
    for i, start in enumerate(range(0, n, size)):
        once.learned(events(start, min(start + size, n)), i + 1)
        if folding and i % folding == 0:
            once.kept()
    return once


def test_learned_keeps_a_share_with_its_version() -> None:
    once = fed(OnceSeen(OnceSeenConfig(share=0.05, capacity=10_000), 3), 20_000)
    kept = once.kept()
    assert kept.rows is not None
    assert 850 < len(kept) < 1150  # 1,000 and five standard deviations
    assert (
        kept.rows.ids.tolist()
        == np.arange(0, 200_000, 10)[once.holds(events(0, 20_000).ids)].tolist()
    )
    assert kept.place.tolist() == list(range(len(kept)))
    assert kept.learned.tolist() == (kept.rows.offset // 32 + 1).tolist()
    assert kept.rows.y is not None
    assert (kept.rows.y == kept.rows.offset % 2).all()


def test_once_seen_events_are_chosen_apart_from_probes() -> None:
    ids = np.arange(100_000)
    once = OnceSeen(OnceSeenConfig(share=0.1), 3).holds(ids)
    probes = HoldOut(0.1, 3).holds(ids)
    assert abs(int((once & probes).sum()) - 1000) < 160  # as if they had nothing to do with it


def test_sample_has_all_ages_within_the_capacity() -> None:
    """Of 100,000 in all the c newest stay, and c * ln(10) of each power of ten beyond."""
    c = dense(100_000, 1000)
    assert c * (1 + np.log(100_000 / c)) == pytest.approx(1000)
    counts = []
    for seed in range(5):
        kept = fed(OnceSeen(OnceSeenConfig(share=1 - 1e-9, capacity=1000), seed), 100_000).kept()
        counts.append(np.histogram(100_000 - kept.place, [1, c, 10 * c, 100 * c, 1000 * c])[0])
    assert np.sum(counts) == pytest.approx(5000, rel=0.05)
    mean = np.mean(counts, 0)
    assert mean[0] == pytest.approx(c, rel=0.05)
    assert mean[1] == pytest.approx(c * np.log(10), rel=0.1)
    assert mean[2] == pytest.approx(c * np.log(10), rel=0.1)


def test_dense_falls_and_gives_the_capacity() -> None:
    scales = [dense(n, 500) for n in (501, 502, 1000, 10**6, 10**9, 10**15)]
    assert scales == sorted(scales, reverse=True)
    for n, c in zip((501, 502, 1000, 10**6, 10**9, 10**15), scales, strict=True):
        assert c * (1 + np.log(n / c)) == pytest.approx(500)


@pytest.mark.parametrize("folding", [1, 7, 100])
def test_kept_at_any_time_leaves_the_state_unchanged(folding: int) -> None:
    config = OnceSeenConfig(share=0.5, capacity=150)
    alone, looked_at = (fed(OnceSeen(config, 1), 9000, folding=f) for f in (0, folding))
    assert digest(alone.state()) == digest(looked_at.state())


def test_once_seen_loaded_from_state_continues_the_same() -> None:
    config = OnceSeenConfig(share=0.3, capacity=100)
    whole, first, then = OnceSeen(config, 1), OnceSeen(config, 1), OnceSeen(config, 1)
    for i in range(200):
        batch = events(32 * i, 32 * i + 32)
        whole.learned(batch, i)
        (first if i < 77 else then).learned(batch, i)
        if i == 76:
            then.load(first.state(), ("a", "b"))
    assert digest(whole.state()) == digest(then.state())


def test_correct_replaces_a_label() -> None:
    once = fed(OnceSeen(OnceSeenConfig(share=0.5, capacity=1000), 1), 200)
    before = once.kept()
    assert before.rows is not None
    some, others = before.rows.ids[[3, 8]], np.array([5, 7])  # which are ids of none
    once.correct(np.concatenate([some, others]), np.array([7, 9, 1, 1]))
    after = once.kept()
    assert after.rows is not None
    assert after.rows.y is not None
    assert after.rows.y[[3, 8]].tolist() == [7, 9]
    changed = np.flatnonzero(after.rows.y != before.rows.y)
    assert changed.tolist() == [3, 8]  # and what was handed out stays as it was


def run(job: Path, events: int) -> Parts:
    parts = build(load(job))
    for batch in parts.reader.read({}):
        parts.loop.step(batch)
        if parts.loop.events >= events:
            break
    return parts


@pytest.mark.parametrize("delay", [0, 48])
def test_once_seen_events_enter_no_buffer(write_job: WriteJob, delay: int) -> None:
    stream = {"label_delay": {"events": delay}}
    job = write_job(
        stream=stream,
        learner={"buffer": {"capacity": 5000}},
        evaluate={"once_seen": {"share": 0.2, "capacity": 5000}, "probes": {"share": 0.1}},
    )
    parts = run(job, 4000)
    loop = parts.loop
    assert loop.once_seen is not None
    assert loop.probes is not None
    kept = loop.once_seen.kept()
    assert kept.rows is not None
    remembered = loop.learner.buffer._ids()  # type: ignore[attr-defined]
    assert len(remembered) > 2500
    assert not loop.once_seen.holds(remembered).any()
    assert not np.isin(kept.rows.ids, remembered).any()
    assert not loop.probes.holds(kept.rows.ids).any()
    # The update is that of the micro-batch in which the label came.
    revealed = kept.rows.offset + delay
    assert (np.abs(kept.learned - (revealed // 32 + 1)) <= 1).all()
    loop.score()
    assert loop.ledger.fates()["learned"] == len(remembered) + len(kept)


def test_once_seen_events_are_learned_as_others(write_job: WriteJob, tmp_path: Path) -> None:
    """A learner that remembers nothing is the same with and without."""
    digests = []
    for once in ({"share": 0.0}, {"share": 0.3}):
        learner = {"kind": "finetune", "model": {"kind": "mlp", "hidden": [4]}}
        job = write_job(learner=learner, evaluate={"once_seen": once})
        state = run(job, 3000).loop.state()
        digests.append(digest({"learner": state["learner"], "ledger": state["ledger"]}))
    assert digests[0] == digests[1]


def test_run_without_once_seen_has_the_same_state(write_job: WriteJob) -> None:
    assert "once_seen" not in run(write_job(), 1000).loop.state()
    base = load(write_job())
    assert not any("once_seen" in key for key in base.fingerprint())
    more = load(write_job(), ["evaluate.once_seen.share=0.1"]).fingerprint()
    assert {key for key in more if "once_seen" in key} == {
        "evaluate.once_seen.share",
        "evaluate.once_seen.capacity",
    }


def test_resumed_run_keeps_the_same_sample(
    write_job: WriteJob, everlearn: Callable[..., Any]
) -> None:
    job = write_job(evaluate={"once_seen": ONCE}, checkpoint={"every_events": 1500})
    everlearn("run", job, "--run-dir", "whole", "--max-events", 8000)
    everlearn("run", job, "--run-dir", "cut", "--max-events", 5000)
    everlearn("run", job, "--run-dir", "cut", "--max-events", 8000, "--resume")
    whole, cut = (json.loads(Path(f, "summary.json").read_text()) for f in ("whole", "cut"))
    assert whole["state_digest"] == cut["state_digest"]
    state = read(max(Path("whole/checkpoints").iterdir())).state
    assert 150 < len(state["once_seen"]["place"]) < 260
    assert state["once_seen"]["seen"] > 350


def test_once_seen_needs_classification(write_job: WriteJob, everlearn: Callable[..., Any]) -> None:
    job = write_job(
        stream={"label": "nswprice"},
        learner={"kind": "finetune", "model": {"kind": "mlp", "hidden": [4]}},
        evaluate={"once_seen": ONCE},
    )
    refused = everlearn("run", job, "--run-dir", "run", code=2)
    assert "evaluate.once_seen.share: it is for classification" in refused.line


def test_once_seen_refuses_a_learner_with_opaque_state(write_job: WriteJob) -> None:
    river = {"kind": "river", "model": "linear_model.LogisticRegression"}
    with pytest.raises(JobError, match=r"once_seen.share: learner 'river' is an object"):
        build(load(write_job(learner=river, evaluate={"once_seen": {"share": 0.1}})))
