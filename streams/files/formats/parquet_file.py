"""Parquet files, read in blocks from any row.

Memory is bounded by a block and a row group. Reading from any row skips whole row groups.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from streams.core.errors import REMEDY, StreamError
from streams.decoding.columns import plain
from streams.decoding.time_reader import TimeReader
from streams.files.formats.base import File, FileBlock, reading
from streams.files.formats.fingerprint import (
    Entry,
    Fingerprint,
    TableFingerprint,
    TablePiece,
    Trail,
)

READ_ROWS = 1 << 14
"""Rows that are read and hashed at a time: fewer cost more for each."""
READ_BYTES = 4 << 20
"""Bytes, roughly, of the rows that are read at a time, unless a block has more."""


class Parquet(File):
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with reading(path):
            file = pq.ParquetFile(path)
        self._meta = file.metadata
        self.types = file.schema_arrow
        self.rows: int = self._meta.num_rows
        groups = range(self._meta.num_row_groups)
        self._ends = list(accumulate(self._meta.row_group(g).num_rows for g in groups))
        file.close()

    def read(
        self, start: int, size: int, columns: Sequence[str], trail: Trail | None = None
    ) -> Generator[FileBlock]:
        first = bisect_right(self._ends, start)
        at = self._ends[first - 1] if first else 0
        rows = max(size, min(READ_ROWS, READ_BYTES // self._row_bytes))
        rows -= rows % size
        with reading(self.path), pq.ParquetFile(self.path, metadata=self._meta) as file:
            while first < len(self._ends):
                # iter_batches keeps all its row groups in memory until it ends, so it gets no more
                # of them at a time than make up a block.
                last = min(bisect_left(self._ends, at + size), len(self._ends) - 1)
                groups = range(first, last + 1)
                for batch in file.iter_batches(rows, groups, columns, use_threads=False):
                    low, at = max(at, start), at + batch.num_rows
                    if low >= at:
                        continue
                    batch = batch.slice(batch.num_rows - (at - low))
                    if trail is not None:
                        trail.push(TablePiece(low, at, batch))
                    for row in range(low, at, size):
                        block = batch.slice(row - low, size)
                        yield FileBlock(block, np.arange(row, row + block.num_rows))
                first = last + 1

    @property
    def _row_bytes(self) -> int:
        """The bytes of a row, all columns included, on average; at least 1."""
        groups = range(self._meta.num_row_groups)
        size: int = sum(self._meta.row_group(g).total_byte_size for g in groups)
        return max(1, size // max(1, self.rows))

    def first_rows(self, columns: Sequence[str], first: int = 0) -> Fingerprint:
        return TableFingerprint(columns, first)

    def fingerprints(
        self, entries: Sequence[Entry], columns: Sequence[str]
    ) -> Iterator[Fingerprint]:
        if missing := set(columns) - set(self.types.names):
            raise StreamError(f"{self.path} has no column {min(missing)!r} any more: {REMEDY}")
        trail = first = None
        for entry in entries:
            if trail is None or entry.get("first", 0) != first:
                first = entry.get("first", 0)
                at, trail = first, Trail(partial(self.first_rows, columns, first), deque())
                blocks = self.read(first, READ_ROWS, columns, trail)
            while at < entry["rows"] and (block := next(blocks, None)) is not None:
                at = int(block.offset[-1]) + 1
            if at < entry["rows"]:
                return
            trail.at(entry["rows"])
            yield trail.fingerprint.copy()

    def fingerprint(self, entry: Entry, columns: Sequence[str]) -> Fingerprint:
        found = next(iter(self.fingerprints([entry], columns)), None)
        if found is None:
            raise StreamError(f"{self.path} has become shorter than {entry['rows']:,} rows")
        return found

    def earliest(self, column: str, time: float, times: TimeReader) -> int:
        kind = self.types.field(column).type
        if not (pt.is_timestamp(kind) or pt.is_integer(kind) or pt.is_float64(kind)):
            return 0
        leaves = [self._meta.schema.column(i).path for i in range(self._meta.num_columns)]
        index = leaves.index(column)
        row = 0
        for group, end in enumerate(self._ends):
            stats = self._meta.row_group(group).column(index).statistics
            if stats is None or not stats.has_min_max:
                break
            latest = times(pa.array([stats.max], kind))[0]
            # A timestamp read from statistics may be rounded; a local one may be an hour later.
            if not latest + (1e-3 if times.zone is None else 86_400.0) < time:
                break
            row = end
        return row

    def latest(self, column: str, times: TimeReader) -> float:
        for block in self.read(self.rows - 1, 1 << 16, [column]):
            return float(times(plain(block.table.column(column)))[-1])
        return math.nan
