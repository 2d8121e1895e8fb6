"""What is trained inside a frozen backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from learners.networks.optimizer import Moved
from learners.pretrained.backbones.base import Backbone, Hidden
from learners.pretrained.backbones.trunk import Trunk


class Trained(NamedTuple):
    """What parts give for training.

    Attributes:
        features: (n, width).
        penalty: a scalar that is added to the loss; None: nothing is.
        moved: of some parameters, the rows that the step moves; None: it moves all of all.
    """

    features: Tensor
    penalty: Tensor | None = None
    moved: Moved | None = None


class TunedParts(nn.Module, ABC):
    """Trained parts in the upper blocks of a frozen backbone.

    Their parameters are all that an optimizer moves and a state holds: neither the trunk nor the
    backbone is a module. A subclass makes its parameters, and runs the upper blocks with them::

        for i in self.trunk.upper_blocks():
            hidden = self.backbone.block(i, hidden, prefix=..., adapter=...)
        return self.backbone.pool(hidden)

    Args:
        trunk: the blocks below.
    """

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    @property
    def backbone(self) -> Backbone:
        """The frozen backbone."""
        return self.trunk.backbone

    @abstractmethod
    def features(self, hidden: Hidden, queries: Tensor | None) -> Tensor:
        """Return features (n, width) for prediction. Pure.

        Args:
            hidden: the states before the first of the upper blocks.
            queries: (n, width), what the backbone gives without any trained part; None where the
                learner does not ask for it.
        """

    def trained(self, hidden: Hidden, queries: Tensor | None) -> Trained:
        """Return features for training, and what is added to the loss. By default as predicted."""
        return Trained(self.features(hidden, queries))

    def metrics(self) -> dict[str, float]:
        """Return numbers by name for the log of a run."""
        return {}
