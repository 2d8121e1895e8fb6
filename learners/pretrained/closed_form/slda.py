"""Streaming linear discriminant analysis: class means and one shared covariance."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from learners.pretrained.closed_form.base import ClosedFormLearner
from learners.pretrained.closed_form.settings import ClosedFormConfig
from learners.pretrained.closed_form.solvers.covariance import oas_share, solve_shrunk
from learners.pretrained.closed_form.solvers.linear import linear_scores, linear_weights
from learners.pretrained.closed_form.statistics import unit_length
from learners.pretrained.closed_form.statistics.gram import GramSums
from streams.core.batch import Array
from streams.core.schema import Schema

Share = Annotated[float, Field(gt=0, le=1)]


class SldaConfig(ClosedFormConfig):
    """Settings of ``slda``.

    Attributes:
        shrinkage: how far the covariance is shrunk towards a multiple of the identity: a share from
            0 to 1; or ``oas``, the share that follows from the covariance and the number of rows.
        class_prior: ``equal``; or ``counts``, by the events of each class so far.
        normalise: whether rows are brought to length 1. None: where the stream has one vector of
            unit scale, as an encoder gives.
    """

    normalise: bool | None = None
    shrinkage: Share | Literal["oas"] = "oas"
    class_prior: Literal["equal", "counts"] = "equal"


class Slda(ClosedFormLearner):
    """Predict the likeliest class of Gaussians that share one covariance.

    This is Hayes and Kanan 2020, "Lifelong Machine Learning with Deep Streaming Linear Discriminant
    Analysis". For class means m_c, the mean m of all rows and d numbers in a row,

        S = sum over rows of (x - m_c)(x - m_c)' / n
        P = (1 - e) S + e * trace(S) / d * I
        w_c = P^-1 (m_c - m),    score_c = w_c' x - w_c' (m_c + m) / 2 + log prior_c

    S is that of all rows at once, up to rounding: it follows from the sums of products of all rows
    and the sums of each class. There, S moves by the deviations from means of the time, which gives
    nearly the same. There, e is 1e-4 and is not relative to the variance of the rows, and the prior
    is equal.

    Scores without the prior are divided by sqrt(d), from where the temperature starts, as in
    ``prototype``.
    """

    kind = "slda"
    Config = SldaConfig
    handles = frozenset({"classification", "binary"})
    statistics: GramSums
    config: SldaConfig

    def __init__(self, config: SldaConfig, schema: Schema, seed: int) -> None:
        first = schema.features[0]
        one_vector = len(schema.features) == 1 and first.kind == "vector" and first.unit
        self._normalises = one_vector if config.normalise is None else config.normalise
        super().__init__(config, schema, seed)

    def transform(self, x: Array) -> Array:
        return unit_length(x) if self._normalises else x

    def new_statistics(self, width: int) -> GramSums:
        return GramSums(width, targets=False)

    def fit(self) -> dict[str, Array]:
        sums = self.statistics
        means, covariance = self.means_and_covariance()
        share = self.config.shrinkage
        if share == "oas":
            share = oas_share(covariance, sums.rows)
        centre = sums.totals / sums.rows
        w = solve_shrunk(covariance, share, (means - centre).T).T
        w /= math.sqrt(len(centre))
        b = -0.5 * np.einsum("kd,kd->k", w, means + centre)
        return linear_weights(w, b + self._log_prior())

    def means_and_covariance(self) -> tuple[Array, Array]:
        """Return the mean of each class (k, d), and S (d, d), of at least one row."""
        sums = self.statistics
        roots = np.sqrt(np.maximum(sums.counts, 1))[:, None]
        of_means = sums.cross / roots
        covariance = sums.gram()
        covariance -= of_means.T @ of_means  # symmetric, which is half the work
        covariance /= sums.rows
        return of_means / roots, covariance

    def _log_prior(self) -> Array:
        counts = self.statistics.counts
        if self.config.class_prior == "equal":
            return np.zeros(len(counts))
        prior: Array = np.log(np.maximum(counts, 1) / counts.sum())
        return prior

    def scores(self, x: Array) -> Array:
        return linear_scores(self.weights, x)
