"""Drift detection by ADWIN, an adaptive window over a stream of numbers in [0, 1] (Bifet and
Gavaldà 2007, "Learning from Time-Changing Data with Adaptive Windowing").

River's ADWIN keeps its state in an object; this one saves its state in a checkpoint.
"""

from __future__ import annotations

import math

import numpy as np

from streams.core.state_dict import State

_BUCKETS = 5  # largest number of one size; one more merges the two oldest
_LEAST = 5  # values on each side of a cut, at least
_GRACE = 10  # values before the first cut


class Adwin:
    """The longest window of recent values in which no two parts differ in their mean.

    The window is an exponential histogram: buckets of 1, 2, 4, ... values. Where the means before
    and after a bucket boundary differ by more than chance allows, the values before it are dropped;
    of several such boundaries the most significant counts. Memory grows with the logarithm of the
    window.

    Args:
        delta: significance, about the probability of a false alarm.
        clock: number of values between two tests for a change.
    """

    def __init__(self, delta: float, clock: int = 16) -> None:
        self.delta = delta
        self.clock = clock
        self._added = 0
        # Buckets, oldest first: number of values, their sum, sum of squares about their mean.
        self._buckets: list[tuple[int, float, float]] = []
        self._counts = [0]  # number of buckets of 1, 2, 4, ... values

    @property
    def width(self) -> int:
        """Return the number of values in the window."""
        return sum(n for n, _, _ in self._buckets)

    @property
    def mean(self) -> float:
        """Return the mean of the window; NaN while it is empty."""
        total = sum(total for _, total, _ in self._buckets)
        return total / self.width if self._buckets else math.nan

    def add(self, value: float) -> bool:
        """Add a value; return whether the mean has changed, and the window was cut."""
        self._added += 1
        self._buckets.append((1, value, 0.0))
        self._compress()
        if self._added % self.clock or self.width <= _GRACE:
            return False
        changed = False
        while (outdated := self._outdated()) > 0:
            self._buckets = self._buckets[outdated:]
            self._count()
            changed = True
        return changed

    def _compress(self) -> None:
        counts, size = self._counts, 0
        counts[0] += 1
        while counts[size] > _BUCKETS:
            if size + 1 == len(counts):
                counts.append(0)
            at = sum(counts[size + 1 :])  # the larger ones are the older ones
            (n, a, squares_a), (_, b, squares_b) = self._buckets[at : at + 2]
            squares = squares_a + squares_b + (a / n - b / n) ** 2 * n / 2
            self._buckets[at : at + 2] = [(2 * n, a + b, squares)]
            counts[size] -= 2
            size += 1
            counts[size] += 1

    def _count(self) -> None:
        sizes = [n.bit_length() - 1 for n, _, _ in self._buckets]
        self._counts = np.bincount(sizes, minlength=1).tolist()

    def _outdated(self) -> int:
        """Return the number of oldest buckets whose mean differs from that of the rest."""
        n, total, squares = np.array(self._buckets).T
        width, mean = n.sum(), total.sum() / n.sum()
        variance = (squares.sum() + (n * (total / n - mean) ** 2).sum()) / width
        before, sums = np.cumsum(n)[:-1], np.cumsum(total)[:-1]
        after = width - before
        fit = np.flatnonzero((before >= _LEAST) & (after >= _LEAST))
        if not len(fit):
            return 0
        before, after, sums = before[fit], after[fit], sums[fit]
        gap = np.abs(sums / before - (total.sum() - sums) / after)
        # Inverse of the harmonic mean of the two sizes, each reduced by the minimum of a part.
        m = 1 / (before - _LEAST + 1) + 1 / (after - _LEAST + 1)
        chance = math.log(2 * math.log(width) / self.delta)
        excess = gap - np.sqrt(2 * m * variance * chance) - 2 / 3 * chance * m
        most = int(excess.argmax())
        return int(fit[most]) + 1 if excess[most] > 0 else 0

    def state(self) -> State:
        return {"added": self._added, "buckets": np.array(self._buckets).reshape(-1, 3)}

    def load(self, state: State) -> None:
        self._added = state["added"]
        self._buckets = [(int(n), a, s) for n, a, s in state["buckets"].tolist()]
        self._count()
