"""An adapter that is trained on the first events, under a closed form of all."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import PositiveInt
from torch import Tensor

from learners.networks.optimizer import Adam, OptimizerConfig
from learners.pretrained.adapters.adapter import Adapter, AdapterConfig
from learners.pretrained.backbones.base import Hidden
from learners.pretrained.tuned.base import TunedConfig
from learners.pretrained.tuned.first_events import FirstEventsLearner
from streams.core.batch import Array
from streams.core.schema import Task


class AdapterFirstConfig(AdapterConfig):
    """Settings of ``adapter-first``.

    Attributes:
        train_for: labelled events that the adapter is trained on. Their rows are kept until then.
        passes: how often it is trained on as many rows as these are.
        concatenate: whether the head gets the features of the frozen backbone beside the adapted
            ones.
    """

    optimizer: OptimizerConfig = Adam(lr=3e-3)
    train_for: PositiveInt = 1500
    passes: PositiveInt = 3
    concatenate: bool = False


class AdapterFirst(FirstEventsLearner, Adapter):
    """Train an adapter on the first events of a stream, and from then on learn in closed form.

    This is APER with an adapter (Zhou et al. 2023, "Revisiting Class-Incremental Learning with
    Pre-Trained Models: Generalizability and Adaptivity are All You Need"), under any head. With
    ``head: ranpac`` it is RanPAC with its adaptation on the first task (McDonnell et al. 2023).

    Of the first events each micro-batch of m takes a step on them, and then ``passes`` - 1 steps on
    m rows each that are drawn from those kept. ``FirstEventsLearner`` says how the head learns.

    Deviations: the authors train for many epochs, with a linear layer and cross-entropy, and keep
    class means. Here rows are drawn while the first events come, so that no call takes the time of
    an epoch. The loss is that of ``TunedLearner``. The authors concatenate features, which is
    ``concatenate``.
    """

    kind = "adapter-first"
    Config: ClassVar[type[TunedConfig]] = AdapterFirstConfig

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return super().example(task) | {"train_for": 72, "passes": 2}

    @property
    def passes(self) -> int:
        return int(self.config.passes)

    @property
    def head_width(self) -> int:
        return self.backbone.width * (2 if self.config.concatenate else 1)

    def features(self, rows: Array) -> Array:
        return self.beside(rows, super().features(rows))

    def beside(self, rows: Array, features: Array) -> Array:
        if not self.config.concatenate:
            return features
        return np.concatenate([features, self.features_by(self._frozen, rows)], 1)

    def _frozen(self, hidden: Hidden, queries: Tensor | None) -> Tensor:
        for i in self._trunk.upper_blocks():
            hidden = self.backbone.block(i, hidden)
        return self.backbone.pool(hidden)
