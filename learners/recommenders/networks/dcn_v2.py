"""DCN-V2 (Wang et al. 2021, "DCN V2: Improved Deep & Cross Network and Practical Lessons for
Web-scale Learning to Rank Systems")."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from learners.networks.modules import Mlp
from learners.recommenders.networks.base import Interactions, InteractionsConfig, RowLayout
from learners.recommenders.networks.dnn import Widths, activations, descend, gradient_of


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


class CrossPass(NamedTuple):
    """What one pass of a cross layer leaves for its gradient.

    Attributes:
        x: x_l (n, width).
        inner: what U takes, (n, rank); x_l where the layer has no rank.
        factor: W x_l + b (n, width).
    """

    x: Tensor
    inner: Tensor
    factor: Tensor


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

    def outputs(self, first: Tensor, x: Tensor) -> tuple[Tensor, CrossPass]:
        """Return x_{l+1} (n, width), and what ``gradient`` takes."""
        inner = x if self.project is None else x.mm(self.project.weight.t())
        factor = torch.addmm(self.matrix.bias, inner, self.matrix.weight.t())
        return torch.addcmul(x, first, factor), CrossPass(x, inner, factor)

    def gradient(self, above: Tensor, first: Tensor, passed: CrossPass, of_first: Tensor) -> Tensor:
        """Return the gradient of x_l for that of x_{l+1} (n, width), and add that of x_0."""
        of_first.addcmul_(above, passed.factor)
        of_factor = above * first
        torch.mm(of_factor.t(), passed.inner, out=gradient_of(self.matrix))
        torch.sum(of_factor, 0, out=self.matrix.bias.grad)
        if self.project is None:
            return torch.addmm(above, of_factor, self.matrix.weight)
        of_inner = of_factor.mm(self.matrix.weight)
        torch.mm(of_inner.t(), passed.x, out=gradient_of(self.project))
        return torch.addmm(above, of_inner, self.project.weight)


class NetworkPass(NamedTuple):
    """What one pass leaves for its gradient.

    Attributes:
        first: x_0 (n, width).
        crossed: of each cross layer.
        taken: of the perceptron, as ``activations`` returns it; empty where there is none.
        hidden: the hidden state (n, features).
    """

    first: Tensor
    crossed: list[CrossPass]
    taken: list[Tensor]
    hidden: Tensor


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

    def outputs(self, rows: Tensor) -> tuple[Tensor, NetworkPass]:
        first = x = self.layout.flat(rows)
        crossed = []
        for layer in self.cross:
            x, passed = layer.outputs(first, x)  # type: ignore[operator]
            crossed.append(passed)
        hidden, taken = x, []
        if self.deep is not None:
            taken = activations(self.deep, x if self.stacked else first)
            hidden = taken[-1] if self.stacked else torch.cat([x, taken[-1]], 1)
        return hidden.mv(self.output.weight[0]), NetworkPass(first, crossed, taken, hidden)

    def gradient(self, above: Tensor, passed: NetworkPass) -> Tensor:
        torch.mv(passed.hidden.t(), above, out=gradient_of(self.output)[0])
        above = torch.outer(above, self.output.weight[0])
        of_first = torch.zeros_like(passed.first)
        if self.deep is not None and self.stacked:
            above = descend(self.deep, above, passed.taken)
        elif self.deep is not None:
            above, of_deep = above.tensor_split([of_first.shape[1]], 1)
            of_first += descend(self.deep, of_deep, passed.taken)
        for layer, of_layer in [*zip(self.cross, passed.crossed, strict=True)][::-1]:
            above = layer.gradient(above, passed.first, of_layer, of_first)  # type: ignore[operator]
        return self.layout.rows(of_first.add_(above))
