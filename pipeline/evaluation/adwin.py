"""Detection of drift: ADWIN, an adaptive window over a stream of numbers in [0, 1] (Bifet and
Gavaldà 2007, "Learning from Time-Changing Data with Adaptive Windowing").

River has it too; its state is an object, and ours must stand in a checkpoint.
"""

from __future__ import annotations

import math

import numpy as np

from streams.core.state_dict import State

_BUCKETS = 5  # of one size, at most; with one more the two oldest become one of twice the size
_LEAST = 5  # values on either side of a cut
_GRACE = 10  # values before the first cut


class Adwin:
    """Keeps the longest window in which no two parts differ in their mean.

    The window is kept as an exponential histogram: buckets of 1, 2, 4, ... values. Where the means
    before and after the end of some bucket differ by more than chance allows, all before it is let
    go (where there are several, before that which stands out most). Memory grows with the logarithm
    of the window.

    Args:
        delta: significance: about the chance of a false alarm.
        clock: looks for a change after so many values.
    """

    def __init__(self, delta: float, clock: int = 16) -> None:
        self.delta = delta
        self.clock = clock
        self._added = 0
        # Of each bucket, the oldest first: values, their sum, and sum of squares about their mean.
        self._buckets: list[tuple[int, float, float]] = []
        self._counts = [0]  # buckets of 1, 2, 4, ... values

    @property
    def width(self) -> int:
        """Values in the window."""
        return sum(n for n, _, _ in self._buckets)

    @property
    def mean(self) -> float:
        """Of the window; NaN while it is empty."""
        total = sum(total for _, total, _ in self._buckets)
        return total / self.width if self._buckets else math.nan

    def add(self, value: float) -> bool:
        """Takes in a value; whether the window has just been cut, as the mean has changed."""
        self._added += 1
        self._buckets.append((1, value, 0.0))
        self._compress()
        if self._added % self.clock or self.width <= _GRACE:
            return False
        changed = False
        while (gone := self._past()) > 0:
            self._buckets = self._buckets[gone:]
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

    def _past(self) -> int:
        """How many of the oldest buckets are of another mean than the rest; 0: none."""
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
        # The harmonic mean of the two sizes, each less the few that a part must have at least.
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
