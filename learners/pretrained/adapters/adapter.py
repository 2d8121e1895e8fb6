"""One adapter, trained on each new event: the control of methods that keep several."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import PositiveFloat, PositiveInt

from learners.networks.optimizer import Adam, OptimizerConfig
from learners.pretrained.adapters.parallel import Adapters
from learners.pretrained.backbones.trunk import Trunk
from learners.pretrained.tuned.base import TunedConfig, TunedLearner
from learners.pretrained.tuned.parts import TunedParts
from streams.core.schema import Task


class AdapterConfig(TunedConfig):
    """Settings of ``adapter``.

    Attributes:
        rank: numbers of the bottleneck.
        strength: the factor of what an adapter adds.
    """

    optimizer: OptimizerConfig = Adam(lr=1e-3)
    rank: PositiveInt = 16
    strength: PositiveFloat = 0.1


class Adapter(TunedLearner):
    """Fine-tune a parallel adapter in each upper block of a frozen backbone.

    Rank and strength are those of MOS (Sun et al. 2025, "MOS: Model Surgery for Pre-Trained
    Model-Based Class-Incremental Learning"). There is no dropout, so that nothing is drawn.
    """

    kind = "adapter"
    Config: ClassVar[type[TunedConfig]] = AdapterConfig

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return super().example(task) | {"rank": 4}

    def new_parts(self, trunk: Trunk) -> TunedParts:
        return Adapters(trunk, self.config.rank, self.config.strength)
