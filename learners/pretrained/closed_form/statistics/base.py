"""Sums over labelled rows, to which events can be added and from which they can be subtracted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from learners.base import LearnerError
from streams.core.batch import Array, Ints
from streams.core.state_dict import State

TINY = 1e-100
"""What a divisor is at least."""


class Statistics(ABC):
    """What a closed form keeps of the rows learned so far, in float64.

    Sums are the same up to rounding at any order and size of batches.

    Attributes:
        counts: (k,) int64, the rows of each class by class code; (1,) of all rows for regression.
    """

    counts: Ints

    @abstractmethod
    def grow(self, classes: int) -> None:
        """Make room for ``classes`` classes, at least as many as before. No effect on targets."""

    @abstractmethod
    def add(self, x: Array, y: Array) -> None:
        """Add rows (m, d) float32 with class codes (m,) int64, or targets (m,) float64; m >= 1."""

    def subtract(self, x: Array, y: Array) -> None:
        """Subtract rows (m, d), m >= 1, that were added before."""
        raise NotImplementedError

    def merge(self, other: Any, codes: Ints) -> None:
        """Add the sums of other rows. Class i of the other is class ``codes[i]`` here.

        Several of its classes may be one class here.
        """
        raise NotImplementedError

    def drop_class(self, code: int) -> None:
        """Subtract all rows of one class."""
        raise NotImplementedError

    @abstractmethod
    def state(self) -> State:
        """Return the sums."""

    @abstractmethod
    def load(self, state: State) -> None:
        """Restore what ``state`` returned, as copies."""


class ClassSums(Statistics):
    """The number, the sum and the sum of squares of the rows of each class.

    Args:
        width: numbers of a row.

    Attributes:
        sums: (k, d) float64.
        squares: (k,) float64, sums of |x|**2.
    """

    def __init__(self, width: int) -> None:
        self.counts = np.zeros(0, np.int64)
        self.sums = np.zeros((0, width))
        self.squares = np.zeros(0)

    @property
    def means(self) -> Array:
        """The mean of each class (k, d) float64; 0 of a class without rows."""
        means: Array = self.sums / np.maximum(self.counts, 1)[:, None]
        return means

    @property
    def mean(self) -> Array:
        """The mean of all rows (d,) float64."""
        mean: Array = self.sums.sum(0) / max(int(self.counts.sum()), 1)
        return mean

    def variance(self) -> float:
        """Return the sum of the variances within classes, of n >= 1 rows.

        One row more counts, as far from its class as rows are from the mean of all: until classes
        have several rows, the variance within them would be 0.
        """
        n = int(self.counts.sum())
        total = float(self.squares.sum() - n * (self.mean**2).sum())
        within = float((self.squares - self.counts * (self.means**2).sum(1)).sum())
        variance = (max(within, 0.0) + max(total, 0.0) / n) / n
        return variance if variance > TINY else 1.0

    def grow(self, classes: int) -> None:
        self.counts = grown(self.counts, classes)
        self.sums = grown(self.sums, classes)
        self.squares = grown(self.squares, classes)

    def add(self, x: Array, y: Array) -> None:
        self.include(ClassRows(x, y), 1)

    def include(self, part: ClassRows, sign: int) -> None:
        """Add rows, or subtract them with a sign of -1."""
        self.counts[part.codes] += sign * part.counts
        self.sums[part.codes] += sign * part.sums
        self.squares[part.codes] += sign * part.squares

    def subtract(self, x: Array, y: Array) -> None:
        counts_without(self.counts, y)  # it refuses what was never added
        part = ClassRows(x, y)
        self.include(part, -1)
        for code in part.codes[self.counts[part.codes] == 0].tolist():
            self.drop_class(code)  # what is left there is rounding

    def merge(self, other: ClassSums, codes: Ints) -> None:
        np.add.at(self.counts, codes, other.counts)
        np.add.at(self.sums, codes, other.sums)
        np.add.at(self.squares, codes, other.squares)

    def drop_class(self, code: int) -> None:
        self.counts[code] = 0
        self.sums[code] = 0
        self.squares[code] = 0

    def state(self) -> State:
        return {"counts": self.counts, "sums": self.sums, "squares": self.squares}

    def load(self, state: State) -> None:
        self.counts, self.sums = np.array(state["counts"]), np.array(state["sums"])
        self.squares = np.array(state["squares"])


class ClassRows:
    """The rows of a batch by class, in float64.

    Args:
        x: rows (m, d).
        y: class codes (m,).

    Attributes:
        x: (m, d) float64.
        codes: (c,) the classes, ascending.
        place: (m,) the index in ``codes`` of the class of each row.
        counts: (c,) rows of each class.
        sums: (c, d) sums of these.
    """

    def __init__(self, x: Array, y: Ints) -> None:
        self.x = x.astype(np.float64)
        self.codes, self.place, self.counts = np.unique(y, return_inverse=True, return_counts=True)
        of_class = np.zeros((len(self.codes), len(y)))
        of_class[self.place, np.arange(len(y))] = 1
        self.sums = of_class @ self.x

    @property
    def squares(self) -> Array:
        """Sums of |x|**2 of each class (c,)."""
        return np.bincount(self.place, np.einsum("md,md->m", self.x, self.x), len(self.codes))


def counts_without(counts: Ints, codes: Ints) -> Ints:
    """Return the counts (k,) of classes without rows of the classes ``codes`` (m,).

    Raises:
        LearnerError: that is more rows of a class than were counted.
    """
    left = counts - np.bincount(codes, minlength=len(counts))
    if (left < 0).any():
        raise LearnerError(
            "the batch has more events of a class than were learned: unlearn only events that this "
            "learner has learned"
        )
    return left


def grown(array: Array, length: int) -> Array:
    """Return the array with zeros behind it, so that it has ``length`` entries."""
    if length == len(array):
        return array
    return np.concatenate([array, np.zeros((length - len(array), *array.shape[1:]), array.dtype)])


def unit_length(x: Array) -> Array:
    """Return rows (n, d) float32 brought to length 1; a row of zeros stays."""
    lengths = np.sqrt(np.einsum("nd,nd->n", x, x))
    unit: Array = x / np.maximum(lengths, np.float32(1e-30))[:, None]
    return unit
