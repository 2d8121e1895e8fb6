"""Ridge regression from sums of products, and the choice of the ridge from the same sums."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from learners.pretrained.closed_form.statistics.gram import GramSums
from streams.core.batch import Array

START = 100.0
"""The ridge from which the search starts, in mean variances of a feature."""

_STEP = math.sqrt(10)
_LEAST, _MOST = 1.0, 1e6
_PROBES = 8  # random vectors that estimate a trace
_ATTEMPTS = 20


class Solution(NamedTuple):
    """A solved regression.

    Attributes:
        w: (k, width) float64 weights.
        b: (k,) float64 offsets.
        ridge: the ridge used, in mean variances of a feature.
        error: the mean squared error expected on new rows, summed over the k outputs; infinite
            where rows are too few to tell.
    """

    w: Array
    b: Array
    ridge: float
    error: float


@dataclass(frozen=True)
class Problem:
    """Least squares with centred rows and targets, so that offsets are not penalised.

    The weights for a ridge r are

        W = (G + r v I)^-1 C,    G = sum (h - mean h)(h - mean h)',   C = sum (h - mean h) y'

    where v is the mean variance of a feature: r does not depend on the scale of the features, and
    is comparable to a number of events.

    Attributes:
        gram: G (width, width).
        cross: C (width, k).
        squares: the sum of |y - mean y|**2.
        rows: n, as a number of rows.
        mean: mean h (width,).
        labels: mean y (k,).
    """

    gram: Array
    cross: Array
    squares: float
    rows: int
    mean: Array
    labels: Array

    @classmethod
    def of(cls, sums: GramSums) -> Problem:
        """Return the problem that these sums of at least one row state."""
        n = sums.rows
        mean, labels = sums.totals / n, sums.labels / n
        gram = sums.gram()
        gram -= np.outer(mean, sums.totals)
        cross = sums.cross.T - np.outer(mean, sums.labels)
        squares = sums.squares - n * float(labels @ labels)
        return cls(gram, cross, max(squares, 0.0), n, mean, labels)

    @property
    def scale(self) -> float:
        """v, the mean variance of a feature."""
        return max(float(np.trace(self.gram)) / (self.rows * len(self.gram)), 0.0)

    def solve(self, ridge: float) -> Solution:
        """Solve for one ridge, by a Cholesky factorisation.

        The expected error is that of generalised cross-validation (Golub, Heath and Wahba 1979),

            rss(r) * n / (n - df(r))**2,    df = 1 + trace(G (G + r v I)^-1)

        for n rows. The residual sum of squares follows from the sums, as W' G W = W' C - r v |W|^2.
        The trace is estimated by products with random signs (Hutchinson 1990), which are solved for
        beside C.
        """
        width, k = self.cross.shape
        if not self.scale:
            w = np.zeros((k, width))
            return Solution(w, self.labels, ridge, self.squares / self.rows)
        factor, ridge = self._factor(ridge)
        signs = _signs(width)
        sides = torch.from_numpy(np.concatenate([self.cross, signs], axis=1))
        solved = torch.cholesky_solve(sides, factor).numpy()
        w, probed = solved[:, :k], solved[:, k:]
        added = ridge * self.scale
        trace = float(np.einsum("ij,ij->", signs, probed)) / _PROBES
        left = self.rows - (1 + width - added * trace)
        fitted = float(np.einsum("ij,ij->", w, self.cross))
        rss = max(self.squares - fitted - added * float(np.einsum("ij,ij->", w, w)), 0.0)
        error = rss * self.rows / left**2 if left > 0 else math.inf
        return Solution(w.T, self.labels - w.T @ self.mean, ridge, error)

    def _factor(self, ridge: float) -> tuple[torch.Tensor, float]:
        """Return a Cholesky factor of G + r v I, and r: it grows until there is one."""
        matrix = torch.from_numpy(self.gram.copy())
        diagonal, plain = matrix.diagonal(), np.diagonal(self.gram)
        for _ in range(_ATTEMPTS):
            diagonal.copy_(torch.from_numpy(plain + ridge * self.scale))
            factor, failed = torch.linalg.cholesky_ex(matrix)
            if not failed:
                break
            ridge *= 10
        return factor, ridge

    def search(self, start: float, tolerance: float = 0.0) -> Solution:
        """Return the solution of the least expected error near a ridge, or, with a ``tolerance``,
        that of the smallest ridge below it whose error is greater by this share at most. Neither is
        smaller than a ridge for which rounding leaves a solution.

        The search goes in steps of a factor of sqrt(10), and stops where the error no longer falls.
        Below a ridge of 1 it does not go: where features are as many as rows, they fit all of
        these, and the expected error says nothing.
        """
        best = self.solve(start)
        for step in (_STEP, 1 / _STEP):
            moved = False
            while (ridge := best.ridge * step) * 1.001 >= _LEAST and ridge <= _MOST:
                other = self.solve(ridge)
                if not other.error < best.error:
                    break
                best, moved = other, True
            if moved:
                break
        most = best.error * (1 + tolerance)
        while tolerance and (ridge := best.ridge / _STEP) * 1.001 >= _LEAST:
            other = self.solve(ridge)
            if other.ridge > ridge or not other.error <= most:  # none as small has a solution
                break
            best = other
        return best


def _signs(width: int) -> Array:
    """Return (width, probes) float64 random signs, always the same."""
    return np.random.Generator(np.random.PCG64(0)).choice([-1.0, 1.0], (width, _PROBES))
