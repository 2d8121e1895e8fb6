"""DeepFM (Guo et al. 2017, "DeepFM: A Factorization-Machine based Neural Network for CTR
Prediction")."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from learners.recommenders.networks.base import Interactions, InteractionsConfig, RowLayout
from learners.recommenders.networks.dnn import DeepLayers, Widths
from learners.recommenders.networks.fm import FactorisationMachine, FmPass


class DeepFm(InteractionsConfig):
    """A factorisation machine and a perceptron over the same embeddings: z = z_fm + z_dnn.

    Attributes:
        hidden: widths of the layers of the perceptron.
    """

    kind: Literal["deepfm"] = "deepfm"
    hidden: Widths = Field((128,), min_length=1)
    weighted: ClassVar[bool] = True

    def network(self, layout: RowLayout) -> Interactions:
        return _DeepFm(layout, self.hidden)


class _DeepFm(Interactions):
    """The hidden state is that of the perceptron."""

    def __init__(self, layout: RowLayout, hidden: Widths) -> None:
        super().__init__(layout)
        self.fm = FactorisationMachine(layout)
        self.deep = DeepLayers(layout, hidden)

    def forward(self, rows: Tensor) -> Tensor:
        hidden: Tensor = self.deep(rows)
        return hidden

    def logit(self, rows: Tensor, hidden: Tensor) -> Tensor:
        return self.fm.logit(rows, self.fm(rows)) + self.deep.logit(rows, hidden)

    def outputs(self, rows: Tensor) -> tuple[Tensor, tuple[FmPass, list[Tensor]]]:
        z, of_fm = self.fm.outputs(rows)
        deep, taken = self.deep.outputs(rows)
        return z + deep, (of_fm, taken)

    def gradient(self, above: Tensor, passed: tuple[FmPass, list[Tensor]]) -> Tensor:
        of_fm, taken = passed
        return self.fm.gradient(above, of_fm).add_(self.deep.gradient(above, taken))
