"""DCN-V2 (Wang et al. 2021, "DCN V2: Improved Deep & Cross Network and Practical Lessons for
Web-scale Learning to Rank Systems")."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from learners.networks.modules import Mlp
from learners.recommenders.networks.base import Interactions, InteractionsConfig, RowLayout
from learners.recommenders.networks.dnn import Widths


class DcnV2(InteractionsConfig):
    """Cross layers, and a perceptron behind them or beside them.

    Attributes:
        cross: how many cross layers.
        rank: of the matrices of the cross layers; None: full.
        structure: ``stacked``: the perceptron takes what the cross layers give. ``parallel``: both
            take the inputs, and the output takes both.
        hidden: widths of the layers of the perceptron; none: cross layers alone.
    """

    kind: Literal["dcn-v2"] = "dcn-v2"
    cross: PositiveInt = Field(2, le=16)
    rank: PositiveInt | None = None
    structure: Literal["stacked", "parallel"] = "stacked"
    hidden: Widths = (128,)

    def network(self, layout: RowLayout) -> Interactions:
        return CrossNetwork(layout, self)


class CrossLayer(nn.Module):
    """x_{l+1} = x_0 * (W x_l + b) + x_l, where * is by element. W = U V^T if it has a rank.

    Deviation: the weights of the matrix start at a tenth of torch's deviation, so that the first
    outputs of all layers are about the inputs.

    Args:
        width: of x.
        rank: of W; None: full.
    """

    def __init__(self, width: int, rank: int | None) -> None:
        super().__init__()
        self.project = None if rank is None else nn.Linear(width, rank, bias=False)
        self.matrix = nn.Linear(width if rank is None else rank, width)
        with torch.no_grad():
            self.matrix.weight.mul_(0.1)
            self.matrix.bias.zero_()

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        """Return x_{l+1} (n, width) of x_0 and x_l (n, width)."""
        inner = x if self.project is None else self.project(x)
        return torch.addcmul(x, first, self.matrix(inner))


class CrossNetwork(Interactions):
    """z = w . h. With L cross layers, h has products of up to L + 1 inputs.

    The hidden state h is that of the perceptron if it is stacked, else x_L, and behind it that of
    the perceptron.

    Args:
        layout: of the rows.
        config: settings.
    """

    def __init__(self, layout: RowLayout, config: DcnV2) -> None:
        super().__init__(layout)
        width = layout.inputs
        self.cross = nn.ModuleList(CrossLayer(width, config.rank) for _ in range(config.cross))
        self.deep = Mlp(hidden=config.hidden).body((width,)) if config.hidden else None
        self.stacked = config.structure == "stacked"
        deep = config.hidden[-1] if config.hidden else 0
        features = deep if deep and self.stacked else width + deep
        self.output = nn.Linear(features, 1, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        first = x = self.layout.flat(rows)
        for layer in self.cross:
            x = layer(first, x)
        if self.deep is None:
            return x
        if self.stacked:
            hidden: Tensor = self.deep(x)
            return hidden
        return torch.cat([x, self.deep(first)], 1)

    def logit(self, rows: Tensor, hidden: Tensor) -> Tensor:
        z: Tensor = self.output(hidden)
        return z[:, 0]
