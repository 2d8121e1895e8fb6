"""Class-balanced admission."""

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
    """Classes as equal in number as the stream allows, each a uniform sample of its own rows.

    Class-balancing reservoir sampling (Chrysakis & Moens, "Online Continual Learning from
    Imbalanced Data", ICML 2020). Once all slots are in use, a class is *full* if it is or once was
    the largest. A row of a full class of m stored and n seen rows replaces one of its own class
    with probability m/n; a row of any other class replaces one of the largest class. Being the
    largest counts from the moment all slots are in use: before that, whichever class happens to
    come first would be full with one row and could not grow.

    Needs the column "y" (n,) of class codes 0, 1, 2, ... Free slots, also those of deleted rows,
    go to whatever comes next. A class whose rows were all deleted is no longer full; one whose last
    row was replaced (there are more classes than slots) is, and stays away. One uniform number is
    drawn for each row, whatever becomes of it.
    """

    name = "class-balanced"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._slots: list[array[int]] = []  # for each class, the slots of its rows
        self._offered = np.zeros(0, np.int64)  # for each class, rows seen
        # For each class, a row is turned down for certain unless u * (rows seen) is below this:
        # the rows stored of a full class, infinity for the others.
        self._gate = np.zeros(0)
        self._full: set[int] = set()
        self._largest: list[int] = []  # the classes of the greatest size, ascending
        self._size = 0  # that size

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

        # Within a batch a class's count of rows seen only grows and its gate only falls: who fails
        # here fails for certain.
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
        """The slot for a row of the batch of class ``code``, the ``seen``-th of it; ``draw`` is in
        [0, 1)."""
        own = self._slots[code]
        if code in self._full:
            index = int(draw * seen)
            return own[self._evict(code, index, row)] if index < len(own) else None
        which, index = divmod(int(draw * self._size * len(self._largest)), self._size)
        loser = self._largest.pop(which)
        slots = self._slots[loser]
        index = self._evict(loser, index, None)
        slot = slots[index]
        slots[index] = slots[-1]
        slots.pop()
        self._gate[loser] -= 1
        own.append(slot)
        if len(own) == self._size:
            insort(self._largest, code)
            self._full.add(code)
            self._gate[code] = self._size
        if not self._largest:
            self._recount()
        return slot

    def _evict(self, code: int, index: int, row: int | None) -> int:
        """Which of the slots of class ``code`` is to be given up: one at random is ``index``. The
        row of the batch that comes in its stead is of the same class, or of another where None."""
        return index

    def _fill(self, y: Ints) -> None:
        """The rows go to the next free slots, whatever their class."""
        slots = np.arange(self.filled, self.filled + len(y))
        for code in np.unique(y).tolist():
            self._slots[code].frombytes(slots[y == code].tobytes())
        self._offered += np.bincount(y, minlength=len(self._offered))
        self.filled += len(y)
        self._recount()

    def _recount(self) -> None:
        """Works out from the slots who is largest, who is full, and the gates."""
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
                # Of the rows seen, as large a share is gone as of the rows stored.
                self._offered[code] = int(self._offered[code]) * len(kept) // len(slots)
                self._slots[code] = slots_of(kept)
        self._reopen()

    def _reopen(self) -> None:
        """Classes that have no rows any more may grow again."""
        self._full = {code for code in self._full if self._slots[code]}
        self._recount()

    def _codes(self, columns: Mapping[str, Array]) -> Ints:
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
    """(n,): this is the how-manieth of its value so far, from 1."""
    order = np.argsort(y, kind="stable")
    ascending = y[order]
    starts = np.flatnonzero(ascending[1:] != ascending[:-1]) + 1
    before = np.zeros_like(order)
    before[starts] = starts
    occurrence = np.empty_like(order)
    occurrence[order] = np.arange(1, len(y) + 1) - np.maximum.accumulate(before)
    return occurrence
