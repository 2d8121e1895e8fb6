"""Recursive least squares, with optional forgetting: the closed form that follows drift."""

from __future__ import annotations

from typing import Any

from pydantic import Field, PositiveFloat

from learners.pretrained.closed_form.base import ClosedFormLearner
from learners.pretrained.closed_form.ranpac import log_odds
from learners.pretrained.closed_form.settings import ClosedFormConfig
from learners.pretrained.closed_form.solvers.linear import linear_scores, linear_weights
from learners.pretrained.closed_form.statistics.recursive import RecursiveSums
from streams.core.batch import Array
from streams.core.schema import Task


class RlsConfig(ClosedFormConfig):
    """Settings of ``rls``.

    Attributes:
        ridge: the prior, in mean squares of a number of a row: comparable to a number of events.
        half_life: events after which the weight of an event has halved. None: nothing is forgotten.
    """

    ridge: PositiveFloat = 10.0
    half_life: float | None = Field(None, ge=1)


class Rls(ClosedFormLearner):
    """Predict by least squares on rows, or on random features of them, up to the latest event.

    Classes are learned as targets of 0 and 1, one column for each. The weights are those of ridge
    regression on all events so far, each weighted by its age where there is a ``half_life``. Other
    closed forms weigh all events alike, and their weights settle however the stream drifts.
    ``statistics/recursive.py`` has the update.

    Scores of classes are brought to the size of log-odds as those of ``ranpac``, with the squared
    error of late, before events were learned.
    """

    kind = "rls"
    Config = RlsConfig
    lazy = False
    merges = False
    statistics: RecursiveSums

    config: RlsConfig

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return super().example(task) | {"ridge": 1.0}

    def new_statistics(self, width: int) -> RecursiveSums:
        targets = self.schema.task == "regression"
        return RecursiveSums(width, targets, self.config.ridge, self.config.half_life)

    def fit(self) -> dict[str, Array]:
        weights, sums = self.statistics.weights, self.statistics
        if self.schema.task == "regression":
            return linear_weights(weights[:-1].T, weights[-1] + sums.origin)
        size = log_odds(sums.error, sums.counts)
        return linear_weights(size * weights[:-1].T, size * weights[-1])

    def scores(self, x: Array) -> Array:
        return linear_scores(self.weights, x)
