"""Metrics of event sequences: log-likelihood, and errors and calibration of times.

What is scored is the forecast that was made when the event was predicted
(``learners/sequences/forecast.py``), once it is known what came next, or that nothing came.
Each metric covers the whole stream, and with the suffix ``_window`` the last events.

- ``nll_time``: mean of -ln of the density of the time, or of the survival where nothing came, in
  nats an event with times in seconds; ``nll_type``: mean of -ln p(type | time) of the events that
  came; ``nll``: mean of the sum of both (Daley and Vere-Jones 2003, "An Introduction to the Theory
  of Point Processes", 7.1).
- ``time_mae`` of the median of the predicted time, ``time_rmse`` of its mean, over the events that
  came: each the best point for its error (Gneiting 2011, "Making and Evaluating Point Forecasts").
- ``time_coverage_10``, ``_50``, ``_90``: how often the event came before that quantile of its time
  (Gneiting, Balabdaoui and Raftery 2007). A quantile behind the horizon is left out, whatever came:
  so the share stays unbiased.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from learners.results import Prediction
from learners.sequences import forecast as forecasts
from pipeline.evaluation.online.class_metrics import FLOOR
from streams.core.batch import Array, Batch, Floats
from streams.core.schema import Schema
from streams.core.state_dict import State
from streams.operators.label_join import Outcome

LEVELS = (0.1, 0.5, 0.9)
_COVERAGE = tuple(f"time_coverage_{100 * level:.0f}" for level in LEVELS)
COLUMNS = ("nll", "nll_time", "nll_type", "time_mae", "time_rmse", *_COVERAGE)
"""The metrics, by the columns of the scores: each is a mean; ``time_rmse`` the root of one."""
_SQUARES = COLUMNS.index("time_rmse")
_FOLD = 512  # events per block; independent of micro-batches


def sequence_scores(outcome: Outcome, resolution: float, horizon: float) -> Floats:
    """Return the scores (m, columns) of outcomes, as ``COLUMNS``; NaN where one is not defined."""
    m = len(outcome.ids)
    scores = np.full((m, len(COLUMNS)), np.nan)
    forecast, wait, y = outcome.forecast, outcome.wait, outcome.y
    if not m or wait is None:
        return scores
    came = y >= 0
    proba = np.zeros((m, 0)) if outcome.proba is None else outcome.proba
    kinds = forecasts.type_scores(forecast, proba, wait, y)
    scores[:, 2] = kinds
    if forecast is None:
        return scores
    times = forecasts.time_scores(forecast, wait, came, resolution)
    scores[:, 0] = times + np.where(came, kinds, 0.0)
    scores[:, 1] = times
    quantiles = forecasts.quantiles(forecast, np.array(LEVELS))
    middle = quantiles[:, LEVELS.index(0.5)]
    scores[came, 3] = np.abs(middle - wait)[came]
    with np.errstate(over="ignore"):
        scores[came, 4] = np.square(forecasts.mean(forecast) - wait)[came]
    known = quantiles <= horizon
    known &= forecasts.has_forecast(forecast)[:, None]
    covered = (wait[:, None] <= quantiles) & came[:, None]
    scores[:, 5:] = np.where(known, covered, np.nan)
    return scores


def log_likelihood(prediction: Prediction, labelled: Batch, schema: Schema) -> Floats:
    """Return (n,) the log-likelihood in nats of the labels of n events under their predictions:
    minus ``nll``. What is not predicted has that of the least probability.

    Args:
        prediction: of task sequences.
        labelled: the events with ``y`` and ``wait``.
        schema: of the stream.
    """
    y, wait, sequence = labelled.y, labelled.wait, schema.sequence
    assert y is not None
    assert wait is not None
    assert sequence is not None
    proba = np.zeros((len(y), 0)) if prediction.proba is None else prediction.proba
    kinds = forecasts.type_scores(prediction.forecast, proba, wait, y)
    nats = np.where(y >= 0, np.where(np.isnan(kinds), -np.log(FLOOR), kinds), 0.0)
    if prediction.forecast is not None:
        times = forecasts.time_scores(prediction.forecast, wait, y >= 0, sequence.resolution)
        nats += np.where(np.isnan(times), -np.log(FLOOR), times)
    return -nats


def that_came(outcome: Outcome) -> Outcome:
    """Return the outcomes of events in sequences after which something came: those with a type."""
    came = outcome.y >= 0
    if came.all():
        return outcome
    columns: dict[str, Any] = {
        name: None if (column := getattr(outcome, name)) is None else column[came]
        for name in ("ids", "y", "value", "proba", "no_change", "lag", "group")
    }
    return replace(outcome, **columns)


class SequenceMetrics:
    """Sums of the scores of the whole stream, and the scores of a sliding window.

    The state does not depend on how outcomes are batched: they are folded 512 at a time.

    Args:
        schema: of the stream, of task sequences.
        window: events.
    """

    def __init__(self, schema: Schema, window: int) -> None:
        assert schema.sequence is not None
        self.resolution = schema.sequence.resolution
        horizon = schema.sequence.horizon
        self.horizon = np.inf if horizon is None else horizon
        self.window = window
        self._sums = np.zeros((2, len(COLUMNS)))  # of defined scores, and their number
        self._left = self._recent = np.empty((0, len(COLUMNS)))

    def add(self, outcome: Outcome) -> None:
        """Add predictions with their labels."""
        scores = sequence_scores(outcome, self.resolution, self.horizon)
        self._left = np.concatenate([self._left, scores])
        whole = len(self._left) // _FOLD * _FOLD
        for start in range(0, whole, _FOLD):
            self._sums += _sums_of(self._left[start : start + _FOLD])
        if whole:
            recent = np.concatenate([self._recent, self._left[:whole]])
            self._recent, self._left = recent[-self.window :], self._left[whole:]

    def results(self) -> dict[str, float]:
        """Return the metrics by name; those without a defined score are left out. Pure."""
        recent = np.concatenate([self._recent, self._left])[-self.window :]
        every = self._sums + _sums_of(self._left)
        return _named(every, "") | _named(_sums_of(recent), "_window")

    def state(self) -> State:
        return {"sums": self._sums.copy(), "left": self._left, "recent": self._recent}

    def load(self, state: State) -> None:
        self._sums = np.array(state["sums"])
        self._left, self._recent = state["left"], state["recent"]


def _sums_of(scores: Array) -> Floats:
    defined = ~np.isnan(scores)
    return np.stack([np.where(defined, scores, 0.0).sum(0), defined.sum(0)])


def _named(sums: Floats, suffix: str) -> dict[str, float]:
    means = {}
    for i, name in enumerate(COLUMNS):
        total, count = sums[:, i]
        if count:
            mean = total / count
            means[f"{name}{suffix}"] = float(np.sqrt(mean) if i == _SQUARES else mean)
    return means
