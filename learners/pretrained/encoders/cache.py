"""A cache of encoded values: what was encoded once is looked up."""

from __future__ import annotations

import hashlib
import threading
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from learners.pretrained.encoders.base import Encoder
from learners.pretrained.encoders.feature_table import FeatureTable
from streams.core.batch import Array, Column, Ragged


class CacheCounts(NamedTuple):
    """What a cache has done in this process, and what it holds.

    Attributes:
        hits: values that were not encoded, as the cache or the same block had an equal one.
        misses: values that were encoded.
        entries: vectors in the cache, those of other processes included.
        bytes: of these.
        unsaved: vectors that were not stored, for lack of room on the disk.
    """

    hits: int
    misses: int
    entries: int
    bytes: int
    unsaved: int


class FeatureCache:
    """Encode values, each only once.

    The key of a value is a hash of 128 bits (XXH3) over its bytes. Some two of a billion different
    values have one key with a probability of about 1 to 10**21. Two of one key can be made on
    purpose, as XXH3 is no cryptographic hash.

    A vector from the cache has the bits that it would be encoded to now: the file of an encoder is
    named by its fingerprint, and by all else that the rounding depends on (``arithmetic``).

    Args:
        encoder: of the values.
        size: bytes at most.
        folder: of files that processes on this machine share, one for each encoder; None: vectors
            are kept in memory.

    Attributes:
        hits, misses: as in ``CacheCounts``.

    Raises:
        LearnerError: the folder cannot be written to, or the bytes are too few.
    """

    def __init__(self, encoder: Encoder, size: int, folder: Path | None = None) -> None:
        self.encoder = encoder
        name = f"{encoder.fingerprint} {arithmetic(encoder)}"
        file = None
        if folder is not None:
            short = hashlib.sha256(name.encode()).hexdigest()[:16]
            file = folder / f"{type(encoder).__name__}-{short}.features"
        self._table = FeatureTable(encoder.dimension, size, file, name)
        self.hits = self.misses = self._unsaved = 0
        self._counting = threading.Lock()  # threads share a cache

    def encode(self, values: Column) -> Array:
        """Return the vectors (n, dimension) float32 of n >= 0 values, as the encoder does."""
        digests = _digests(values)
        places: dict[bytes, int] = {}  # of different values, in order
        place = [places.setdefault(digest, len(places)) for digest in digests]
        keys = np.frombuffer(b"".join(places), np.uint64).reshape(-1, 2)
        if len(places) == len(digests):
            return self._look_up(values, np.arange(len(digests)), keys)
        first = np.unique(place, return_index=True)[1]
        return self._look_up(values, first, keys)[place]

    def _look_up(self, values: Column, rows: Array, keys: Array) -> Array:
        """Return the vectors of the values in ``rows`` (m,), all different, by keys (m, 2)."""
        known, of_key = self._table.get(keys)
        with self._counting:
            self.hits += len(values) - len(keys) + len(known)
        if len(known) == len(keys):
            return known
        absent = np.ones(len(keys), np.bool_)
        absent[of_key] = False
        encoded = self.encoder.encode(_take(values, rows[absent]))
        saved = self._table.put(keys[absent], encoded)
        with self._counting:
            self.misses += len(encoded)
            self._unsaved += len(encoded) - saved
        vectors = np.empty((len(keys), encoded.shape[1]), np.float32)
        vectors[of_key], vectors[absent] = known, encoded
        return vectors

    def counts(self) -> CacheCounts:
        """Return the counters. It looks at all places of the table."""
        entries = len(self._table)
        size = entries * self._table.row_bytes
        return CacheCounts(self.hits, self.misses, entries, size, self._unsaved)


def arithmetic(encoder: Encoder) -> str:
    """Return what the rounding of an encoder depends on beside its fingerprint."""
    import torch  # takes longer than the start of a command that needs none

    versions = [f"{name} {version(name)}" for name in encoder.libraries]
    cpu = torch.backends.cpu.get_cpu_capability()
    threads = f"threads {torch.get_num_threads()}"
    return " ".join([*versions, encoder.rounding, encoder.device, cpu, threads])


def _digests(values: Column) -> list[bytes]:
    """Return the keys of values, 16 bytes each."""
    if isinstance(values, Ragged):
        start = int(values.bounds[0])
        data = memoryview(values.values[start : values.bounds[-1]].tobytes())
        bounds = (values.bounds - start).tolist()
        return [xxhash.xxh3_128_digest(data[a:b]) for a, b in pairwise(bounds)]
    seed = xxhash.xxh64_intdigest(f"{values.dtype} {values.shape[1:]}".encode())
    return [xxhash.xxh3_128_digest(row, seed) for row in np.ascontiguousarray(values)]


def _take(values: Column, rows: Array) -> Column:
    return values.take(rows) if isinstance(values, Ragged) else values[rows]
