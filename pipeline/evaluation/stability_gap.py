"""The stability gap: how far accuracy on an old task drops while another is learned, and how it
recovers (De Lange, van de Ven and Tuytelaars 2023, "Continual evaluation for lifelong learning:
identifying the stability gap", which plots it; the numbers are those in common use)."""

from __future__ import annotations

import numpy as np

from streams.core.batch import Array, Floats, Ints
from streams.core.state_dict import State

_RECORDS = 100  # per pair of tasks


class StabilityGap:
    """Depth and recovery of accuracy over pairs of an old task i and the task k being learned.

    Of the evaluations between the minimum of A_i and the end of k only records are kept: those at
    which A_i is higher than at every other since its minimum. The first one that reaches the final
    value is among them. A pair keeps at most 100 records; one more drops a record with close
    neighbours, and ``recovery_events`` may be too large by the distance between these.
    """

    def __init__(self) -> None:
        self._sums = np.zeros((3, 2))  # depth, recovery, events: the sum, and how many pairs
        self.open(np.empty(0, np.int64), np.empty(0))

    def open(self, old: Ints, before: Floats) -> None:
        """Begin to learn another task beside the tasks ``old`` (p,), whose accuracy was ``before``
        (p,) at the previous evaluation."""
        self._old, self._before = old, before
        self._levels = np.full((len(old), 1), np.nan)  # the records; the first is the minimum
        self._reached = np.zeros((len(old), 1), np.int64)  # events seen at each record

    def add(self, events: int, accuracy: Floats) -> None:
        """Add the accuracy by task (k,) at an evaluation during learning; NaN: not evaluated."""
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
        count: Ints = (~np.isnan(self._levels)).sum(1)
        return count

    def _thin(self, pair: int) -> None:
        """Drop the record with the closest neighbours in time, but neither the first nor the
        last."""
        reached = self._reached[pair]
        drop = 1 + int(np.argmin(reached[2:] - reached[:-2]))
        for rows, nothing in ((self._levels, np.nan), (self._reached, 0)):
            rows[pair, drop:-1] = rows[pair, drop + 1 :]
            rows[pair, -1] = nothing

    def close(self, accuracy: Floats) -> None:
        """End the learning at the last added evaluation, with its accuracy by task (k,)."""
        self._sums[0] += _sum(self._before - self._levels[:, 0])
        end = accuracy[self._old]
        recovery = end - self._levels[:, 0]
        self._sums[1] += _sum(recovery)
        known = np.flatnonzero(~np.isnan(recovery))
        reached = (self._levels[known] < end[known, None]).sum(1)
        self._sums[2] += _sum(self._reached[known, reached] - self._reached[known, 0])
        self.open(np.empty(0, np.int64), np.empty(0))

    def merge(self, first: int) -> None:
        """Merge tasks ``first`` and ``first + 1``; later tasks move up by one. Their pairs remain
        two, both with the accuracy of the merged task, so that no mean jumps."""
        self._old = np.where(self._old > first, self._old - 1, self._old)

    def results(self) -> tuple[float, float, float]:
        """Return depth, recovery and events until recovery, means over pairs. The depth includes
        the pairs of the task being learned, as of now."""
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
    """Return the sum of the values that are not NaN, and their number."""
    known = values[~np.isnan(values)]
    return float(known.sum()), len(known)
