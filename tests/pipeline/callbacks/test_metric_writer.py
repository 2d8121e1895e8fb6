"""Those who watch a run."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.callbacks import metric_writer as watch
from pipeline.callbacks.label_feed import LabelFeed
from pipeline.callbacks.metric_writer import MetricWriter
from pipeline.callbacks.snapshot_publisher import SnapshotPublisher
from pipeline.config import job as jobs
from pipeline.models.snapshot import InferenceModel
from pipeline.training.callback import Callback, RunContext
from pipeline.training.loop import Loop, StepResult
from pipeline.training.run import Run

WriteJob = Callable[..., Path]


def run(job: Path, folder: str, *callbacks: Callback, **how: Any) -> dict[str, Any]:
    return Run(jobs.load(job), Path(folder), print).run(callbacks=callbacks, **how)


def rows(folder: str) -> list[dict[str, Any]]:
    return [json.loads(row) for row in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def test_metric_writer_writes_rows_at_the_configured_steps(write_job: WriteJob) -> None:
    summary = run(write_job(), "a", MetricWriter(500), max_events=3000)
    found = rows("a")
    assert [row["step"] for row in found[:-1]] == [512, 1024, 1504, 2016, 2528]
    assert found[-1]["step"] == summary["events"]
    assert found[-1]["metrics"]["online/accuracy"] == summary["metrics"]["online/accuracy"]
    assert found[-1]["metrics"]["system/memory_mb"] > 50
    assert {"system/events_per_s", "system/awaiting", "system/checkpoint_s"} <= set(
        found[-1]["metrics"]
    )


def test_metric_writer_after_resume_repeats_no_step(write_job: WriteJob) -> None:
    job = write_job(checkpoint={"every_events": 700})
    run(job, "whole", MetricWriter(500), max_events=4000)
    run(job, "cut", MetricWriter(500), max_events=2200)
    # As after a kill: the newest checkpoint is older than the newest row.
    newest = max((Path("cut") / "checkpoints").iterdir())
    newest.rename(newest.with_name("gone"))
    run(job, "cut", MetricWriter(500), max_events=4000, resume=True)
    steps = [row["step"] for row in rows("cut")]
    assert steps == sorted(set(steps))
    values = {row["step"]: row["metrics"]["online/accuracy"] for row in rows("whole")}
    for row in rows("cut"):
        if row["step"] in values:
            assert row["metrics"]["online/accuracy"] == values[row["step"]]
    assert set(values) <= set(steps)


def test_metric_writer_over_its_share_leaves_steps_out(
    write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_ROWS_FREE_S", 0.0)
    monkeypatch.setattr(watch, "_ROWS_SHARE", 0.0)
    run(write_job(), "a", MetricWriter(100), max_events=2000)
    assert [row["step"] for row in rows("a")] == [128, 2000]  # the first, and the end


def test_callbacks_change_no_bit_of_the_state(write_job: WriteJob) -> None:
    job = write_job()
    alone = run(job, "alone", max_events=3000)
    callbacks = (MetricWriter(100), SnapshotPublisher(0.0), LabelFeed(lambda *_: None, 0.0))
    watched = run(job, "watched", *callbacks, max_events=3000)
    assert watched["state_digest"] == alone["state_digest"]
    assert watched["metrics"] == alone["metrics"]


class Asks(Callback):
    """Takes what is published after each micro-batch."""

    def __init__(self, publisher: SnapshotPublisher) -> None:
        self.publisher = publisher
        self.found: list[tuple[int, int]] = []

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        newest = self.publisher.newer(0, 0)
        assert newest is not None
        assert newest[1].events <= loop.events
        self.found.append((newest[0], newest[1].version))


def test_publisher_snapshots_are_consistent_and_end_with_the_run(write_job: WriteJob) -> None:
    publisher = SnapshotPublisher(0.0)
    asks = Asks(publisher)
    loaded = jobs.load(write_job())
    going = Run(loaded, Path("a"), print)
    summary = going.run(callbacks=(publisher, asks), max_events=2000)
    number, last = publisher.newer(0, 0)  # type: ignore[misc]
    assert last.events == summary["events"]
    assert last.version == summary["model_version"]
    assert asks.found == sorted(asks.found)
    assert publisher.newer(number, 0.01) is None
    assert last.metrics["online/accuracy"] == summary["metrics"]["online/accuracy"]


def test_publisher_wakes_a_waiting_thread(write_job: WriteJob) -> None:
    publisher = SnapshotPublisher()
    sent = []
    waiting = threading.Thread(target=lambda: sent.append(publisher.newer(0, 30)))
    waiting.start()
    run(write_job(), "a", publisher, max_events=500)
    waiting.join(30)
    assert sent[0][0] >= 1


def test_publisher_copies_a_slow_model_less_often(
    write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(np.arange(0, 1000, 0.5).tolist())  # every look at the clock takes half a second
    monkeypatch.setattr(watch.time, "monotonic", lambda: next(clock))
    publisher = SnapshotPublisher(0.0)
    run(write_job(), "a", publisher, max_events=1000)
    # A copy takes 0.5 s, so the next is due 25 s, some 50 looks, later: the first and the last.
    assert publisher.newer(0, 0)[0] <= 3  # type: ignore[index]


def test_writer_on_idle_writes_the_last_row_once(
    write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause of a second after the last event is worth a row, every five seconds at most."""
    now = [0.0]
    monkeypatch.setattr("pipeline.callbacks.metric_writer.time.perf_counter", lambda: now[0])
    writer = MetricWriter(10_000)

    class Idles(Callback):
        def on_batch_end(self, loop: Loop, result: StepResult) -> None:
            for second in (0.0, 0.5, 1.0, 30.0):
                now[0] += second
                writer.on_idle(loop)

    run(write_job(), "a", writer, Idles(), max_events=96)
    assert [row["step"] for row in rows("a")] == [32, 64, 96]


