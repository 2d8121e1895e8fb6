"""A perceptron over numbers and embeddings: the control of every network with interactions."""

from __future__ import annotations

from typing import Annotated, Literal

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
