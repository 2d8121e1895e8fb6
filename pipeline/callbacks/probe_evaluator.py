"""Score probes beside the training: the trainer takes snapshots, an evaluator scores them.

The training never waits. Snapshots wait in a bounded queue; those taken as a segment ended stay
longest, because what the model knew then cannot be measured later.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pipeline.evaluation.once_seen_curve import OnceSeenCurve
from pipeline.evaluation.retention import Retention
from pipeline.models.delta import Base
from pipeline.models.recipe import Recipe, learner_of
from pipeline.models.snapshot import Snapshot
from pipeline.storage.metric_log import MetricLog
from pipeline.storage.run_folder import EVALUATIONS, STABILITY, write_atomic
from pipeline.training.callback import Callback, RunContext
from pipeline.training.loop import Loop, StepResult
from streams.background_worker import BackgroundWorker
from streams.core.errors import one_line
from streams.core.state_dict import leaves, nested, pack

ROWS = "stability.jsonl"
FINISH_S = (5.0, 60.0)
"""Seconds after the end of a run in which all snapshots, and ends of segments, are scored."""
_WAITING, _ROOM = 32, 256_000_000  # snapshots that may wait, and their bytes
_SHARE, _FREE_S = 0.005, 0.02  # of the training time, and seconds at the beginning


class SnapshotQueue(Callback):
    """Take a snapshot with the current probes every ``every`` events, and whenever a segment ends.

    Some are left out where the stream is replayed faster than snapshots are scored, or where they
    would take more than half a percent of the training time.

    Args:
        every: events between two snapshots.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._waiting: deque[tuple[int, Snapshot]] = deque()  # with their bytes
        self._changed = threading.Condition()
        self._spent = 0.0
        self._bases: set[Base] = set()  # of the last snapshot

    def on_start(self, context: RunContext, loop: Loop) -> None:
        self._due = (loop.events // self.every + 1) * self.every
        self._cuts = _cuts(loop)
        self._began = time.perf_counter()

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        cuts = _cuts(loop)
        ended = cuts != self._cuts
        if ended or loop.events >= self._due:
            self._cuts = cuts
            self._due = (loop.events // self.every + 1) * self.every
            now = time.perf_counter()
            if ended or self._spent <= _FREE_S + _SHARE * (now - self._began):
                self._take(loop, ended)
                self._spent += time.perf_counter() - now

    def on_end(self, loop: Loop, result: StepResult) -> None:
        self._take(loop, wanted=True)

    def next(self, timeout: float) -> Snapshot | None:
        """Take the oldest snapshot off the queue; None after ``timeout`` seconds without one."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting, timeout):
                return None
            return self._waiting.popleft()[1]

    def _take(self, loop: Loop, wanted: bool) -> None:
        full = len(self._waiting) >= _WAITING
        if full and not wanted:
            return
        segments = loop.segments()
        kept = None if loop.once_seen is None else loop.once_seen.kept()
        snapshot = replace(loop.snapshot({}), probes=segments, once_seen=kept, wanted=wanted)
        # The last two segments: the columns of those before are the same as in the last snapshot.
        # So are the bases of large arrays, but for new ones.
        bases = set(snapshot.bases.values())
        new = {"state": snapshot.state} | {
            str(i): pack(segment.rows)
            for i, segment in enumerate(segments[-2:])
            if segment.rows is not None
        }
        if kept is not None and kept.rows is not None:
            new["once_seen"] = pack(kept.rows)
        size = sum(getattr(leaf, "nbytes", 0) for _, leaf in leaves(new))
        size += sum(base.array.nbytes for base in bases - self._bases)
        self._bases = bases
        with self._changed:
            self._waiting.append((size, snapshot))
            while len(self._waiting) > 1 and (
                len(self._waiting) > _WAITING or sum(size for size, _ in self._waiting) > _ROOM
            ):
                others = [i for i, (_, waits) in enumerate(self._waiting) if not waits.wanted]
                del self._waiting[others[0] if others else 0]
            self._changed.notify_all()


def _cuts(loop: Loop) -> int:
    """Return how many segments have ended; 0 where there are no probes."""
    return 0 if loop.probes is None else loop.probes.cuts


class Evaluator:
    """Score snapshots one by one and write rows of metrics. Its state is kept in the run folder, to
    go on after a resume or a kill of its own process.

    Args:
        made: the recipe of the model.
        folder: the run folder.
        say: takes lines for a person.

    Attributes:
        metrics: of the last evaluation, by name.
        seconds: that the last evaluation took.

    Raises:
        LearnerError: the learner cannot be built here.
        OSError: the folder cannot be written.
    """

    def __init__(self, made: Recipe, folder: Path, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._learner = learner_of(made)
        schema = self._learner.schema
        sequences = schema if schema.task == "sequences" else None
        self._retention = Retention(schema.task, sequences)
        self._since = OnceSeenCurve()
        self.metrics: dict[str, float] = {}
        self.seconds = 0.0
        with suppress(OSError, SafetensorError, ValueError, KeyError):  # there is none at first
            self._recall(folder / STABILITY)
        self._rows = MetricLog(folder / ROWS, say)
        self._kept = time.monotonic()

    def evaluate(self, snapshot: Snapshot) -> None:
        """Score a snapshot; skip one that is not newer than the last, as after a resume."""
        events = snapshot.events
        if events <= max(self._retention.events, self._since.events) or not snapshot.version:
            return
        start = time.perf_counter()
        self._learner.load_servable(self._learner.migrate(snapshot.whole()["learner"]))
        metrics, segments = self._retention.evaluate(self._learner, snapshot.probes, events)
        evaluation: dict[str, Any] = {"events": events, "segments": segments}
        if snapshot.once_seen is not None:
            question = (snapshot.once_seen, snapshot.version, events)
            once_seen, evaluation["once_seen"] = self._since.evaluate(self._learner, *question)
            metrics |= once_seen
        if not metrics:
            return
        self.seconds = time.perf_counter() - start
        self.metrics = metrics
        if events > self._rows.last:
            with (self._folder / EVALUATIONS).open("a") as out:
                out.write(json.dumps(evaluation) + "\n")
        row = {**metrics, "system/evaluation_s": self.seconds}
        self._rows.write(events, row, snapshot.taken)
        if time.monotonic() >= self._kept + 1.0:
            self.keep()

    def keep(self) -> None:
        """Write the state of the evaluator to the run folder."""
        self._kept = time.monotonic()
        arrays, values = {}, {}
        for path, leaf in leaves({**self._retention.state(), "since": self._since.state()}):
            if hasattr(leaf, "dtype"):
                arrays[path] = leaf
            else:
                values[path] = leaf
        metadata = {"values": json.dumps(values), "metrics": json.dumps(self.metrics)}
        write_atomic(self._folder / STABILITY, save(arrays, metadata))

    def close(self) -> None:
        """Close the file of rows; nothing may be evaluated afterwards."""
        self._rows.close()

    def _recall(self, file: Path) -> None:
        """Read the state that ``keep`` wrote."""
        with safe_open(file, "numpy") as opened:
            flat: dict[str, Any] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = opened.metadata()
        recalled = Retention(self._retention.task, self._retention.schema)
        state = nested(flat | json.loads(metadata["values"]))
        recalled.load(state)
        if "since" in state:
            self._since.load(state["since"])
        self.metrics = json.loads(metadata["metrics"])
        self._retention = recalled


class SnapshotScorer:
    """Score snapshots in a thread, on a share of the time.

    Once the run has ended, all snapshots that wait are scored. Where that takes too long, the ends
    of segments alone are; where these take too long, the end of the run. An error is said once;
    training goes on.

    Args:
        evaluator: scores the snapshots.
        fetch: takes a timeout in seconds; returns the next snapshot, or None without one.
        say: takes lines for a person.
        share: of the time that scoring may take.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        fetch: Callable[[float], Snapshot | None],
        say: Callable[[str], None],
        share: float,
    ) -> None:
        self.evaluator = evaluator
        self.fetch = fetch
        self.say = say
        self.share = share
        self._worker = BackgroundWorker(
            "evaluator", self._score_next, finish=self._score_rest, on_error=self._fail
        )

    def start(self) -> None:
        """Start the thread."""
        self._worker.start()

    def close(self) -> dict[str, float]:
        """Score what waits, end the thread, and return the last metrics."""
        self._worker.close()
        return self.evaluator.metrics

    def _score_next(self) -> None:
        snapshot = self.fetch(0.2)
        if snapshot is not None:
            start = time.perf_counter()
            self.evaluator.evaluate(snapshot)
            self._worker.wait((time.perf_counter() - start) * (1 / self.share - 1))

    def _score_rest(self) -> None:
        closed = time.monotonic()
        while (snapshot := self.fetch(0.0)) is not None:
            late = time.monotonic() - closed
            while late > FINISH_S[snapshot.wanted] and (newer := self.fetch(0.0)) is not None:
                snapshot = newer
            self.evaluator.evaluate(snapshot)
        self.evaluator.keep()
        self.evaluator.close()

    def _fail(self, error: Exception) -> None:
        """A learner of a user's may raise anything, and a disk may be full."""
        self.say(f"probes are not scored any more: {type(error).__name__}: {one_line(error)}")
        self.evaluator.close()


class BackgroundEvaluator(Callback):
    """Score snapshots in a thread beside the training, on a small share of the time.

    Args:
        every: events between two evaluations.
        say: takes lines for a person.
        share: of the time that scoring may take; more snapshots wait, or are left out.
    """

    def __init__(self, every: int, say: Callable[[str], None], share: float = 0.005) -> None:
        self.share = share
        self.say = say
        self._queue = SnapshotQueue(every)
        self._scorer: SnapshotScorer | None = None

    def on_start(self, context: RunContext, loop: Loop) -> None:
        self._queue.on_start(context, loop)
        evaluator = Evaluator(context.recipe, context.folder, self.say)
        self._scorer = SnapshotScorer(evaluator, self._queue.next, self.say, self.share)
        self._scorer.start()

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        self._queue.on_batch_end(loop, result)

    def on_end(self, loop: Loop, result: StepResult) -> None:
        self._queue.on_end(loop, result)

    def teardown(self) -> dict[str, float]:
        return {} if self._scorer is None else self._scorer.close()
