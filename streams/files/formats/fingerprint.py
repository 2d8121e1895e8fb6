"""What has been read of a file: a fingerprint of its rows before a cursor.

Of a CSV file the fingerprint covers the bytes (of a compressed one, the bytes of the text). Of a
Parquet file it covers the values of the columns that are read: rows may be added by writing the
file again, in other row groups. A reading pushes what it reads into a ``Trail``, which hashes it
late: up to the row that a checkpoint asks for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
import xxhash

from streams.files.formats.csv_rows import row_end

Entry = dict[str, Any]
"""A fingerprint as a checkpoint keeps it; JSON."""


class TextPiece(NamedTuple):
    """Rows [first, stop) of a CSV file, as they are in the file."""

    first: int
    stop: int
    text: bytes

    def split(self, row: int) -> tuple[TextPiece, TextPiece] | None:
        """Return the rows before ``row`` and the others; None where that cannot be done."""
        end = row_end(self.text, row - self.first, self.stop - self.first)
        if end is None:
            return None
        head, tail = self.text[:end], self.text[end:]
        return TextPiece(self.first, row, head), TextPiece(row, self.stop, tail)


class TablePiece(NamedTuple):
    """Rows [first, stop) of a Parquet file."""

    first: int
    stop: int
    table: pa.RecordBatch

    def split(self, row: int) -> tuple[TablePiece, TablePiece]:
        """Return the rows before ``row`` and the others."""
        count = row - self.first
        head, tail = self.table.slice(0, count), self.table.slice(count)
        return TablePiece(self.first, row, head), TablePiece(row, self.stop, tail)


Piece = TextPiece | TablePiece


class Fingerprint(ABC):
    """A hash of the first rows of a file.

    Attributes:
        rows: the number of the row after them.
    """

    rows: int

    @abstractmethod
    def add(self, piece: Any) -> None:
        """Add the next rows."""

    @abstractmethod
    def copy(self) -> Fingerprint:
        """Return a fingerprint of the same rows, to go on with."""

    @abstractmethod
    def entry(self) -> Entry:
        """Return what a checkpoint keeps."""


class TextFingerprint(Fingerprint):
    """The hash of the bytes of a CSV file up to the end of a row.

    Attributes:
        bytes: the number of these bytes.
    """

    def __init__(self) -> None:
        self.rows = self.bytes = 0
        self._hash = xxhash.xxh3_128()
        self._is_open = False  # the last row has no newline yet

    def add(self, piece: TextPiece) -> None:
        self.add_bytes(piece.text)
        self.rows = piece.stop

    def add_bytes(self, text: bytes) -> None:
        """Add bytes alone."""
        if text:
            self._hash.update(text)
            self.bytes += len(text)
            self._is_open = not text.endswith((b"\n", b"\r"))

    def copy(self) -> TextFingerprint:
        other = TextFingerprint()
        other.rows, other.bytes = self.rows, self.bytes
        other._hash, other._is_open = self._hash.copy(), self._is_open
        return other

    def entry(self) -> Entry:
        entry = {"rows": self.rows, "bytes": self.bytes, "xxh3": self._hash.hexdigest()}
        return entry | ({"open": True} if self._is_open else {})


class TableFingerprint(Fingerprint):
    """The hash of the values of some columns of a Parquet file, from one row to another.

    Args:
        columns: the columns.
        first: the first row.
    """

    def __init__(self, columns: Sequence[str], first: int = 0) -> None:
        self.rows = self.first = first
        self._columns = {name: _ColumnHash() for name in sorted(columns)}

    def add(self, piece: TablePiece) -> None:
        names = piece.table.schema.names
        for array, name in zip(piece.table.columns, names, strict=True):
            self._columns[name].add(array)
        self.rows = piece.stop

    def copy(self) -> TableFingerprint:
        other = TableFingerprint((), self.first)
        other.rows = self.rows
        other._columns = {name: column.copy() for name, column in self._columns.items()}
        return other

    def entry(self) -> Entry:
        whole = xxhash.xxh3_128()
        for name, column in self._columns.items():
            whole.update(f"{name}\0{column.kind}\0".encode())
            whole.update(column.digest())
        entry = {"rows": self.rows, "xxh3": whole.hexdigest()}
        return entry | ({"first": self.first} if self.first else {})


class _ColumnHash:
    """A hash of the values of a column, however it is cut and encoded."""

    def __init__(self) -> None:
        self.kind = ""
        self._values, self._lengths = xxhash.xxh3_128(), xxhash.xxh3_128()
        self._nulls = xxhash.xxh3_128()
        self._children: list[_ColumnHash] = []
        self._count = 0
        self._fixed: pa.DataType | None = None  # type of values of ``_width`` bytes each
        self._width = 0

    def copy(self) -> _ColumnHash:
        other = _ColumnHash()
        other.kind, other._count = self.kind, self._count
        other._values, other._lengths = self._values.copy(), self._lengths.copy()
        other._nulls = self._nulls.copy()
        other._children = [child.copy() for child in self._children]
        return other

    def digest(self) -> bytes:
        own: bytes = self._values.digest() + self._lengths.digest() + self._nulls.digest()
        return own + b"".join(child.digest() for child in self._children)

    def add(self, array: Any) -> None:
        """Add the next values."""
        if self._fixed is not None and array.type == self._fixed and not array.null_count:
            start, n = array.offset * self._width, len(array)  # the usual case
            self._count += n
            values = memoryview(array.buffers()[1])
            self._values.update(values[start : start + n * self._width])
            return
        if pt.is_dictionary(array.type):
            array = array.dictionary_decode()
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        first, self._count = self._count, self._count + len(array)
        self.kind = self.kind or _name_of(array.type)
        if array.null_count:
            places = np.flatnonzero(pc.is_null(array).to_numpy(zero_copy_only=False)) + first
            self._nulls.update(places.astype(np.int64).data)
            array = array.drop_null()
        if len(array):
            self._add_values(array)

    def _add_values(self, array: Any) -> None:
        kind, n = array.type, len(array)
        if pt.is_string_view(kind) or pt.is_binary_view(kind):
            kind = pa.large_binary()
            array = array.cast(kind)
        large = pt.is_large_string(kind) or pt.is_large_binary(kind)
        if large or pt.is_string(kind) or pt.is_binary(kind):
            _, offsets, values = array.buffers()
            bounds = np.frombuffer(offsets, np.int64 if large else np.int32)
            bounds = bounds[array.offset : array.offset + n + 1]
            self._lengths.update(np.diff(bounds).astype(np.int64).data)
            if values is not None:
                self._values.update(memoryview(values)[bounds[0] : bounds[-1]])
        elif pt.is_boolean(kind):
            self._values.update(array.cast(pa.uint8()).to_numpy().data)
        elif pt.is_struct(kind):
            self._add_children(array.flatten())
        elif pt.is_list(kind) or pt.is_large_list(kind):
            self._lengths.update(array.value_lengths().to_numpy().astype(np.int64).data)
            self._add_children([array.flatten()])
        elif pt.is_fixed_size_list(kind):
            self._add_children([array.flatten()])
        elif pt.is_primitive(kind) or pt.is_decimal(kind) or pt.is_fixed_size_binary(kind):
            self._fixed, self._width = kind, (width := kind.bit_width // 8)
            start = array.offset * width
            self._values.update(memoryview(array.buffers()[1])[start : start + n * width])
        else:
            self._values.update("".join(f"{value!r}\n" for value in array.to_pylist()).encode())

    def _add_children(self, parts: Sequence[Any]) -> None:
        self._children = self._children or [_ColumnHash() for _ in parts]
        for child, part in zip(self._children, parts, strict=True):
            child.add(part)


def _name_of(kind: pa.DataType) -> str:
    """Return the name of a type; of text and of bytes one each, however they are stored."""
    if pt.is_large_string(kind) or pt.is_string_view(kind):
        return "string"
    if pt.is_large_binary(kind) or pt.is_binary_view(kind):
        return "binary"
    return str(kind)


class Trail:
    """What one reading reads of a file, from a row on.

    Args:
        begin: returns the fingerprint of the rows before it.
        recent: the last pieces of all trails of the reading: the trail and the end of each.
        keep: how many of them are kept apart: what is read ahead of the learner lies in them.
    """

    def __init__(
        self, begin: Callable[[], Fingerprint], recent: deque[tuple[Trail, int]], keep: int = 8
    ) -> None:
        self._begin = begin
        self._recent = recent
        self._keep = keep
        self._fingerprint: Fingerprint | None = None
        self._pieces: deque[Piece] = deque()

    @property
    def fingerprint(self) -> Fingerprint:
        if self._fingerprint is None:
            self._fingerprint = self._begin()
        return self._fingerprint

    def push(self, piece: Piece) -> None:
        """Take the next rows."""
        self._pieces.append(piece)
        self._recent.append((self, piece.stop))
        if len(self._recent) > self._keep:
            trail, stop = self._recent.popleft()
            trail._add_whole(stop)

    def at(self, row: int) -> Entry | None:
        """Return the fingerprint of the rows before ``row``; None where it is too late for that:
        more has been added by now."""
        self._add_whole(row)
        if self._pieces and self._pieces[0].first < row:
            halves = self._pieces[0].split(row)
            if halves is not None:
                self.fingerprint.add(halves[0])
                self._pieces[0] = halves[1]
        return self.fingerprint.entry() if self.fingerprint.rows == row else None

    def _add_whole(self, row: int) -> None:
        """Add the pieces that end before or at a row."""
        while self._pieces and self._pieces[0].stop <= row:
            self.fingerprint.add(self._pieces.popleft())
