"""Recall when due (Lee et al. 2025, "Do Your Best and Get Enough Rest for Continual Learning").

The name in a job is ``view-batch``, after the method of the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from buffers.recall.base import Ints, Recall


class WhenDue(Recall):
    """Draw the rows that have waited longest: each row every ``views`` cycles through the buffer.

    The paper trains on each sample in every ``views``-th epoch only, and then on ``views`` views of
    it. A stream has no epochs, so time is counted for each row. A row is due in the draw that ends
    ``views * filled`` presentations or more after it was last presented, or arrived. A draw takes
    the rows that have waited longest; nothing is random. While the buffer does not change and draws
    divide it evenly, each row is drawn exactly every ``views * filled`` presentations, when due.

    While the buffer grows, or rows are replaced, the rows that have waited longest may not be due.
    They are drawn anyway, so that a learner makes as many presentations as with any other rule.
    With ``rest`` they are held back, and the draw is short. A buffer that is filling then rehearses
    almost nothing. A ring that turns faster than it is rehearsed rehearses nothing at all.

    Rows wait in a queue, in the order in which they were presented or arrived. A row that is drawn
    again or replaced leaves a stale entry behind, which is skipped.

    Args:
        capacity: number of slots.
        views: presentations of one drawn row by the learner.
        rest: whether a row that is not due is held back.
    """

    name = "view-batch"

    def __init__(self, capacity: int, views: int = 1, rest: bool = False) -> None:
        super().__init__(capacity, views)
        self.rest = rest
        # The entries are _queue[_head:_tail]. The entry of slot s is at _entry[s]; any other entry
        # with that slot is stale. The queue has twice as many entries as slots, so that removing
        # stale ones, which takes a pass over all, happens once in `capacity` new entries.
        self._queue = np.empty(2 * capacity, np.int64)
        self._entry = np.full(capacity, -1, np.int64)
        self._head = self._tail = 0

    def draw(self, k: int, filled: int, rng: np.random.Generator) -> Ints:
        # A row last presented by then is due. No row was presented later than now.
        latest = self.clock + ((k - filled) * self.views if self.rest else 0)
        parts, wanted, at = [], k, self._head
        while wanted and at < self._tail:
            stop = min(
                at + 2 * k + 16, self._tail
            )  # beyond the entries of the last draw, now stale
            slots = self._queue[at:stop]
            waiting = (self._entry.take(slots) == np.arange(at, stop)) & (slots < filled)
            if at == self._head:
                self._head += int(waiting.argmax()) if waiting.any() else len(waiting)
            slots = slots[waiting]
            due = slots[self.last.take(slots) <= latest]
            parts.append(due[:wanted])
            if len(due) < len(slots):
                break
            wanted -= len(parts[-1])
            at = stop
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def present(self, slots: Ints, presentations: int) -> None:
        super().present(slots, presentations)
        self._append(slots)

    def put(self, slots: Ints, now: int) -> None:
        super().put(slots, now)
        self._append(slots)

    def move(self, source: Ints, target: Ints) -> None:
        super().move(source, target)
        entry = self._entry[source]
        self._queue[entry] = target
        self._entry[target] = entry

    def _append(self, slots: Ints) -> None:
        """Put the rows at ``slots`` (m,), distinct, at the end of the queue."""
        if self._tail + len(slots) > len(self._queue):
            self._set_queue(self._waiting(self.capacity))
        stop = self._tail + len(slots)
        self._queue[self._tail : stop] = slots
        self._entry[slots] = np.arange(self._tail, stop)
        self._tail = stop

    def _waiting(self, filled: int) -> Ints:
        """Return the slots (m,) below ``filled`` in the order in which they wait."""
        slots = self._queue[self._head : self._tail]
        current = self._entry.take(slots) == np.arange(self._head, self._tail)
        waiting: Ints = slots[current & (slots < filled)]
        return waiting

    def _set_queue(self, slots: Ints) -> None:
        """Make ``slots`` (m,) the whole queue, in this order."""
        self._head, self._tail = 0, len(slots)
        self._queue[: len(slots)] = slots
        self._entry.fill(-1)
        self._entry[slots] = np.arange(len(slots))

    def memory_bytes(self) -> int:
        return super().memory_bytes() + self._queue.nbytes + self._entry.nbytes

    def state(self, filled: int) -> dict[str, Any]:
        return {**super().state(filled), "queue": self._waiting(filled)}

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        self._set_queue(state["queue"])
