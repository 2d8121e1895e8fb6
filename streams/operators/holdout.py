"""Mark the events that are held out, to measure forgetting on them later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streams.core.batch import Batch, Ints
from streams.core.hashing import U64, mix


class HoldOut:
    """Marks a share of the events as probes: predicted and scored, never learned or observed.

    The choice is a hash of seed and id. It is the same in every run and on every machine, after a
    resume, and for an event whose label arrives late. It needs no state.
    """

    def __init__(self, share: float, seed: int) -> None:
        self._below = U64(min(int(share * 2**64), 2**64 - 1))
        self._seed = seed

    def apply(self, block: Batch) -> Batch:
        """Return the block with its ``probe`` column."""
        return replace(block, probe=self.holds(block.ids))

    def holds(self, ids: Ints) -> NDArray[np.bool_]:
        """Return (n,) whether the event of each id is a probe."""
        return np.asarray(mix(ids, self._seed) < self._below)
