"""Probes scored beside the training: when, how many, and that nothing is lost or told twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.callbacks import probe_evaluator as evaluators
from pipeline.callbacks.probe_evaluator import Evaluator, SnapshotQueue, SnapshotScorer
from pipeline.config.job import load
from pipeline.models.snapshot import Snapshot
from pipeline.storage.run_folder import FolderLockedError, RunFolder
from pipeline.training.builder import Parts, build
from pipeline.training.callback import Callback
from pipeline.training.loop import Loop, StepResult
from pipeline.training.run import Run

WriteJob = Callable[..., Path]
HELD = {"share": 0.05, "every_events": 1000, "cut": {"events": 3000}}


@pytest.fixture
def job(write_job: WriteJob) -> Path:
    return write_job(evaluate={"probes": HELD}, checkpoint={"every_events": 4000})


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "stability.jsonl").read_text().splitlines()]


def evaluations(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]


def score_all(evaluator: Evaluator, fetch: Callable[[float], Snapshot | None]) -> None:
    """Score what waits at the end of a run."""
    scorer = SnapshotScorer(evaluator, fetch, print, 1.0)
    scorer.close()  # before the start: only what is left is scored
    scorer.start()
    scorer.close()


class Recorded(SnapshotQueue):
    """Keeps every snapshot that it is asked for, in place of waiting for somebody to fetch it."""

    def __init__(self, every: int) -> None:
        super().__init__(every)
        self.taken: list[Snapshot] = []

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        super().on_batch_end(loop, result)
        while (snapshot := self.next(0.0)) is not None:
            self.taken.append(snapshot)


def taken(job: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Snapshot], Parts]:
    """All the snapshots of a run, and its parts anew."""
    monkeypatch.setattr(evaluators, "_FREE_S", 1e9)
    queue = Recorded(1000)
    loaded = load(job)
    Run(loaded, folder, print).run(max_events=20_000, callbacks=[queue])
    while (snapshot := queue.next(0.0)) is not None:
        queue.taken.append(snapshot)
    return queue.taken, build(loaded)


def test_queue_takes_snapshots_by_events_and_at_segment_ends(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots, _ = taken(job, tmp_path / "run", monkeypatch)
    events = [snapshot.events for snapshot in snapshots]
    assert events[:6] == [1024, 2016, 3008, 4000, 5024, 6016]  # after whole micro-batches of 32
    assert events[-1] == 20_000
    ends = [s.probes[-2].end for s in snapshots if len(s.probes) > 1 and not len(s.probes[-1])]
    assert ends[:3] == [3000, 6000, 9000]
    held = sum(len(segment) for segment in snapshots[-1].probes)
    assert 800 < held < 1200


def test_scorer_gives_what_a_direct_evaluation_gives(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots, parts = taken(job, tmp_path / "run", monkeypatch)
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    here = Evaluator(parts.recipe, one, print)
    for snapshot in snapshots:
        here.evaluate(snapshot)
    here.close()
    waiting = iter(snapshots)
    score_all(Evaluator(parts.recipe, other, print), lambda _: next(waiting, None))
    assert evaluations(one) == evaluations(other)
    assert len(evaluations(one)) == len({s.events for s in snapshots}) == len(rows(one)) == 20
    last = rows(one)[-1]["metrics"]
    assert last["stability/segments"] == 7
    assert last["stability/acc"] > 0.7
    assert last["stability/acc_low"] < last["stability/acc"] < last["stability/acc_high"]
    assert {"plasticity/dormant_units", "plasticity/effective_rank"} <= last.keys()
    # What it says of the last segment is what the model says of its probes.
    final = snapshots[-1]
    parts.loop.learner.load_servable(final.state["learner"])
    told = rows(one)[-1], evaluations(one)[-1]["segments"][0]
    probes = final.probes[0].rows
    assert probes is not None
    right = parts.loop.learner.predict(probes).value == probes.y
    assert told[1]["score"] == pytest.approx(right.mean())
    assert told[1]["probes"] == len(probes)


def test_evaluator_killed_and_restarted_writes_nothing_twice(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots, parts = taken(job, tmp_path / "run", monkeypatch)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    first = Evaluator(parts.recipe, whole, print)
    for snapshot in snapshots:
        first.evaluate(snapshot)
    first.close()
    for start, stop, kept in ((0, 8, True), (4, 12, False), (7, len(snapshots), True)):
        # Killed, the run resumes from an older checkpoint: snapshots come again.
        again = Evaluator(parts.recipe, broken, print)
        for snapshot in snapshots[start:stop]:
            again.evaluate(snapshot)
        if kept:
            again.keep()
        again.close()
    assert evaluations(broken) == evaluations(whole)
    for ours, theirs in zip(rows(broken), rows(whole), strict=True):
        for told in (ours, theirs):
            told["metrics"].pop("system/evaluation_s")
        assert ours == theirs


def test_background_evaluator_scores_beside_a_run(
    job: Path, tmp_path: Path, everlearn: Callable[..., Any]
) -> None:
    everlearn("run", job, "--run-dir", "run", "--rate", 20_000)
    summary = json.loads(Path("run/summary.json").read_text())
    steps = [row["step"] for row in rows(Path("run"))]
    assert steps == sorted(set(steps))
    assert steps[-1] == summary["events"] == 45_312
    # How many of the 45 it gets to is the machine's affair; that it works beside the run is not.
    assert 1 < len(steps) <= 45
    assert (
        summary["metrics"]["stability/segments"]
        == rows(Path("run"))[-1]["metrics"]["stability/segments"]
    )
    # Without --resume another run in its place begins with nothing.
    for checkpoint in Path("run/checkpoints").iterdir():
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    everlearn("run", job, "--run-dir", "run", "--max-events", 5000)
    assert rows(Path("run"))[-1]["step"] == 5000
    assert evaluations(Path("run"))[-1]["events"] == 5000


def test_run_state_is_the_same_with_and_without_evaluations(
    job: Path, everlearn: Callable[..., Any]
) -> None:
    digests = set()
    for every in (500, 100_000_000):
        more = ("--set", f"evaluate.probes.every_events={every}")
        everlearn("run", job, "--run-dir", f"run{every}", *more)
        digests.add(json.loads(Path(f"run{every}/summary.json").read_text())["state_digest"])
    assert len(digests) == 1


BREAKS = """
from learners.baselines.prior import Prior


