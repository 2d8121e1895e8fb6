"""Where tasks end in a stream of labelled events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from learners.base import NEEDS_SEGMENTS, LearnerError
from streams.core.batch import Array, Batch, Ints
from streams.core.state_dict import State
from streams.core.statistics.adwin import Adwin


@dataclass(frozen=True)
class OnDrift:
    """A task ends where the errors of the learner become more.

    Attributes:
        significance: of ADWIN, about the probability of a false alarm.
    """

    significance: float


class Boundaries:
    """Cut micro-batches where a task ends.

    By segments a task ends where the segment of an event differs from that of the event learned
    before it. Labels out of order may therefore end a task more than once.

    By drift it ends before the event at whose error ADWIN finds the mean error higher than it was.
    An error that falls ends no task: the learner improves.

    Args:
        every: events in a task; ``OnDrift``: a drift signal; None: the segments of the stream.

    Attributes:
        parts: number of parts so far.
    """

    def __init__(self, every: int | OnDrift | None) -> None:
        self.every = every
        self.parts = 0
        self._events = 0
        self._last: int | None = None
        self._drift = Adwin(every.significance, clock=1) if isinstance(every, OnDrift) else None

    def cut(self, batch: Batch, errors: Array | None = None) -> Iterator[tuple[bool, Batch]]:
        """Yield the parts of m >= 1 events, each of one task, and whether a task ended before it.

        Args:
            batch: the events.
            errors: (m,) in [0, 1], of their predictions before they are learned; for ``OnDrift``.

        Raises:
            LearnerError: neither ``every`` nor the stream states where tasks end.
        """
        segment = self._segments(batch, errors)
        last = segment[0] if self._last is None else self._last
        ended = np.diff(segment, prepend=last) != 0
        edges = [0, *(np.flatnonzero(ended[1:]) + 1).tolist(), len(batch)]
        for start, stop in pairwise(edges):
            self.parts += 1
            self._events += stop - start
            self._last = int(segment[start])
            yield bool(ended[start]), batch[start:stop]

    def _segments(self, batch: Batch, errors: Array | None) -> Ints:
        """Return the number (m,) of the task of each event."""
        if self._drift is not None:
            assert errors is not None, "a drift signal needs errors"
            ended = [self._rises(self._drift, error) for error in errors.tolist()]
            return (self._last or 0) + np.cumsum(ended)
        if isinstance(self.every, int):
            numbers: Ints = (self._events + np.arange(len(batch))) // self.every
            return numbers
        if batch.segment is None:
            raise LearnerError(f"learner.every: this learner {NEEDS_SEGMENTS}")
        return batch.segment

    @staticmethod
    def _rises(drift: Adwin, error: float) -> bool:
        before = drift.mean
        return drift.add(error) and drift.mean > before

    def state(self) -> State:
        state: State = {"parts": self.parts, "events": self._events, "last": self._last}
        return state if self._drift is None else state | {"drift": self._drift.state()}

    def load(self, state: State) -> None:
        self.parts, self._events, self._last = state["parts"], state["events"], state["last"]
        if self._drift is not None:
            self._drift.load(state["drift"])
