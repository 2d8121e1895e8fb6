"""The stability gap: how deep accuracy on an old task falls while another is learned, and how it
comes back (De Lange, van de Ven and Tuytelaars 2023, "Continual evaluation for lifelong learning:
identifying the stability gap", which plots it; the numbers are those in common use)."""

from __future__ import annotations

import numpy as np

from streams.core.batch import Array, Floats, Ints
from streams.core.state_dict import State

_RECORDS = 100


class StabilityGap:
    """Pairs of an old task i and the task k that is being learned, and the sums over past pairs.

    Between the minimum of A_i and the end of k only records count: the evaluations at which A_i was
    higher than at all those since its minimum. The first that reaches the value at the end is among
    them. There are at most 100 for a pair, whatever the number of evaluations; where there would be
    more, one is dropped that has its neighbours close by, and ``recovery_events`` may come out that
    much too long.
    """

    def __init__(self) -> None:
        self._sums = np.zeros((3, 2))  # depth, recovery, events: the sum, and how many pairs
        self.open(np.empty(0, np.int64), np.empty(0))

    def open(self, old: Ints, before: Floats) -> None:
        """Another task begins to be learned beside the tasks ``old`` (p,), whose accuracy was
        ``before`` (p,) at the evaluation before."""
        self._old, self._before = old, before
        self._levels = np.full((len(old), 1), np.nan)  # the records; the first is the minimum
        self._reached = np.zeros((len(old), 1), np.int64)  # and the events seen at each

    def add(self, events: int, accuracy: Floats) -> None:
        """Accuracy by task (k,) at an evaluation while it is learned; NaN: not evaluated."""
        now, count = accuracy[self._old], self._count()
        highest = self._levels[np.arange(len(now)), np.maximum(count - 1, 0)]
        lower = (now < self._levels[:, 0]) | (np.isnan(highest) & ~np.isnan(now))
        self._levels[lower] = np.nan
        count[lower] = 0
        new = np.flatnonzero(lower | (now > highest))
        for pair in new[count[new] == _RECORDS]:
            self._thin(pair)
            count[pair] -= 1
        if len(new) and count[new].max() == self._levels.shape[1]:
            self._levels = np.pad(self._levels, ((0, 0), (0, 1)), constant_values=np.nan)
            self._reached = np.pad(self._reached, ((0, 0), (0, 1)))
        self._levels[new, count[new]] = now[new]
        self._reached[new, count[new]] = events

    def _count(self) -> Ints:
        found: Ints = (~np.isnan(self._levels)).sum(1)
        return found

    def _thin(self, pair: int) -> None:
        """Drops the record that leaves the shortest time between its neighbours, but neither the
        first nor the last."""
        reached = self._reached[pair]
        drop = 1 + int(np.argmin(reached[2:] - reached[:-2]))
        for rows, nothing in ((self._levels, np.nan), (self._reached, 0)):
            rows[pair, drop:-1] = rows[pair, drop + 1 :]
            rows[pair, -1] = nothing

    def close(self, accuracy: Floats) -> None:
        """The learning ended at the evaluation last added; ``accuracy`` (k,) as there."""
        self._sums[0] += _sum(self._before - self._levels[:, 0])
        end = accuracy[self._old]
        recovery = end - self._levels[:, 0]
        self._sums[1] += _sum(recovery)
        known = np.flatnonzero(~np.isnan(recovery))
        place = (self._levels[known] < end[known, None]).sum(1)
        self._sums[2] += _sum(self._reached[known, place] - self._reached[known, 0])
        self.open(np.empty(0, np.int64), np.empty(0))

    def merge(self, first: int) -> None:
        """Tasks ``first`` and ``first + 1`` become one, and later ones move up by one. Their pairs
        stay two, that go on with the accuracy of both: no mean jumps."""
        self._old = np.where(self._old > first, self._old - 1, self._old)

    def results(self) -> tuple[float, float, float]:
        """Depth, recovery and events until recovery, means over pairs; the depth also over the
        pairs of the task that is being learned, as of now."""
        sums = self._sums.copy()
        sums[0] += _sum(self._before - self._levels[:, 0])
        depth, recovery, events = (float(s / n) if n else np.nan for s, n in sums)
        return depth, recovery, events

    def state(self) -> State:
        return {
            "sums": self._sums,
            "old": self._old,
            "before": self._before,
            "levels": self._levels,
            "reached": self._reached,
        }

    def load(self, state: State) -> None:
        self._sums, self._old = np.array(state["sums"]), np.array(state["old"])
        self._before = np.array(state["before"])
        self._levels, self._reached = np.array(state["levels"]), np.array(state["reached"])


def _sum(values: Array) -> tuple[float, int]:
    """The sum of those that are known, and how many."""
    known = values[~np.isnan(values)]
    return float(known.sum()), len(known)
