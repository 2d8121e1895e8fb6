"""Stops a run if too many of the last events or labels are dead."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.dead_letters.file_writer import reason_kind
from pipeline.storage.run_folder import DEAD_LETTERS
from streams.core.batch import Batch, DeadLetter
from streams.core.stream_config import DeadLetters

KINDS_SHOWN = 3
"""Kinds of reason that the error names."""


class TooManyDeadLettersError(Exception):
    """The share of dead letters is above the limit: the stream, or the job, must be wrong."""


class DeadLetterLimit:
    """Raises an error once too many of the last events are dead.

    It counts events in their order, so the limits of micro-batches make no difference. Labels of a
    topic of their own are counted apart. A run that resumes counts from zero, but not at the end of
    the stream.

    Args:
        settings: what is too many.
        partition_name: returns the name of a partition, given whether it is one of labels.
    """

    def __init__(self, settings: DeadLetters, partition_name: Callable[[int, bool], str]) -> None:
        self._settings = settings
        self._partition_name = partition_name
        self._windows = {False: _DeadWindow(settings.of), True: _DeadWindow(settings.of)}

    def add(self, batch: Batch, dead: Sequence[DeadLetter]) -> None:
        """Count a micro-batch, as it came from the stream, and all its dead letters.

        Raise ``TooManyDeadLettersError``.
        """
        arrivals = batch.arrivals
        labels_before = np.empty(0, np.int64)  # the rows that the labels come before
        if arrivals is not None:
            labels_before = arrivals.insert_before[~arrivals.withdrawals]
        if dead:
            events = [d for d in dead if not d.label]
            labels = [d for d in batch.dead if d.label]
            rows = np.array([d.insert_before for d in events], np.int64)
            self._count(False, events, rows)
            rows = np.array([d.insert_before for d in labels], np.int64)
            self._count(True, labels, np.searchsorted(labels_before, rows, "right"))
        labels_dead = sum(d.label for d in dead)
        self._windows[False].seen += batch.events
        self._windows[True].seen += labels_dead + len(labels_before)

    def end(self, events: int, reasons: Mapping[str, int]) -> None:
        """Check a stream that has ended before the window was full.

        Args:
            events: events in all, those of earlier runs in the folder too.
            reasons: the number of dead events of each kind of reason.

        Raise ``TooManyDeadLettersError``.
        """
        dead, share = sum(reasons.values()), self._settings.share
        if events < self._settings.of and dead > share * events:
            raise TooManyDeadLettersError(
                f"{dead:,} of all {events:,} events are dead ({_listed(reasons)}). {_ADVICE}"
            )
        labels = self._windows[True]
        if labels.seen < self._settings.of and len(labels.dead) > share * labels.seen:
            raise TooManyDeadLettersError(
                self._message(True, [letter for _, letter in labels.dead], f"all {labels.seen:,}")
            )

    def _count(self, label: bool, dead: Sequence[DeadLetter], alive: np.ndarray[Any, Any]) -> None:
        """Count n dead letters; ``alive`` (n,) is how many live ones of the micro-batch are before
        each."""
        share, of = self._settings.share, self._settings.of
        if share == 1:
            return
        window = self._windows[label]
        for i, d in enumerate(dead):
            if window.add(int(alive[i]) + i, d) > share * of:
                raise TooManyDeadLettersError(
                    self._message(label, [letter for _, letter in window.dead], f"the last {of:,}")
                )

    def _message(self, label: bool, dead: Sequence[DeadLetter], of: str) -> str:
        what = "labels" if label else "events"
        counts = Counter(reason_kind(letter.reason) for letter in dead)
        last = dead[-1]
        position = f"{self._partition_name(last.partition, label)}/{last.offset}"
        return (
            f"{len(dead):,} of {of} {what} are dead ({_listed(counts)}), "
            f"as {position}: {last.reason[:200]}. {_ADVICE}"
        )


_ADVICE = (
    f"Look at {DEAD_LETTERS} (everlearn dead-letters), then fix what writes them, or the job, or "
    "raise stream.dead_letters.share"
)


def _listed(reasons: Mapping[str, int]) -> str:
    """Return the most frequent kinds of reason with their numbers."""
    counts = Counter(reasons)
    listed = "; ".join(f"{n:,} x {reason}" for reason, n in counts.most_common(KINDS_SHOWN))
    more = len(counts) - KINDS_SHOWN
    return f"{listed}; and {more} more kinds of reason" if more > 0 else listed


class _DeadWindow:
    """The dead letters among the last ``of`` events."""

    def __init__(self, of: int) -> None:
        self.of = of
        self.seen = 0  # before this micro-batch
        self.dead: deque[tuple[int, DeadLetter]] = deque()

    def add(self, position: int, dead: DeadLetter) -> int:
        """Add the dead letter at a position of this micro-batch; return how many there are."""
        at = self.seen + position
        self.dead.append((at, replace(dead, value=None)))  # values would take memory
        while self.dead[0][0] <= at - self.of:
            self.dead.popleft()
        return len(self.dead)
