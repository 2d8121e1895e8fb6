"""Waits on the scale of the stream: the life table of all waits so far."""

from __future__ import annotations

import numpy as np

from streams.core.batch import Array, Floats
from streams.core.state_dict import State

_BINS = 128
"""Bins of the life table: from a resolution of a microsecond on, to 400,000 years."""
_PRIOR = 8.0  # waits that the prior counts as
_FAR = 16.0  # the ratio of the bounds of the cells behind the longest waits
_RARE = 0.002  # the share of waits that the outermost cells leave out at either end
MOST_UNITS = 100.0
"""The longest time on the scale: of all waits so far, one in e^100 would be longer."""


class TimeScale:
    """Measure time after an event by the cumulative hazard L(t) of all waits so far, in *units*.

    On this scale waits are about exponential with mean 1, whatever the clock of the stream, however
    heavy the tail of its waits, and however many events come at equal times. A network that
    predicts the intensity 1 on it predicts what all keys do. An intensity r there is r L'(t) per
    second.

    L is the estimate of a life table (Kaplan and Meier 1958, "Nonparametric Estimation from
    Incomplete Observations"): with d_i waits that ended in bin i and n_i that reached it, where
    those that were not seen to end count as the part of the bin that was seen,

        L at the end of bin i = - sum over j <= i of ln(1 - (d_j + a p_j) / (n_j + a)).

    p_j is that of a prior which counts as a = 8 waits: P(wait > t) = m / (m + t), with the mean
    wait m. Its tail is heavy, as at first only short waits can have ended. The first bin is the
    resolution of times; each other one is longer by a factor of sqrt(2).

    L is made linear within *cells*, in which forecasts are constant: the resolution, then up to
    the shortest waits, then cells with equal parts of waits and of the logarithm of time, and three
    behind the longest waits, of which the last has no end.

    Args:
        resolution: of times, in seconds.
        cells: how many, at least 8.

    Attributes:
        starts: (cells,) seconds.
        units: (cells,) L at the starts.
        hazards: (cells,) L' in the cells, per second; 0 in one without length.
    """

    def __init__(self, resolution: float, cells: int) -> None:
        self.resolution = resolution
        self._cells = cells
        bounds = resolution * 2.0 ** (np.arange(_BINS) / 2)
        self._bounds = np.concatenate([[0.0], bounds])  # of bins; the last bin has no end
        self._ended = np.zeros(_BINS + 1)
        self._left = np.zeros(_BINS + 1)
        self._seen = np.zeros(_BINS + 1)  # parts of bins, of those that were left
        self._seconds = 0.0
        self._set()

    @property
    def count(self) -> float:
        """How many waits were observed."""
        return float(self._ended.sum() + self._left.sum())

    def observe(self, wait: Floats, came: Array) -> None:
        """Add m waits.

        Args:
            wait: (m,) seconds.
            came: (m,) bool: the wait ended with an event; else it was seen until then.
        """
        bins = np.searchsorted(self._bounds, wait, side="right") - 1
        self._ended += np.bincount(bins[came], minlength=_BINS + 1)
        left = bins[~came]
        self._left += np.bincount(left, minlength=_BINS + 1)
        lengths = np.append(np.diff(self._bounds), np.inf)
        parts = (wait[~came] - self._bounds[left]) / lengths[left]
        self._seen += np.bincount(left, parts, minlength=_BINS + 1)
        self._seconds += float(wait.sum())
        self._set()

    def to_units(self, seconds: Array) -> Floats:
        """Return L (...) at times in seconds (...), at most ``MOST_UNITS``."""
        cell = np.searchsorted(self.starts, seconds, side="right") - 1
        units = self.units[cell] + self.hazards[cell] * (seconds - self.starts[cell])
        found: Floats = np.minimum(units, MOST_UNITS)
        return found

    def to_seconds(self, units: Array) -> Floats:
        """Return the times in seconds (...) at which L is ``units`` (...)."""
        cell = np.searchsorted(self.units, units, side="right") - 1
        rest = units - self.units[cell]
        hazard = np.where(self.hazards[cell] > 0, self.hazards[cell], np.inf)
        found: Floats = self.starts[cell] + rest / hazard
        return found

    def steps(self, seconds: Array) -> Floats:
        """Return the units (...) of one resolution after times in seconds (...)."""
        cell = np.searchsorted(self.starts, seconds, side="right") - 1
        found: Floats = self.hazards[cell] * self.resolution
        return found

    def _set(self) -> None:
        """Set the cells by the waits so far."""
        ended, bounds = self._ended, self._bounds
        mean = (self._seconds + self.resolution) / (ended.sum() + 0.5)
        reached = np.cumsum((ended + self._left)[::-1])[::-1] - self._left + self._seen
        expected = np.diff(bounds) / (mean + bounds[1:])
        dying = (ended[:-1] + _PRIOR * expected) / (reached[:-1] + _PRIOR)
        hazard = np.concatenate([[0.0], np.cumsum(-np.log1p(-np.minimum(dying, 1 - 1e-9)))])
        self.starts = self._starts(mean)
        self.units = np.interp(self.starts, bounds, hazard)
        last = self.starts[-1]
        tail = (np.interp(_FAR * last, bounds, hazard) - self.units[-1]) / ((_FAR - 1) * last)
        length = np.diff(self.starts)
        inside = np.divide(np.diff(self.units), length, out=np.zeros_like(length), where=length > 0)
        self.hazards = np.append(inside, max(tail, 1e-6 / last))

    def _starts(self, mean: float) -> Floats:
        """Return the starts of the cells (cells,) in seconds, by the mean wait."""
        ended, bounds = self._ended[1:-1], self._bounds[1:]
        total, inner = ended.sum(), self._cells - 5
        if not total:  # only waits of zero, or none that ended
            first = last = int(np.clip(np.searchsorted(bounds, mean), 1, _BINS - 30) - 1)
        else:
            first, last = np.searchsorted(np.cumsum(ended), [_RARE * total, (1 - _RARE) * total])
            first, last = int(first), int(min(last, _BINS - 31))
            first = min(first, last)
        weight = ended[first : last + 1] / max(total, 1.0) + 1 / (last + 1 - first)
        level = np.concatenate([[0.0], np.cumsum(weight)]) / weight.sum()
        places = np.interp(np.linspace(0, 1, inner + 1), level, np.log(bounds[first : last + 2]))
        inside = np.maximum(np.exp(places), bounds[0])
        far = inside[-1] * _FAR ** np.arange(1, 3)
        return np.concatenate([[0.0, self.resolution], inside, far])

    def state(self) -> State:
        """Return what was observed."""
        arrays = {"ended": self._ended, "left": self._left, "seen": self._seen}
        return {**arrays, "seconds": self._seconds}

    def load(self, state: State) -> None:
        """Load a ``state``."""
        self._ended, self._left, self._seen = (
            np.array(state[name]) for name in ("ended", "left", "seen")
        )
        self._seconds = state["seconds"]
        self._set()
