"""CSV files, read in blocks from any row.

Memory is bounded by a few MiB of text. A CSV file has no index: the rows before are parsed, but not
decoded, unless a checkpoint knows their bytes.
"""

from __future__ import annotations

import codecs
import csv
import math
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from streams.core.errors import REMEDY, StreamError
from streams.decoding.time_reader import TimeReader
from streams.files.formats.base import (
    CSV_BLOCK_BYTES,
    File,
    FileBlock,
    Stat,
    reading,
    short,
)
from streams.files.formats.csv_rows import last_row_end, row_end
from streams.files.formats.fingerprint import Entry, Fingerprint, TextFingerprint, TextPiece, Trail

CSV_PIECE_BYTES = 1 << 20
"""Bytes of text that are parsed at a time, as far as rows end there."""
CSV_TAIL_BYTES = 64 << 10
"""Bytes at the end of a file in which its last row is looked for."""
CSV_HEAD_BYTES = 64 << 10
"""Bytes at the beginning of a file in which its header, and a row after it, are looked for."""
HASHED_BYTES, HASHED_ROWS = 1 << 20, 1 << 14
"""Bytes and rows that are read at a time where they are only hashed."""


class Csv(File):
    """A CSV file. Every column is read as bytes: one bad cell is one dead row, not a failed read.

    The text is cut where rows end, and each piece is parsed on its own. Arrow cannot report a
    malformed row that is not UTF-8. A piece that is not UTF-8 is therefore read as Latin-1, which
    accepts any bytes. The bytes of cells are the same either way.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.rows: int | None = None
        with reading(path), self._open() as source:
            header = _header(source)
            self._header_bytes = len(header)
            text = header.removeprefix(codecs.BOM_UTF8) + b"\n"
            encoding = _encoding(text)
            options = pyarrow.csv.ReadOptions(use_threads=False, encoding=encoding)
            parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
            with pyarrow.csv.open_csv(pa.BufferReader(text), options, parse) as reader:
                names = reader.schema.names
            if encoding == "latin1":
                names = [name.encode("latin1").decode() for name in names]
        self.types = pa.schema([(name, pa.binary()) for name in names])

    def read(
        self, start: int, size: int, columns: Sequence[str], trail: Trail | None = None
    ) -> Generator[FileBlock]:
        if self.rows is not None and start >= self.rows:
            return
        with reading(self.path), self._open() as source:
            row = self._skip_read_rows(source, trail)
            for text in _whole_rows(source):
                block = self._parse(text, row, columns)
                after = row + len(block.offset) + len(block.aside)
                if trail is not None:
                    trail.push(TextPiece(row, after, text))
                    if after <= start:
                        trail.at(after)
                row = after
                yield from _split(block, start, size)
        self.rows = row

    def _skip_read_rows(self, source: Any, trail: Trail | None) -> int:
        """Skip the header, and the rows whose bytes the trail knows; return their number."""
        if trail is not None and isinstance(known := trail.fingerprint, TextFingerprint):
            if known.bytes:
                _skip(source, known.bytes)
                return known.rows
            trail.push(TextPiece(0, 0, source.read(self._header_bytes)))
            return 0
        _skip(source, self._header_bytes)
        return 0

    def empty(self) -> bool:
        with reading(self.path), self._open() as source:
            _skip(source, self._header_bytes)
            while text := source.read(CSV_HEAD_BYTES):
                if text.strip(b"\r\n"):  # an empty line is no row
                    return False
        return True

    def head(self, count: int, columns: Sequence[str]) -> FileBlock:
        text: bytes = b""
        with reading(self.path), self._open() as source:
            _skip(source, self._header_bytes)
            while len(text) < CSV_PIECE_BYTES and (
                more := source.read(len(text) or CSV_HEAD_BYTES)
            ):
                text += more
                if text.count(b"\n") > count and (end := last_row_end(text)):
                    block = self._parse(text[:end], 0, columns)
                    if len(block.offset) > count:
                        return next(_split(block, 0, count))
        return super().head(count, columns)

    def first_rows(self, columns: Sequence[str], first: int = 0) -> Fingerprint:
        return TextFingerprint()

    def fingerprint(self, entry: Entry, columns: Sequence[str]) -> Fingerprint:
        trail = Trail(TextFingerprint, deque())
        for block in self.read(0, HASHED_ROWS, columns[:1], trail):
            if len(block.offset) and block.offset[-1] >= entry["rows"]:
                break
        trail.at(entry["rows"])
        return trail.fingerprint

    def fingerprints(
        self, entries: Sequence[Entry], columns: Sequence[str]
    ) -> Iterator[Fingerprint]:
        fingerprint = TextFingerprint()
        with reading(self.path), self._open() as source:
            for entry in entries:
                while left := entry["bytes"] - fingerprint.bytes:
                    if not (text := source.read(min(left, HASHED_BYTES))):
                        return
                    fingerprint.add_bytes(text)
                fingerprint.rows = entry["rows"]
                if entry.get("open") and (text := source.read(1)) not in (b"", b"\r", b"\n"):
                    fingerprint.add_bytes(text)  # the last row goes on: it is another one now
                yield fingerprint.copy()

    def latest(self, column: str, times: TimeReader) -> float:
        if self.path.name.endswith(".gz"):
            return math.nan
        with reading(self.path), self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - CSV_TAIL_BYTES))
            tail = file.read()
        last = tail.rstrip().rpartition(b"\n")[2].decode(errors="replace")
        cells = next(csv.reader([last]), [])
        if len(cells) != len(self.types.names):  # the end of a row of several lines
            return math.nan
        return float(times(pa.array([cells[self.types.names.index(column)]]))[0])

    def _check_length(self, now: Stat) -> None:
        if now.size < self._stat.size and not self.path.name.endswith(".gz"):
            raise StreamError(
                f"{self.path} has become shorter, {now.size:,} of {self._stat.size:,} bytes: "
                f"{REMEDY}"
            )

    def _open(self) -> Any:
        return pa.input_stream(str(self.path), compression="detect")

    def _parse(self, text: bytes, row: int, columns: Sequence[str]) -> FileBlock:
        """Return the rows of a piece of text, the first of which is row ``row`` of the file."""
        bad: list[tuple[int, str]] = []
        encoding = _encoding(text)

        def on_bad(line: Any) -> str:
            text = line.text.encode(encoding).decode(errors="backslashreplace")
            reason = f"the row has {line.actual_columns} fields; expected {line.expected_columns}: "
            bad.append((line.number - 1, reason + short(text)))  # counted from 1
            return "skip"

        if not text.strip(b"\r\n"):
            none = [pa.array([], pa.binary()) for _ in columns]
            return FileBlock(pa.RecordBatch.from_arrays(none, list(columns)), np.empty(0, np.int64))
        table = pyarrow.csv.read_csv(
            pa.BufferReader(text),
            pyarrow.csv.ReadOptions(
                use_threads=False,  # or a malformed row is reported without its number
                block_size=len(text) + 1,
                encoding=encoding,
                column_names=self.types.names,
            ),
            pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=on_bad),
            pyarrow.csv.ConvertOptions(
                check_utf8=False,
                column_types=dict.fromkeys(columns, pa.binary()),
                include_columns=list(columns),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )
        cells = [column.combine_chunks() for column in table.columns]
        if encoding == "latin1":
            cells = [_as_written(column) for column in cells]
        rows = pa.RecordBatch.from_arrays(cells, table.schema.names)
        before = np.array([number - i for i, (number, _) in enumerate(bad)], np.int64)
        index = np.arange(table.num_rows)
        offset = row + index + np.searchsorted(before, index, "right")
        aside = [(row + n, why, int(b)) for (n, why), b in zip(bad, before, strict=True)]
        return FileBlock(rows, offset, aside)


def _header(source: Any) -> bytes:
    """Read the first row of a file, with the byte order mark before it."""
    text: bytes = b""
    while (more := source.read(len(text) or CSV_HEAD_BYTES)) and len(text) <= CSV_BLOCK_BYTES:
        text += more
        mark = len(codecs.BOM_UTF8) if text.startswith(codecs.BOM_UTF8) else 0
        if (end := row_end(text[mark:], 1)) is not None:
            return text[: mark + end]
    return text


def _whole_rows(source: Any) -> Iterator[bytes]:
    """Yield the rest of a text in pieces that end where rows do."""
    text = b""
    while more := source.read(CSV_PIECE_BYTES):
        text += more
        if end := last_row_end(text):
            yield text[:end]
            text = text[end:]
        elif len(text) > CSV_BLOCK_BYTES:
            raise pa.ArrowInvalid("straddling")
    if text:
        yield text


def _skip(source: Any, count: int) -> None:
    """Move a source on by bytes."""
    if source.seekable():
        source.seek(count)
        return
    while count and (text := source.read(min(count, HASHED_BYTES))):
        count -= len(text)


def _encoding(text: bytes) -> str:
    try:
        text.decode()
    except UnicodeDecodeError:
        return "latin1"
    return "utf8"


def _as_written(cells: pa.Array) -> pa.Array:
    """Return the original bytes of cells that Arrow read as Latin-1 and turned into UTF-8."""
    if pc.all(pc.string_is_ascii(cells.cast(pa.string()))).as_py() is not False:
        return cells
    original = [
        None if cell is None else cell.decode().encode("latin1") for cell in cells.to_pylist()
    ]
    return pa.array(original, pa.binary())


def _split(block: FileBlock, start: int, size: int) -> Iterator[FileBlock]:
    """Yield the block from offset ``start`` on, in blocks of at most ``size`` rows."""
    first = int(np.searchsorted(block.offset, start))
    aside = [a for a in block.aside if a[0] >= start]
    if aside and not len(block.offset):
        yield FileBlock(block.table, block.offset, aside)
    for lo in range(first, len(block.offset), size):
        rows = slice(lo, lo + size)
        stop = lo + size if lo + size < len(block.offset) else len(block.offset) + 1
        bad = [(row, reason, b - lo) for row, reason, b in aside if lo <= b < stop]
        yield FileBlock(block.table.slice(lo, size), block.offset[rows], bad)
