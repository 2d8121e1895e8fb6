"""Fixed-size rows in preallocated, contiguous columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Ints = NDArray[np.int64]


class ColumnStore:
    """``capacity`` rows; a column is one array (capacity, ...) and a row is one index in each.

    The first rows written fix the names, dtypes and row shapes of the columns. Pages that no row
    was ever written to cost no memory.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.columns: dict[str, Array] = {}

    def check(self, columns: Mapping[str, Array], n: int) -> None:
        """Raises ValueError unless ``columns`` are ``n`` rows of the shape that is stored here.

        Columns must be the same as ever in name and row shape; a dtype may differ where the cast
        keeps the kind (float64 into float32, not float into int).
        """
        if not self.columns:
            _check_first(columns, n)
            return
        if columns.keys() != self.columns.keys():
            given, expected = ", ".join(columns), ", ".join(self.columns)
            raise ValueError(f"the columns {given} were given, {expected} are expected")
        for name, rows in columns.items():
            held = self.columns[name]
            if rows.shape != (n, *held.shape[1:]):
                raise ValueError(
                    f"column {name!r}: shape {rows.shape} was given, "
                    f"{(n, *held.shape[1:])} is expected"
                )
            # Comparing identities first: equal dtypes are nearly always the same object.
            if rows.dtype is not held.dtype and not _fits(rows.dtype, held.dtype):
                raise ValueError(
                    f"column {name!r}: dtype {rows.dtype} was given, {held.dtype} is expected"
                )

    def put(self, slots: Array, columns: Mapping[str, Array]) -> None:
        """Writes row i of every column to ``slots[i]``; slots (m,) are distinct.

        Raises ValueError, before anything is written, on rows that do not ``check``.
        """
        self.check(columns, len(slots))
        self.write(slots, columns)

    def write(self, slots: Array, columns: Mapping[str, Array]) -> None:
        """``put`` for rows that passed ``check`` already."""
        if not self.columns:
            self._allocate(columns)
        for name, rows in columns.items():
            self.columns[name][slots] = rows

    def gather(self, slots: Array, out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """The rows at ``slots`` (m,): a copy (m, ...) of each column.

        ``out`` maps every column's name to an array (m, ...) of its dtype to write into.
        """
        if out is None:
            return {name: held.take(slots, axis=0) for name, held in self.columns.items()}
        # With the default mode NumPy fills a temporary before it touches `out`.
        return {
            name: held.take(slots, axis=0, out=out[name], mode="clip")
            for name, held in self.columns.items()
        }

    def move(self, source: Array, target: Array) -> None:
        """Copies the rows at slots ``source`` (m,) over those at ``target`` (m,)."""
        for held in self.columns.values():
            held[target] = held[source]

    def widen(self, name: str, width: int, filled: int) -> None:
        """Gives the rows of a float column (capacity, n) ``width`` >= n numbers; those that were
        not there are NaN in the first ``filled`` rows."""
        held = self.columns[name]
        wide = np.zeros((self.capacity, width), held.dtype)
        wide[:filled] = np.nan
        wide[:filled, : held.shape[1]] = held[:filled]
        self.columns[name] = wide

    def memory_bytes(self) -> int:
        """Bytes of all columns at full capacity."""
        return sum(held.nbytes for held in self.columns.values())

    def state(self, filled: int) -> dict[str, Array]:
        """Copies of the first ``filled`` rows, column by column."""
        return {name: held[:filled].copy() for name, held in self.columns.items()}

    def load(self, state: Mapping[str, Array]) -> None:
        """Takes the columns and the rows of a ``state``; whatever was here is dropped."""
        self.columns = {}
        self._allocate(state)
        for name, rows in state.items():
            self.columns[name][: len(rows)] = rows

    def _allocate(self, columns: Mapping[str, Array]) -> None:
        self.columns = {
            name: np.zeros((self.capacity, *rows.shape[1:]), rows.dtype)
            for name, rows in columns.items()
        }


def _check_first(columns: Mapping[str, Array], n: int) -> None:
    for name, rows in columns.items():
        if rows.shape[:1] != (n,):
            raise ValueError(
                f"column {name!r}: shape {rows.shape} was given, ({n}, ...) is expected"
            )
        if rows.dtype.kind == "O":
            raise ValueError(f"column {name!r}: rows of one fixed shape and dtype are expected")


def _fits(given: np.dtype[Any], held: np.dtype[Any]) -> bool:
    # "same_kind" would cut a long string down to the width of the column.
    return np.can_cast(given, held, "safe" if held.kind in "SU" else "same_kind")