def test_publisher_on_idle_publishes_once(write_job: WriteJob) -> None:
    publisher = SnapshotPublisher(3600.0)

    class Idles(Callback):
        def on_batch_end(self, loop: Loop, result: StepResult) -> None:
            publisher.on_idle(loop)
            publisher.on_idle(loop)

    run(write_job(), "a", publisher, Idles(), max_events=320)
    assert publisher.newer(0, 0)[0] == 10 + 1  # type: ignore[index]


def test_labels_that_come_alone_are_published(write_job: WriteJob) -> None:
    """The events stay as many as they were: what changes is the version of the learner."""
    publisher = SnapshotPublisher(3600.0)
    published: list[int] = []

    class Labels(Callback):
        def on_batch_end(self, loop: Loop, result: StepResult) -> None:
            if loop.events == 320:
                publisher.on_idle(loop)
                loop.learner.version += 1
                publisher.on_idle(loop)
                publisher.on_idle(loop)
                published.append(publisher.newer(0, 0)[0])  # type: ignore[index]
                loop.learner.version += 1
                publisher._free = 0.0  # the last snapshot was some time ago
                publisher.on_batch_end(loop, result._replace(batch=result.batch[:0]))
                published.append(publisher.newer(0, 0)[0])  # type: ignore[index]

    run(write_job(), "a", publisher, Labels(), max_events=320)
    assert published == [3, 4]


def test_publisher_of_a_resumed_run_has_a_model_at_start(write_job: WriteJob) -> None:
    job = write_job()
    run(job, "a", max_events=1000)
    publisher = SnapshotPublisher(3600.0)
    loaded = jobs.load(job)

    class First(Callback):
        def on_start(self, context: RunContext, loop: Loop) -> None:
            found = publisher.newer(0, 0)
            assert found is not None
            InferenceModel(context.recipe, found[1])

    Run(loaded, Path("a"), print).run(True, None, 1100, (publisher, First()))


def test_label_feed_sends_all_labels_with_their_versions(write_job: WriteJob) -> None:
    sent: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    versions: list[int] = []

    class Versions(Callback):
        def on_batch_end(self, loop: Loop, result: StepResult) -> None:
            versions.append(loop.learner.version)

    labels = LabelFeed(lambda *columns: sent.append(columns), 0.0)
    summary = run(write_job(), "a", labels, Versions(), max_events=2000)
    ids, y, before = (np.concatenate(column) for column in zip(*sent, strict=True))
    assert len(ids) == len(set(ids.tolist())) == summary["fates"]["learned"]
    assert set(y.tolist()) == {0, 1}
    # The label of event i is learned in micro-batch (i + 48) // 32: no earlier model knew it.
    learned_in = (ids + 48) // 32
    version_before = np.array([0, *versions])[learned_in]
    assert (before <= version_before).all()
    assert (version_before - before).max() <= 16
