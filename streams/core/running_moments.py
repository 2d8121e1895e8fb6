"""Running mean and variance, in one pass."""

from __future__ import annotations

import numpy as np

from streams.core.batch import Array
from streams.core.state_dict import State

_LIMIT = 100.0
_ENOUGH = 10.0  # rows, by weight, whose spread tells what is absurd
_CONSTANT = 1e-10  # a standard deviation below this share of the mean is rounding, not variation
_HUGE = 1e100  # what is further out is taken for this, so that squares and sums stay finite


class RunningMoments:
    """Mean and variance of each of d columns over all rows seen (Chan, Golub and LeVeque 1983).

    With a ``half_life`` the weight of what was seen halves with every so many rows.

    Once rows of the weight of ten have been seen, a value counts as at most 100 standard deviations
    from the mean (winsorised): one absurd value does not wreck the scale for all that come after
    it, and a lasting shift is followed all the same, as each micro-batch widens the bound. In a
    column that has not varied the bound is 100 times its value, or 100.

    ``scale`` gives float32 rows of mean 0 and variance 1, cut off at 100 standard deviations so
    that one absurd value cannot wreck a model; a column that has not varied is only centred. Before
    the first row is seen it changes nothing else.
    """

    def __init__(self, shape: tuple[int, ...], half_life: float | None = None) -> None:
        self.half_life = half_life
        self.count = 0.0
        self.mean = np.zeros(shape)
        self.m2 = np.zeros(shape)
        self._fit()

    def update(self, rows: Array) -> None:
        """Takes in (n, *shape) rows, n >= 1."""
        n = len(rows)
        mean, m2 = _moments(_bounded(rows))
        delta = mean - self.mean
        square = delta * delta
        # No square is more than their sum, which costs less to compare than each row would.
        if self.count >= _ENOUGH and (m2 + square * n > self._absurd).any():
            reach = _LIMIT * self._spread(np.maximum(np.abs(self.mean), 1.0))
            mean, m2 = _moments(np.clip(_bounded(rows), self.mean - reach, self.mean + reach))
            delta = mean - self.mean
            square = delta * delta
        if self.half_life is not None:
            kept = 0.5 ** (n / self.half_life)
            self.count *= kept
            m2 += self.m2 * kept
        else:
            m2 += self.m2
        total = self.count + n
        self.mean = self.mean + delta * (n / total)
        self.m2 = m2 + square * (self.count * n / total)
        self.count = total
        self._fit()

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
        return self._spread(1.0)

    def _spread(self, unvaried: float | Array) -> Array:
        std = np.sqrt(self.m2 / max(self.count, 1.0))
        return np.where(std > _CONSTANT * np.abs(self.mean), std, unvaried)

    def _fit(self) -> None:
        std = self.std()
        self._inverse = 1 / std
        std *= _LIMIT
        std *= std
        self._absurd = std  # the square of a difference from the mean that is beyond the bound

    def state(self) -> State:
        return {"count": self.count, "mean": self.mean, "m2": self.m2}

    def load(self, state: State) -> None:
        self.count, self.mean, self.m2 = state["count"], state["mean"], state["m2"]
        self._fit()


def _moments(rows: Array) -> tuple[Array, Array]:
    """Mean and sum of squared differences from it; writes over the rows."""
    mean = np.add.reduce(rows, 0) / len(rows)
    rows -= mean
    rows *= rows
    return mean, np.add.reduce(rows, 0)


def _bounded(rows: Array) -> Array:
    """The same in float64, as a copy."""
    if rows.dtype == np.float64:
        return np.minimum(np.maximum(rows, -_HUGE), _HUGE)
    return rows.astype(np.float64)
