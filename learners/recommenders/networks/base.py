"""The interface of networks of click models, and the net around them that a learner trains."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from learners.networks.column_inputs import HistoryLayout
from learners.networks.modules import ColumnLayout, Net, WrittenOut, ZeroHead
from learners.recommenders.sdim import Sdim, SdimConfig
from streams.core.settings import Settings

MOST_DEVIATIONS = 5.0
"""How far from 0 a scaled number goes in a network that multiplies its inputs: the product of an
outlier and of all other inputs would drown what they say."""


class RowLayout(NamedTuple):
    """What the rows of a network hold, in this order.

    Attributes:
        numbers: how many numbers.
        codes: how many embeddings.
        dimension: numbers of an embedding.
        weighted: whether a weight stands before each embedding.
    """

    numbers: int
    codes: int
    dimension: int
    weighted: bool

    @property
    def inputs(self) -> int:
        """How many numbers and numbers of embeddings a row has, without the weights."""
        return self.numbers + self.codes * self.dimension

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the numbers (n, numbers), the weights (n, codes) or None, and the embeddings
        (n, codes, dimension) of rows, as views."""
        numbers, cells = rows[:, : self.numbers], self.cells(rows)
        if self.weighted:
            return numbers, cells[:, :, 0], cells[:, :, 1:]
        return numbers, None, cells

    def cells(self, rows: Tensor) -> Tensor:
        """Return the weight, if there is one, and the embedding of each value of rows, as a view
        (n, codes, weighted + dimension)."""
        return rows[:, self.numbers :].view(len(rows), self.codes, self.dimension + self.weighted)

    def flat(self, rows: Tensor) -> Tensor:
        """Return numbers and embeddings (n, inputs) of rows, side by side."""
        if not self.weighted:
            return rows
        numbers, _, embeddings = self.split(rows)
        return torch.cat([numbers, embeddings.flatten(1)], 1)

    def rows(self, flat: Tensor) -> Tensor:
        """Return rows of these numbers and embeddings (n, inputs), with weights of 0: the gradient
        of rows for that of what ``flat`` returns."""
        if not self.weighted:
            return flat
        rows = flat.new_zeros(len(flat), self.inputs + self.codes)
        numbers, _, embeddings = self.split(rows)
        numbers.copy_(flat[:, : self.numbers])
        embeddings.copy_(flat[:, self.numbers :].view_as(embeddings))
        return rows


class Interactions(nn.Module):
    """A network that maps numbers and embeddings to a hidden state, and that to one log-odds.

    Args:
        layout: of the rows that it takes.
    """

    def __init__(self, layout: RowLayout) -> None:
        super().__init__()
        self.layout = layout

    @abstractmethod
    def forward(self, rows: Tensor) -> Tensor:
        """Return the hidden state (n, features) of rows."""

    @abstractmethod
    def logit(self, rows: Tensor, hidden: Tensor) -> Tensor:
        """Return the log-odds (n,) of rows with these hidden states, without a bias."""

    @abstractmethod
    def outputs(self, rows: Tensor) -> tuple[Tensor, Any]:
        """Return the log-odds (n,) of rows, and what ``gradient`` takes.

        They are those of ``logit`` but for rounding. In networks of this size autograd spends more
        time between the products than in them; so both are written out.
        """

    @abstractmethod
    def gradient(self, above: Tensor, passed: Any) -> Tensor:
        """Return the gradient of the rows, for that of the log-odds (n,), which ``outputs`` left.

        That of the parameters is written to their ``grad``. That of the numbers may be left open.
        """


class InteractionsConfig(Settings):
    """Settings of a network of a click model.

    Attributes:
        weighted: whether each value has a weight beside its embedding.
    """

    kind: str
    weighted: ClassVar[bool] = False

    def network(self, layout: RowLayout) -> Interactions:
        """Return the network for rows of this layout, with weights drawn at random."""
        raise NotImplementedError


