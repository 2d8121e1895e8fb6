"""Measure how far a run is behind a live stream, and for how long nothing has come; say when the
stream is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from pipeline.training.callback import Callback, RunContext, Say
from pipeline.training.loop import Loop, StepResult
from streams.background_worker import BackgroundWorker
from streams.core.errors import StreamError
from streams.core.live_stream import LiveStream
from streams.core.stream import Cursor

POLL_S = 2.0
"""Seconds between two requests for the end offsets of the stream."""
CLOSE_S = 5.0
"""Seconds that the end of a run waits for a request."""
FIRST_S = 1.0
"""Seconds that the end of a short run waits for the first answer."""
SILENCE = "system/seconds_since_last_message"
MOST_PARTITIONS = 32
"""Partitions that have a metric each, where there are no more."""


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
        self._last_ends: Cursor = {}  # of the thread that asks
        self._arrived: dict[str, float] = {}  # when the end of each partition was last seen to move
        self._place_name: Callable[[int, bool], str] = lambda partition, label: str(partition)
        self._answered = threading.Event()
        self._worker: BackgroundWorker | None = None
        self._away_since: float | None = None

    def on_start(self, context: RunContext, loop: Loop) -> None:
        if isinstance(context.stream, LiveStream):
            ask = partial(self._ask, context.stream, context.say)
            self._place_name = context.stream.place_name
            self._worker = BackgroundWorker("lag", ask, self.every_s, context.stream.close)
            self._worker.start()

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        if self._new_ends:
            self._ends, self._new_ends = self._new_ends, {}
            self._count(loop)

    def on_idle(self, loop: Loop) -> None:
        """All that had arrived is read: measure that, however old the last end offsets are."""
        self._ends, self._new_ends = self._new_ends or self._ends, {}
        if self._ends:
            self._count(loop)

    def on_end(self, loop: Loop, result: StepResult) -> None:
        if self._worker is not None:
            self._answered.wait(FIRST_S)
        self.on_idle(loop)

    def teardown(self) -> dict[str, float]:
        if self._worker is not None:
            self._worker.close(CLOSE_S)
        return {}

    def silence(self) -> dict[str, float]:
        """Return the seconds since the last message came, by name of the metric: of all, of each
        topic, and of each partition where they are few. May be called in any thread.

        A partition from which nothing has come counts from the start of the run.
        """
        now, seconds = time.monotonic(), dict[str, float]()

        def note(name: str, value: float) -> None:
            seconds[name] = min(value, seconds.get(name, value))

        arrived = self._arrived
        for partition, moment in arrived.items():
            number = int(partition.rpartition("/")[2])
            place = self._place_name(number, partition.startswith("labels/"))
            note(SILENCE, now - moment)
            topic, slash, _ = place.rpartition("/")
            if slash:
                note(f"{SILENCE}/{topic}", now - moment)
            if len(arrived) <= MOST_PARTITIONS:
                note(f"{SILENCE}/{place}", now - moment)
        return seconds

    def _ask(self, stream: LiveStream, say: Say) -> None:
        """Fetch the end offsets; say once that the stream is away, and once that it is back."""
        try:
            ends = stream.end()
            self._note_arrivals(ends)
            self._new_ends = ends
            self._answered.set()
            if self._away_since is not None:
                say(f"the stream is back after {time.monotonic() - self._away_since:.0f} s")
            self._away_since = None
        except StreamError as error:
            if self._away_since is None:
                self._away_since = time.monotonic()
                say(f"{error}; the run waits, and goes on when it is back")

    def _note_arrivals(self, ends: Cursor) -> None:
        """Note the partitions whose end has moved; only the thread that asks calls this."""
        now, before = time.monotonic(), self._last_ends
        moved = {name: now for name, end in ends.items() if end != before.get(name)}
        self._arrived = {**self._arrived, **moved}
        self._last_ends = ends

    def _count(self, loop: Loop) -> None:
        cursor = loop.ledger.cursor()
        self.messages = sum(max(0, end - cursor.get(name, end)) for name, end in self._ends.items())
