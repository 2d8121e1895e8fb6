"""The settings that all learners in closed form share."""

from __future__ import annotations

from typing import Self

from pydantic import NonNegativeFloat, PositiveInt

from learners.base import LearnerConfig
from learners.networks.calibration import CalibrationConfig
from learners.networks.decision import DecisionConfig
from learners.pretrained.feature_maps import RandomFeaturesConfig
from streams.core.schema import Task


class ClosedFormConfig(LearnerConfig):
    """Settings of a learner in closed form.

    Attributes:
        scale: whether numbers and vectors are scaled by their mean and deviation.
        warm_up: events after which the scale stays. It has no effect on vectors of an encoder.
        refit_every: events learned after which new weights are solved; None: 500, or as
            many as a solve costs where these are more.
        refit_growth: new weights are also solved once the events of a class have grown by this
            share since the last solve. The first event of a class always counts.
        calibration: how probabilities are corrected; None: not at all.
        decision: the rule that chooses a class; None: ``argmax``.
        features: random features of the rows, which stand for them; None: the rows themselves.
    """

    scale: bool = True
    warm_up: PositiveInt = 1000
    refit_every: PositiveInt | None = None
    refit_growth: NonNegativeFloat = 0.5
    calibration: CalibrationConfig = "temperature"
    decision: DecisionConfig | None = None
    features: RandomFeaturesConfig | None = None

    @property
    def class_weight(self) -> None:
        """Closed forms weigh all events alike."""
        return None

    def of_classes(self, task: Task) -> Self:
        """Return the settings for a task. The calibration is only for classes."""
        return self if task == "classification" else self.model_copy(update={"calibration": None})