class ClickNet(Net):
    """A network of a click model over a table of embeddings.

    For two classes its outputs are (b_0, b_1 + z): z is the log-odds that the network gives, and b
    are biases, whose softmax is the share of each class where z is 0. For a target the output is
    b_0 + z. So classes may become known with time, as in any ``Net``.

    Args:
        config: the network.
        numbers: how many numbers a row has before its codes.
        outputs: one for each class known so far, or one for a target.
        columns: what the rows hold.
        regression: whether the output is a target.
        history: where the codes of a history are. Its interest is one more embedding of a row,
            behind the others; None: there is none.
        sdim: settings of that interest.

    Attributes:
        layout: of the rows that the body takes.
        place: of the output that is a log-odds or the target.
    """

    def __init__(
        self,
        config: InteractionsConfig,
        numbers: int,
        outputs: int,
        columns: ColumnLayout,
        regression: bool,
        history: HistoryLayout | None = None,
        sdim: SdimConfig | None = None,
    ) -> None:
        embeddings = columns.codes if history is None else columns.codes - history.length + 1
        layout = RowLayout(numbers, embeddings, columns.dimension, config.weighted)
        super().__init__(config.network(layout), 0, 0)
        self.head = ZeroHead(0, outputs)
        self.codes = columns.codes
        self.table = None
        if columns.codes:
            self.table = columns.table(columns.dimension + config.weighted)
            if config.weighted:
                self.table.zero_column(0)
        self.place = 0 if regression else 1
        self.layout, self._history = layout, history
        self._sdim = None if history is None else Sdim(columns.dimension, sdim or SdimConfig())

    def encode(self, x: Tensor) -> Tensor:
        """Return numbers and embeddings of rows (n, inputs), which end with codes."""
        if self.table is None:
            return x.clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS)
        numbers = x[:, : -self.codes].clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS)
        codes = x[:, -self.codes :].long()
        rows: Tensor = self.table(codes, numbers)
        return rows if self._history is None else self._with_interest(rows, codes, self._history)

    def _with_interest(self, rows: Tensor, codes: Tensor, history: HistoryLayout) -> Tensor:
        """Return rows in which the interest stands in place of the history."""
        assert self._sdim is not None
        weighted, width = self.layout.weighted, self.layout.dimension + self.layout.weighted
        cells = rows[:, self.layout.numbers :].view(len(rows), self.codes, width)
        known = codes[:, -history.length :] != history.none
        candidate = cells[:, history.place, weighted:]
        interest = self._sdim.interest(candidate, cells[:, -history.length :, weighted:], known)
        own = rows[:, : self.layout.numbers + (self.codes - history.length) * width]
        weight = [interest.new_zeros(len(rows), 1)] if weighted else []
        return torch.cat([own, *weight, interest], 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.encode(x)
        z = self.body.logit(rows, self.body(rows))  # type: ignore[operator]
        biases: Tensor = self.head(x[:, :0])
        if biases.shape[1] <= self.place:  # of one class, which is certain
            return biases
        before, after = self.place, biases.shape[1] - self.place - 1
        return biases + nn.functional.pad(z[:, None], (before, after))

    def written_out(self, gradient: Tensor) -> WrittenOut | None:
        """The gradient of the interest in a history is left to autograd."""
        return None if self._history else _WrittenOutClickNet(self, gradient)


class _WrittenOutClickNet:
    """What a ``ClickNet`` without a history does, without autograd.

    Args:
        net: the network.
        gradient: of its parameters, whose ``grad`` are views of it.
    """

    def __init__(self, net: ClickNet, gradient: Tensor) -> None:
        self._gradient = gradient
        self._numbers, self._place = net.layout.numbers, net.place
        self._table, self._bias = net.table, net.head.bias
        assert isinstance(net.body, Interactions)
        self._body = net.body

    def outputs(self, x: Tensor) -> tuple[Tensor, Any]:
        """Return the outputs (n, outputs) for rows (n, inputs), and what ``gradient`` takes."""
        out = self._bias.detach().expand(len(x), -1)
        if out.shape[1] <= self._place:  # of one class, which is certain
            return out, None
        numbers = x[:, : self._numbers].clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS)
        codes, rows = None, numbers
        if self._table is not None:
            codes = x[:, self._numbers :].long()
            embeddings = self._table.lookup(codes)
            rows = torch.cat([numbers, embeddings], 1) if self._numbers else embeddings
        z, passed = self._body.outputs(rows)
        out = out.clone()
        out[:, self._place] += z
        return out, (codes, passed)

    def gradient(self, above: Tensor, passed: Any) -> Tensor:
        """Return the gradient of all weights, for that of the outputs (n, outputs)."""
        if passed is None:
            self._gradient.zero_()
        else:
            codes, of_body = passed
            rows = self._body.gradient(above[:, self._place], of_body)
            if self._table is not None:
                self._table.add_gradient(codes, rows[:, self._numbers :])
        torch.sum(above, 0, out=self._bias.grad)
        return self._gradient
