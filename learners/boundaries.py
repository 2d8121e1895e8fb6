"""Where tasks end in a stream of labelled events."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from learners.base import NEEDS_SEGMENTS, LearnerError
from streams.core.batch import Batch
from streams.core.state_dict import State


class Boundaries:
    """Cut micro-batches where a task ends.

    A task ends where the segment of an event differs from that of the event learned before it.
    Labels out of order may therefore end a task more than once.

    Args:
        every: events in a task; None: the segments of the stream mark its end.

    Attributes:
        parts: number of parts so far.
    """

    def __init__(self, every: int | None) -> None:
        self.every = every
        self.parts = 0
        self._events = 0
        self._last: int | None = None

    def cut(self, batch: Batch) -> Iterator[tuple[bool, Batch]]:
        """Yield the parts of m >= 1 events, each of one task, and whether a task ended before it.

        Raises:
            LearnerError: neither ``every`` nor the stream states where tasks end.
        """
        if self.every is not None:
            segment = (self._events + np.arange(len(batch))) // self.every
        elif batch.segment is not None:
            segment = batch.segment
        else:
            raise LearnerError(f"learner.every: this learner {NEEDS_SEGMENTS}")
        last = segment[0] if self._last is None else self._last
        ended = np.diff(segment, prepend=last) != 0
        edges = [0, *(np.flatnonzero(ended[1:]) + 1).tolist(), len(batch)]
        for start, stop in pairwise(edges):
            self.parts += 1
            self._events += stop - start
            self._last = int(segment[start])
            yield bool(ended[start]), batch[start:stop]

    def state(self) -> State:
        return {"parts": self.parts, "events": self._events, "last": self._last}

    def load(self, state: State) -> None:
        self.parts, self._events, self._last = state["parts"], state["events"], state["last"]
