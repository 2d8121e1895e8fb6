"""Hashes of integers and of texts that are the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from streams.core.batch import Array, Batch, Column, Ints, Ragged

U64 = np.uint64

_STEP = 0xD1342543DE82EF95  # from seed to seed
# The multiplier of wyhash. No two words of text differ by a multiple of it.
_ODD = U64(0xA0761D6478BD642F)
_30, _27, _31 = U64(30), U64(27), U64(31)  # shifts and factors of splitmix64
_FIRST, _SECOND = U64(0xBF58476D1CE4E5B9), U64(0x94D049BB133111EB)
_FIRST_BYTES = np.array([(1 << 8 * n) - 1 for n in range(9)], U64)


def mix(ids: Ints, seed: int) -> Array:
    """Return (n,) uint64 hashes of ids under a seed (splitmix64, Steele, Lea and Flood 2014)."""
    z = np.asarray(ids.view(U64) + U64((seed * _STEP + 0x9E3779B97F4A7C15) % 2**64))
    z ^= z >> _30
    z *= _FIRST
    z ^= z >> _27
    z *= _SECOND
    z ^= z >> _31
    return z


def hash_texts(column: Ragged) -> Ints:
    """Return (n,) int64 hashes of the bytes of each text; equal texts have equal hashes.

    A text is cut into words of eight bytes, the last one filled up with zeros. The hash mixes the
    sum of the length, the first word, and hashes of the other words and their places. All 64 bits
    are of use: some two of a million texts have one hash with a probability of 1 to 37 million.
    """
    begin, end = int(column.bounds[0]), int(column.bounds[-1])
    raw = np.zeros(end - begin + 8, np.uint8)
    raw[:-8] = column.values[begin:end]
    words = np.ndarray(end - begin + 1, "<u8", raw, strides=(1,))  # one begins at each byte
    starts, lengths = column.bounds[:-1] - begin, np.diff(column.bounds)
    sums = words[starts]
    sums &= _FIRST_BYTES[np.minimum(lengths, 8)]
    sums += lengths.view(U64) * _ODD
    long = np.flatnonzero(lengths > 8)
    if len(long):
        counts = lengths[long] - 1 >> 3  # of words after the first
        firsts = np.cumsum(counts) - counts
        place = np.arange(1, counts.sum() + 1) - np.repeat(firsts, counts)
        rest = np.repeat(lengths[long], counts) - 8 * place
        others = words[np.repeat(starts[long], counts) + 8 * place]
        others &= _FIRST_BYTES[np.minimum(rest, 8)]
        others += place.view(U64) * _ODD
        sums[long] += np.add.reduceat(mix(others, 0), firsts)
    return mix(sums, 1).view(np.int64)


def category_keys(column: Column) -> Ints:
    """Return the (n,) int64 keys of categories.

    Integers of 64 bits are keys already. A text has its hash, any other value that of its text.
    """
    if isinstance(column, Ragged):
        return hash_texts(column)
    if column.dtype == np.int64:
        return column
    return hash_texts(Ragged.of_text(str(value) for value in column.tolist()))


def hash_categories(block: Batch, names: Sequence[str]) -> Batch:
    """Return a block with keys (n,) int64 in place of the values of these categorical columns.

    Hashing a block costs a fraction of hashing its micro-batches, and keys are cheaper to slice, to
    store and to gather than texts.
    """
    if not names or isinstance(block.x, np.ndarray):
        return block
    keys = {name: category_keys(block.x[name]) for name in names}
    return replace(block, x={**block.x, **keys})