class Breaks(Prior):
    kind = "breaks"

    def load_servable(self, state):
        raise ZeroDivisionError("no servable of mine")
"""


def test_scorer_error_is_said_once_and_the_run_goes_on(
    write_job: WriteJob, everlearn: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "breaks.py").write_text(BREAKS)
    job = write_job(learner={"kind": "breaks:Breaks"}, evaluate={"probes": HELD})
    found = everlearn("run", job, "--run-dir", "run")
    told = "probes are not scored any more: ZeroDivisionError: no servable of mine"
    assert found.err.count(told) == 1
    assert json.loads(Path("run/summary.json").read_text())["finished"]


def test_queue_is_bounded_and_keeps_segment_ends(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody fetches: of 450 snapshots 32 are kept, the ends of segments and the last of all."""
    monkeypatch.setattr(evaluators, "_FREE_S", 1e9)
    queue = SnapshotQueue(100)
    started = time.monotonic()
    Run(load(job), tmp_path / "run", print).run(callbacks=[queue])
    assert time.monotonic() - started < 60
    waiting = []
    while (snapshot := queue.next(0.0)) is not None:
        waiting.append(snapshot.events)
    assert len(waiting) == 32
    assert waiting == sorted(waiting)
    assert waiting[-1] == 45_312
    ends = {int(np.ceil(end / 32) * 32) for end in range(3000, 30_001, 3000)}
    assert ends <= set(waiting)


