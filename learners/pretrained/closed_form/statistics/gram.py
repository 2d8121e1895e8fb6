"""Sums of products: all that least squares needs to know of the rows learned."""

from __future__ import annotations

import numpy as np

from learners.pretrained.closed_form.statistics.base import (
    ClassRows,
    Statistics,
    counts_without,
    grown,
)
from streams.core.batch import Array, Ints
from streams.core.state_dict import State

_BLOCK = 256  # rows that are multiplied at once


class GramSums(Statistics):
    """Sums over rows h and targets y: of h, y, h h', h y' and y**2.

    All are float64. Rows wait until ``_BLOCK`` of them can be multiplied at once, by the symmetric
    rank-k kernel that NumPy uses for ``a.T @ a``. The Gram matrix is then the same, bit for bit, at
    any size of batches. Its relative error after ten million rows is about 1e-15, so that it needs
    no compensation; in float32 it would be 1e-3, and the matrix no longer positive definite (see
    the tests).

    Args:
        width: numbers of a row.
        targets: whether y are targets, and not class codes, which stand for one column each.

    Attributes:
        totals: (width,) the sum of h.
        cross: (k, width) the sums of y h', by class; (1, width) of targets.
        labels: (k,) the sums of y.
        squares: the sum of y**2.
    """

    def __init__(self, width: int, targets: bool) -> None:
        outputs = int(targets)
        self.targets = targets
        self.counts = np.zeros(outputs, np.int64)
        self.totals = np.zeros(width)
        self.cross = np.zeros((outputs, width))
        self._labels = np.zeros(outputs)
        self._squares = 0.0
        self._gram = np.zeros((width, width))
        self._waiting = np.zeros((_BLOCK, width), np.float32)
        self._filled = 0

    @property
    def rows(self) -> int:
        """The rows added."""
        return int(self.counts.sum())

    @property
    def labels(self) -> Array:
        return self._labels if self.targets else self.counts.astype(np.float64)

    @property
    def squares(self) -> float:
        return self._squares if self.targets else float(self.rows)

    def gram(self) -> Array:
        """Return the sum of h h', as a new array (width, width)."""
        waiting = self._waiting[: self._filled].astype(np.float64)
        gram: Array = waiting.T @ waiting
        gram += self._gram
        return gram

    def grow(self, classes: int) -> None:
        self.counts = grown(self.counts, classes)
        self.cross = grown(self.cross, classes)

    def add(self, x: Array, y: Array) -> None:
        self._add_labels(x, y, 1)
        start = 0
        while start < len(x):
            part = x[start : start + _BLOCK - self._filled]
            self._waiting[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            start += len(part)
            if self._filled == _BLOCK:
                self._multiply()

    def _multiply(self) -> None:
        waiting = self._waiting[: self._filled].astype(np.float64)
        self._gram += waiting.T @ waiting
        self._filled = 0

    def _add_labels(self, x: Array, y: Array, sign: int) -> None:
        """Add to the sums that are linear in a row, or subtract."""
        if self.targets:
            rows = x.astype(np.float64)
            self.totals += sign * rows.sum(0)
            self.counts[0] += sign * len(x)
            self.cross[0] += sign * (y @ rows)
            self._labels[0] += sign * y.sum()
            self._squares += sign * float(y @ y)
            return
        part = ClassRows(x, y)
        self.totals += sign * part.sums.sum(0)
        self.counts[part.codes] += sign * part.counts
        self.cross[part.codes] += sign * part.sums

    def subtract(self, x: Array, y: Array) -> None:
        counts_without(self.counts, np.zeros(len(y), np.int64) if self.targets else y)
        self._add_labels(x, y, -1)
        self._multiply()
        rows = x.astype(np.float64)
        self._gram -= rows.T @ rows
        if not self.rows:  # what is left is rounding
            for array in (self.totals, self.cross, self._labels, self._gram):
                array[:] = 0
            self._squares = 0.0

    def merge(self, other: GramSums, codes: Ints) -> None:
        to = np.zeros(1, np.int64) if self.targets else codes
        np.add.at(self.counts, to, other.counts)
        np.add.at(self.cross, to, other.cross)
        self.totals += other.totals
        self._labels += other._labels
        self._squares += other._squares
        self._gram += other.gram()

    def state(self) -> State:
        """Return the sums. Of the Gram matrix, which is symmetric, that is one half."""
        return {
            "counts": self.counts,
            "totals": self.totals,
            "cross": self.cross,
            "labels": self._labels,
            "squares": self._squares,
            "gram": folded(self._gram),
            "waiting": self._waiting[: self._filled],
        }

    def load(self, state: State) -> None:
        self.counts = np.array(state["counts"])
        self.totals, self.cross = np.array(state["totals"]), np.array(state["cross"])
        self._labels, self._squares = np.array(state["labels"]), float(state["squares"])
        self._gram = unfolded(state["gram"])
        self._filled = len(state["waiting"])
        self._waiting[: self._filled] = state["waiting"]


def folded(square: Array) -> Array:
    """Return a symmetric matrix (m, m) with each number once: (m + 1, m / 2), or, for odd m,
    (m, (m + 1) / 2).

    Of the left half of the columns, the upper triangle repeats the lower one. A triangle of the
    right half takes its place (rectangular full packed format, Gustavson et al. 2010).
    """
    m = len(square)
    left, even = (m + 1) // 2, 1 - m % 2
    packed = np.empty((m + even, left))
    packed[even:] = square[:, :left]
    right = square[left:, left:]
    np.copyto(packed[: len(right), 1 - even :], right, where=_upper(len(right)))
    return packed


def unfolded(packed: Array) -> Array:
    """Return the symmetric matrix (m, m) of ``folded`` numbers."""
    rows, left = packed.shape
    even = int(rows > 2 * left)
    m = rows - even
    square = np.empty((m, m))
    square[:, :left] = packed[even:]
    square[:left, left:] = square[left:, :left].T
    square[:left, :left] = _symmetric(square[:left, :left].T)
    square[left:, left:] = _symmetric(packed[: m - left, 1 - even :])
    return square


def _symmetric(upper: Array) -> Array:
    """Return the symmetric matrix with this upper triangle; what is below is of no account."""
    return np.where(_upper(len(upper)), upper, upper.T)


def _upper(m: int) -> Array:
    """Return (m, m) bool: the diagonal and what is above it."""
    places = np.arange(m)
    upper: Array = places[:, None] <= places
    return upper
