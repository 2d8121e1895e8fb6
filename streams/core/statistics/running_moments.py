"""Running mean and variance, in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streams.core.batch import Array
from streams.core.state_dict import State

_LIMIT = 100.0
_MIN_WEIGHT = 10.0  # of the rows, before values are winsorised
_CONSTANT = 1e-10  # a standard deviation below this share of the mean is rounding, not variation
_REACH_SHARE = 0.5
_HUGE = 1e100  # values are clipped here, so that squares and sums stay finite


class RunningMoments:
    """Mean and variance of each column over all rows seen (Chan, Golub and LeVeque 1983).

    With a ``half_life`` the weight of the past halves with that many rows.

    Once rows with a total weight of ten have been seen, values are winsorised at 100 standard
    deviations from the mean: one outlier cannot spoil the scale of all later rows. A lasting shift
    is still followed, because each micro-batch widens the bound. In a column that has not varied,
    the bound is 100 times its value, or 100.

    ``scale`` gives float32 rows of mean 0 and variance 1, clipped at 100 standard deviations, so
    that one outlier cannot spoil a model. A column that has not varied is only centred. Before the
    first row, values are only clipped.

    NaN is a missing value: it counts in no column, and ``scale`` returns it as it is. ``count`` is
    one number until the first NaN, and then has one for each column. A half-life is in values of
    the column.

    Args:
        shape: of one row.
        half_life: in rows; None: all rows weigh the same.
    """

    def __init__(self, shape: tuple[int, ...], half_life: float | None = None) -> None:
        self.half_life = half_life
        self.count: float | Array = 0.0
        self.mean = np.zeros(shape)
        self.m2 = np.zeros(shape)
        self._fit()

    def update(self, rows: Array) -> None:
        """Add (n, *shape) rows, n >= 1."""
        if isinstance(self.count, np.ndarray):
            self._update_columns(rows)
            return
        n = len(rows)
        mean, m2 = _moments(_bounded(rows))
        if np.isnan(mean).any():
            self._update_columns(rows)
            return
        delta = mean - self.mean
        square = delta * delta
        # No square exceeds their sum, which costs less to compare than every row.
        if self.count >= _MIN_WEIGHT and (m2 + square * n > self._largest_square).any():
            mean, m2 = _moments(self.clip(rows))
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

    def _update_columns(self, rows: Array) -> None:
        """Add (n, *shape) rows of which some values are NaN, each column by its own values."""
        rows = _bounded(rows)
        known = ~np.isnan(rows)
        n = np.add.reduce(known, 0, dtype=np.float64)
        count = self.count
        mean, m2 = _known_moments(rows, known, n)
        delta = np.where(n, mean - self.mean, 0.0)
        square = delta * delta
        if ((count >= _MIN_WEIGHT) & (m2 + square * n > self._largest_square)).any():
            reach = _LIMIT * self._spread(np.maximum(np.abs(self.mean), 1.0))
            reach = np.where(count >= _MIN_WEIGHT, reach, np.inf)
            rows = np.clip(rows, self.mean - reach, self.mean + reach)
            mean, m2 = _known_moments(rows, known, n)
            delta = np.where(n, mean - self.mean, 0.0)
            square = delta * delta
        kept = 1.0 if self.half_life is None else 0.5 ** (n / self.half_life)
        count = count * kept
        total = count + n
        share = n / np.maximum(total, 1e-300)
        self.mean = self.mean + delta * share
        self.m2 = self.m2 * kept + m2 + square * (count * share)
        self.count = total
        self._fit()

    def clip(self, rows: Array) -> Array:
        """Return (n, *shape) float64 with outliers at the bound that ``update`` winsorises at."""
        rows = _bounded(rows)
        if np.min(self.count) < _MIN_WEIGHT:
            return rows
        reach = _LIMIT * self._spread(np.maximum(np.abs(self.mean), 1.0))
        clipped: Array = np.clip(rows, self.mean - reach, self.mean + reach)
        return clipped

    def scale(self, rows: Array) -> Array:
        """Return (n, *shape) float32. The difference is taken in float64: large numbers that vary
        little (times, prices in cents) lose nothing."""
        scaled = _bounded(rows)
        scaled -= self.mean
        scaled *= self._inverse
        np.minimum(scaled, _LIMIT, out=scaled)
        np.maximum(scaled, -_LIMIT, out=scaled)
        return scaled.astype(np.float32)

    def std(self) -> Array:
        """Return (*shape); 1 where there is no variation."""
        return self._spread(1.0)

    def _spread(self, unvaried: float | Array) -> Array:
        std = np.sqrt(self.m2 / np.maximum(self.count, 1.0))
        return np.where(std > _CONSTANT * np.abs(self.mean), std, unvaried)

    def _fit(self) -> None:
        std = self._spread(1.0)
        self._inverse = 1 / std
        std *= _LIMIT
        std *= std
        self._largest_square = std  # of a difference from the mean within the bound

    def state(self) -> State:
        return {"count": self.count, "mean": self.mean, "m2": self.m2}

    def load(self, state: State) -> None:
        self.count, self.mean, self.m2 = state["count"], state["mean"], state["m2"]
        self._fit()


class VectorMoments(RunningMoments):
    """The moments of vectors, whose numbers may have one unit, as pixels have, or several.

    The deviation of a number is at least half of its largest distance from its mean. A number
    that seldom varies, as a pixel at the edge, would outweigh the others if it were brought to
    variance 1; numbers that vary all the time keep their deviation. One that has not varied yet has
    the root mean square deviation of the others of its vector.

    Args:
        widths: the numbers of each vector in a row.

    Attributes:
        low, high: (sum of widths,) the least and the largest values, without outliers.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        self._starts = np.cumsum([0, *widths[:-1]])
        self._widths = np.array(widths)
        shape = (sum(widths),)
        self.low, self.high = np.full(shape, np.inf), np.full(shape, -np.inf)
        super().__init__(shape)

    def update(self, rows: Array) -> None:
        super().update(rows)
        values = self.clip(rows)
        self.low = np.fmin(self.low, np.fmin.reduce(values, 0))
        self.high = np.fmax(self.high, np.fmax.reduce(values, 0))
        self._fit()

    def std(self) -> Array:
        own = self._spread(0.0)
        reach = np.maximum(self.high - self.mean, self.mean - self.low)
        std = np.where(own > 0, np.maximum(own, reach * _REACH_SHARE), 0.0)
        varied = np.add.reduceat(np.sign(std), self._starts)
        squares = np.add.reduceat(std * std, self._starts) / np.maximum(varied, 1)
        others = np.repeat(np.where(varied, np.sqrt(squares), 1.0), self._widths)
        return np.where(std > 0, std, others)

    def _fit(self) -> None:
        super()._fit()
        self._inverse = 1 / self.std()

    def state(self) -> State:
        return {**super().state(), "low": self.low, "high": self.high}

    def load(self, state: State) -> None:
        self.low, self.high = state["low"], state["high"]
        super().load(state)


def _moments(rows: Array) -> tuple[Array, Array]:
    """Return the mean and the sum of squared differences from it; overwrites the rows."""
    mean = np.add.reduce(rows, 0) / len(rows)
    rows -= mean
    rows *= rows
    return mean, np.add.reduce(rows, 0)


def _known_moments(rows: Array, known: Array, n: Array) -> tuple[Array, Array]:
    """Return the mean and the sum of squared differences of the known values.

    Both are 0 in a column without any. ``n`` (*shape) is their number in each column.
    """
    mean = np.add.reduce(np.where(known, rows, 0.0), 0) / np.maximum(n, 1)
    deviations = np.where(known, rows - mean, 0.0)
    deviations *= deviations
    return mean, np.add.reduce(deviations, 0)


def _bounded(rows: Array) -> Array:
    """Return a copy in float64, clipped at ``_HUGE``."""
    if rows.dtype == np.float64:
        return np.minimum(np.maximum(rows, -_HUGE), _HUGE)
    return rows.astype(np.float64)
