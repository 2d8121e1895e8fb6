"""CODA-Prompt: each event mixes the components of prompts by attention."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from learners.networks.optimizer import Adam, OptimizerConfig
from learners.pretrained.backbones.base import Hidden
from learners.pretrained.backbones.trunk import Trunk
from learners.pretrained.prompts.pool import entropy, movement
from learners.pretrained.tuned.base import TunedConfig
from learners.pretrained.tuned.first_events import FirstEventsConfig, FirstEventsLearner
from learners.pretrained.tuned.parts import Trained, TunedParts


class CodaConfig(FirstEventsConfig):
    """Settings of ``coda``.

    Attributes:
        components: of which prompts are mixed, in each upper block.
        length: keys, and values, that a prompt puts before those of a block.
        orthogonality: the factor of the penalty on components that resemble each other.
    """

    optimizer: OptimizerConfig = Adam(lr=1e-3)
    components: PositiveInt = 10
    length: PositiveInt = 5
    orthogonality: NonNegativeFloat = 0.1


class Components(TunedParts):
    """Prompts as weighted sums of components: P = sum_m a_m P_m, in each upper block, with

        a_m = cos(q * A_m, K_m),

    the query q taken number by number times an attention vector A_m, and a key K_m. The penalty
    sums over blocks, and over their keys, attention vectors and components as matrices B of one row
    for each component, the mean of the squares of B B' - I.

    Args:
        trunk: the blocks below. It gives queries.
        count: of components in a block.
        length: keys, and values, of a prompt.
        penalty: its factor.

    Attributes:
        keys, attention: (upper blocks, count, width).
        components: (upper blocks, count, 2 * length * width), keys before values.
        weights: (count,) float64, the sums of |a_m| over the rows of all steps and over blocks.
    """

    weights: Tensor

    def __init__(self, trunk: Trunk, count: int, length: int, penalty: float) -> None:
        super().__init__(trunk)
        width, blocks = trunk.backbone.width, len(trunk.upper_blocks())
        self._prefix_shape, self._penalty = (2, length, width), penalty

        def drawn(size: int) -> nn.Parameter:
            rows = [nn.init.orthogonal_(torch.empty(count, size)) for _ in range(blocks)]
            return nn.Parameter(torch.stack(rows))

        self.keys, self.attention = drawn(width), drawn(width)
        self.components = drawn(2 * length * width)
        self.register_buffer("weights", torch.zeros(count, dtype=torch.float64))
        self._start = self.components.detach().clone()

    def features(self, hidden: Hidden, queries: Tensor | None) -> Tensor:
        assert queries is not None
        return self._inject(hidden, self.mixture(queries))

    def trained(self, hidden: Hidden, queries: Tensor | None) -> Trained:
        """Return features and the penalty. Add up the weights of components."""
        assert queries is not None
        mixture = self.mixture(queries)
        self.weights += mixture.detach().abs().double().sum((0, 1))
        features = self._inject(hidden, mixture)
        return Trained(features, self.penalty() if self._penalty else None)

    def mixture(self, queries: Tensor) -> Tensor:
        """Return the weights a (upper blocks, n, components) for queries (n, width)."""
        lengths = self.keys.norm(dim=2, keepdim=True).clamp(min=1e-12)
        products = queries @ (self.attention * (self.keys / lengths)).transpose(1, 2)
        squares = queries.square() @ self.attention.square().transpose(1, 2)
        weights: Tensor = products / squares.clamp(min=1e-24).sqrt()
        return weights

    def penalty(self) -> Tensor:
        """Return the penalty on components that resemble each other: a scalar."""
        total = torch.zeros((), device=self.keys.device)
        for rows in (self.keys, self.attention, self.components):
            products = rows @ rows.transpose(1, 2)
            one = torch.eye(products.shape[1], device=rows.device)
            total = total + (products - one).square().mean((1, 2)).sum()
        return self._penalty * total

    def _inject(self, hidden: Hidden, mixture: Tensor) -> Tensor:
        prompts = torch.bmm(mixture, self.components)
        for i, prompt in zip(self.trunk.upper_blocks(), prompts, strict=True):
            keys, values = prompt.view(-1, *self._prefix_shape).unbind(1)
            hidden = self.backbone.block(i, hidden, prefix=(keys, values))
        return self.backbone.pool(hidden)

    def metrics(self) -> dict[str, float]:
        """Return the entropy of weights, and how far a component has moved, in the mean."""
        moved = movement(self.components.transpose(0, 1), self._start.transpose(0, 1))
        return {"routing_entropy": entropy(self.weights), "prompt_movement": moved}


class Coda(FirstEventsLearner):
    """CODA-Prompt (Smith et al. 2023, "CODA-Prompt: COntinual Decomposed Attention-Based Prompting
    for Rehearsal-Free Continual Learning").

    Every event uses and trains all components, so that there is nothing to choose and no pull.

    Deviations: the paper adds components at each task and freezes those before; without tasks all
    are there from the start, and all are trained. Prompts act in the last blocks, so that the
    blocks below are computed once for each event. The loss and the head are those of
    ``TunedLearner``.
    """

    kind = "coda"
    Config: ClassVar[type[TunedConfig]] = CodaConfig
    queried: ClassVar[bool] = True

    def new_parts(self, trunk: Trunk) -> TunedParts:
        config: Any = self.config
        return Components(trunk, config.components, config.length, config.orthogonality)
