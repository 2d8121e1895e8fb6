"""Who stays: the rules by which offered rows get a slot, and whose slot they take.

The slots in use are always 0 .. filled-1. All rules give the same result however the stream is cut
into batches.
"""

# ruff: noqa: B027  (hooks that do nothing unless a rule has use for them)

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Ints = NDArray[np.int64]
Placed = tuple[Ints, Ints]

NOTHING_PLACED: Placed = (np.empty(0, np.int64), np.empty(0, np.int64))
MAX_CLASSES = 1 << 20  # tables are indexed by class code: a stray id must not allocate gigabytes


class Admission(ABC):
    """Decides which of the offered rows stay, and in which slots.

    Attributes:
        name: what a job file calls the rule.
        capacity: number of slots.
        filled: number of slots in use; they are 0 .. filled-1.
        seen: number of rows ever offered.
    """

    name: ClassVar[str]

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity: {capacity} was given, at least 1 is expected")
        self.capacity = capacity
        self.filled = 0
        self.seen = 0

    @abstractmethod
    def place(self, columns: Mapping[str, Array], n: int, rng: np.random.Generator) -> Placed:
        """Offers ``n`` rows, in the order of the stream.

        Returns:
            rows: (m,) int64, indices into the batch of the rows that stay.
            slots: (m,) int64, where each of them goes. Slots are distinct: of two rows for the
                same slot only the later one is returned.

        Raises:
            ValueError: the columns are not what the rule needs; nothing has changed.
        """

    def forget(self, slots: Ints) -> Placed:
        """Frees ``slots`` and closes the holes with the last rows in use.

        Returns:
            source, target: (m,) int64 each; the row at source[i] is to be moved to target[i].
        """
        gone = np.zeros(self.filled, np.bool_)
        gone[slots] = True
        left = self.filled - int(np.count_nonzero(gone))
        target = np.flatnonzero(gone[:left])
        source = left + np.flatnonzero(~gone[left:])
        renamed = np.where(gone, -1, np.arange(self.filled))
        renamed[source] = target
        self.filled = left
        self._rename(renamed)
        return source, target

    def relabel(self, slots: Ints, old: Array, new: Array) -> None:
        """The labels of ``slots`` (m,) change from ``old`` (m,) to ``new`` (m,).

        Raises ValueError on labels that the rule cannot use; nothing has changed then.
        """

    def memory_bytes(self) -> int:
        """Bytes kept for the rule itself at full capacity."""
        return 0

    def state(self) -> dict[str, Any]:
        """Arrays and JSON scalars from which ``load`` continues exactly."""
        return {"filled": self.filled, "seen": self.seen}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continues from a ``state`` of the same rule at the same capacity."""
        self.filled = int(state["filled"])
        self.seen = int(state["seen"])

    def _rename(self, renamed: Ints) -> None:
        """Slot s is slot renamed[s] from now on, or free where that is -1."""


def arrays(placed: dict[int, int]) -> Placed:
    """(rows, slots) of a mapping slot -> row, which keeps the later of two rows for one slot."""
    rows = np.fromiter(placed.values(), np.int64, len(placed))
    return rows, np.fromiter(placed.keys(), np.int64, len(placed))


def ints(slots: array[int]) -> Ints:
    # A copy: an array with a view on it cannot grow.
    return np.array(slots, np.int64)


def slots_of(values: Array) -> array[int]:
    return array("q", values.astype(np.int64).tobytes())