def test_queue_bytes_are_bounded(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluators, "_FREE_S", 1e9)
    monkeypatch.setattr(evaluators, "_ROOM", 1)
    queue = SnapshotQueue(1000)
    Run(load(job), tmp_path / "run", print).run(max_events=10_000, callbacks=[queue])
    last = queue.next(0.0)
    assert last is not None
    assert last.events == 10_000
    assert queue.next(0.0) is None


ONCE = {"probes": {"share": 0.0, "every_events": 1000}, "once_seen": {"share": 0.05}}


def test_evaluator_without_probes_scores_once_seen_events(
    write_job: WriteJob, tmp_path: Path, monkeypatch: Any
) -> None:
    """Without probes they are asked about all the same; killed and begun again, each once."""
    job = write_job(evaluate=ONCE)
    snapshots, parts = taken(job, tmp_path / "run", monkeypatch)
    assert [s.events for s in snapshots[:3]] == [1024, 2016, 3008]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    first = Evaluator(parts.recipe, whole, print)
    for snapshot in snapshots:
        first.evaluate(snapshot)
    first.close()
    for start, stop in ((0, 8), (4, len(snapshots))):
        again = Evaluator(parts.recipe, broken, print)
        for snapshot in snapshots[start:stop]:
            again.evaluate(snapshot)
        again.keep()
        again.close()
    assert evaluations(broken) == evaluations(whole)
    last = rows(whole)[-1]["metrics"]
    for ours, theirs in zip(rows(broken), rows(whole), strict=True):
        for told in (ours, theirs):
            told["metrics"].pop("system/evaluation_s")
        assert ours == theirs
    # 20,000 events, 625 updates: all were asked about by now, but those of just now once or twice.
    kept = snapshots[-1].once_seen
    assert kept is not None
    assert last["retention/once_seen"] == len(kept) > 900
    assert last["retention/after_100_count"] == pytest.approx(len(kept) * 525 / 625, rel=0.1)
    assert last["retention/after_10_count"] == pytest.approx(len(kept), rel=0.1)
    assert 0.5 < last["retention/after_100_low"] < last["retention/after_100"] < 1
    assert "stability/acc" not in last
    since = evaluations(whole)[-1]["once_seen"]
    assert [entry["first"] for entry in since] == [0, 1, 2, 5, 10, 20, 50, 100, 200, 500]


class Lock(Callback):
    """Tries to take the folder when the run is over."""

    def __init__(self, folder: Path) -> None:
        self.folder = RunFolder(folder)
        self.refused = False

    def teardown(self) -> dict[str, float]:
        try:
            with self.folder.lock():
                pass
        except FolderLockedError:
            self.refused = True
        return {"online/told": 1.0}


def test_run_keeps_the_folder_locked_until_teardown(job: Path, tmp_path: Path) -> None:
    lock = Lock(tmp_path / "run")
    summary = Run(load(job), tmp_path / "run", print).run(max_events=1000, callbacks=[lock])
    assert lock.refused
    assert summary["metrics"]["online/told"] == 1.0
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary


def test_scorer_too_slow_scores_segment_ends_only(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots, parts = taken(job, tmp_path / "run", monkeypatch)
    monkeypatch.setattr(evaluators, "FINISH_S", (-1.0, 60.0))
    waiting = iter(snapshots)
    folder = tmp_path / "slow"
    folder.mkdir()
    score_all(Evaluator(parts.recipe, folder, print), lambda _: next(waiting, None))
    assert [row["step"] for row in rows(folder)] == [3008, 6016, 9024, 12000, 15008, 18016, 20_000]
    assert rows(folder)[-1]["metrics"]["stability/missed"] == 0

    monkeypatch.setattr(evaluators, "FINISH_S", (-1.0, -1.0))
    waiting = iter(snapshots)
    folder = tmp_path / "slower"
    folder.mkdir()
    score_all(Evaluator(parts.recipe, folder, print), lambda _: next(waiting, None))
    (last,) = rows(folder)
    assert last["step"] == 20_000
    assert last["metrics"]["stability/missed"] == 6
    assert "stability/forgetting" not in last["metrics"]
