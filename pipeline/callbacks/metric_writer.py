"""Those who watch a run: rows of metrics for tracking, snapshots for serving, labels for scoring
what was served. Each looks at the clock or the count after a micro-batch, and works seldom."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import numpy as np

from pipeline.callbacks.consumer_lag import Lag
from pipeline.evaluation.buffer_stats import FILE, Remembered
from pipeline.models.snapshot import Snapshot
from pipeline.storage.metric_log import Rows
from pipeline.training.builder import Parts
from pipeline.training.loop import Loop
from pipeline.training.run import Run, Watcher
from streams.core.batch import Array, Ints

PUBLISH_S = 0.1
"""A snapshot is taken at most so often; with the time it takes to fetch and to warm it, what is
served stays well within a second of what is learned."""
_SHARE = 0.02  # of the training thread that snapshots may take, however large the model
_ROWS_SHARE, _ROWS_FREE_S = 0.003, 0.04  # and rows of metrics, however fast the stream


class MetricRows(Watcher):
    """Writes a row of metrics each time so many events have come in, and one of histograms where
    the learner remembers events.

    A long stream that is replayed much faster than any live one would fill its time with rows: once
    they have taken 40 ms, steps are left out so that no more than three thousandths of the
    training goes into them.
    """

    def __init__(self, every: int, lag: Lag | None = None) -> None:
        self.every = every
        self.lag = lag
        self._spent = 0.0  # seconds

    def begin(self, run: Run, parts: Parts, total: int | None) -> None:
        self._run = run
        self._rows = Rows(run.folder.path / "metrics.jsonl", run.say)
        self._remembered = Remembered(parts.loop.learner)
        self._histograms: Rows | None = None
        if self._remembered.there:
            self._histograms = Rows(run.folder.path / FILE, run.say)
        self._due = (parts.loop.events // self.every + 1) * self.every
        self._began = self._then = time.perf_counter()
        self._before = parts.loop.events

    def __call__(self, loop: Loop) -> None:
        if loop.events >= self._due:
            self._due = (loop.events // self.every + 1) * self.every
            start = time.perf_counter()
            if self._spent <= _ROWS_FREE_S + _ROWS_SHARE * (start - self._began):
                self._write(loop)
                self._spent += time.perf_counter() - start

    def end(self, loop: Loop) -> None:
        self._write(loop)
        self._rows.close()
        if self._histograms is not None:
            self._histograms.close()

    def _write(self, loop: Loop) -> None:
        now = time.perf_counter()
        system = {
            "system/events_per_s": (loop.events - self._before) / max(now - self._then, 1e-9),
            "system/awaiting": len(loop.join),
            "system/memory_mb": resident_mb(),
            "system/checkpoint_s": self._run.checkpoints.seconds,
        }
        if self.lag is not None and self.lag.messages is not None:
            system["system/lag"] = self.lag.messages
        self._then, self._before = now, loop.events
        memory, histograms = self._remembered.look()
        self._rows.write(loop.events, {**loop.results(), **memory, **system})
        if self._histograms is not None and histograms:
            self._histograms.write(loop.events, histograms)


class Publisher(Watcher):
    """Takes a snapshot ten times a second, and hands the newest to whoever waits for one.

    A model whose snapshot takes long is copied less often, so that no more than 2% of the training
    goes into it. Threads may wait in ``newer`` while the run goes on.
    """

    def __init__(self, every_s: float = PUBLISH_S) -> None:
        self.every_s = every_s
        self._parts: Parts | None = None
        self._due = 0.0
        self._events = -1
        self._number = 0
        self._newest: Snapshot | None = None
        self._changed = threading.Condition()

    def begin(self, run: Run, parts: Parts, total: int | None) -> None:
        self._parts = parts
        if parts.loop.events or parts.loop.learner.version:  # resumed, or warm: there is a model
            self._publish()

    def __call__(self, loop: Loop) -> None:
        if time.monotonic() >= self._due:
            self._publish()

    def idle(self) -> None:
        """Nothing more to learn just now: what was learned last is not kept back."""
        if self._parts is not None and self._parts.loop.events != self._events:
            self._publish()

    def end(self, loop: Loop) -> None:
        self._publish()

    def newer(self, than: int, timeout: float) -> tuple[int, Snapshot] | None:
        """The newest snapshot and its number, once that is above ``than``; None after ``timeout``
        seconds without one."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._number > than, timeout):
                return None
            assert self._newest is not None
            return self._number, self._newest

    def _publish(self) -> None:
        assert self._parts is not None
        start = time.monotonic()
        snapshot = self._parts.snapshot(self._parts.loop.results())
        with self._changed:
            self._number, self._newest = self._number + 1, snapshot
            self._changed.notify_all()
        self._events = snapshot.events
        now = time.monotonic()
        self._due = now + max(self.every_s, (now - start) / _SHARE)


class Labels(Watcher):
    """Hands on ids and labels as they become known, some at a time, with the version of the last
    model that had not learned them: what was served is scored by them."""

    def __init__(self, send: Callable[[Ints, Array, Ints], None], every_s: float = 0.25) -> None:
        self.send = send
        self.every_s = every_s
        self._due = 0.0

    def begin(self, run: Run, parts: Parts, total: int | None) -> None:
        parts.loop.outcomes = []

    def __call__(self, loop: Loop) -> None:
        if loop.outcomes and time.monotonic() >= self._due:
            self._send(loop)

    def end(self, loop: Loop) -> None:
        loop.score()
        self._send(loop)

    def _send(self, loop: Loop) -> None:
        self._due = time.monotonic() + self.every_s
        outcomes, loop.outcomes = loop.outcomes, []
        if outcomes:
            self.send(
                np.concatenate([outcome.ids for _, outcome in outcomes]),
                np.concatenate([outcome.y for _, outcome in outcomes]),
                np.concatenate([np.full(len(outcome.ids), before) for before, outcome in outcomes]),
            )


def resident_mb() -> float:
    """Resident memory of this process in MB; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as told:  # noqa: PTH123 (a third the time)
            pages = int(told.read().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
