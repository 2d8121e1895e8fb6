"""Reads a Parquet or CSV file as typed columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from streams.core.batch import Floats
from streams.decoding.columns import (
    identities,
    is_bytes,
    missing_numbers,
    numbers,
    plain,
    to_numpy,
    whole,
)
from streams.files.formats.csv_file import Csv
from streams.files.readers import open_files

HEAD_ROWS = 4096


class Table:
    """The rows of a file in blocks, with columns of known types.

    Cells of CSV are text: a column holds numbers if all its cells in the first rows do, missing
    numbers (empty, NA) aside. A later cell that is no number is null.

    Attributes:
        names: of the columns. skipped: malformed rows that the last reading skipped.
        kinds: of each column: int, float, bytes or other.

    Raises:
        StreamError: the file cannot be read, or holds no row.
    """

    def __init__(self, path: Path) -> None:
        (self._file,) = open_files(str(path.absolute()), Path())
        self.names: list[str] = self._file.types.names
        self.skipped = 0
        self._parsed = isinstance(self._file, Csv)
        head = next((rows for rows in self.blocks(HEAD_ROWS)), None)
        self.kinds = {
            name: "other" if head is None else _kind(head.column(name), self._parsed)
            for name in self.names
        }

    def blocks(self, size: int) -> Iterator[pa.RecordBatch]:
        self.skipped = 0
        for block in self._file.read(0, size, self.names):
            self.skipped += len(block.aside)
            if block.table.num_rows:
                yield block.table

    def column(self, rows: pa.RecordBatch, name: str) -> pa.Array:
        """Return a column of some rows, in its type."""
        column, kind = rows.column(name), self.kinds[name]
        if kind == "bytes":
            return column
        column = plain(column)
        if kind == "float":
            return pa.array(numbers(column))
        if kind == "int" and self._parsed:
            values, good = identities(column, "int")
            return pa.array(values, mask=~good)
        return column


def values(column: pa.Array) -> list[Any]:
    """Return the cells as Python objects."""
    if pt.is_floating(column.type) and not column.null_count:
        cells: list[Any] = to_numpy(column).tolist()
        return cells
    return list(column.to_pylist())


def floats(column: pa.Array) -> Floats:
    """Return (n,) float64, NaN for nulls."""
    floats_: Floats = numbers(column).astype(np.float64)
    return floats_


def _kind(column: pa.Array, parsed: bool) -> str:
    """Return the kind of a column; ``parsed``: its cells are text of CSV."""
    if is_bytes(column.type) and not parsed:
        return "bytes"
    column = plain(column)
    kind = column.type
    if parsed:
        cells = column.filter(pa.array(~missing_numbers(column)))
        if len(cells) and whole(cells).all():
            return "int"
        return "float" if len(cells) and not np.isnan(numbers(cells)).any() else "other"
    if pt.is_integer(kind):
        return "int"
    return "float" if pt.is_floating(kind) or pt.is_decimal(kind) else "other"
