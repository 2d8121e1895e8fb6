"""A perceptron over numbers and embeddings: the control of every network with interactions."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from learners.networks.modules import MOST_UNITS, Mlp
from learners.recommenders.networks.base import Interactions, InteractionsConfig, RowLayout

Widths = tuple[Annotated[PositiveInt, Field(le=MOST_UNITS)], ...]


class Dnn(InteractionsConfig):
    """Hidden layers with ReLU, and a linear output (Covington, Adams and Sargin 2016, "Deep Neural
    Networks for YouTube Recommendations").

    Attributes:
        hidden: widths of the layers.
    """

    kind: Literal["dnn"] = "dnn"
    hidden: Widths = Field((128,), min_length=1)

    def network(self, layout: RowLayout) -> Interactions:
        return DeepLayers(layout, self.hidden)


class DeepLayers(Interactions):
    """z = w . h_L, with h_l = relu(W_l h_{l-1} + b_l) and h_0 the numbers and embeddings.

    The hidden state is h_L.

    Args:
        layout: of the rows.
        hidden: widths of the layers.
    """

    def __init__(self, layout: RowLayout, hidden: Widths) -> None:
        super().__init__(layout)
        self.layers = Mlp(hidden=hidden).body((layout.inputs,))
        self.output = nn.Linear(hidden[-1], 1, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        hidden: Tensor = self.layers(self.layout.flat(rows))
        return hidden

    def logit(self, rows: Tensor, hidden: Tensor) -> Tensor:
        z: Tensor = self.output(hidden)
        return z[:, 0]

    def outputs(self, rows: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return what each layer took, from the first on, for the gradient."""
        taken = activations(self.layers, self.layout.flat(rows))
        return taken[-1].mv(self.output.weight[0]), taken

    def gradient(self, above: Tensor, passed: list[Tensor]) -> Tensor:
        torch.mv(passed[-1].t(), above, out=gradient_of(self.output)[0])
        above = torch.outer(above, self.output.weight[0])
        return self.layout.rows(descend(self.layers, above, passed))


def activations(layers: nn.Sequential, x: Tensor) -> list[Tensor]:
    """Return what each linear layer of a perceptron with ReLU takes, and what the last gives.

    Args:
        layers: linear layers, each with ReLU behind it.
        x: (n, inputs).
    """
    taken = [x]
    for layer in _linear(layers):
        taken.append(torch.addmm(layer.bias, taken[-1], layer.weight.t()).relu_())
    return taken


def descend(layers: nn.Sequential, above: Tensor, taken: list[Tensor]) -> Tensor:
    """Return the gradient (n, inputs) of what such a perceptron takes; that of its parameters is
    written to their ``grad``.

    Args:
        layers: of the perceptron.
        above: the gradient (n, width) of what the last layer gives.
        taken: what ``activations`` returned.
    """
    for layer, x, y in [*zip(_linear(layers), taken[:-1], taken[1:], strict=True)][::-1]:
        above = torch.ops.aten.threshold_backward(above, y, 0)
        torch.mm(above.t(), x, out=gradient_of(layer))
        torch.sum(above, 0, out=layer.bias.grad)
        above = above.mm(layer.weight)
    return above


def gradient_of(layer: nn.Linear) -> Tensor:
    """Return the gradient of the matrix of a layer, to be written to."""
    gradient = layer.weight.grad
    assert gradient is not None  # the optimizer has made it
    return gradient


def _linear(layers: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in layers if isinstance(layer, nn.Linear)]
