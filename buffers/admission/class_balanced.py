"""Class-balanced admission (Chrysakis and Moens 2020)."""

from __future__ import annotations

from array import array
from bisect import insort
from collections.abc import Mapping
from typing import Any

import numpy as np

from buffers.admission.base import (
    MAX_CLASSES,
    NOTHING_PLACED,
    Admission,
    Array,
    Ints,
    Placed,
    arrays,
    ints,
    slots_of,
)


class ClassBalanced(Admission):
    """Keep classes as equal in number as the stream allows, each a uniform sample of its rows.

    Class-balancing reservoir sampling (Chrysakis and Moens, "Online Continual Learning from
    Imbalanced Data", ICML 2020). Once all slots are in use, a class is *full* if it is or once was
    the largest. A row of a full class, with m stored and n seen rows, replaces a row of its own
    class with probability m/n. A row of any other class replaces a row of the largest class.

    Being the largest counts only from when all slots are in use. Otherwise the first class of the
    stream would be full with one row, and could not grow.

    The column "y" (n,) of class codes 0, 1, 2, ... is required. Free slots, also those of deleted
    rows, go to the next rows of any class. A class whose rows were all deleted is no longer full. A
    class whose last row was evicted stays full, and does not return; that needs more classes than
    slots. One uniform number is drawn for each row, also where the row is not kept.
    """

    name = "class-balanced"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._slots: list[array[int]] = []  # by class: the slots of its rows
        self._offered = np.zeros(0, np.int64)  # by class: rows seen
        # By class: a row is rejected for certain unless u * (rows seen) is below this. It is the
        # rows stored of a full class, and infinity for the others.
        self._gate = np.zeros(0)
        self._full: set[int] = set()
        self._largest: list[int] = []  # the classes of the largest size, ascending
        self._size = 0  # the largest size

    def place(self, columns: Mapping[str, Array], n: int, rng: np.random.Generator) -> Placed:
        if not n:
            return NOTHING_PLACED
        y = self._codes(columns)
        u = rng.random(n)
        grown = min(n, self.capacity - self.filled)
        first = self.filled
        self.seen += n
        if grown:
            self._fill(y[:grown])
        if grown == n:
            return np.arange(n), np.arange(first, first + n)
        if grown:
            y, u = y[grown:], u[grown:]

        # Within a batch a class's count of rows seen only grows and its gate only falls: a row
        # that fails here fails for certain.
        offered = self._offered.take(y)
        hits = (u * (offered + 1) < self._gate.take(y)).nonzero()[0]
        self._offered += np.bincount(y, minlength=len(self._offered))
        if not len(hits):
            return (np.arange(grown), np.arange(first, first + grown)) if grown else NOTHING_PLACED
        offered += _occurrence(y)
        placed = dict(zip(range(first, first + grown), range(grown), strict=True))
        chosen = (hits, y[hits], u[hits], offered[hits])
        for row, code, draw, seen in zip(*(each.tolist() for each in chosen), strict=True):
            slot = self._assign_slot(grown + row, code, draw, seen)
            if slot is not None:
                placed[slot] = grown + row
        return arrays(placed) if placed else NOTHING_PLACED

    def relabel(self, slots: Ints, old: Array, new: Array) -> None:
        after = self._codes({"y": new})
        changes = zip(slots.tolist(), old.tolist(), after.tolist(), strict=True)
        for slot, before, code in changes:
            self._slots[before].remove(slot)
            self._slots[code].append(slot)
            self._offered[before] -= 1
            self._offered[code] += 1
        self._reopen()

    def memory_bytes(self) -> int:
        return 8 * self.capacity + self._offered.nbytes + self._gate.nbytes

    def state(self) -> dict[str, Any]:
        return {
            **super().state(),
            "slots": np.concatenate([NOTHING_PLACED[0], *map(ints, self._slots)]),
            "sizes": np.array([len(slots) for slots in self._slots], np.int64),
            "offered": self._offered.copy(),
            "full": np.array(sorted(self._full), np.int64),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        parts = np.split(np.asarray(state["slots"]), np.cumsum(state["sizes"])[:-1])
        self._slots = [slots_of(part) for part in parts[: len(state["sizes"])]]
        self._offered = np.array(state["offered"], np.int64)
        self._full = set(state["full"].tolist())
        self._recount()

    def _assign_slot(self, row: int, code: int, draw: float, seen: int) -> int | None:
        """Return the slot for a row of the batch, or None where it is not kept.

        Args:
            row: index of the row in the batch.
            code: its class.
            draw: its uniform number, in [0, 1).
            seen: rows of its class offered so far, this one included.
        """
        own = self._slots[code]
        if code in self._full:
            index = int(draw * seen)
            return own[self._evict(code, index, row)] if index < len(own) else None
        which, index = divmod(int(draw * self._size * len(self._largest)), self._size)
        largest = self._largest.pop(which)
        slots = self._slots[largest]
        index = self._evict(largest, index, None)
        slot = slots[index]
        slots[index] = slots[-1]
        slots.pop()
        self._gate[largest] -= 1
        own.append(slot)
        if len(own) == self._size:
            insort(self._largest, code)
            self._full.add(code)
            self._gate[code] = self._size
        if not self._largest:
            self._recount()
        return slot

    def _evict(self, code: int, index: int, row: int | None) -> int:
        """Return the index of the slot, among those of class ``code``, whose row is evicted.

        Args:
            code: the class that loses a row.
            index: one of its slots, drawn at random.
            row: the row of the batch that replaces it, if that is of the same class.
        """
        return index

    def _fill(self, y: Ints) -> None:
        """Put rows of classes ``y`` into the next free slots."""
        slots = np.arange(self.filled, self.filled + len(y))
        for code in np.unique(y).tolist():
            self._slots[code].frombytes(slots[y == code].tobytes())
        self._offered += np.bincount(y, minlength=len(self._offered))
        self.filled += len(y)
        self._recount()

    def _recount(self) -> None:
        """Compute the largest classes, the full classes and the gates from the slots."""
        sizes = [len(slots) for slots in self._slots]
        if self.filled == self.capacity:
            self._size = max(sizes)
            self._largest = [code for code, size in enumerate(sizes) if size == self._size]
            self._full.update(self._largest)
        self._gate = np.full(len(sizes), np.inf)
        for code in self._full:
            self._gate[code] = sizes[code]

    def _rename(self, renamed: Ints) -> None:
        for code, slots in enumerate(self._slots):
            if slots:
                after = renamed[ints(slots)]
                kept = after[after >= 0]
                # Count as deleted the same share of the rows seen as of the rows stored.
                self._offered[code] = int(self._offered[code]) * len(kept) // len(slots)
                self._slots[code] = slots_of(kept)
        self._reopen()

    def _reopen(self) -> None:
        """Let classes without rows grow again."""
        self._full = {code for code in self._full if self._slots[code]}
        self._recount()

    def _codes(self, columns: Mapping[str, Array]) -> Ints:
        """Return the class codes (n,), and make room for new classes. Raises ValueError."""
        y = columns.get("y")
        if y is None or y.ndim != 1 or y.dtype.kind not in "iub":
            given = "no column" if y is None else f"{y.dtype} {y.shape}"
            raise ValueError(f"column 'y': {given} was given, class codes (n,) int are expected")
        if len(y):
            least, most = int(y.min()), int(y.max())
            if least < 0 or most >= MAX_CLASSES:
                raise ValueError(
                    f"column 'y': {least if least < 0 else most} was given, "
                    f"a class code from 0 to {MAX_CLASSES - 1} is expected"
                )
            new = most + 1 - len(self._slots)
            if new > 0:
                self._slots += [array("q") for _ in range(new)]
                self._offered = np.append(self._offered, np.zeros(new, np.int64))
                self._gate = np.append(self._gate, np.full(new, np.inf))
        return y.astype(np.int64, copy=False)


def _occurrence(y: Ints) -> Ints:
    """Return (n,) int64: how often the value has occurred up to each position, from 1."""
    order = np.argsort(y, kind="stable")
    ascending = y[order]
    starts = np.flatnonzero(ascending[1:] != ascending[:-1]) + 1
    before = np.zeros_like(order)
    before[starts] = starts
    occurrence = np.empty_like(order)
    occurrence[order] = np.arange(1, len(y) + 1) - np.maximum.accumulate(before)
    return occurrence
