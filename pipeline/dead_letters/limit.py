"""The limit of dead letters that stops a run."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.dead_letters.file_writer import SHOWN, kind
from pipeline.storage.run_folder import DEAD_LETTERS
from streams.core.batch import Batch, DeadLetter
from streams.core.stream_config import DeadLetters


class TooManyDeadLettersError(Exception):
    """So many events are dead that something must be wrong with the stream, or with the job."""


class DeadLetterLimit:
    """Stops a run of which too much is dead.

    It goes by the events in their order, wherever micro-batches end; labels that come on their own
    are counted apart. A run that goes on counts anew.

    Args:
        settings: what is too many.
        place: what people call a partition (of labels).
    """

    def __init__(self, settings: DeadLetters, place: Callable[[int, bool], str]) -> None:
        self._settings = settings
        self._place = place
        self._windows = {False: _Window(settings.of), True: _Window(settings.of)}

    def add(self, batch: Batch, dead: Sequence[DeadLetter]) -> None:
        """A micro-batch as it came, and all of it that is dead. Raises
        ``TooManyDeadLettersError``."""
        arrivals = batch.arrivals
        if dead:
            events = [d for d in dead if not d.label]
            labels = [d for d in batch.dead if d.label]
            rows = np.array([d.insert_before for d in events], np.int64)
            self._look(False, events, rows)
            rows = np.array([d.insert_before for d in labels], np.int64)
            before = np.empty(0, np.int64) if arrivals is None else arrivals.insert_before
            self._look(True, labels, np.searchsorted(before, rows, "right"))
        labels_dead = sum(d.label for d in dead)
        self._windows[False].seen += batch.events
        self._windows[True].seen += labels_dead + (0 if arrivals is None else len(arrivals))

    def _look(self, label: bool, dead: Sequence[DeadLetter], alive: np.ndarray[Any, Any]) -> None:
        """``alive`` (n,): how many of the micro-batch that are alive come before each of the n."""
        share, of = self._settings.share, self._settings.of
        if share == 1:
            return
        window = self._windows[label]
        for i, d in enumerate(dead):
            if window.add(int(alive[i]) + i, d) > share * of:
                raise TooManyDeadLettersError(
                    self._told(label, [found for _, found in window.dead])
                )

    def _told(self, label: bool, dead: Sequence[DeadLetter]) -> str:
        what = "labels" if label else "events"
        counts = Counter(kind(d.reason) for d in dead)
        reasons = "; ".join(f"{n:,} x {reason}" for reason, n in counts.most_common(SHOWN))
        more = f"; and {len(counts) - SHOWN} more kinds of reason" if len(counts) > SHOWN else ""
        last = dead[-1]
        return (
            f"{len(dead):,} of the last {self._settings.of:,} {what} are dead ({reasons}{more}), "
            f"as {self._place(last.partition, label)}/{last.offset}: {last.reason[:200]}. Look at "
            f"{DEAD_LETTERS} (everlearn dead-letters), then mend what writes them, or the job, or "
            "raise stream.dead_letters.share"
        )


class _Window:
    """The dead among the last ``of``."""

    def __init__(self, of: int) -> None:
        self.of = of
        self.seen = 0  # before the micro-batch at hand
        self.dead: deque[tuple[int, DeadLetter]] = deque()

    def add(self, position: int, dead: DeadLetter) -> int:
        """One that stands at a position of the micro-batch at hand; how many there are now."""
        at = self.seen + position
        self.dead.append((at, replace(dead, value=None)))  # bytes would take memory
        while self.dead[0][0] <= at - self.of:
            self.dead.popleft()
        return len(self.dead)
