"""The blocks of a backbone below the first trained part: what they give does not change."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import torch
import xxhash
from torch import Tensor

from learners.pretrained.backbones.base import Backbone, Hidden
from learners.pretrained.encoders.row_batches import RowBatches
from streams.core.batch import Array, Ints


class TrunkCounts(NamedTuple):
    """What a cache has done in this process, and what it holds.

    Attributes:
        hits: rows that were not computed.
        misses: rows that were.
        bytes: of the states in it.
    """

    hits: int
    misses: int
    bytes: int


class Trunk:
    """Run the blocks before ``first_block``, and keep the states of rows.

    Nothing trained acts there. So the states of a row are the same whenever it comes, and one pass
    serves the query, the prediction and the training of an event. They are kept for the rows used
    last. A state has the bits that it would be computed with now: rows of one length are computed
    together in batches that give each row the bits that it has alone (``RowBatches``). The cache is
    part of no state. Its keys are hashes of 128 bits, as those of ``FeatureCache``.

    With ``queried``, the vector that the whole backbone gives without any trained part is computed
    and kept with the states. It takes the blocks above too, once for each row.

    Args:
        backbone: the frozen transformer.
        first_block: the first block that something trained acts in; from 0 to their number.
        size: bytes of states at most; 0: none are kept.
        queried: whether ``query`` is wanted.

    Attributes:
        backbone, first_block: as given.
    """

    def __init__(
        self, backbone: Backbone, first_block: int, size: int, queried: bool = False
    ) -> None:
        self.backbone = backbone
        self.first_block = first_block
        self._size, self._queried = size, queried
        numbers = backbone.batch_numbers
        self._batches = RowBatches(self._compute, backbone.batch_rows, numbers)
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._bytes = self._hits = self._misses = 0

    def __call__(self, rows: Tensor) -> tuple[Hidden, Tensor | None]:
        """Return the states before ``first_block`` of n >= 1 rows, and the queries (n, width).

        The states are padded to the longest row. They do not require a gradient.
        """
        states = self._states(rows.cpu().numpy())
        if not self._queried:
            return _padded(states), None
        queries = torch.stack([of_row[0] for of_row in states])
        return _padded([of_row[1:] for of_row in states]), queries

    def upper_blocks(self) -> range:
        """Return the blocks that something trained may act in."""
        return range(self.first_block, self.backbone.blocks)

    def counts(self) -> TrunkCounts:
        """Return the counters."""
        return TrunkCounts(self._hits, self._misses, self._bytes)

    def _states(self, rows: Array) -> list[Tensor]:
        """Return the states (length, width) of each row; before them its query, if wanted."""
        keys = [xxhash.xxh3_128_digest(row) for row in np.ascontiguousarray(rows)]
        found: dict[bytes, Tensor] = {}
        absent: dict[bytes, int] = {}
        for i, key in enumerate(keys):
            if (known := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                found[key] = known
            else:
                absent.setdefault(key, i)
        self._hits += len(keys) - len(absent)
        self._misses += len(absent)
        if absent:
            new = rows[list(absent.values())]
            for key, states in zip(absent, self._new_states(new), strict=True):
                found[key] = states
                self._keep(key, states)
        return [found[key] for key in keys]

    def _keep(self, key: bytes, states: Tensor) -> None:
        cost = states.nbytes + len(key)
        if cost > self._size:
            return
        self._kept[key] = states
        self._bytes += cost
        while self._bytes > self._size:
            old, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes + len(old)

    def _new_states(self, rows: Array) -> list[Tensor]:
        lengths = self.backbone.lengths(rows)
        states: list[Tensor] = [torch.empty(0)] * len(rows)
        for length in np.unique(lengths):
            of_one = np.flatnonzero(lengths == length)
            batch = torch.from_numpy(self._cut(rows[of_one], lengths[of_one]))
            for i, computed in zip(of_one.tolist(), self._batches(batch), strict=True):
                states[i] = computed.clone()  # a view would keep the whole batch in memory
        return states

    def _cut(self, rows: Array, lengths: Ints) -> Array:
        """Return rows of one length without the places behind, where rows are tokens."""
        return rows[:, : lengths[0]] if rows.ndim == 2 else rows

    def _compute(self, rows: Tensor) -> Tensor:
        """Return the states (n, length, width) of rows of one length, the query before them."""
        backbone = self.backbone
        hidden = backbone.embed(rows)
        for i in range(self.first_block):
            hidden = backbone.block(i, hidden)
        if not self._queried:
            return hidden.states
        last = hidden
        for i in self.upper_blocks():
            last = backbone.block(i, last)
        return torch.cat([backbone.pool(last)[:, None], hidden.states], 1)


def _padded(states: list[Tensor]) -> Hidden:
    """Return states (length, width) each, of n rows, as one tensor with zeros behind."""
    lengths = torch.tensor([len(of_row) for of_row in states])
    longest = int(lengths.max())
    if bool((lengths == longest).all()):
        return Hidden(torch.stack(states))
    padded = torch.zeros(len(states), longest, states[0].shape[1], device=states[0].device)
    for row, of_row in zip(padded, states, strict=True):
        row[: len(of_row)] = of_row
    return Hidden(padded, (torch.arange(longest) < lengths[:, None]).to(padded.device))
