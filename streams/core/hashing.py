"""A hash of integers that is the same on every machine."""

from __future__ import annotations

import numpy as np

from streams.core.batch import Array, Ints

U64 = np.uint64


def mix(ids: Ints, seed: int) -> Array:
    """Return (n,) uint64 hashes of ids under a seed (splitmix64, Steele, Lea and Flood 2014)."""
    z = ids.view(U64) + U64((seed * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15) % 2**64)
    z = (z ^ (z >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> U64(27))) * U64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> U64(31)))
