"""Those who watch a run: rows of metrics for tracking, snapshots for serving, labels for scoring
what was served. Each looks at the clock or the count after a micro-batch, and works seldom."""

from __future__ import annotations

import os
import time

from pipeline.callbacks.consumer_lag import ConsumerLag
from pipeline.evaluation.buffer_stats import BufferStats
from pipeline.storage.metric_log import MetricLog
from pipeline.storage.run_folder import REPLAY_HISTOGRAMS
from pipeline.training.builder import Parts
from pipeline.training.callback import Callback
from pipeline.training.loop import Loop
from pipeline.training.run import Run

_ROWS_SHARE, _ROWS_FREE_S = 0.003, 0.04  # and rows of metrics, however fast the stream


class MetricWriter(Callback):
    """Writes a row of metrics each time so many events have come in, and one of histograms where
    the learner remembers events.

    A long stream that is replayed much faster than any live one would fill its time with rows: once
    they have taken 40 ms, steps are left out so that no more than three thousandths of the
    training goes into them.
    """

    def __init__(self, every: int, lag: ConsumerLag | None = None) -> None:
        self.every = every
        self.lag = lag
        self._spent = 0.0  # seconds

    def begin(self, run: Run, parts: Parts, total: int | None) -> None:
        self._run = run
        self._rows = MetricLog(run.folder.path / "metrics.jsonl", run.say)
        self._remembered = BufferStats(parts.loop.learner)
        self._histograms: MetricLog | None = None
        if self._remembered.there:
            self._histograms = MetricLog(run.folder.path / REPLAY_HISTOGRAMS, run.say)
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


def resident_mb() -> float:
    """Resident memory of this process in MB; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as told:  # noqa: PTH123 (a third the time)
            pages = int(told.read().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
