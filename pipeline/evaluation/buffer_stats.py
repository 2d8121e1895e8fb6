"""Statistics of a replay buffer during a run: metrics, and histograms in a file of the run folder.

A histogram is a row of that file (``storage/metric_log.py``), in which ``NAME/LOW:HIGH`` is the
number of values from LOW to below HIGH. Empty bins are left out. The bins of a retention, which is
a share, are twentieths; all others are powers of two.
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
    """Reads the statistics of a learner's replay buffer.

    Args:
        learner: its recalls before this moment are not counted.

    Attributes:
        has_buffer: whether the learner has a replay buffer.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        seen = learner.buffer_summary()
        self.has_buffer = seen is not None
        self._before: Ints = np.zeros(63, np.int64) if seen is None else seen.intervals

    def read(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the metrics by name, and the histograms as a row; both empty without a buffer.

        Recall intervals are those since the last call.
        """
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
            levels = np.quantile(each, list(_LEVELS.values())).tolist()
            for level, value in zip(_LEVELS, levels, strict=True):
                metrics[f"replay/{name}_{level}"] = value
        return metrics, _histograms(counts, values)


def quantile(counts: Array, share: float) -> float:
    """Return the recall interval below which a share of the recalls lies.

    Args:
        counts: (k,) recalls by interval, in bins of powers of two. Within a bin the logarithms of
            the intervals are taken to be uniform.
        share: from 0 to 1.
    """
    until = np.cumsum(counts)
    rank = share * float(until[-1])
    i = int(np.searchsorted(until, rank))
    before = float(until[i] - counts[i])
    return float(2.0 ** (i + (rank - before) / float(counts[i])))


def _histograms(counts: Array, values: Mapping[str, Array]) -> dict[str, float]:
    row = {f"interval/{1 << i}:{2 << i}": float(counts[i]) for i in np.flatnonzero(counts).tolist()}
    for name, each in values.items():
        edges = _TWENTIETHS if name in _SHARES else _POWERS
        # Values outside are counted in the first and last bin.
        at = np.clip(np.searchsorted(edges, each, side="right") - 1, 0, len(edges) - 2)
        for i, count in zip(*np.unique(at, return_counts=True), strict=True):
            row[f"{name}/{float(edges[i])}:{float(edges[i + 1])}"] = float(count)
    return row
