"""Measure how far a run is behind a live stream, and say when the stream is away."""

from __future__ import annotations

import time
from functools import partial

from pipeline.training.callback import Callback, RunContext, Say
from pipeline.training.loop import Loop, StepResult
from streams.core.background_worker import BackgroundWorker
from streams.core.errors import StreamError
from streams.core.live_stream import LiveStream
from streams.core.stream import Cursor

POLL_S = 2.0
"""Seconds between two requests for the end offsets of the stream."""
CLOSE_S = 5.0
"""Seconds that the end of a run waits for a request."""


class ConsumerLag(Callback):
    """Ask a live stream for its end offsets, in a thread of its own.

    Attributes:
        messages: events and labels that have arrived and are not learned yet; None where that is
            not known, or the stream is not live.
    """

    def __init__(self, every_s: float = POLL_S) -> None:
        self.every_s = every_s
        self.messages: int | None = None
        self._new_ends: Cursor = {}  # end offsets that the lag is not computed from yet
        self._ends: Cursor = {}
        self._worker: BackgroundWorker | None = None
        self._away_since: float | None = None

    def on_start(self, context: RunContext, loop: Loop) -> None:
        if isinstance(context.stream, LiveStream):
            ask = partial(self._ask, context.stream, context.say)
            self._worker = BackgroundWorker("lag", ask, self.every_s, context.stream.close)
            self._worker.start()

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        if self._new_ends:
            self._ends, self._new_ends = self._new_ends, {}
            self._count(loop)

    def on_end(self, loop: Loop, result: StepResult) -> None:
        if self._ends:
            self._count(loop)

    def teardown(self) -> dict[str, float]:
        if self._worker is not None:
            self._worker.close(CLOSE_S)
        return {}

    def _ask(self, stream: LiveStream, say: Say) -> None:
        """Fetch the end offsets; say once that the stream is away, and once that it is back."""
        try:
            self._new_ends = stream.end()
            if self._away_since is not None:
                say(f"the stream is back after {time.monotonic() - self._away_since:.0f} s")
            self._away_since = None
        except StreamError as error:
            if self._away_since is None:
                self._away_since = time.monotonic()
                say(f"{error}; the run waits, and goes on when it is back")

    def _count(self, loop: Loop) -> None:
        cursor = loop.ledger.cursor()
        self.messages = sum(max(0, end - cursor.get(name, end)) for name, end in self._ends.items())
