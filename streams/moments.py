"""Running mean and variance, in one pass."""

from __future__ import annotations

import numpy as np

from streams.batch import Array
from streams.state import State

_LIMIT = 100.0
_CONSTANT = 1e-10  # a standard deviation below this share of the mean is rounding, not variation
_HUGE = 1e100  # what is further out is taken for this, so that squares and sums stay finite


class RunningMoments:
    """Mean and variance of each of d columns over all rows seen (Chan, Golub and LeVeque 1983).

    With a ``half_life`` the weight of what was seen halves with every so many rows.

    ``scale`` gives float32 rows of mean 0 and variance 1, cut off at 100 standard deviations so
    that one absurd value cannot wreck a model; a column that has not varied is only centred. Before
    the first row is seen it changes nothing else.
    """

    def __init__(self, shape: tuple[int, ...], half_life: float | None = None) -> None:
        self.half_life = half_life
        self.count = 0.0
        self.mean = np.zeros(shape)
        self.m2 = np.zeros(shape)
        self._inverse = np.ones(shape)

    def update(self, rows: Array) -> None:
        """Takes in (n, *shape) rows, n >= 1."""
        n = len(rows)
        rows = _bounded(rows)
        mean = np.add.reduce(rows, 0) / n
        rows -= mean
        rows *= rows
        m2 = np.add.reduce(rows, 0)
        if self.half_life is not None:
            kept = 0.5 ** (n / self.half_life)
            self.count *= kept
            m2 += self.m2 * kept
        else:
            m2 += self.m2
        total = self.count + n
        delta = mean - self.mean
        self.mean = self.mean + delta * (n / total)
        self.m2 = m2 + delta * delta * (self.count * n / total)
        self.count = total
        self._inverse = 1 / self.std()

    def scale(self, rows: Array) -> Array:
        """(n, *shape) float32. The difference is taken in float64: large numbers that vary little
        (times, prices in cents) lose nothing."""
        scaled = _bounded(rows)
        scaled -= self.mean
        scaled *= self._inverse
        np.minimum(scaled, _LIMIT, out=scaled)
        np.maximum(scaled, -_LIMIT, out=scaled)
        return scaled.astype(np.float32)

    def std(self) -> Array:
        """(*shape); 1 where there is no variation."""
        std = np.sqrt(self.m2 / max(self.count, 1.0))
        return np.where(std > _CONSTANT * np.abs(self.mean), std, 1.0)

    def state(self) -> State:
        return {"count": self.count, "mean": self.mean, "m2": self.m2}

    def load(self, state: State) -> None:
        self.count, self.mean, self.m2 = state["count"], state["mean"], state["m2"]
        self._inverse = 1 / self.std()


def _bounded(rows: Array) -> Array:
    """The same in float64, as a copy."""
    if rows.dtype == np.float64:
        return np.minimum(np.maximum(rows, -_HUGE), _HUGE)
    return rows.astype(np.float64)
