"""Herding: class-balanced admission that keeps the mean of each class (Welling 2009)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from buffers.admission.base import NOTHING_PLACED, Array, Ints, Placed
from buffers.admission.class_balanced import ClassBalanced

Floats = NDArray[np.float64]

_WIDTH = 32  # dimensions of the projection
_POOL = 8  # rows of a class among which one is evicted
_BITS = 30  # of a number that is projected
_MOST = 1e30  # largest number that is projected: sums of many still fit into single precision


class Herding(ClassBalanced):
    """Keep classes as equal as ``ClassBalanced`` does, each with the mean of all its rows.

    ``ClassBalanced`` decides whether a row is kept, and which class loses a row for it. The row
    that is evicted is chosen among 8 rows of that class: the one without which the mean of the kept
    rows, with the new one, is nearest to the mean of all rows of the class so far.

    That is herding (Welling 2009, "Herding Dynamical Weights to Learn") row by row. iCaRL (Rebuffi
    et al. 2017) chooses its exemplars so once a class is complete.

    Means are of the column "features" (n, ...) of numbers if there is one, else of "x". They are
    taken in a fixed random projection to 32 dimensions. Only the order of distances counts, so the
    scale of the numbers makes no difference. After rows of a class were deleted, its mean is that
    of the rows that are left.
    """

    name = "herding"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._features = np.zeros((capacity, _WIDTH), np.float32)  # by slot
        self._kept = np.zeros((0, _WIDTH))  # by class, the sum over rows kept
        self._total = np.zeros((0, _WIDTH))  # by class, the sum over rows offered
        self._count = np.zeros(0, np.int64)  # by class, rows in that sum
        self._signs = np.zeros((0, _WIDTH), np.float32)
        # Of the batch that is being placed: its classes, its rows in the projection, the sum of a
        # class up to each of its rows, and the index of the row in turn.
        self._codes_now = np.zeros(0, np.int64)
        self._rows_now = np.zeros((0, _WIDTH), np.float32)
        self._total_now = np.zeros((0, _WIDTH))
        self._row = 0

    def place(self, columns: Mapping[str, Array], n: int, rng: np.random.Generator) -> Placed:
        if not n:
            return NOTHING_PLACED
        self._codes_now = self._codes(columns)
        self._rows_now = self._projected(columns)
        after = self._sums()
        placed = super().place(columns, n, rng)
        self._total = after
        self._count += np.bincount(self._codes_now, minlength=len(self._count))
        return placed

    def relabel(self, slots: Ints, old: Array, new: Array) -> None:
        super().relabel(slots, old, new)
        rows = self._features[slots]
        np.subtract.at(self._total, old.astype(np.int64), rows)
        np.add.at(self._total, new.astype(np.int64), rows)
        self._sum_kept()

    def memory_bytes(self) -> int:
        sums = self._kept.nbytes + self._total.nbytes + self._count.nbytes
        return super().memory_bytes() + self._features.nbytes + sums

    def state(self) -> dict[str, Any]:
        return {
            **super().state(),
            "features": self._features[: self.filled].copy(),
            "kept": self._kept.copy(),
            "total": self._total.copy(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        self._features[: self.filled] = state["features"]
        self._kept = np.array(state["kept"])
        self._total = np.array(state["total"])
        self._count = self._offered.copy()

    def _assign_slot(self, row: int, code: int, draw: float, seen: int) -> int | None:
        self._row = row
        slot = super()._assign_slot(row, code, draw, seen)
        if slot is not None:
            self._kept[code] += self._rows_now[row]
            self._features[slot] = self._rows_now[row]
        return slot

    def _evict(self, code: int, index: int, row: int | None) -> int:
        own = self._slots[code]
        size = len(own)
        pool = [(index + i) % size for i in range(min(_POOL, size))]
        features = self._features[[own[i] for i in pool]]
        left = self._kept[code] - features
        if row is not None:
            left += self._rows_now[row]
        # The mean of the rows left against the mean of all, both times the number of rows left.
        offered = np.flatnonzero(self._codes_now[: self._row + 1] == code)
        total = self._total_now[offered[-1]] if len(offered) else self._total[code]
        left -= total * ((size - (row is None)) / (self._count[code] + len(offered)))
        best = int(np.square(left).sum(axis=1).argmin())
        self._kept[code] -= features[best]
        return pool[best]

    def _fill(self, y: Ints) -> None:
        rows = self._rows_now[: len(y)]
        self._features[self.filled : self.filled + len(y)] = rows
        np.add.at(self._kept, y, rows)
        super()._fill(y)

    def _rename(self, renamed: Ints) -> None:
        stays = renamed >= 0
        self._features[renamed[stays]] = self._features[: len(renamed)][stays]
        before = [len(slots) for slots in self._slots]
        super()._rename(renamed)
        self._sum_kept()
        for code, slots in enumerate(self._slots):
            if len(slots) < before[code]:
                share = self._offered[code] / max(len(slots), 1)
                self._total[code] = self._kept[code] * share

    def _sum_kept(self) -> None:
        """Compute the sums over kept rows from the stored rows."""
        self._kept = np.zeros_like(self._total)
        for code, slots in enumerate(self._slots):
            if slots:
                self._kept[code] = self._features[np.array(slots)].sum(axis=0, dtype=np.float64)
        self._count = self._offered.copy()

    def _sums(self) -> Floats:
        """Compute ``_total_now``. Return the sums by class after the batch: (classes, 32).

        The sums are taken row by row, so that batch cuts do not change them, bit for bit.
        """
        after = self._total.copy()
        self._total_now = np.empty((len(self._codes_now), _WIDTH))
        for code in np.unique(self._codes_now).tolist():
            rows = np.flatnonzero(self._codes_now == code)
            parts = np.concatenate((after[code : code + 1], self._rows_now[rows]))
            sums = np.cumsum(parts, axis=0)
            self._total_now[rows] = sums[1:]
            after[code] = sums[-1]
        return after

    def _projected(self, columns: Mapping[str, Array]) -> NDArray[np.float32]:
        """Return the rows in a projection by random signs: (n, 32) float32.

        Numbers are rounded to multiples of a power of two that suits the row. Their sums are then
        exact, and do not depend on how many rows are multiplied at once.
        """
        name = "features" if "features" in columns else "x"
        x = columns.get(name)
        if x is None or x.dtype.kind not in "fiub":
            given = "no column" if x is None else str(x.dtype)
            raise ValueError(f"column {name!r}: {given} was given, rows of numbers are expected")
        flat = x.reshape(len(x), -1)
        width = flat.shape[1]
        if len(self._signs) != width:
            signs = np.random.default_rng(0).integers(0, 2, (width, _WIDTH)) * 2 - 1
            self._signs = signs.astype(np.float32)
        if flat.itemsize == 1 and width < 1 << 16:  # below 2**24: exact in single precision
            sums: NDArray[np.float32] = flat.astype(np.float32) @ self._signs
            return sums
        # Clipped numbers are still far from the others, and their sums stay finite.
        wide = np.clip(flat.astype(np.float64), -_MOST, _MOST)
        wide[np.isnan(wide)] = 0  # a missing number
        exponent = np.frexp(np.abs(wide).max(axis=1, keepdims=True))[1] - _BITS
        unit = np.exp2(np.maximum(exponent, -1000).astype(np.float64))
        exact: NDArray[np.float64] = np.rint(wide / unit) @ self._signs.astype(np.float64)
        exact *= unit
        return exact.astype(np.float32)

    def _codes(self, columns: Mapping[str, Array]) -> Ints:
        codes = super()._codes(columns)
        new = len(self._offered) - len(self._count)
        if new:
            self._kept = np.concatenate((self._kept, np.zeros((new, _WIDTH))))
            self._total = np.concatenate((self._total, np.zeros((new, _WIDTH))))
            self._count = np.append(self._count, np.zeros(new, np.int64))
        return codes
