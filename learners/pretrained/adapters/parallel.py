"""The parallel adapter, and one in each upper block."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learners.pretrained.backbones.base import Hidden
from learners.pretrained.backbones.trunk import Trunk
from learners.pretrained.tuned.parts import TunedParts


class ParallelAdapter(nn.Module):
    """A bottleneck beside a feed-forward part: s U ReLU(D x + d) + s u (Chen et al. 2022,
    "AdaptFormer"; He et al. 2022).

    D is drawn as linear layers of torch are. d, U and u start at zero, so that nothing is changed
    at first.

    Args:
        width: of the states.
        rank: of the bottleneck.
        scale: the factor s.
    """

    def __init__(self, width: int, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.down = nn.Linear(width, rank)
        self.up = nn.Linear(rank, width)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for weights in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(weights)

    def forward(self, states: Tensor) -> Tensor:
        """Return what is added (n, length, width) for states of that shape."""
        inner = torch.relu(F.linear(states, self.down.weight, self.down.bias))
        out: Tensor = self.scale * F.linear(inner, self.up.weight, self.up.bias)
        return out


class Adapters(TunedParts):
    """One parallel adapter in each upper block.

    Args:
        trunk: the blocks below.
        rank: of the adapters.
        scale: of what they add.

    Attributes:
        adapters: of the upper blocks, in order.
    """

    def __init__(self, trunk: Trunk, rank: int, scale: float) -> None:
        super().__init__(trunk)
        width = trunk.backbone.width
        upper = trunk.upper_blocks()
        self.adapters = nn.ModuleList(ParallelAdapter(width, rank, scale) for _ in upper)

    def features(self, hidden: Hidden, queries: Tensor | None) -> Tensor:
        for i, adapter in zip(self.trunk.upper_blocks(), self.adapters, strict=True):
            hidden = self.backbone.block(i, hidden, adapter=adapter)
        return self.backbone.pool(hidden)
