"""How far a run is behind a live stream, and whether there is a stream at all."""

from __future__ import annotations

import threading
import time

from pipeline.training.builder import Parts
from pipeline.training.callback import Callback
from pipeline.training.loop import Loop
from pipeline.training.run import Run
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
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, run: Run, parts: Parts, total: int | None) -> None:
        if isinstance(parts.stream, LiveStream):
            about = (parts.stream, parts.loop, run)
            self._thread = threading.Thread(target=self._look, args=about, daemon=True)
            self._thread.start()

    def _look(self, stream: LiveStream, loop: Loop, run: Run) -> None:
        away: float | None = None
        while not self._closing.is_set():
            try:
                self._end = stream.end()
                if away is not None:
                    run.say(f"the stream is back after {time.monotonic() - away:.0f} s")
                away = None
            except StreamError as error:
                if away is None:
                    away = time.monotonic()
                    run.say(f"{error}; the run waits, and goes on when it is back")
            self._closing.wait(self.every_s)
        stream.close()

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
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        return {}
