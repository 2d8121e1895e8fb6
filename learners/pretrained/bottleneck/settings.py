"""The settings of the discrete key-value bottleneck."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, PositiveFloat, PositiveInt

from learners.base import LearnerConfig
from learners.networks.calibration import CalibrationConfig
from learners.networks.decision import DecisionConfig
from learners.pretrained.bottleneck.codebooks import CodebooksConfig
from learners.pretrained.bottleneck.key_sample import GaussianKeys, KeysConfig

_STEP = 0.8  # of the outputs of an event, for its own gradient, where no learning rate is stated


class BottleneckConfig(LearnerConfig):
    """Settings of the bottleneck.

    Attributes:
        codebooks: how many codebooks and keys there are.
        keys: what the keys are fitted to.
        lr: length of a step. The outputs of an event move by about ``lr / codebooks.count`` times
            their gradient. None: 0.8 for each codebook.
        label_smoothing: share of a label that is spread over all classes.
        expected_classes: how many classes may come. The more, the less an event counts against the
            classes that it is not of.
        scale: whether numbers and vectors are scaled, by the events that keys are fitted to. None:
            they are, but for one vector alone. Keys suit any scale; and were its numbers scaled one
            by one, those that vary little in the first classes would outweigh all others later.
        calibration: how probabilities are corrected; None: not at all.
        decision: the rule that chooses a class; None: ``argmax``.
    """

    codebooks: CodebooksConfig = CodebooksConfig()
    keys: KeysConfig = GaussianKeys(kind="gaussian")
    lr: PositiveFloat | None = None
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    expected_classes: PositiveInt = 1000
    scale: bool | None = None
    calibration: CalibrationConfig = "temperature"
    decision: DecisionConfig | None = None

    def located(self, folder: Path) -> Self:
        return self.model_copy(update={"keys": self.keys.located(folder)})

    @property
    def class_weight(self) -> None:
        """All events weigh alike."""
        return None

    @property
    def rate(self) -> float:
        """The length of a step."""
        return _STEP * self.codebooks.count if self.lr is None else self.lr
