"""Prototypes: the class of the nearest class mean."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from learners.pretrained.closed_form.base import ClosedFormLearner
from learners.pretrained.closed_form.settings import ClosedFormConfig
from learners.pretrained.closed_form.solvers.linear import linear_scores, linear_weights
from learners.pretrained.closed_form.statistics import TINY, ClassSums, unit_length
from streams.core.batch import Array


class PrototypeConfig(ClosedFormConfig):
    """Settings of ``prototype``.

    Attributes:
        distance: ``cosine``, or ``euclidean``.
    """

    distance: Literal["cosine", "euclidean"] = "cosine"


class Prototype(ClosedFormLearner):
    """Predict the class whose mean is nearest.

    With ``cosine``, rows are brought to length 1 before they are summed. The direction of the sum
    s_c is then the likeliest centre of a class whose directions spread evenly around it. The score
    of a class is the log-likelihood of that model (Banerjee et al. 2005, "Clustering on the Unit
    Hypersphere using von Mises-Fisher Distributions") for rows of d numbers,

        kappa * cos(x, s_c),    kappa = R * d / (1 - R**2),    R = sum_c |s_c| / (n + k)

    With ``euclidean`` it is that of Gaussians of one variance in all directions,

        -|x - m_c|**2 * d / (2 * v)

    where m_c is the mean of class c, and v the sum of the variances within classes. The numbers of
    a row are far from independent, so that both are much too sure. Scores are divided by sqrt(d),
    from where the temperature starts.

    With the cosine it is SimpleCIL of Zhou et al. 2023 ("Revisiting Class-Incremental Learning with
    Pre-Trained Models") online. There, rows are not brought to length 1 before they are averaged.
    The class of the lower code wins ties.
    """

    kind = "prototype"
    Config = PrototypeConfig
    handles = frozenset({"classification", "binary"})
    forgets_classes = True
    lazy = False
    statistics: ClassSums

    config: PrototypeConfig

    def transform(self, x: Array) -> Array:
        return unit_length(x) if self.config.distance == "cosine" else x

    def new_statistics(self, width: int) -> ClassSums:
        return ClassSums(width)

    def fit(self) -> dict[str, Array]:
        if self.config.distance == "cosine":
            return self._fit_directions()
        means, centre = self.statistics.means, self.statistics.mean
        d = len(centre)
        w = (means - centre) * (math.sqrt(d) / self.statistics.variance())
        return linear_weights(w, -0.5 * np.einsum("kd,kd->k", w, means + centre))

    def _fit_directions(self) -> dict[str, Array]:
        sums, counts = self.statistics.sums, self.statistics.counts
        lengths = np.sqrt(np.einsum("kd,kd->k", sums, sums))
        r = lengths.sum() / (counts.sum() + len(counts))
        kappa = r * math.sqrt(sums.shape[1]) / (1 - r * r)
        w = sums * (kappa / np.maximum(lengths, TINY))[:, None]
        return linear_weights(w, np.zeros(len(w)))

    def scores(self, x: Array) -> Array:
        return linear_scores(self.weights, x)
