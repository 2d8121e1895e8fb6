"""Factorisation machine (Rendle 2010, "Factorization Machines")."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

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


class FmPass(NamedTuple):
    """What one pass leaves for its gradient.

    Attributes:
        numbers: (n, numbers).
        cells: (n, codes, 1 + dimension), the weight and the embedding of each value.
        pooled: (n, dimension), the sums of v_i x_i.
    """

    numbers: Tensor
    cells: Tensor
    pooled: Tensor


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

    def outputs(self, rows: Tensor) -> tuple[Tensor, FmPass]:
        layout = self.layout
        numbers, cells = rows[:, : layout.numbers], layout.cells(rows)
        sums = cells.sum(1)  # of the weights, and of the embeddings
        z, pooled = sums[:, 0], sums[:, 1:]
        squares = cells[:, :, 1:].square().sum((1, 2))
        if layout.numbers:
            z = torch.addmv(z, numbers, self.weights)
            pooled = torch.addmm(pooled, numbers, self.embeddings)
            squares = squares + numbers.square() @ self.embeddings.square().sum(1)
        z = z + (pooled.square().sum(1) - squares) / 2
        return z, FmPass(numbers, cells, pooled)

    def gradient(self, above: Tensor, passed: FmPass) -> Tensor:
        """The log-odds have the derivative s - v_i x_i by v_i x_i, with s = sum_j v_j x_j."""
        numbers, cells, pooled = passed
        if self.layout.numbers:
            torch.mv(numbers.t(), above, out=self.weights.grad)
            of_pooled = numbers.t() @ (above[:, None] * pooled)
            squares = (numbers.square().t() @ above)[:, None]
            torch.sub(of_pooled, squares * self.embeddings, out=self.embeddings.grad)
        of_rows = cells.new_empty(len(cells), self.layout.inputs + self.layout.codes)
        of_cells = self.layout.cells(of_rows)
        of_cells[:, :, 0] = above[:, None]
        torch.sub(pooled[:, None], cells[:, :, 1:], out=of_cells[:, :, 1:]).mul_(
            above[:, None, None]
        )
        return of_rows
