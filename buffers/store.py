"""Rows of fixed size in preallocated, contiguous columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Ints = NDArray[np.int64]


class ColumnStore:
    """Store ``capacity`` rows. A column is one array (capacity, ...), a row one index in each.

    The first rows written fix the names, dtypes and row shapes of the columns. Memory pages to
    which no row was ever written cost nothing.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.columns: dict[str, Array] = {}

    def check(self, rows: Mapping[str, Array], n: int) -> None:
        """Check that ``rows``, by column name, are ``n`` rows that fit the columns.

        Names and row shapes must be the same as before. A dtype may differ where the cast keeps
        the kind: float64 into float32, but not float into int.

        Raises:
            ValueError: they do not fit.
        """
        if not self.columns:
            _check_first(rows, n)
            return
        if rows.keys() != self.columns.keys():
            given, expected = ", ".join(rows), ", ".join(self.columns)
            raise ValueError(f"the columns {given} were given, {expected} are expected")
        for name, new in rows.items():
            column = self.columns[name]
            if new.shape != (n, *column.shape[1:]):
                raise ValueError(
                    f"column {name!r}: shape {new.shape} was given, "
                    f"{(n, *column.shape[1:])} is expected"
                )
            # Compare identities first: equal dtypes are nearly always the same object.
            if new.dtype is not column.dtype and not _fits(new.dtype, column.dtype):
                raise ValueError(
                    f"column {name!r}: dtype {new.dtype} was given, {column.dtype} is expected"
                )

    def put(self, slots: Array, rows: Mapping[str, Array]) -> None:
        """Write row i of every column to ``slots[i]``. The slots (m,) must be distinct.

        Raises:
            ValueError: the rows do not pass ``check``; nothing was written.
        """
        self.check(rows, len(slots))
        self.write(slots, rows)

    def write(self, slots: Array, rows: Mapping[str, Array]) -> None:
        """Do as ``put`` does, for rows that have passed ``check`` already."""
        if not self.columns:
            self._allocate(rows)
        for name, new in rows.items():
            self.columns[name][slots] = new

    def gather(self, slots: Array, out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Return the rows at ``slots`` (m,): a copy (m, ...) of each column.

        ``out`` maps the name of every column to an array (m, ...) of its dtype to write into.
        """
        if out is None:
            return {name: column.take(slots, axis=0) for name, column in self.columns.items()}
        # With the default mode NumPy would fill a temporary before it copies to `out`.
        return {
            name: column.take(slots, axis=0, out=out[name], mode="clip")
            for name, column in self.columns.items()
        }

    def move(self, source: Array, target: Array) -> None:
        """Copy the rows at slots ``source`` (m,) over those at ``target`` (m,)."""
        for column in self.columns.values():
            column[target] = column[source]

    def widen(self, name: str, width: int, filled: int) -> None:
        """Give the rows of a float column (capacity, n) ``width`` >= n numbers.

        The new numbers of the first ``filled`` rows are NaN.
        """
        column = self.columns[name]
        wide = np.zeros((self.capacity, width), column.dtype)
        wide[:filled] = np.nan
        wide[:filled, : column.shape[1]] = column[:filled]
        self.columns[name] = wide

    def memory_bytes(self) -> int:
        """Return the bytes of all columns at full capacity."""
        return sum(column.nbytes for column in self.columns.values())

    def state(self, filled: int) -> dict[str, Array]:
        """Return copies of the first ``filled`` rows, by column."""
        return {name: column[:filled].copy() for name, column in self.columns.items()}

    def load(self, state: Mapping[str, Array]) -> None:
        """Replace all columns and rows by those of a ``state``."""
        self.columns = {}
        self._allocate(state)
        for name, rows in state.items():
            self.columns[name][: len(rows)] = rows

    def _allocate(self, rows: Mapping[str, Array]) -> None:
        self.columns = {
            name: np.zeros((self.capacity, *new.shape[1:]), new.dtype) for name, new in rows.items()
        }


def _check_first(rows: Mapping[str, Array], n: int) -> None:
    for name, new in rows.items():
        if new.shape[:1] != (n,):
            raise ValueError(
                f"column {name!r}: shape {new.shape} was given, ({n}, ...) is expected"
            )
        if new.dtype.kind == "O":
            raise ValueError(f"column {name!r}: rows of one fixed shape and dtype are expected")


def _fits(new: np.dtype[Any], stored: np.dtype[Any]) -> bool:
    # "same_kind" would cut a long string to the width of the column.
    return np.can_cast(new, stored, "safe" if stored.kind in "SU" else "same_kind")
