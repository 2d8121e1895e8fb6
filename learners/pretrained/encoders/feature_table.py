"""A bounded table of vectors by key, in memory or in a file that several processes share.

Why not a database: vectors can be computed again. So the table may forget, and needs no log, no
lock and no transaction. A row has a checksum over its key and its bytes; a row that is torn, by two
processes that write to one place or by the end of a process, counts as absent. Such rows are the
only trace that ``kill -9`` leaves.
"""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import numpy as np
import xxhash

from learners.base import LearnerError
from streams.core.batch import Array, Ints
from streams.core.errors import one_line

WAYS = 8
"""Places that a row may take."""

_HEAD = 4096  # bytes before the entries of a file
_ENTRY = 3  # numbers: the two halves of a key, and a checksum


class _Storage(Protocol):
    """Where bytes are: an array to read, and a way to write."""

    data: Array

    def write(self, offset: int, data: bytes) -> None: ...


class FeatureTable:
    """Rows of float32 numbers by keys of 128 bits.

    A key has one bucket of ``WAYS`` places. In a full bucket, bits of the new key choose the row
    that is replaced: random replacement, which, unlike the least recently used one, keeps a share
    of a stream that is larger than the table and comes again. A table that is as full as its places
    allow holds about 14% less than it has places, as some buckets are full early.

    Args:
        dimension: numbers of a row.
        size: bytes at most, of all that it stores.
        file: where it is; None: in memory.
        name: what the rows are, in a few words. A file of other rows is replaced.

    Raises:
        LearnerError: the file cannot be made, or there is no memory.
    """

    def __init__(self, dimension: int, size: int, file: Path | None = None, name: str = "") -> None:
        self._row = 4 * dimension
        room = size - _HEAD
        self._buckets = room // (WAYS * (8 * _ENTRY + self._row))
        if self._buckets < 1:
            raise LearnerError(
                f"{size} bytes are too few for a cache of rows of {dimension} numbers"
            )
        self.places = WAYS * self._buckets
        self._rows_at = _HEAD + 8 * _ENTRY * self.places
        storage: _Storage
        total = self._rows_at + self._row * self.places
        if file is None:
            storage = _Memory(total)
        else:
            head = {"everlearn": "features", "rows": name, "dimension": dimension}
            storage = _File(file, total, json.dumps({**head, "bytes": total}))
        self._storage = storage
        entries = storage.data[_HEAD : self._rows_at].view(np.uint64)
        self._entries = entries.reshape(self._buckets, WAYS, _ENTRY)
        rows = storage.data[self._rows_at :].view(np.float32)
        self._rows = rows.reshape(self.places, dimension)

    def __len__(self) -> int:
        """Return how many rows it has. It looks at all places."""
        return int(np.count_nonzero(self._entries[:, :, 2]))

    @property
    def row_bytes(self) -> int:
        """The bytes of a row with its key and checksum."""
        return self._row + 8 * _ENTRY

    def get(self, keys: Array) -> tuple[Array, Ints]:
        """Look keys up.

        Args:
            keys: (n, 2) uint64.

        Returns:
            The rows (m, dimension) float32 that it has, copied, and which keys they are of: (m,).
        """
        buckets = (keys[:, 0] % np.uint64(self._buckets)).astype(np.int64)
        entries = self._entries[buckets]
        present = (entries[:, :, :2] == keys[:, None]).all(2) & (entries[:, :, 2] != 0)
        of_key, way = present.nonzero()
        rows = self._rows[buckets[of_key] * WAYS + way]
        sums = _checksums(keys[of_key], rows)
        intact = sums == entries[of_key, way, 2]
        if intact.all():
            return rows, of_key
        return rows[intact], of_key[intact]

    def put(self, keys: Array, rows: Array) -> int:
        """Store n rows, as far as there is room on the disk.

        Args:
            keys: (n, 2) uint64, different ones.
            rows: (n, dimension) float32.

        Returns:
            How many were stored.
        """
        sums = _checksums(keys, rows)
        for i, (first, second) in enumerate(keys.tolist()):
            bucket = first % self._buckets
            entries = self._entries[bucket]
            same = (entries[:, 0] == first) & (entries[:, 1] == second)
            free = np.flatnonzero(same) if same.any() else np.flatnonzero(entries[:, 2] == 0)
            place = bucket * WAYS + (int(free[0]) if len(free) else second % WAYS)
            entry = np.array([first, second, sums[i]], np.uint64)
            try:
                self._storage.write(self._rows_at + self._row * place, rows[i].tobytes())
                self._storage.write(_HEAD + 8 * _ENTRY * place, entry.tobytes())
            except OSError:  # no room on the disk: vectors can be computed again
                return i
        return len(keys)


class _Memory:
    """Zeros in memory, of which the system provides those that are written to.

    They are mapped, and not ``numpy.zeros``: that asks Linux for pages of 2 MB. A row in a random
    place would fill one or two of these with zeros, which takes a quarter of a millisecond.
    """

    def __init__(self, size: int) -> None:
        try:
            mapped = mmap.mmap(-1, size)
        except (OSError, ValueError, OverflowError):
            raise LearnerError(f"there is no memory for a cache of {size} bytes") from None
        self.data: Array = np.frombuffer(mapped, np.uint8)

    def write(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = np.frombuffer(data, np.uint8)


class _File:
    """A file, mapped into memory to be read.

    It is written by calls, and not through the map: on a full disk a call fails, where the map ends
    the process. A new file is a hole, which takes no room until it is written to.
    """

    def __init__(self, file: Path, size: int, head: str) -> None:
        try:
            if not _is_as_stated(file, size, head):
                _make(file, size, head)
            self._descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
            mapped = mmap.mmap(self._descriptor, size, access=mmap.ACCESS_READ)
        except (OSError, ValueError, OverflowError) as error:
            raise LearnerError(
                f"the cache {file} cannot be made: {one_line(error)}: state a folder that can be "
                "written to, or a smaller size"
            ) from error
        self.data: Array = np.frombuffer(mapped, np.uint8)

    def write(self, offset: int, data: bytes) -> None:
        if os.pwrite(self._descriptor, data, offset) != len(data):
            raise OSError("a part of a row was written")

    def __del__(self) -> None:
        if descriptor := getattr(self, "_descriptor", 0):
            os.close(descriptor)


def _is_as_stated(file: Path, size: int, head: str) -> bool:
    """Return whether a file is complete and has this head."""
    try:
        with file.open("rb") as opened:
            same = opened.read(_HEAD).rstrip(b"\0") == head.encode()
            return same and os.fstat(opened.fileno()).st_size == size
    except FileNotFoundError:
        return False


def _make(file: Path, size: int, head: str) -> None:
    """Make a file without rows, all at once for other processes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    own = file.with_name(f".{file.name}.{uuid4().hex}")
    try:
        with own.open("xb") as opened:
            opened.write(head.encode().ljust(_HEAD, b"\0"))
            opened.truncate(size)
        try:
            os.link(own, file)  # fails if another process was faster, and that file is to be shared
        except OSError:
            if not _is_as_stated(file, size, head):
                own.replace(file)
    finally:
        own.unlink(missing_ok=True)


def _checksums(keys: Array, rows: Array) -> Array:
    """Return (n,) uint64 checksums of keys and rows; never 0, which marks a free place."""
    seeds = keys[:, 1].tolist()
    sums = (xxhash.xxh3_64_intdigest(row, seed) for row, seed in zip(rows, seeds, strict=True))
    return np.fromiter(sums, np.uint64, len(keys)) | np.uint64(1)
