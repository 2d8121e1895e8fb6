"""Recall rules: which stored rows are drawn for rehearsal."""

# ruff: noqa: B027  (hooks that most rules do not need)

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Ints = NDArray[np.int64]

_BINS = 63  # powers of two that an int64 can hold
# One draw in 4 counts in the histogram of intervals, by the upper bits of a multiplicative hash of
# its number. Every fourth draw would always hit the same phase of a regular schedule.
_HASH_FACTOR, _U64_MASK, _HASH_SHIFT = 0x9E3779B97F4A7C15, (1 << 64) - 1, 62


@dataclass(frozen=True, slots=True)
class RecallOutcome:
    """Loss and correctness of m recalled rows, before the update that they were recalled for.

    Attributes:
        loss: (m,) float32, the loss of each row.
        correct: (m,) bool, whether the prediction was correct.
    """

    loss: NDArray[np.float32]
    correct: NDArray[np.bool_]


class Recall(ABC):
    """Draw slots, and keep what the rule needs to know of each slot.

    Slots 0 .. filled-1 hold rows. ``put`` announces a new row in a slot, and there the rule drops
    what it knew of the row before.

    Time is counted in *presentations*: rows on which the learner trains again, each once per view.
    A draw takes as many presentations as the learner has room for in a step, also where there are
    too few rows. The *recall interval* of a row is the number of presentations from the end of its
    last draw, or from its arrival, to the end of the present one (Lee et al. 2025, "Do Your Best
    and Get Enough Rest for Continual Learning"). Rows that take turns have an interval of
    filled * views.

    Args:
        capacity: number of slots.
        views: presentations of one drawn row by the learner.

    Attributes:
        name: the name of the rule in a job file.
        needs_outcome: whether ``update`` makes a difference. A learner computes outcomes only then.
        criterion: how the learner chooses among the rows of a draw, which are candidates. None:
            it takes all rows of a draw.
        pool: candidates for each row that the learner asked for.
        clock: presentations so far.
        last: (capacity,) int64, by slot: the clock when its row was last presented, or arrived.
        intervals: (63,) int64: of the counted recalls, how many came after an interval of 2**i to
            2**(i+1) - 1 presentations.
    """

    name: ClassVar[str]
    needs_outcome: ClassVar[bool] = False
    criterion: ClassVar[Literal["loss", "interference"] | None] = None
    pool: int = 1

    def __init__(self, capacity: int, views: int = 1) -> None:
        if views < 1:
            raise ValueError(f"views: {views} was given, at least 1 is expected")
        self.capacity = capacity
        self.views = views
        self.clock = 0
        self.last = np.zeros(capacity, np.int64)
        self.intervals = np.zeros(_BINS, np.int64)
        self._draws = 0

    @abstractmethod
    def draw(self, k: int, filled: int, rng: np.random.Generator) -> Ints:
        """Return slots (m,) int64 of rows to rehearse, distinct and below ``filled``.

        There are at most ``k`` of them, or ``k * pool`` candidates.
        """

    def present(self, slots: Ints, presentations: int) -> None:
        """Count the rows at ``slots`` (m,) as rehearsed now.

        ``presentations`` is how many the learner has room for in this draw.
        """
        self.clock += presentations
        if not (self._draws * _HASH_FACTOR & _U64_MASK) >> _HASH_SHIFT:
            bins = np.frexp(np.maximum(self.clock - self.last.take(slots), 1))[1] - 1
            self.intervals += np.bincount(bins, minlength=_BINS)
        self._draws += 1
        self.last[slots] = self.clock

    def update(self, slots: Ints, outcome: RecallOutcome) -> None:
        """Learn the outcome of the rehearsed rows at ``slots`` (m,)."""

    def put(self, slots: Ints, now: int) -> None:
        """Note new rows in ``slots`` (m,). ``now`` is how many rows were offered so far."""
        self.last[slots] = self.clock

    def move(self, source: Ints, target: Ints) -> None:
        """Note that the row at slot source[i] is at target[i] from now on."""
        self.last[target] = self.last[source]

    def row_values(self, filled: int) -> dict[str, Array]:
        """Return what the rule knows of each row, by name, for metrics: (filled,) each."""
        return {}

    def memory_bytes(self) -> int:
        """Return the bytes that the rule itself keeps, at full capacity."""
        return self.last.nbytes

    def state(self, filled: int) -> dict[str, Any]:
        """Return arrays (of the first ``filled`` slots) and JSON scalars for ``load``."""
        return {
            "clock": self.clock,
            "draws": self._draws,
            "last": self.last[:filled].copy(),
            "intervals": self.intervals.copy(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state`` of the same rule at the same capacity, bit for bit."""
        self.clock, self._draws = int(state["clock"]), int(state["draws"])
        self.last[: len(state["last"])] = state["last"]
        self.intervals = np.array(state["intervals"], np.int64)


class Distinct:
    """Remove duplicates from slots, in time that depends on their number alone.

    Args:
        capacity: number of slots.
    """

    def __init__(self, capacity: int) -> None:
        # The last position of each slot in the present draw. Never cleared: only slots of the
        # present draw are read, after they are written.
        self._last_position = np.empty(capacity, np.int32)
        self._order = np.arange(256, dtype=np.int32)

    def __call__(self, slots: Ints) -> Ints:
        """Return each of the slots (m,) once, at its last position."""
        if len(slots) > len(self._order):
            self._order = np.arange(2 * len(slots), dtype=np.int32)
        order = self._order[: len(slots)]
        self._last_position[slots] = order  # of several positions of one slot the last one remains
        distinct: Ints = slots[self._last_position.take(slots) == order]
        return distinct

    @property
    def nbytes(self) -> int:
        """Bytes at this capacity."""
        return self._last_position.nbytes


def independent(n: int, filled: int, rng: np.random.Generator) -> Ints:
    """Return (n,) slots below ``filled``, drawn independently, all equally likely."""
    # Twice as fast as rng.integers; the probability of a slot is off by less than one part in
    # 2**53/filled.
    slots: Ints = (rng.random(n) * filled).astype(np.int64)
    return slots


class Uniform(Recall):
    """Draw every stored row with the same probability, without replacement within one draw.

    ``draw`` returns min(k, filled) distinct slots. Its cost depends on k alone: it takes k distinct
    ones of slightly more independent slots. Where k is a quarter of the rows or more, it takes the
    first k of a permutation. All slots are treated alike, so every k in every order is equally
    likely.
    """

    name = "uniform"

    def __init__(self, capacity: int, views: int = 1) -> None:
        super().__init__(capacity, views)
        self._distinct = Distinct(capacity)

    def draw(self, k: int, filled: int, rng: np.random.Generator) -> Ints:
        if 4 * k >= filled:
            return rng.permutation(filled)[:k]
        # About k*k/(2*filled) of k slots repeat an earlier one. With twice that in reserve one
        # round is nearly always enough.
        slots = independent(k + 2 * k * k // filled, filled, rng)
        while True:
            distinct = self._distinct(slots)
            if len(distinct) >= k:
                return distinct[:k]
            slots = np.concatenate((distinct, independent(k, filled, rng)))

    def memory_bytes(self) -> int:
        return super().memory_bytes() + self._distinct.nbytes
