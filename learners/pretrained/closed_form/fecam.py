"""FeCAM: Gaussians with a covariance for each class."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat

from learners.pretrained.closed_form.base import ClosedFormLearner
from learners.pretrained.closed_form.settings import ClosedFormConfig
from learners.pretrained.closed_form.statistics import TINY, unit_length
from learners.pretrained.closed_form.statistics.class_products import ClassProducts
from streams.core.batch import Array
from streams.core.schema import Task

_ROUNDING = 1e-14
"""The sum of variances, of rows of length 1, that is not told from the rounding of float32."""


class FecamConfig(ClosedFormConfig):
    """Settings of ``fecam``.

    Attributes:
        covariance: ``full``, which needs d * (d + 1) / 2 numbers in float64 and d * d in float32
            for each class; or ``diagonal``, which needs 2 * d.
        shrinkage: how many times the mean variance is added to variances, and the mean covariance
            to covariances.
        shared: events that the covariance within all classes counts as, in that of each class.
        refit_growth: as in all closed forms; and the share of growth of all events after which the
            covariance within all classes is made anew.
        tukey: the power of features in Tukey's transform; null: none. It suits features that are
            never negative, such as those behind a ReLU; negative ones count as 0.
    """

    covariance: Literal["full", "diagonal"] = "full"
    shrinkage: NonNegativeFloat = 1.0
    shared: PositiveFloat = 50.0
    refit_growth: NonNegativeFloat = 0.5
    tukey: float | None = Field(None, gt=0, le=1)


class Fecam(ClosedFormLearner):
    """Predict the class of the least Mahalanobis distance, each class with its own covariance.

    This is Goswami et al. 2023, "FeCAM: Exploiting the Heterogeneity of Class Distributions in
    Exemplar-Free Continual Learning". Rows are brought to length 1, after Tukey's transform if any.
    For the covariance S_c of class c, V1 the mean of its diagonal, V2 the mean of the rest and D_c
    the diagonal of P_c,

        P_c = S_c + a * V1 * I + a * V2 * (1 - I)
        N_c = D_c^-1/2 P_c D_c^-1/2
        score_c = -(x - m_c)' N_c^-1 (x - m_c) / (2 v sqrt(d))

    where m_c is the mean of class c, of length 1 too, and v the mean of all D_c, which brings the
    distance to the size of log-odds; from there the temperature starts.

    Deviations: rows are of length 1 before means and covariances are taken, not only in distances.
    The covariance within all classes counts as ``shared`` events in each S_c, so that classes of
    one event have one too. A diagonal covariance is not brought to correlations, which would leave
    nothing of it.

    A solve makes those classes anew that have changed; and all of them once the rows learned have
    grown by ``refit_growth``, as the shared covariance has changed then. To score an event takes
    d * d products for each class.
    """

    kind = "fecam"
    Config = FecamConfig
    handles = frozenset({"classification", "binary"})
    forgets_classes = True
    statistics: ClassProducts
    config: FecamConfig

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return super().example(task) | {"shared": 20}

    def transform(self, x: Array) -> Array:
        power = self.config.tukey
        return unit_length(x if power is None else np.maximum(x, 0) ** np.float32(power))

    def new_statistics(self, width: int) -> ClassProducts:
        return ClassProducts(width, full=self.config.covariance == "full")

    def fit(self) -> dict[str, Array]:
        sums, full = self.statistics, self.config.covariance == "full"
        k, d = sums.sums.shape
        rows = int(sums.counts.sum())
        stale = self._stale(rows)
        old = {} if stale else self.weights
        means = unit_length(sums.means)
        forms = np.zeros((k, d, d) if full else (k, d), np.float32)
        variances, counts = np.zeros(k), np.zeros(k, np.int64)
        if old:
            known = len(old["counts"])
            forms[:known], counts[:known] = old["forms"], old["counts"]
            variances[:known] = old["variances"]
        shared = sums.within()
        for code in np.flatnonzero(sums.counts != counts).tolist():
            if sums.counts[code]:
                covariance = self._covariance(code, shared)
                make = _whitening if full else _inverse_deviations
                forms[code], variances[code] = make(covariance)
        seen = sums.counts > 0
        variance = float(variances[seen].mean())
        return {
            "means": means.astype(np.float32),
            "forms": forms,
            "variances": variances,
            "counts": sums.counts.copy(),
            "rows": np.array(rows) if stale else old["rows"],
            "factor": np.array(-0.5 / (max(variance, TINY) * math.sqrt(d)) if full else -0.5),
        }

    def _stale(self, rows: int) -> bool:
        """Whether all classes are made anew: the covariance that they share is of too few rows."""
        return rows >= (1 + self.config.refit_growth) * int(self.weights.get("rows", 0))

    def _covariance(self, code: int, shared: Array) -> Array:
        """Return P_c: (d, d), or (d,) of a diagonal."""
        sums, weight = self.statistics, self.config.shared
        total = sums.scatter(code) + weight * shared
        total /= max(int(sums.counts[code]) - 1, 0) + weight
        a, d = self.config.shrinkage, len(total)
        variance = float(np.trace(total) if total.ndim == 2 else total.sum()) / d
        if not d * variance > _ROUNDING:
            return np.ones(d) if total.ndim == 1 else np.eye(d)
        if total.ndim == 1:
            return total + max(a, 1e-9) * variance
        rest = (float(total.sum()) - d * variance) / max(d * d - d, 1)
        total += a * rest
        total[np.diag_indices(d)] += max(a, 1e-9) * variance - a * rest
        return total

    def scores(self, x: Array) -> Array:
        weights = self.weights
        means, forms = weights["means"], weights["forms"]
        scores = np.zeros((len(x), len(means)), np.float32)
        for code in np.flatnonzero(weights["counts"]).tolist():
            deviations = x - means[code]
            form = forms[code]
            whitened = deviations @ form if form.ndim == 2 else deviations * form
            np.einsum("nd,nd->n", whitened, whitened, out=scores[:, code])
        scores *= np.float32(weights["factor"])
        return scores


def _whitening(covariance: Array) -> tuple[Array, float]:
    """Return A (d, d) for which |A' z|**2 = z' N^-1 z, N the correlations; and the mean variance.

    A' is the inverse of the Cholesky factor of N.
    """
    variances = np.diagonal(covariance)
    deviations = np.sqrt(np.maximum(variances, TINY))
    correlations = torch.from_numpy(covariance / np.outer(deviations, deviations))
    factor, failed = torch.linalg.cholesky_ex(correlations)
    added = 1e-9
    while failed:  # rounding has made it indefinite
        correlations.diagonal().add_(added)
        factor, failed = torch.linalg.cholesky_ex(correlations)
        added *= 10
    unit = torch.eye(len(deviations), dtype=torch.float64)
    inverse = torch.linalg.solve_triangular(factor, unit, upper=False)
    return inverse.numpy().T, float(variances.mean())


def _inverse_deviations(variances: Array) -> tuple[Array, float]:
    """Return 1 / deviation of each number (d,), and the mean variance."""
    return 1 / np.sqrt(np.maximum(variances, TINY)), float(variances.mean())
