"""RanPAC (McDonnell et al., NeurIPS 2023): ridge regression on a frozen random projection."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pydantic import PositiveFloat

from learners.pretrained.closed_form.base import ClosedFormLearner
from learners.pretrained.closed_form.settings import ClosedFormConfig
from learners.pretrained.closed_form.solvers.linear import linear_scores, linear_weights
from learners.pretrained.closed_form.solvers.ridge import START, Problem, Solution
from learners.pretrained.closed_form.statistics.gram import GramSums
from learners.pretrained.feature_maps import RandomFeaturesConfig
from streams.core.batch import Array, Ints
from streams.core.schema import Task

_LEAST_ERROR = 0.01
_TOLERANCE = 0.05  # chosen on validation parts of CLINC150, MNIST and digits


class RanpacConfig(ClosedFormConfig):
    """Settings of ``ranpac``.

    Attributes:
        features: the random projection. ``null``: ridge regression on the rows themselves.
        ridge: in mean variances of a feature. None: it is chosen.
    """

    features: RandomFeaturesConfig | None = RandomFeaturesConfig()
    ridge: PositiveFloat | None = None


class Ranpac(ClosedFormLearner):
    """Predict by ridge regression on random features, with one column of targets for each class.

    The sums are order-free: any order of the events gives the same weights up to rounding, and so
    does any order of the classes.

    Deviations from the paper: the ridge is chosen by generalised cross-validation, from the sums
    alone, and not on a part of each task that is held back, so that every event counts. Of ridges
    whose expected squared errors differ by less than 5%, the smallest is taken: it distinguishes
    classes best. That choice is repeated whenever events are four times as many, once there is one
    for every four features; before that, the ridge is 100. Rows and targets are centred, so that
    the offset of a class is not penalised. For targets it is plain regression.

    Scores of classes are brought to the size of log-odds, by a factor of 2 ln(k) / (expected
    squared error) for k classes, from where the temperature starts.
    """

    kind = "ranpac"
    Config = RanpacConfig
    statistics: GramSums

    config: RanpacConfig

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return super().example(task) | {"features": {"kind": "relu", "dimension": 48}}

    def new_statistics(self, width: int) -> GramSums:
        return GramSums(width, self.schema.task == "regression")

    def fit(self) -> dict[str, Array]:
        problem = Problem.of(self.statistics)
        solution, chosen = self._solution(problem)
        w, b = solution.w, solution.b
        if self.schema.task == "classification":
            size = log_odds(solution.error, self.statistics.counts)
            w, b = w * size, b * size
        ridge = {"ridge": np.array(solution.ridge), "chosen": np.array(chosen)}
        return linear_weights(w, b) | ridge

    def _solution(self, problem: Problem) -> tuple[Solution, int]:
        """Return the solution, and of how many rows its ridge was chosen."""
        if self.config.ridge is not None:
            return problem.solve(self.config.ridge), problem.rows
        ridge = float(self.weights.get("ridge", START))
        chosen = int(self.weights.get("chosen", 0))
        few = len(problem.gram) // 4
        if chosen / 4 < problem.rows < max(chosen * 4, few):
            return problem.solve(ridge), chosen
        tolerance = _TOLERANCE if self.schema.task == "classification" else 0.0
        return problem.search(ridge, tolerance), problem.rows

    def scores(self, x: Array) -> Array:
        return linear_scores(self.weights, x)

    def metrics(self) -> dict[str, float]:
        ridge = {"ridge": float(self.weights["ridge"])} if self.weights else {}
        return super().metrics() | ridge


def log_odds(error: float, counts: Ints) -> float:
    """Return the factor that brings estimates of indicators to the size of log-odds.

    Args:
        error: the expected squared error, summed over classes.
        counts: (k,) events of each class.
    """
    classes = max(int(np.count_nonzero(counts)), 2)
    return 2 * math.log(classes) / min(max(error, _LEAST_ERROR), 1.0)
