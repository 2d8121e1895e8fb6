"""Tables of embeddings in less memory: values share rows, or numbers are bytes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from learners.networks.embedding_table import (
    INITIAL_STD,
    EmbeddingTable,
    load_sparse,
    sparse_state,
)
from streams.core.batch import Ints
from streams.core.hashing import mix
from streams.core.key_table import Admitted
from streams.core.state_dict import State

Compression = Literal["hashed", "quotient-remainder", "int8"]

_MOST_VALUES = 1 << 23  # float32 holds every code up to 2**24
_SALT = 0x71
_NOTHING = Admitted(np.zeros(0, np.int64), np.zeros(0, np.int64))


class SharedRows:
    """Give each key the row of its hash: keys that share one are not told apart (Weinberger et al.
    2009, "Feature Hashing for Large Scale Multitask Learning").

    It has the interface of a ``KeyTable``, and no state: a key has its row from the first time on.

    Args:
        rows: how many.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def find(self, keys: Ints) -> Ints:
        """Return the row of each of the keys, of any shape."""
        rows: Ints = (mix(keys, _SALT) % np.uint64(self.rows)).view(np.int64)
        return rows

    def observe(self, keys: Ints, rows: Ints | None = None) -> Admitted:
        """Return that no key was given a row of its own."""
        return _NOTHING

    def advance(self, events: int) -> None:
        """Let a number of events pass."""

    def state(self) -> State:
        """Return the state: there is none."""
        return {}

    servable = state

    def load(self, state: State) -> None:
        """Restore what ``state`` returned."""


def values_of(rows: int) -> int:
    """Return how many values a quotient-remainder table of this many rows tells apart."""
    remainders = max(rows // 2, 1)
    return min(remainders * max(rows - remainders, 1), _MOST_VALUES)


class QuotientRemainderTable(EmbeddingTable):
    """The embedding of value v is the product, by element, of row v % m of one table and of row
    v // m of another (Shi et al. 2020, "Compositional Embeddings Using Complementary Partitions for
    Memory-Efficient Recommendation Systems").

    Two values share one row at most, so m + q rows have m * q different products. Codes without a
    key have a row of their own.

    Deviation: the rows of the quotient start about 1, those of the remainder as other embeddings.

    Args:
        values: embeddings that codes name, those of the products last.
        dimension: of an embedding.
        own: how many of them, from the first on, have a row of their own.
        rows: of the two tables together; half of them are for the remainder.
    """

    def __init__(self, values: int, dimension: int, own: int, rows: int) -> None:
        self._remainders = max(rows // 2, 1)
        quotients = max(rows - self._remainders, 1)
        self._own = own
        self._one = own + self._remainders + quotients  # a row of ones, which is not moved
        super().__init__(self._one + 1, dimension, own + self._remainders)
        self.weight[own + self._remainders : self._one].normal_(1, 10 * INITIAL_STD)
        self.weight[self._one] = 1

    def _rows_of(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two rows (n,) whose product is the embedding of each code (n,)."""
        value = codes - self._own
        shared = value >= 0
        first = torch.where(shared, self._own + value % self._remainders, codes)
        second = self._own + self._remainders + value // self._remainders
        return first, torch.where(shared, second, self._one)

    def lookup(self, codes: Tensor) -> Tensor:
        first, second = self._rows_of(codes.flatten())
        return (self.weight[first] * self.weight[second]).view(len(codes), -1)

    def zero_column(self, column: int) -> None:
        self.weight[: self._own + self._remainders, column] = 0

    def take_gradients(self) -> tuple[Tensor, Tensor] | None:
        """Return the gradients of the rows of both tables, by the product rule."""
        taken = super().take_gradients()
        if taken is None:
            return None
        codes, gradients = taken
        first, second = self._rows_of(codes)
        of_first, of_second = gradients * self.weight[second], gradients * self.weight[first]
        moved = second != self._one
        rows, index = torch.unique(torch.cat([first, second[moved]]), return_inverse=True)
        sums = gradients.new_zeros((len(rows), self.dimension))
        return rows, sums.index_add_(0, index, torch.cat([of_first, of_second[moved]]))

    def _once_each(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Codes are many more than rows: scratch of their size would undo the compression."""
        rows, index = torch.unique(codes, return_inverse=True)
        return rows, index


class Int8Table(EmbeddingTable):
    """Embeddings of one byte for each number, and a scale for each row: v = scale * q.

    A row that was moved is rounded at random, up with the probability of its remainder, so that
    steps smaller than a unit are not lost (Gupta et al. 2015, "Deep Learning with Limited Numerical
    Precision"; tables of embeddings: Zhang et al. 2018). The randomness is a hash of the number of
    writes before. What an optimizer keeps of a row stays float32.

    Args:
        rows: of the table.
        dimension: of an embedding.
        drawn: how many rows, from the first on, are drawn at random; the others are zero.
    """

    scale: Tensor

    def __init__(self, rows: int, dimension: int, drawn: int) -> None:
        super().__init__(rows, dimension, drawn)
        first = self.weight[:drawn]
        self.weight = torch.from_numpy(np.zeros((rows, dimension), np.int8))
        self.register_buffer("scale", torch.zeros(rows), persistent=False)
        self._writes = 0
        self.write(torch.arange(drawn), first)

    def lookup(self, codes: Tensor) -> Tensor:
        return self.read(codes.flatten()).view(len(codes), -1)

    def read(self, rows: Tensor) -> Tensor:
        return self.weight.index_select(0, rows) * self.scale.index_select(0, rows)[:, None]

    def write(self, rows: Tensor, values: Tensor) -> None:
        scale = values.abs().amax(1) / 127
        units = torch.nan_to_num(values / scale[:, None])  # a row of zeros has the scale 0
        index = np.arange(values.numel()) + (self._writes << 32)
        drawn = torch.from_numpy((mix(index, _SALT) >> np.uint64(40)).astype(np.float32))
        units = (units + drawn.view(units.shape).to(units.device) / 2**24).floor()
        self._writes += 1
        self.weight.index_copy_(0, rows, units.clamp(-127, 127).to(torch.int8))
        self.scale.index_copy_(0, rows, scale)

    def finite(self) -> bool:
        return bool(torch.isfinite(self.scale).all())

    def start(self, rows: Ints, prior: Ints) -> None:
        super().start(rows, prior)
        to, of = torch.from_numpy(rows), torch.from_numpy(prior)
        device = self.scale.device
        self.scale.index_copy_(0, to.to(device), self.scale.index_select(0, of.to(device)))

    def state(self) -> State:
        scale = sparse_state(self.scale[:, None])
        return {**sparse_state(self.weight), "scale": scale, "writes": self._writes}

    def servable(self) -> State:
        return {**super().servable(), "scale": self.scale.cpu().numpy()}

    def load(self, state: State) -> None:
        super().load({name: value for name, value in state.items() if name != "scale"})
        if "weight" in state:
            self.scale = torch.from_numpy(np.array(state["scale"])).to(self.weight.device)
            return
        load_sparse(self.scale[:, None], state["scale"])
        self._writes = state["writes"]
