"""The blocks of a backbone below the first trained part: what they give does not change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import xxhash
from torch import Tensor

from learners.pretrained.backbones.base import Backbone, Hidden
from learners.pretrained.backbones.kept_states import KeptStates
from learners.pretrained.encoders.ragged_batches import RaggedBatches
from streams.core.batch import Array


class TrunkCounts(NamedTuple):
    """What a trunk has done in this process, and what its cache holds.

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
    last. A state has the bits that it would be computed with now: batches give each row the bits
    that it has alone (``RaggedBatches``). The cache is part of no state. Its keys are hashes of 128
    bits, as those of ``FeatureCache``. Trunks of one backbone with the same blocks may share it.

    With ``queried``, the vector that the whole backbone gives without any trained part is computed
    and kept with the states. It takes the blocks above too, once for each row.

    Args:
        backbone: the frozen transformer.
        first_block: the first block that something trained acts in; from 0 to their number.
        size: bytes of states at most; 0: none are kept.
        queried: whether ``query`` is wanted.
        shared: whether the cache is that of all such trunks of the backbone, which is as large as
            the largest size of one.

    Attributes:
        backbone, first_block: as given.
    """

    def __init__(
        self,
        backbone: Backbone,
        first_block: int,
        size: int,
        queried: bool = False,
        shared: bool = False,
    ) -> None:
        self.backbone = backbone
        self.first_block = first_block
        self._queried = queried
        self._batches = RaggedBatches(self._compute, backbone.batch_rows, backbone.batch_tokens)
        self._kept = KeptStates()
        if shared:
            self._kept = backbone.kept.setdefault((first_block, queried), self._kept)
        self._kept.reserve(size)
        self._hits = self._misses = 0

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
        return TrunkCounts(self._hits, self._misses, self._kept.bytes)

    def _states(self, rows: Array) -> list[Tensor]:
        """Return the states (length, width) of each row; before them its query, if wanted."""
        keys = [xxhash.xxh3_128_digest(row) for row in np.ascontiguousarray(rows)]
        found: dict[bytes, Tensor] = {}
        absent: dict[bytes, int] = {}
        for i, key in enumerate(keys):
            if (known := self._kept.get(key)) is not None:
                found[key] = known
            else:
                absent.setdefault(key, i)
        self._hits += len(keys) - len(absent)
        self._misses += len(absent)
        if absent:
            new = rows[list(absent.values())]
            for key, states in zip(absent, self._new_states(new), strict=True):
                found[key] = states
                self._kept.add(key, states)
        return [found[key] for key in keys]

    def _new_states(self, rows: Array) -> list[Tensor]:
        computed = self._batches(rows, self.backbone.lengths(rows))
        return [states.clone() for states in computed]  # a view would keep the whole batch

    def _compute(self, groups: Sequence[Tensor]) -> list[Tensor]:
        """Return the states (n, length, width) of groups of rows; the query before each row's."""
        backbone = self.backbone
        hidden = backbone.embed_groups(groups)
        for i in range(self.first_block):
            hidden = backbone.block(i, hidden)
        states = _by_group(hidden)
        if not self._queried:
            return states
        for i in self.upper_blocks():
            hidden = backbone.block(i, hidden)
        queries = [backbone.pool(Hidden(last)) for last in _by_group(hidden)]
        pairs = zip(queries, states, strict=True)
        return [torch.cat([query[:, None], of_group], 1) for query, of_group in pairs]


def _by_group(hidden: Hidden) -> list[Tensor]:
    """Return the states (n, length, width) of each group."""
    if hidden.groups is None:
        return [hidden.states]
    sizes = [n * length for n, length in hidden.groups]
    parts = torch.split(hidden.states[0, : sum(sizes)], sizes)
    shapes = zip(parts, hidden.groups, strict=True)
    return [part.view(n, length, -1) for part, (n, length) in shapes]


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
