"""Who is recalled: the rules by which stored rows are drawn for rehearsal."""

# ruff: noqa: B027  (hooks that do nothing unless a rule has use for them)

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How m recalled rows went, before the update that they were recalled for.

    Attributes:
        loss: (m,) float32, the loss of each row.
        correct: (m,) bool, whether the prediction was right.
    """

    loss: NDArray[np.float32]
    correct: NDArray[np.bool_]


class Recall(ABC):
    """Draws slots, and keeps what it needs to know of each, by slot.

    Slots 0 .. filled-1 hold rows. A slot whose row is replaced or deleted is told of by ``put``
    when the next row comes into it, so that what was known of the old one is dropped there.

    Attributes:
        name: what a job file calls the rule.
        needs_outcome: whether ``update`` makes a difference; a learner works out outcomes only
            where it does.
        capacity: number of slots.
    """

    name: ClassVar[str]
    needs_outcome: ClassVar[bool] = False

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity

    @abstractmethod
    def draw(self, k: int, filled: int, rng: np.random.Generator) -> Ints:
        """Slots (m,) int64 of rows to rehearse, at most ``k``, all below ``filled``."""

    def update(self, slots: Ints, outcome: Outcome) -> None:
        """The rows at ``slots`` (m,) were rehearsed, with this outcome."""

    def put(self, slots: Ints, now: int) -> None:
        """New rows came into ``slots`` (m,); ``now`` rows were offered to the buffer so far."""

    def move(self, source: Ints, target: Ints) -> None:
        """The row at slot source[i] is at target[i] from now on."""

    def memory_bytes(self) -> int:
        """Bytes kept for the rule itself at full capacity."""
        return 0

    def state(self, filled: int) -> dict[str, Any]:
        """Arrays (of the first ``filled`` slots) and JSON scalars from which ``load`` continues."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continues from a ``state`` of the same rule at the same capacity."""


class Uniform(Recall):
    """Every stored row with the same chance, without replacement within one draw.

    ``draw`` gives min(k, filled) distinct slots. Its cost depends on k alone: it takes k distinct
    ones of a few more independent slots, and where k is a quarter of the rows or more, the first k
    of a permutation. All slots are treated alike, so every k in every order is equally likely.
    """

    name = "uniform"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        # Where in the present draw a slot came last. Never cleared: only slots of the present
        # draw are read, after they are written.
        self._place = np.empty(capacity, np.int32)
        self._order = np.arange(256, dtype=np.int32)

    def draw(self, k: int, filled: int, rng: np.random.Generator) -> Ints:
        if 4 * k >= filled:
            return rng.permutation(filled)[:k]
        # About k*k/(2*filled) of k draws repeat an earlier one: twice that in reserve makes one
        # round enough nearly always.
        slots = _slots(k + 2 * k * k // filled, filled, rng)
        while True:
            if len(slots) > len(self._order):
                self._order = np.arange(2 * len(slots), dtype=np.int32)
            order = self._order[: len(slots)]
            self._place[slots] = order  # of several places of one slot the last one is kept
            distinct: Ints = slots[self._place.take(slots) == order]
            if len(distinct) >= k:
                return distinct[:k]
            slots = np.concatenate((distinct, _slots(k, filled, rng)))

    def memory_bytes(self) -> int:
        return self._place.nbytes


def _slots(n: int, filled: int, rng: np.random.Generator) -> Ints:
    # Twice as fast as rng.integers; a slot's chance is off by less than one part in 2**53/filled.
    slots: Ints = (rng.random(n) * filled).astype(np.int64)
    return slots


RECALLS: dict[str, type[Recall]] = {rule.name: rule for rule in (Uniform,)}
