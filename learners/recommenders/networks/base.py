"""The interface of networks of click models, and the net around them that a learner trains."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from learners.networks.column_inputs import HistoryLayout
from learners.networks.modules import ColumnLayout, Net, ZeroHead
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
        numbers, rest = rows[:, : self.numbers], rows[:, self.numbers :]
        cells = rest.view(len(rows), self.codes, self.dimension + self.weighted)
        if self.weighted:
            return numbers, cells[:, :, 0], cells[:, :, 1:]
        return numbers, None, cells

    def flat(self, rows: Tensor) -> Tensor:
        """Return numbers and embeddings (n, inputs) of rows, side by side."""
        if not self.weighted:
            return rows
        numbers, _, embeddings = self.split(rows)
        return torch.cat([numbers, embeddings.flatten(1)], 1)


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
        self._place = 0 if regression else 1
        self._layout, self._history = layout, history
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
        weighted, width = self._layout.weighted, self._layout.dimension + self._layout.weighted
        cells = rows[:, self._layout.numbers :].view(len(rows), self.codes, width)
        known = codes[:, -history.length :] != history.none
        candidate = cells[:, history.place, weighted:]
        interest = self._sdim.interest(candidate, cells[:, -history.length :, weighted:], known)
        own = rows[:, : self._layout.numbers + (self.codes - history.length) * width]
        weight = [interest.new_zeros(len(rows), 1)] if weighted else []
        return torch.cat([own, *weight, interest], 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.encode(x)
        z = self.body.logit(rows, self.body(rows))  # type: ignore[operator]
        biases: Tensor = self.head(x[:, :0])
        if biases.shape[1] <= self._place:  # of one class, which is certain
            return biases
        before, after = self._place, biases.shape[1] - self._place - 1
        return biases + nn.functional.pad(z[:, None], (before, after))
