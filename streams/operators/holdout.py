"""Which events are held out, to measure on them later what has been forgotten."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streams.core.batch import Array, Batch, Ints

_U64 = np.uint64


def mix(ids: Ints, seed: int) -> Array:
    """(n,) uint64: a hash of each id under a seed (splitmix64, Steele, Lea and Flood 2014)."""
    z = ids.view(_U64) + _U64((seed * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15) % 2**64)
    z = (z ^ (z >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> _U64(27))) * _U64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> _U64(31)))


class HoldOut:
    """Marks a share of the events as probes: predicted and scored, never learned or observed.

    The choice is a hash of (seed, id), so it is the same in every run, on every machine, after a
    resume, and for an event whose label comes late. Nothing is remembered.
    """

    def __init__(self, share: float, seed: int) -> None:
        self._below = _U64(min(int(share * 2**64), 2**64 - 1))
        self._seed = seed

    def apply(self, block: Batch) -> Batch:
        return replace(block, probe=self.holds(block.ids))

    def holds(self, ids: Ints) -> NDArray[np.bool_]:
        """(n,) whether the event of each id is a probe."""
        return np.asarray(mix(ids, self._seed) < self._below)
