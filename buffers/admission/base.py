"""Admission rules: which offered rows get a slot, and which rows they evict.

The slots in use are always 0 .. filled-1. Every rule gives the same result however the stream is
cut into batches.
"""

# ruff: noqa: B027  (hooks that most rules do not need)

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
    """Decide which of the offered rows are kept, and in which slots.

    Attributes:
        name: the name of the rule in a job file.
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
        """Offer ``n`` rows, in the order of the stream.

        Args:
            columns: (n, ...) each, by name.
            n: number of rows.
            rng: the only source of randomness.

        Returns:
            rows: (m,) int64, indices into the batch of the rows that are kept.
            slots: (m,) int64, where each of them goes. Slots are distinct: of two rows for the
                same slot only the later one is returned.

        Raises:
            ValueError: the rule cannot use the columns; nothing has changed.
        """

    def forget(self, slots: Ints) -> Placed:
        """Free ``slots`` (m,), and fill the holes with the last rows in use.

        Returns:
            source, target: (k,) int64 each; the caller moves the row at source[i] to target[i].
        """
        freed = np.zeros(self.filled, np.bool_)
        freed[slots] = True
        left = self.filled - int(np.count_nonzero(freed))
        target = np.flatnonzero(freed[:left])
        source = left + np.flatnonzero(~freed[left:])
        renamed = np.where(freed, -1, np.arange(self.filled))
        renamed[source] = target
        self.filled = left
        self._rename(renamed)
        return source, target

    def relabel(self, slots: Ints, old: Array, new: Array) -> None:
        """Change the labels of ``slots`` (m,) from ``old`` (m,) to ``new`` (m,).

        Raises:
            ValueError: the rule cannot use the labels; nothing has changed.
        """

    def memory_bytes(self) -> int:
        """Return the bytes that the rule itself keeps, at full capacity."""
        return 0

    def state(self) -> dict[str, Any]:
        """Return arrays and JSON scalars from which ``load`` continues exactly."""
        return {"filled": self.filled, "seen": self.seen}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state`` of the same rule at the same capacity."""
        self.filled = int(state["filled"])
        self.seen = int(state["seen"])

    def _rename(self, renamed: Ints) -> None:
        """Rename slot s to renamed[s]; it is free where that is -1."""


def arrays(placed: dict[int, int]) -> Placed:
    """Return (rows, slots) of a mapping from slot to row.

    The mapping keeps the later of two rows for one slot.
    """
    rows = np.fromiter(placed.values(), np.int64, len(placed))
    return rows, np.fromiter(placed.keys(), np.int64, len(placed))


def ints(slots: array[int]) -> Ints:
    """Return the slots as an int64 array."""
    # A copy: an array with a view on it cannot grow.
    return np.array(slots, np.int64)


def slots_of(values: Array) -> array[int]:
    """Return the values as a list of slots that can grow."""
    return array("q", values.astype(np.int64).tobytes())
