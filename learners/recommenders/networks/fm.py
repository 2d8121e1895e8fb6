"""Factorisation machine (Rendle 2010, "Factorization Machines")."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from learners.networks.embedding_table import INITIAL_STD
from learners.recommenders.networks.base import Interactions, InteractionsConfig, RowLayout


class Fm(InteractionsConfig):
    """A factorisation machine: a weight for each value, and products of embeddings for each pair.

    z = sum_i w_i x_i + sum_{i<j} <v_i, v_j> x_i x_j

    over the values i of an event. A category or a bin has x_i = 1, and its w_i and v_i are a row of
    the table. A number is its own x_i.
    """

    kind: Literal["fm"] = "fm"
    weighted: ClassVar[bool] = True

    def network(self, layout: RowLayout) -> Interactions:
        return FactorisationMachine(layout)


class FactorisationMachine(Interactions):
    """The pairs cost O(nk) for n values of k numbers, not O(n^2 k), by the identity

    sum_{i<j} <v_i, v_j> x_i x_j = 1/2 sum_f [(sum_i v_if x_i)^2 - sum_i v_if^2 x_i^2].

    The hidden state is the term in the sum over f: the pooled interactions (n, k) of He and Chua
    2017, "Neural Factorization Machines". Deviation: numbers are clipped (``MOST_DEVIATIONS``).

    Args:
        layout: of the rows, with weights.
    """

    def __init__(self, layout: RowLayout) -> None:
        super().__init__(layout)
        self.weights = nn.Parameter(torch.zeros(layout.numbers))
        drawn = torch.empty(layout.numbers, layout.dimension).normal_(0, INITIAL_STD)
        self.embeddings = nn.Parameter(drawn)

    def forward(self, rows: Tensor) -> Tensor:
        numbers, _, embeddings = self.layout.split(rows)
        sums = embeddings.sum(1) + numbers @ self.embeddings
        squares = embeddings.square().sum(1) + numbers.square() @ self.embeddings.square()
        return (sums.square() - squares) / 2

    def logit(self, rows: Tensor, hidden: Tensor) -> Tensor:
        numbers, weights, _ = self.layout.split(rows)
        assert weights is not None
        return weights.sum(1) + numbers @ self.weights + hidden.sum(1)
