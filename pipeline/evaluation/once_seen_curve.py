"""Accuracy on once-seen events against the number of updates of the model since.

The bins of updates are 0, 1, 2 to 4, 5 to 9, 10 to 19, and so on. An event is evaluated once in
each bin, at the first evaluation at which it falls into the bin. The answers of a bin are therefore
of different events, and its confidence interval is valid; they come from many times of the run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from learners.base import Learner
from pipeline.evaluation.once_seen import OnceSeenSample
from pipeline.evaluation.retention import wilson
from streams.core.batch import Array, Batch, Ints
from streams.core.state_dict import State

_DECADES = 10
_EDGES = np.array([0, *(step * 10**d for d in range(_DECADES) for step in (1, 2, 5))], np.int64)
_DECADE = np.array([0, *(1 + d for d in range(_DECADES) for _ in range(3))])  # of each bin
_NAMES = ("0", "1", "10", "100", "1k", "10k", "100k", "1m", "10m", "100m", "1000m")
_BATCH = 2048  # events predicted at a time


class OnceSeenCurve:
    """The curve over successive evaluations; memory grows with the sample only.

    Attributes:
        events: events seen at the last evaluation; -1 before the first.
    """

    def __init__(self) -> None:
        self.events = -1
        # By bin and by power of ten: evaluated, right, sum of ln(updates since).
        self._bins = np.zeros((3, len(_EDGES)))
        self._decades = np.zeros((3, _DECADES + 1))
        self._place: Ints = np.empty(0, np.int64)
        self._last: Ints = np.empty(0, np.int64)  # bin in which each was last evaluated

    def evaluate(
        self, learner: Learner, sample: OnceSeenSample, version: int, events: int
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Evaluate a model on the events that have moved into another bin.

        Args:
            learner: the model; it only predicts.
            sample: the once-seen events.
            version: version of the model.
            events: number of events seen by the model.

        Returns:
            The metrics by name, and one entry for each bin with answers so far: ``first, last,
            since, asked, right``. ``first`` and ``last`` bound the updates since, ``since`` is
            their geometric mean.
        """
        self.events = events
        if sample.rows is None:
            return {}, []
        since = version - sample.learned
        now = np.searchsorted(_EDGES, since, side="right") - 1
        last = self._last_bins(sample.place)
        moved = np.flatnonzero(now > last)
        if len(moved):
            right = _right(learner, sample.rows.take(moved))
            answers = np.stack([np.ones(len(moved)), right, np.log(np.maximum(since[moved], 1))])
            np.add.at(self._bins.T, now[moved], answers.T)
            # An event counts once among the bins of one power of ten.
            new = (last[moved] < 0) | (_DECADE[now[moved]] > _DECADE[last[moved]])
            np.add.at(self._decades.T, _DECADE[now[moved[new]]], answers.T[new])
        self._place, self._last = sample.place, now
        return self._metrics(len(sample)), self._entries()

    def _last_bins(self, place: Ints) -> Ints:
        """Return (n,) the bin in which each was last evaluated; -1: none."""
        last = np.full(len(place), -1)
        if len(self._place):
            at = np.minimum(np.searchsorted(self._place, place), len(self._place) - 1)
            same = self._place[at] == place
            last[same] = self._last[at[same]]
        return last

    def _metrics(self, size: int) -> dict[str, float]:
        metrics: dict[str, float] = {"retention/once_seen": size}
        for name, asked, right in zip(_NAMES, *self._decades[:2].tolist(), strict=True):
            if asked:
                low, high = wilson(right / asked, int(asked))
                metrics |= {
                    f"retention/after_{name}": right / asked,
                    f"retention/after_{name}_low": low,
                    f"retention/after_{name}_high": high,
                    f"retention/after_{name}_count": asked,
                }
        return metrics

    def _entries(self) -> list[dict[str, Any]]:
        ends = [*(_EDGES[1:] - 1).tolist(), 10**_DECADES - 1]
        return [
            {
                "first": int(_EDGES[i]),
                "last": ends[i],
                "since": round(float(np.exp(log / asked)), 4) if _EDGES[i] else 0.0,
                "asked": int(asked),
                "right": int(right),
            }
            for i, (asked, right, log) in enumerate(self._bins.T.tolist())
            if asked
        ]

    def state(self) -> State:
        return {
            "events": self.events,
            "bins": self._bins,
            "decades": self._decades,
            "place": self._place,
            "last": self._last,
        }

    def load(self, state: State) -> None:
        self.events = state["events"]
        self._bins, self._decades = np.array(state["bins"]), np.array(state["decades"])
        self._place, self._last = state["place"], state["last"]


def _right(learner: Learner, rows: Batch) -> Array:
    """Return (n,) 1.0 where the learner is right, else 0.0."""
    unlabelled = replace(rows, y=None, segment=None, probe=None)
    value = [learner.predict(part).value for part in unlabelled.micro_batches(_BATCH)]
    return np.asarray(np.concatenate(value) == rows.y, np.float64)
