"""Who is recalled: the rules by which stored rows are drawn for rehearsal."""

# ruff: noqa: B027  (hooks that do nothing unless a rule has use for them)

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
# One draw in 4 is counted in the histogram of intervals, by the upper bits of a multiplicative
# hash of its number: at regular distances it would be the same phase of a regular schedule.
_SCATTER, _NO_BITS, _UNSEEN = 0x9E3779B97F4A7C15, (1 << 64) - 1, 62


@dataclass(frozen=True, slots=True)
class RecallOutcome:
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

    Time is counted in *presentations*: rows that the learner was given to train on again, each as
    often as it has views. A draw takes as many as the learner has room for in a step, ``views`` for
    each row, whether there were rows for all of it or not. The *recall interval* of a row is the
    number of presentations from the end of the draw that it was in last, or from its arrival, to
    the end of the draw that it is in now (Lee et al. 2025, "Do Your Best and Get Enough Rest"):
    rows that take turns have one of filled * views.

    Args:
        capacity: number of slots.
        views: presentations that the learner makes of one drawn row.

    Attributes:
        name: what a job file calls the rule.
        needs_outcome: whether ``update`` makes a difference; a learner works out outcomes only
            where it does.
        criterion: by what the learner is to choose among the rows of a draw, which are ``pool``
            times as many as it asked for; None where it takes them as they come.
        pool: see there.
        clock: presentations so far.
        last: (capacity,) int64, by slot: the clock after its row was presented last, or came.
        intervals: (63,) int64: of the recalls that were counted, how many came after an interval of
            2**i to 2**(i+1) - 1 presentations.
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
        """Slots (m,) int64 of rows to rehearse, distinct, at most ``k`` (``k * pool`` where they
        are candidates), all below ``filled``."""

    def present(self, slots: Ints, presentations: int) -> None:
        """The rows at ``slots`` (m,) are rehearsed now, in a draw with room for so many
        presentations."""
        self.clock += presentations
        if not (self._draws * _SCATTER & _NO_BITS) >> _UNSEEN:
            bins = np.frexp(np.maximum(self.clock - self.last.take(slots), 1))[1] - 1
            self.intervals += np.bincount(bins, minlength=_BINS)
        self._draws += 1
        self.last[slots] = self.clock

    def update(self, slots: Ints, outcome: RecallOutcome) -> None:
        """The rows at ``slots`` (m,) were rehearsed, with this outcome."""

    def put(self, slots: Ints, now: int) -> None:
        """New rows came into ``slots`` (m,); ``now`` rows were offered to the buffer so far."""
        self.last[slots] = self.clock

    def move(self, source: Ints, target: Ints) -> None:
        """The row at slot source[i] is at target[i] from now on."""
        self.last[target] = self.last[source]

    def row_values(self, filled: int) -> dict[str, Array]:
        """What there is to see of each row, by name: (filled,) each."""
        return {}

    def memory_bytes(self) -> int:
        """Bytes kept for the rule itself at full capacity."""
        return self.last.nbytes

    def state(self, filled: int) -> dict[str, Any]:
        """Arrays (of the first ``filled`` slots) and JSON scalars from which ``load`` continues."""
        return {
            "clock": self.clock,
            "draws": self._draws,
            "last": self.last[:filled].copy(),
            "intervals": self.intervals.copy(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continues from a ``state`` of the same rule at the same capacity."""
        self.clock, self._draws = int(state["clock"]), int(state["draws"])
        self.last[: len(state["last"])] = state["last"]
        self.intervals = np.array(state["intervals"], np.int64)


class Distinct:
    """Takes every slot that comes up more than once but once, in time that depends on how many
    came up alone.

    Args:
        capacity: number of slots.
    """

    def __init__(self, capacity: int) -> None:
        # Where in the present draw a slot came last. Never cleared: only slots of the present
        # draw are read, after they are written.
        self._place = np.empty(capacity, np.int32)
        self._order = np.arange(256, dtype=np.int32)

    def __call__(self, slots: Ints) -> Ints:
        """Of slots (m,) each once: where it came last."""
        if len(slots) > len(self._order):
            self._order = np.arange(2 * len(slots), dtype=np.int32)
        order = self._order[: len(slots)]
        self._place[slots] = order  # of several places of one slot the last one is kept
        distinct: Ints = slots[self._place.take(slots) == order]
        return distinct

    @property
    def nbytes(self) -> int:
        return self._place.nbytes


def independent(n: int, filled: int, rng: np.random.Generator) -> Ints:
    """(n,) slots below ``filled``, each drawn on its own, all with the same chance."""
    # Twice as fast as rng.integers; a slot's chance is off by less than one part in 2**53/filled.
    slots: Ints = (rng.random(n) * filled).astype(np.int64)
    return slots


class Uniform(Recall):
    """Every stored row with the same chance, without replacement within one draw.

    ``draw`` gives min(k, filled) distinct slots. Its cost depends on k alone: it takes k distinct
    ones of a few more independent slots, and where k is a quarter of the rows or more, the first k
    of a permutation. All slots are treated alike, so every k in every order is equally likely.
    """

    name = "uniform"

    def __init__(self, capacity: int, views: int = 1) -> None:
        super().__init__(capacity, views)
        self._distinct = Distinct(capacity)

    def draw(self, k: int, filled: int, rng: np.random.Generator) -> Ints:
        if 4 * k >= filled:
            return rng.permutation(filled)[:k]
        # About k*k/(2*filled) of k draws repeat an earlier one: twice that in reserve makes one
        # round enough nearly always.
        slots = independent(k + 2 * k * k // filled, filled, rng)
        while True:
            distinct = self._distinct(slots)
            if len(distinct) >= k:
                return distinct[:k]
            slots = np.concatenate((distinct, independent(k, filled, rng)))

    def memory_bytes(self) -> int:
        return super().memory_bytes() + self._distinct.nbytes
