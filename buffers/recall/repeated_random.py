"""Recall by random sweeps through the buffer.

Okanovic et al. 2024, "Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from buffers.recall.base import Ints, Uniform


class RepeatedRandom(Uniform):
    """Draw every row once in random order, then all again in another: RS2 without replacement.

    Slots take turns. A row in a new slot has its turn in the current sweep. A row that replaces
    another takes over its turn; where that has passed, it waits for the next sweep. A draw across
    two sweeps still has distinct rows: the rows at the end of one are not among the first of the
    next.
    """

    name = "repeated-random"

    def __init__(self, capacity: int, views: int = 1) -> None:
        super().__init__(capacity, views)
        # The slots in use are _order[:_filled]. Those before _next had their turn.
        self._order = np.arange(capacity)
        self._filled = self._next = 0

    def draw(self, k: int, filled: int, rng: np.random.Generator) -> Ints:
        self._fit(filled)
        k = min(k, filled)
        left = filled - self._next
        if k <= left:
            return self._turns(k, filled, rng)
        last = self._order[self._next : filled].copy()
        self._next = 0
        return np.concatenate((last, self._turns(k - left, filled - left, rng)))

    def _turns(self, k: int, stop: int, rng: np.random.Generator) -> Ints:
        """Move ``k`` of the slots at positions _next to ``stop`` to the front, and return them.

        All are equally likely.
        """
        end = self._next + k
        drawn = self._next + super().draw(k, stop - self._next, rng)
        slots = self._order.take(drawn)
        later = drawn >= end
        not_drawn = np.ones(k, np.bool_)
        not_drawn[drawn[~later] - self._next] = False
        self._order[drawn[later]] = self._order[self._next : end][not_drawn]
        self._order[self._next : end] = slots
        self._next = end
        return slots

    def _fit(self, filled: int) -> None:
        """Remove slots from the order that are no longer in use."""
        if filled < self._filled:
            stays = self._order[: self._filled] < filled
            self._next = int(np.count_nonzero(stays[: self._next]))
            self._order[:filled] = self._order[: self._filled][stays]
            self._order[filled : self._filled] = np.arange(filled, self._filled)
        self._filled = filled

    def put(self, slots: Ints, now: int) -> None:
        super().put(slots, now)
        if len(slots):
            self._filled = max(self._filled, int(slots.max()) + 1)

    def move(self, source: Ints, target: Ints) -> None:
        super().move(source, target)
        # The row keeps its turn. The turn of the deleted row goes to the slot that becomes free.
        renamed = np.arange(self.capacity)
        renamed[source], renamed[target] = target, source
        self._order = renamed[self._order]

    def memory_bytes(self) -> int:
        return super().memory_bytes() + self._order.nbytes

    def state(self, filled: int) -> dict[str, Any]:
        order = self._order[: self._filled].copy()
        return {**super().state(filled), "order": order, "next": self._next}

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        self._filled = len(state["order"])
        self._order = np.arange(self.capacity)
        self._order[: self._filled] = state["order"]
        self._next = int(state["next"])
