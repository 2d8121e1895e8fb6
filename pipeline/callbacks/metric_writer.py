"""Write rows of metrics while a run goes on."""

from __future__ import annotations

import os
import time

from pipeline.callbacks.consumer_lag import ConsumerLag
from pipeline.evaluation.buffer_stats import BufferStats
from pipeline.storage.metric_log import MetricLog
from pipeline.storage.run_folder import REPLAY_HISTOGRAMS
from pipeline.training.callback import Callback, RunContext
from pipeline.training.loop import Loop, StepResult

IDLE_S, IDLE_EVERY_S = 1.0, 5.0
"""Seconds without an event after which a row is written, and between two rows at least."""
_ROWS_SHARE, _ROWS_FREE_S = 0.003, 0.04  # of the training time, and seconds at the beginning


class MetricWriter(Callback):
    """Write a row of metrics every ``every`` events, and a row of histograms where the learner has
    a buffer.

    While no event comes, one more row is written, so that the last one before a pause says that
    all has been read: after a second, and every five seconds at most.

    A long stream replayed much faster than any live one would spend its time on rows. So once they
    have taken 40 ms, steps are left out: rows take at most 0.3% of the training time.

    Args:
        every: events between two rows.
        lag: measures the consumer lag of the run.
    """

    def __init__(self, every: int, lag: ConsumerLag | None = None) -> None:
        self.every = every
        self.lag = lag
        self._spent = 0.0  # seconds

    def on_start(self, context: RunContext, loop: Loop) -> None:
        self._checkpoint_seconds = context.checkpoint_seconds
        self._encoder_metrics = context.encoder_metrics
        self._rows = MetricLog(context.folder / "metrics.jsonl", context.say)
        self._buffer_stats = BufferStats(loop.learner)
        self._histograms: MetricLog | None = None
        if self._buffer_stats.has_buffer:
            self._histograms = MetricLog(context.folder / REPLAY_HISTOGRAMS, context.say)
        self._due = (loop.events // self.every + 1) * self.every
        self._began = self._then = time.perf_counter()
        self._before = loop.events  # at the last row
        self._events, self._idle_since = -1, 0.0

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        if loop.events >= self._due:
            self._due = (loop.events // self.every + 1) * self.every
            start = time.perf_counter()
            if self._spent <= _ROWS_FREE_S + _ROWS_SHARE * (start - self._began):
                self._write(loop)
                self._spent += time.perf_counter() - start

    def on_idle(self, loop: Loop) -> None:
        now = time.perf_counter()
        if loop.events != self._events:  # the pause begins
            self._events, self._idle_since = loop.events, now
            return
        paused, last = now - self._idle_since, now - self._then
        if loop.events > self._before and paused >= IDLE_S and last >= IDLE_EVERY_S:
            self._write(loop)

    def on_end(self, loop: Loop, result: StepResult) -> None:
        self._write(loop)
        self._rows.close()
        if self._histograms is not None:
            self._histograms.close()

    def _write(self, loop: Loop) -> None:
        now = time.perf_counter()
        system: dict[str, float] = {
            "system/events_per_s": (loop.events - self._before) / max(now - self._then, 1e-9),
            "system/awaiting": len(loop.join),
            "system/memory_mb": resident_mb(),
            "system/checkpoint_s": self._checkpoint_seconds(),
            **self._encoder_metrics(),
        }
        if self.lag is not None:
            system |= self.lag.silence()
            if self.lag.messages is not None:
                system["system/lag"] = self.lag.messages
        self._then, self._before = now, loop.events
        memory, histograms = self._buffer_stats.read()
        self._rows.write(loop.events, {**loop.results(), **memory, **system})
        if self._histograms is not None and histograms:
            self._histograms.write(loop.events, histograms)


def resident_mb() -> float:
    """Return the resident memory of this process in MB; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:  # noqa: PTH123 (a third the time)
            pages = int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
