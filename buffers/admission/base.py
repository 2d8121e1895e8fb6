"""Who stays: the rules by which offered rows get a slot, and whose slot they take.

The slots in use are always 0 .. filled-1. All rules give the same result however the stream is cut
into batches.
"""

# ruff: noqa: B027  (hooks that do nothing unless a rule has use for them)

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from bisect import insort
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Ints = NDArray[np.int64]
Placed = tuple[Ints, Ints]

NOBODY: Placed = (np.empty(0, np.int64), np.empty(0, np.int64))
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


class Reservoir(Admission):
    """A uniform sample of all rows ever offered: Algorithm R (Vitter 1985).

    The row that comes after ``seen`` others draws an integer from 0 .. seen and, where that is a
    slot, replaces the row in it. A deleted row leaves a hole which is drawn like the row it held,
    so that the rows in use stay a uniform sample of the rows that were not deleted. The price is
    that holes fill no faster than rows are replaced.
    """

    name = "reservoir"

    def place(self, columns: Mapping[str, Array], n: int, rng: np.random.Generator) -> Placed:
        grown = min(n, max(0, self.capacity - self.seen))
        drawn = rng.random(n - grown) * np.arange(self.seen + grown + 1, self.seen + n + 1)
        hits = (drawn < self.capacity).nonzero()[0]
        first = self.filled
        self.seen += n
        self.filled += grown
        if not len(hits):
            return (np.arange(grown), np.arange(first, first + grown)) if grown else NOBODY
        placed = dict(zip(range(first, first + grown), range(grown), strict=True))
        for slot, row in zip(drawn[hits].astype(np.int64).tolist(), hits.tolist(), strict=True):
            if slot < self.filled:
                placed[slot] = grown + row
            else:
                placed[self.filled] = grown + row
                self.filled += 1
        return _arrays(placed)


class Ring(Admission):
    """The last ``capacity`` rows offered, less those deleted; the oldest gives way."""

    name = "ring"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._next = 0
        # The slots in the order in which they are to be written; None while that is 0, 1, 2, ...
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
    """Every row stays when it comes, in a free slot or in the place of one drawn at random.

    So of the rows before the last n there are, by expectation, (1 - 1/capacity)**n left: a memory
    that fades with age where a reservoir's does not.
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
            return NOBODY
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
            return (np.arange(grown), np.arange(first, first + grown)) if grown else NOBODY
        offered += _occurrence(y)
        placed = dict(zip(range(first, first + grown), range(grown), strict=True))
        chosen = (hits, y[hits], u[hits], offered[hits])
        for row, code, draw, seen in zip(*(each.tolist() for each in chosen), strict=True):
            slot = self._seat(grown + row, code, draw, seen)
            if slot is not None:
                placed[slot] = grown + row
        return _arrays(placed) if placed else NOBODY

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
            "slots": np.concatenate([NOBODY[0], *map(_ints, self._slots)]),
            "sizes": np.array([len(slots) for slots in self._slots], np.int64),
            "offered": self._offered.copy(),
            "full": np.array(sorted(self._full), np.int64),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        parts = np.split(np.asarray(state["slots"]), np.cumsum(state["sizes"])[:-1])
        self._slots = [_slots(part) for part in parts[: len(state["sizes"])]]
        self._offered = np.array(state["offered"], np.int64)
        self._full = set(state["full"].tolist())
        self._recount()

    def _seat(self, row: int, code: int, draw: float, seen: int) -> int | None:
        """The slot for a row of the batch of class ``code``, the ``seen``-th of it; ``draw`` is in
        [0, 1)."""
        own = self._slots[code]
        if code in self._full:
            index = int(draw * seen)
            return own[self._leaves(code, index, row)] if index < len(own) else None
        which, index = divmod(int(draw * self._size * len(self._largest)), self._size)
        loser = self._largest.pop(which)
        slots = self._slots[loser]
        index = self._leaves(loser, index, None)
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

    def _leaves(self, code: int, index: int, row: int | None) -> int:
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
                after = renamed[_ints(slots)]
                kept = after[after >= 0]
                # Of the rows seen, as large a share is gone as of the rows stored.
                self._offered[code] = int(self._offered[code]) * len(kept) // len(slots)
                self._slots[code] = _slots(kept)
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


def _arrays(placed: dict[int, int]) -> Placed:
    """(rows, slots) of a mapping slot -> row, which keeps the later of two rows for one slot."""
    rows = np.fromiter(placed.values(), np.int64, len(placed))
    return rows, np.fromiter(placed.keys(), np.int64, len(placed))


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


def _ints(slots: array[int]) -> Ints:
    # A copy: an array with a view on it cannot grow.
    return np.array(slots, np.int64)


def _slots(values: Array) -> array[int]:
    return array("q", values.astype(np.int64).tobytes())
