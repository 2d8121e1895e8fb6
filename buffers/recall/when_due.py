"""Recall when due (Lee et al. 2025, "Do Your Best and Get Enough Rest for Continual Learning")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from buffers.recall.base import Ints, Recall


class WhenDue(Recall):
    """The row comes up that waits longest: every ``views`` cycles through the buffer.

    The paper trains on each sample in every ``views``-th epoch only, and then on that many views of
    it. A stream has no epochs, so time is counted for each row: it is due in the draw that ends
    ``views * filled`` presentations or more after it was presented last, or came. A draw takes the
    rows that have waited longest. Nothing is drawn by chance. While the buffer stays as it is and
    draws share it out evenly, each row comes up exactly every ``views * filled`` presentations,
    just when it is due.

    While the buffer grows, or rows are replaced, those that wait longest may not be due yet. They
    are taken all the same, so that a learner makes as many presentations as with any other rule;
    with ``rest`` they are held back, and what is left of the draw is rest. A buffer that is filling
    then rehearses next to nothing, and of a ring that turns faster than it is rehearsed no row ever
    comes up.

    Rows wait in the order in which they were presented or came: a queue, in which a row that came
    up again or was replaced leaves its old entry behind, to be skipped.

    Args:
        capacity: number of slots.
        views: presentations that the learner makes of one drawn row.
        rest: whether a row that is not due is held back.
    """

    name = "view-batch"

    def __init__(self, capacity: int, views: int = 1, rest: bool = False) -> None:
        super().__init__(capacity, views)
        self.rest = rest
        # The entries are _queue[_head:_tail]; that of slot s is the one at _place[s], any other is
        # stale. There is room for twice as many as there are slots, so that making room, which
        # takes a pass over all, is for once in as many entries.
        self._queue = np.empty(2 * capacity, np.int64)
        self._place = np.full(capacity, -1, np.int64)
        self._head = self._tail = 0

    def draw(self, k: int, filled: int, rng: np.random.Generator) -> Ints:
        # Presented by then: due. Nothing was presented later than now.
        latest = self.clock + ((k - filled) * self.views if self.rest else 0)
        parts, wanted, at = [], k, self._head
        while wanted and at < self._tail:
            stop = min(at + 2 * k + 16, self._tail)  # past the rows of the last draw, stale now
            slots = self._queue[at:stop]
            waiting = (self._place.take(slots) == np.arange(at, stop)) & (slots < filled)
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
        place = self._place[source]
        self._queue[place] = target
        self._place[target] = place

    def _append(self, slots: Ints) -> None:
        """The rows at ``slots`` (m,), distinct, wait behind all others."""
        if self._tail + len(slots) > len(self._queue):
            self._wait(self._waiting(self.capacity))
        stop = self._tail + len(slots)
        self._queue[self._tail : stop] = slots
        self._place[slots] = np.arange(self._tail, stop)
        self._tail = stop

    def _waiting(self, filled: int) -> Ints:
        """(m,) the slots below ``filled`` in the order in which they wait."""
        slots = self._queue[self._head : self._tail]
        held = self._place.take(slots) == np.arange(self._head, self._tail)
        waiting: Ints = slots[held & (slots < filled)]
        return waiting

    def _wait(self, slots: Ints) -> None:
        """``slots`` (m,) are all that wait, in this order."""
        self._head, self._tail = 0, len(slots)
        self._queue[: len(slots)] = slots
        self._place.fill(-1)
        self._place[slots] = np.arange(len(slots))

    def memory_bytes(self) -> int:
        return super().memory_bytes() + self._queue.nbytes + self._place.nbytes

    def state(self, filled: int) -> dict[str, Any]:
        return {**super().state(filled), "queue": self._waiting(filled)}

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        self._wait(state["queue"])
