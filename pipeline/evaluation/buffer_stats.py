"""What the memory of a learner looks like as a run goes on: numbers for a row of metrics, and
histograms in a file of the run folder.

A histogram is a row of that file (``rows.py``), in which ``NAME/LOW:HIGH`` says how many values lie
from LOW to below HIGH. Bins without any are left out. Those of a retention, which is a share, are
twentieths; of all else they are powers of two.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from learners.base import Learner
from streams.core.batch import Array, Ints

_SHARES = ("retention",)
_LEVELS = {"p10": 0.1, "p50": 0.5, "p90": 0.9}
_TWENTIETHS = np.arange(21) / 20
_POWERS = 2.0 ** np.arange(-32, 64)


class BufferStats:
    """Looks at the memory of a learner now and again.

    Args:
        learner: as it is to begin with: recalls before are not counted.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        seen = learner.buffer_summary()
        self.there = seen is not None  # a memory
        self._before: Ints = np.zeros(63, np.int64) if seen is None else seen.intervals

    def look(self) -> tuple[dict[str, float], dict[str, float]]:
        """Metrics by name, and histograms as a row. Intervals are those since the last look; both
        are empty where there is no memory."""
        seen = self._learner.buffer_summary()
        if seen is None:
            return {}, {}
        counts, self._before = seen.intervals - self._before, seen.intervals
        metrics: dict[str, float] = {"replay/stored": seen.stored}
        if counts.any():
            for level, share in _LEVELS.items():
                metrics[f"replay/interval_{level}"] = quantile(counts, share)
        values = {name: each for name, each in seen.values.items() if len(each)}
        for name, each in values.items():
            metrics[f"replay/{name}_mean"] = float(each.mean())
            found = np.quantile(each, list(_LEVELS.values()))
            for level, value in zip(_LEVELS, found.tolist(), strict=True):
                metrics[f"replay/{name}_{level}"] = value
        return metrics, _histograms(counts, values)


def quantile(counts: Array, share: float) -> float:
    """The interval below which so much of the recalls lie, of ``counts`` by powers of two: within
    one as if they were spread evenly by their logarithm."""
    until = np.cumsum(counts)
    wanted = share * float(until[-1])
    i = int(np.searchsorted(until, wanted))
    before = float(until[i] - counts[i])
    return float(2.0 ** (i + (wanted - before) / float(counts[i])))


def _histograms(counts: Array, values: Mapping[str, Array]) -> dict[str, float]:
    row = {f"interval/{1 << i}:{2 << i}": float(counts[i]) for i in np.flatnonzero(counts).tolist()}
    for name, each in values.items():
        edges = _TWENTIETHS if name in _SHARES else _POWERS
        # What lies outside is counted at the ends.
        at = np.clip(np.searchsorted(edges, each, side="right") - 1, 0, len(edges) - 2)
        for i, count in zip(*np.unique(at, return_counts=True), strict=True):
            row[f"{name}/{float(edges[i])}:{float(edges[i + 1])}"] = float(count)
    return row
