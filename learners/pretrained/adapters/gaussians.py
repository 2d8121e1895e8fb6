"""Gaussians of classes, with few directions each."""

from __future__ import annotations

import math

import numpy as np

from learners.pretrained.closed_form.statistics import grown
from streams.core.batch import Array, Ints
from streams.core.state_dict import State

_LEAST = 1e-4  # added to every variance, as in the paper


class Gaussians:
    """A mean, a few directions and a variance of the rest for each class:

        covariance_c = F_c' F_c + v_c I

    F_c (r, d) are the main components of the rows of class c so far. They are updated by the
    singular values of the old ones, of the new rows and of the shift of the mean (Ross et al. 2008,
    "Incremental Learning for Robust Visual Tracking"); what does not fit into r goes into v_c, so
    that the trace stays exact. With r = 0 a variance is kept for each number, and not v_c.

    Args:
        width: d.
        rank: r.
    """

    def __init__(self, width: int, rank: int) -> None:
        self.width, self.rank = width, rank
        self.counts = np.zeros(0, np.int64)
        self.means = np.zeros((0, width))
        self.factors = np.zeros((0, rank, width))
        self.rest = np.zeros((0, 1 if rank else width))

    def grow(self, classes: int) -> None:
        """Make room for classes."""
        for name in ("counts", "means", "factors", "rest"):
            setattr(self, name, grown(getattr(self, name), classes))

    def add(self, x: Array, y: Ints) -> None:
        """Add rows (m, d) of the classes (m,)."""
        for code in np.unique(y).tolist():
            rows = x[y == code].astype(np.float64)
            mean = rows.mean(0)
            nothing = np.zeros(self.rest.shape[1])
            self._include(code, len(rows), mean, rows - mean, nothing)

    def _include(self, code: int, n: int, mean: Array, spread: Array, rest: Array) -> None:
        """Add n rows with this mean, and the scatter ``spread' spread`` + n * ``rest``."""
        old = int(self.counts[code])
        total = old + n
        shift = (mean - self.means[code]) * math.sqrt(old * n / total)
        scatter = np.concatenate([math.sqrt(old) * self.factors[code], spread, shift[None]])
        self.means[code] += (mean - self.means[code]) * (n / total)
        self.counts[code] = total
        summed = old * self.rest[code] + n * rest
        if not self.rank:
            self.rest[code] = (summed + np.einsum("md,md->d", scatter, scatter)) / total
            return
        _, values, directions = np.linalg.svd(scatter, full_matrices=False)
        kept = min(self.rank, len(values))
        self.factors[code] = 0
        self.factors[code, :kept] = values[:kept, None] * directions[:kept] / math.sqrt(total)
        dropped = float((values[kept:] ** 2).sum()) / self.width
        self.rest[code] = (summed + dropped) / total

    def join(self, codes: Ints) -> None:
        """Let class i be class ``codes[i]``, with the rows of all that have this code."""
        old = (self.counts, self.means, self.factors, self.rest)
        self.__init__(self.width, self.rank)  # type: ignore[misc]
        self.grow(int(codes.max(initial=-1)) + 1)
        for code, n, mean, factors, rest in zip(codes.tolist(), *old, strict=True):
            self._include(code, int(n), mean, math.sqrt(n) * factors, rest)

    def deviations(self) -> Array:
        """Return the deviation of the rest of each class: (k, 1), or (k, d).

        The mean of all classes counts as one row more: a class of one row has no variance.
        """
        counts = self.counts[:, None]
        common = (self.factors**2).sum((1, 2))[:, None] / self.width + self.rest.mean(
            1, keepdims=True
        )
        common = (counts * common).sum(0) / max(int(counts.sum()), 1)
        variance: Array = (counts * self.rest + common) / (counts + 1) + _LEAST
        return np.sqrt(variance)

    def state(self) -> State:
        """Return the Gaussians."""
        names = ("counts", "means", "factors", "rest")
        return {name: getattr(self, name) for name in names}

    def load(self, state: State) -> None:
        """Restore what ``state`` returned."""
        for name, array in state.items():
            setattr(self, name, np.array(array))
