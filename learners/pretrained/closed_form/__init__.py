"""Learners in closed form: sums over labelled rows, and weights that follow from the sums.

``Prototype`` predicts the class of the nearest mean. ``ClosedFormLearner`` and ``ClosedFormConfig``
are the base. ``Statistics`` is what is kept of the rows.
"""

from __future__ import annotations

from learners.pretrained.closed_form.base import ClosedFormLearner
from learners.pretrained.closed_form.prototype import Prototype, PrototypeConfig
from learners.pretrained.closed_form.settings import ClosedFormConfig
from learners.pretrained.closed_form.statistics import ClassSums, Statistics

__all__ = [
    "ClassSums",
    "ClosedFormConfig",
    "ClosedFormLearner",
    "Prototype",
    "PrototypeConfig",
    "Statistics",
]
