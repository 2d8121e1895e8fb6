"""A table of embeddings of which a step moves only the rows that it read."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from streams.core.batch import Ints
from streams.core.state_dict import State


class EmbeddingTable(nn.Module):
    """Embeddings (rows, dimension) float32, read by their codes.

    Rows that a loss was computed from while gradients are recorded are remembered, until
    ``take_gradients`` returns their gradients. The table is not among the parameters of a network:
    a step would otherwise cost as much as the whole table has rows.

    Args:
        rows: of the table.
        dimension: of an embedding.
        drawn: how many rows, from the first on, are drawn at random; the others are zero until
            ``start`` gives them to a value.

    Attributes:
        weight: the embeddings.
    """

    weight: Tensor

    def __init__(self, rows: int, dimension: int, drawn: int) -> None:
        super().__init__()
        self.dimension = dimension
        weight = unwritten_zeros(torch.empty(rows, dimension))
        weight[:drawn].normal_(0, INITIAL_STD)
        self.register_buffer("weight", weight, persistent=False)
        self._read: list[tuple[Tensor, Tensor]] = []
        self._gradients: list[tuple[Tensor, Tensor]] = []
        self._place = np.zeros(rows, np.int64)  # scratch

    def forward(self, codes: Tensor, numbers: Tensor | None = None) -> Tensor:
        """Return the embeddings (n, places * dimension) of codes (n, places) int64.

        Numbers (n, k), which have no gradient, come before them.
        """
        values = self.lookup(codes)
        if numbers is not None:
            values = torch.cat([numbers, values], 1)
        if torch.is_grad_enabled():
            # A leaf of its own: the gradient of a gather costs more than all the rest of a step.
            self._read.append((codes, values.requires_grad_()))
        return values

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the embeddings (n, places * dimension) of codes (n, places) int64, without
        remembering that they were read."""
        return self.weight.index_select(0, codes.flatten()).view(len(codes), -1)

    def add_gradient(self, codes: Tensor, gradient: Tensor) -> None:
        """Remember the gradient (n, places * dimension) of the embeddings of codes (n, places)."""
        self._gradients.append((codes, gradient))

    def take_gradients(self) -> tuple[Tensor, Tensor] | None:
        """Return the rows (m,) that were read since the last call, each once, and their gradients
        (m, dimension); None where no row was read."""
        read, self._read = self._read, []
        parts, self._gradients = self._gradients, []
        parts += [
            (codes, values.grad[:, -codes.shape[1] * self.dimension :])
            for codes, values in read
            if values.grad is not None
        ]
        if not parts:
            return None
        codes, gradients = parts[0][0].flatten(), parts[0][1].reshape(-1, self.dimension)
        if len(parts) > 1:
            codes = torch.cat([codes.flatten() for codes, _ in parts])
            gradients = torch.cat([part.reshape(-1, self.dimension) for _, part in parts])
        rows, index = self._once_each(codes)
        sums = gradients.new_zeros((len(rows), self.dimension))
        return rows, sums.index_add_(0, index, gradients)

    def _once_each(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows (m,) that codes (n,) name, each once, and the codes as indices of these.

        Without a sort it takes a quarter of the time of ``torch.unique``.
        """
        flat = codes.cpu().numpy()
        place = np.arange(len(flat))
        self._place[flat] = place  # of equal codes, that of the last
        rows = flat.take((self._place.take(flat) == place).nonzero()[0])
        self._place[rows] = place[: len(rows)]
        index = self._place.take(flat)
        device = codes.device
        return torch.from_numpy(rows).to(device), torch.from_numpy(index).to(device)

    def start(self, rows: Ints, prior: Ints) -> None:
        """Let rows (m,) start as copies of the rows ``prior`` (m,)."""
        device = self.weight.device
        copies = self.weight.index_select(0, torch.from_numpy(prior).to(device))
        self.weight.index_copy_(0, torch.from_numpy(rows).to(device), copies)

    def zero_column(self, column: int) -> None:
        """Let one number of every embedding start at 0."""
        self.weight[:, column] = 0

    def read(self, rows: Tensor) -> Tensor:
        """Return the rows (m, dimension) of the table as they are moved, a copy."""
        return self.weight.index_select(0, rows)

    def write(self, rows: Tensor, values: Tensor) -> None:
        """Replace rows (m,), each named once, by ``values`` (m, dimension)."""
        self.weight.index_copy_(0, rows, values)

    def zeros(self) -> Tensor:
        """Return zeros float32 in the shape of all rows that are moved."""
        return unwritten_zeros(self.weight.float())

    def finite(self) -> bool:
        """Return whether every embedding is finite."""
        return all_finite(self.weight)

    def state(self) -> State:
        """Return the rows that are not zero."""
        return sparse_state(self.weight)

    def servable(self) -> State:
        """Return all rows, in a view of the table: snapshots find the few that have changed."""
        return {"weight": self.weight.cpu().numpy()}

    def load(self, state: State) -> None:
        """Restore what ``state`` or ``servable`` returned."""
        if "weight" in state:
            own = torch.from_numpy(np.array(state["weight"]))  # Ray's arrays are read-only
            self.weight = own.to(self.weight.device)
        else:
            load_sparse(self.weight, state)


def unwritten_zeros(like: Tensor) -> Tensor:
    """Return zeros in the shape of a tensor. Pages of them that are never written cost no memory,
    and no time, on a CPU."""
    if like.device.type != "cpu" or like.dtype != torch.float32:
        return torch.zeros_like(like)
    return torch.from_numpy(np.zeros(tuple(like.shape), np.float32))


def all_finite(values: Tensor) -> bool:
    """Return whether all values are finite.

    A sum is finite only where all its terms are, and costs less than a look at each. Terms that are
    finite may have a sum that is not.
    """
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


INITIAL_STD = 0.05
"""Standard deviation of the first embeddings."""
EMBEDDING_RATE = 3
"""How many times as fast as other weights embeddings move: each is seldom moved."""


class RowOptimizer:
    """Move the rows of a table that a loss was computed from.

    The optimizer state of a row is as old as its last step, as in ``torch.optim.SparseAdam``. So a
    step costs what its rows cost, whatever the size of the table.

    Args:
        config: the optimizer and its settings, as those of ``FlatOptimizer``.
        table: whose rows are moved.
    """

    def __init__(self, config: Any, table: EmbeddingTable) -> None:
        self._config = _faster(config)
        self._table = table
        self._state: dict[str, Tensor] = config.fresh(table.zeros())

    def step(self) -> None:
        """Move the rows that were read by one step down their gradients."""
        taken = self._table.take_gradients()
        if taken is None:
            return
        rows, gradients = taken
        weight = self._table.read(rows)
        pieces = {
            name: [value.index_select(0, rows) if value.ndim else value]
            for name, value in self._state.items()
        }
        self._config.move([weight], [gradients.contiguous()], pieces)
        self._table.write(rows, weight)
        for name, (piece,) in pieces.items():
            if piece.ndim:
                self._state[name].index_copy_(0, rows, piece)

    def finite(self) -> bool:
        """Return whether every embedding is finite."""
        return self._table.finite()

    def discard(self) -> None:
        """Forget the gradients of a loss that is not to be followed."""
        self._table.take_gradients()

    def start(self, rows: Ints, prior: Ints) -> None:
        """Let rows (m,) start as copies of ``prior`` (m,), with a fresh optimizer state."""
        self._table.start(rows, prior)
        for value in self._state.values():
            if value.ndim:
                value.index_fill_(0, torch.from_numpy(rows).to(value.device), 0)

    def state(self) -> State:
        """Return the state by name: a scalar, or the rows that are not zero."""
        return {
            name: sparse_state(value) if value.ndim else value.cpu().numpy()
            for name, value in self._state.items()
        }

    def load(self, state: State) -> None:
        """Restore what ``state`` returned."""
        for name, value in self._state.items():
            if value.ndim:
                load_sparse(value, state[name])
            else:
                value.copy_(torch.from_numpy(np.array(state[name])))


def _faster(config: Any) -> Any:
    """Return the settings of an optimizer with all its rates times ``EMBEDDING_RATE``."""
    rates = {name: getattr(config, name, None) for name in ("lr", "lr_start")}
    return config.model_copy(update={n: EMBEDDING_RATE * r for n, r in rates.items() if r})


def sparse_state(table: Tensor) -> State:
    """Return the rows (m, ...) of a table that are not zero, and which they are (m,)."""
    rows = table.any(1).nonzero()[:, 0].cpu().numpy()
    return {"rows": rows, "values": table.cpu().numpy()[rows]}


def load_sparse(table: Tensor, state: State) -> None:
    """Restore a table of which ``sparse_state`` was taken."""
    table.zero_()
    table[torch.from_numpy(np.array(state["rows"]))] = torch.from_numpy(np.array(state["values"]))
