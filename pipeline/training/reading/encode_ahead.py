"""Encode columns of blocks ahead of the training."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import NamedTuple, Protocol

from learners.pretrained.encoders.columns import EncodedColumns
from streams.core.batch import Array, Batch, Column

FIRST, MOST = 32, 256
"""Rows of the first piece that is encoded, and of the largest: the first micro-batch does not wait
for a whole block, and an encoder works best on many rows."""


class Encoded(NamedTuple):
    """What encoding the columns of a piece led to.

    Attributes:
        vectors: column to (n, dimension).
        seconds: of the worker's time.
        worker: the name of the worker that encoded them.
        lookups: values that it has found in its cache, and that it has encoded, since its start.
        cache_bytes: of the vectors in its cache, a moment ago.
    """

    vectors: Mapping[str, Array]
    seconds: float
    worker: str
    lookups: tuple[int, int]
    cache_bytes: int


class Pending(Protocol):
    """A piece that is being encoded."""

    def result(self) -> Encoded:
        """Wait for the piece; raise what encoding it raised."""


Submit = Callable[[Mapping[str, Column]], Pending]
"""Has the columns of a piece encoded elsewhere. Returns at once."""


class ColumnEncoding(Protocol):
    """Where columns are encoded: threads of this process, or actors.

    Attributes:
        columns: that are encoded.
        ahead: pieces that may be under way at once.
    """

    columns: EncodedColumns
    ahead: int

    def working(self) -> AbstractContextManager[Submit]:
        """Return what encodes pieces while the context is open."""


class EncodeAhead:
    """Encode blocks, in order, some pieces ahead of who reads them.

    Blocks are cut into pieces. What comes out does not depend on the cuts. When nothing more has
    come for now (an empty block, or one with ``flush``), all pieces are given out before the next
    block is read.
    """

    def __init__(self, encoding: ColumnEncoding) -> None:
        self.encoding = encoding
        self.columns = encoding.columns
        self.rows, self.seconds = 0, 0.0
        self._lookups: dict[str, tuple[int, int]] = {}  # by worker
        self._cache_bytes = 0
        self._last = (0, 0.0)  # rows and seconds

    def __call__(self, blocks: Iterable[Batch]) -> Iterator[Batch]:
        under_way: deque[tuple[Batch, Pending]] = deque()
        size = FIRST
        with self.encoding.working() as submit:
            for block in blocks:
                for piece in _pieces(block, size):
                    size = min(2 * size, MOST)
                    under_way.append((piece, submit(self.columns.raw(piece))))
                    if len(under_way) > self.encoding.ahead:
                        yield self._next(under_way)
                while under_way and (block.flush or block.is_empty):
                    yield self._next(under_way)
            while under_way:
                yield self._next(under_way)

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the encoders by name; their speed is that since the last call."""
        rows, seconds = self.rows - self._last[0], self.seconds - self._last[1]
        self._last = self.rows, self.seconds
        lookups = self._lookups.values()
        return {
            "system/encoder_rows_per_s": rows / seconds if rows else 0.0,
            "system/feature_cache_hits": sum(hits for hits, _ in lookups),
            "system/feature_cache_misses": sum(misses for _, misses in lookups),
            "system/feature_cache_mb": self._cache_bytes / 1e6,
        }

    def _next(self, under_way: deque[tuple[Batch, Pending]]) -> Batch:
        piece, pending = under_way.popleft()
        encoded = pending.result()
        self.rows += len(piece)
        self.seconds += encoded.seconds
        before = self._lookups.get(encoded.worker, (0, 0))
        # Of two threads, one may have encoded a later piece before this one: the counts only grow.
        found, absent = map(max, before, encoded.lookups)
        self._lookups[encoded.worker] = found, absent
        self._cache_bytes = encoded.cache_bytes
        return self.columns.merged(piece, encoded.vectors)


def _pieces(block: Batch, size: int) -> Iterator[Batch]:
    """Cut a block; what is said of the block as a whole comes with its last piece."""
    n = len(block)
    start = 0
    while n - start > size:
        yield block[start : start + size]
        start, size = start + size, min(2 * size, MOST)
    yield (
        block
        if not start
        else replace(
            block[start:],
            flush=block.flush,
            last=block.last,
            read_at=block.read_at,
            marks=block.marks,
        )
    )
