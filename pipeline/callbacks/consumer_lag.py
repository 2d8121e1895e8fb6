"""How far a run is behind a live stream, and whether there is a stream at all."""

from __future__ import annotations

import time
from functools import partial

from pipeline.training.builder import Parts
from pipeline.training.callback import Callback, Say
from pipeline.training.loop import Loop
from pipeline.training.run import Run
from streams.core.background_worker import BackgroundWorker
from streams.core.errors import StreamError
from streams.core.live_stream import LiveStream
from streams.core.stream import Cursor

LOOK_S = 2.0
"""How often the stream is asked where it ends."""


class ConsumerLag(Callback):
    """Asks a live stream where it ends, in a thread of its own.

    Attributes:
        messages: events and labels that have come and are not learned yet; None: not known, or the
            stream is no live one.
    """

    def __init__(self, every_s: float = LOOK_S) -> None:
        self.every_s = every_s
        self.messages: int | None = None
        self._end: Cursor = {}  # that was told and not looked at
        self._known: Cursor = {}
        self._worker: BackgroundWorker | None = None
        self._away_since: float | None = None

    def begin(self, run: Run, parts: Parts, total: int | None) -> None:
        if isinstance(parts.stream, LiveStream):
            ask = partial(self._ask, parts.stream, run.say)
            self._worker = BackgroundWorker("lag", ask, self.every_s, parts.stream.close)
            self._worker.start()

    def _ask(self, stream: LiveStream, say: Say) -> None:
        """Ask the stream for its end offsets; say once that it is away, and that it is back."""
        try:
            self._end = stream.end()
            if self._away_since is not None:
                say(f"the stream is back after {time.monotonic() - self._away_since:.0f} s")
            self._away_since = None
        except StreamError as error:
            if self._away_since is None:
                self._away_since = time.monotonic()
                say(f"{error}; the run waits, and goes on when it is back")

    def __call__(self, loop: Loop) -> None:
        if self._end:
            self._known, self._end = self._end, {}
            self._count(loop)

    def end(self, loop: Loop) -> None:
        if self._known:
            self._count(loop)

    def _count(self, loop: Loop) -> None:
        cursor = loop.ledger.cursor()
        self.messages = sum(max(0, at - cursor.get(name, at)) for name, at in self._known.items())

    def close(self) -> dict[str, float]:
        if self._worker is not None:
            self._worker.close(timeout=5)
        return {}
