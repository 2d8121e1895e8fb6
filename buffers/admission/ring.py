"""Admit every row, and evict the oldest row or a random one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from buffers.admission.base import Admission, Array, Ints, Placed


class Ring(Admission):
    """Keep the last ``capacity`` rows offered, except deleted ones. Evict the oldest."""

    name = "ring"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._next = 0
        # The slots in the order in which they are written; None while that is 0, 1, 2, ...
        self._order: Ints | None = None

    def place(self, columns: Mapping[str, Array], n: int, rng: np.random.Generator) -> Placed:
        skipped = max(0, n - self.capacity)
        turns = np.arange(self._next + skipped, self._next + n) % self.capacity
        self._next = (self._next + n) % self.capacity
        self.filled = min(self.filled + n, self.capacity)
        self.seen += n
        return np.arange(skipped, n), turns if self._order is None else self._order[turns]

    def memory_bytes(self) -> int:
        return 0 if self._order is None else self._order.nbytes

    def state(self) -> dict[str, Any]:
        order = np.empty(0, np.int64) if self._order is None else self._order.copy()
        return {**super().state(), "next": self._next, "order": order}

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        self._next = int(state["next"])
        self._order = np.array(state["order"], np.int64) if len(state["order"]) else None

    def _rename(self, renamed: Ints) -> None:
        order = np.arange(self.capacity) if self._order is None else self._order
        if len(renamed) == self.capacity:
            order = np.roll(order, -self._next)
        kept = renamed[order[: len(renamed)]]
        free = np.arange(self.filled, self.capacity)
        self._order = np.concatenate((kept[kept >= 0], free))
        self._next = self.filled % self.capacity


class RandomInsert(Admission):
    """Keep every new row, in a free slot or in a slot drawn at random.

    The expected share of older rows that survive n further ones is (1 - 1/capacity)**n. So the
    buffer forgets with age, unlike a reservoir.
    """

    name = "random-insert"

    def place(self, columns: Mapping[str, Array], n: int, rng: np.random.Generator) -> Placed:
        grown = min(n, self.capacity - self.filled)
        taken = (rng.random(n - grown) * self.capacity).astype(np.int64)
        slots = np.concatenate((np.arange(self.filled, self.filled + grown), taken))
        self.filled += grown
        self.seen += n
        rows = np.argsort(slots, kind="stable")
        ascending = slots[rows]
        last = np.ones(n, np.bool_)
        last[:-1] = ascending[1:] != ascending[:-1]
        return rows[last], ascending[last]
