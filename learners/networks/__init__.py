"""Networks: what learners that train one network share.

``NetworkLearner`` and ``NetworkConfig`` are the base of such learners. ``Inputs`` turns the columns
of a batch into a tensor, ``FlatOptimizer`` moves all weights as one vector, ``augmentation`` draws
random views of inputs, and ``modules`` builds the network from its settings.
"""

from __future__ import annotations

from learners.networks.augment import Augmentation, AugmentConfig, augmentation
from learners.networks.base import NetworkConfig, NetworkLearner
from learners.networks.inputs import Inputs, InputsConfig
from learners.networks.modules import ModelConfig, Net
from learners.networks.optimizer import FlatOptimizer, OptimizerConfig

__all__ = [
    "AugmentConfig",
    "Augmentation",
    "FlatOptimizer",
    "Inputs",
    "InputsConfig",
    "ModelConfig",
    "Net",
    "NetworkConfig",
    "NetworkLearner",
    "OptimizerConfig",
    "augmentation",
]
