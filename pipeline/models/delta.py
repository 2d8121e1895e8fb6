"""Snapshots that carry only the rows of large arrays that have changed.

An embedding table has far more rows than are learned between two snapshots. So a large array
travels once as a *base*, and after that as its rows that differ from the base: a consumer needs the
base and the newest changes, never a chain of them, and may skip any. Small arrays travel whole.

Changes are found by comparison, bit by bit. That costs two to three copies of the array. It needs
nothing of a learner, and cannot miss a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

import numpy as np

from streams.core.batch import Array
from streams.core.state_dict import State, copied, leaves, nested

LARGE = 1 << 18
"""Bytes from which an array has a base. A smaller one costs less to send than to compare."""


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """A large array as it was when it last travelled whole.

    Attributes:
        number: one for each base of an encoder.
        array: (n, ...), of its own.
    """

    number: int
    array: Array


@dataclass(frozen=True, slots=True, eq=False)
class RowChanges:
    """What an array has in place of some rows of its base.

    Attributes:
        rows: (k,) int32, ascending.
        values: (k, ...), the new content of these rows.
    """

    rows: Array
    values: Array

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self.values.nbytes

    def applied(self, base: Base) -> Array:
        """Return the array. Without changes it is that of the base itself."""
        if not len(self.rows):
            return base.array
        array = base.array.copy()
        array[self.rows] = self.values
        return array


class DeltaEncoder:
    """Encode the successive states of one model.

    An array gets a new base where more than half of it has changed, or its shape or type. It also
    gets one once the changes since its base add up to the bytes of the base, because they grow with
    the time since then.

    Args:
        large: bytes from which an array has a base.
    """

    def __init__(self, large: int = LARGE) -> None:
        self._large = large
        self._numbers = count(1)
        self._bases: dict[str, Base] = {}
        self._sent: dict[str, int] = {}  # bytes of changes since the base

    def encode(self, state: State) -> tuple[State, dict[str, Base]]:
        """Return the state, with the changes of its large arrays in their place, and their bases by
        path. Everything in it is a copy."""
        small: State = {}
        changes: State = {}
        bases: dict[str, Base] = {}
        for path, leaf in leaves(state):
            if isinstance(leaf, np.ndarray) and leaf.ndim and leaf.nbytes >= self._large:
                changes[path], bases[path] = self._encode(path, leaf)
            else:
                small[path] = leaf
        self._bases = bases
        return nested(copied(small) | changes), bases

    def _encode(self, path: str, array: Array) -> tuple[RowChanges, Base]:
        base = self._bases.get(path)
        rows = None if base is None else changed_rows(base.array, array)
        if base is not None and rows is not None:
            changes = RowChanges(rows, array[rows])
            self._sent[path] += changes.nbytes
            if self._sent[path] <= base.array.nbytes:
                return changes, base
        base = Base(next(self._numbers), np.array(array, order="C"))
        self._sent[path] = 0
        return RowChanges(np.zeros(0, np.int32), base.array[:0]), base


def decoded(state: State, bases: Mapping[str, Base]) -> State:
    """Return the state that ``DeltaEncoder.encode`` took."""
    if not bases:
        return state
    flat = dict(leaves(state))
    return nested(flat | {path: flat[path].applied(base) for path, base in bases.items()})


def changed_rows(before: Array, after: Array) -> Array | None:
    """Return the (k,) int32 rows in which two arrays (n, ...) differ in any bit.

    Returns:
        None where more than half of the numbers differ, or shape or type.
    """
    if before.shape != after.shape or before.dtype != after.dtype:
        return None
    differ = _words(before) != _words(after)
    if np.count_nonzero(differ) > differ.size // 2:
        return None
    rows = np.flatnonzero(differ) // (differ.size // len(before))
    first = np.ones(len(rows), np.bool_)
    np.not_equal(rows[1:], rows[:-1], out=first[1:])
    changed: Array = rows[first].astype(np.int32)
    return changed


def _words(array: Array) -> Array:
    """Return the bytes of an array as the widest integers of which a row has a whole number."""
    row = array.nbytes // len(array)
    width = next(width for width in (8, 4, 2, 1) if row % width == 0)
    return np.ascontiguousarray(array).reshape(-1).view(f"u{width}")
