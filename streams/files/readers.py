"""Parquet and CSV files, read in blocks from any row.

Memory is bounded by a block and a row group (Parquet) or a few MiB of text (CSV). Reading a Parquet
file from any row skips whole row groups. A CSV file has no index: the rows before are parsed, but
not decoded.
"""

from __future__ import annotations

import codecs
import csv
import math
import re
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pyarrow.types as pt

from streams.core.batch import Ints
from streams.core.errors import StreamError
from streams.core.stream import Cursor
from streams.decoding.columns import plain, seconds

CSV_BLOCK_BYTES = 4 << 20
"""Bytes of CSV text that are parsed at a time: the longest row."""

CSV_TAIL_BYTES = 64 << 10
"""Bytes at the end of a CSV file in which its last row is looked for."""

SUFFIXES = (".parquet", ".csv", ".csv.gz")
PACKAGE_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class FileBlock:
    """m rows of a file.

    Attributes:
        table: the rows.
        offset: (m,) their row numbers in the file.
        aside: malformed rows among them: offset, reason, and the row of the table that each comes
            before.
    """

    table: pa.RecordBatch
    offset: Ints
    aside: Sequence[tuple[int, str, int]] = ()


class File(ABC):
    """One file.

    Attributes:
        path: the file.
        types: its columns.
        rows: its length; None: not known yet.
    """

    path: Path
    types: pa.Schema
    rows: int | None

    @abstractmethod
    def read(self, start: int, size: int, columns: Sequence[str]) -> Generator[FileBlock]:
        """Yield blocks of at most ``size`` rows of the columns, from row ``start`` on. ``rows`` is
        set once the last has been read."""

    def empty(self) -> bool:
        """Whether it has no rows."""
        with closing(self.read(0, 1, self.types.names)) as blocks:
            return next(blocks, None) is None

    def earliest(self, column: str, time: float) -> int:
        """Return a row before which every time in the column is before ``time``."""
        return 0

    def latest(self, column: str) -> float:
        """Return the time of the last row; NaN: it cannot be read without the rows before it."""
        return math.nan


class Parquet(File):
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _reading(path):
            file = pq.ParquetFile(path)
        self._meta = file.metadata
        self.types = file.schema_arrow
        self.rows: int = self._meta.num_rows
        groups = range(self._meta.num_row_groups)
        self._ends = list(accumulate(self._meta.row_group(g).num_rows for g in groups))
        file.close()

    def read(self, start: int, size: int, columns: Sequence[str]) -> Generator[FileBlock]:
        first = bisect_right(self._ends, start)
        at = self._ends[first - 1] if first else 0
        with _reading(self.path), pq.ParquetFile(self.path, metadata=self._meta) as file:
            while first < len(self._ends):
                # iter_batches keeps all its row groups in memory until it ends, so it gets no more
                # of them at a time than make up a block.
                last = min(bisect_left(self._ends, at + size), len(self._ends) - 1)
                groups = range(first, last + 1)
                for batch in file.iter_batches(size, groups, columns, use_threads=False):
                    end = at + batch.num_rows
                    if end > start:
                        skip = max(0, start - at)
                        yield FileBlock(batch.slice(skip), np.arange(at + skip, end))
                    at = end
                first = last + 1

    def earliest(self, column: str, time: float) -> int:
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
            latest = seconds(pa.array([stats.max], kind))[0]
            if not latest + 1e-3 < time:  # a timestamp read from statistics may be rounded
                break
            row = end
        return row

    def latest(self, column: str) -> float:
        for block in self.read(self.rows - 1, 1 << 16, [column]):
            return float(seconds(plain(block.table.column(column)))[-1])
        return math.nan


class Csv(File):
    """A CSV file. Every column is read as bytes: one bad cell is one dead row, not a failed read.

    Arrow cannot report a malformed row that is not UTF-8. A file is therefore read as UTF-8 up to
    the first other byte, and as Latin-1, which accepts any bytes, from there on. The bytes of cells
    are the same either way.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: int | None = None
        with _reading(path):
            try:
                with self._reader("utf8", lambda row: "skip") as reader:
                    names = reader.schema.names
            except UnicodeDecodeError:
                with self._reader("latin1", lambda row: "skip") as reader:
                    names = [name.encode("latin1").decode() for name in reader.schema.names]
        self.types = pa.schema([(name, pa.binary()) for name in names])

    def read(self, start: int, size: int, columns: Sequence[str]) -> Generator[FileBlock]:
        if self.rows is not None and start >= self.rows:
            return
        with _reading(self.path):
            try:
                for end, block in self._parse("utf8", columns):
                    yield from _split(block, start, size)
                    start = max(start, end)
            except UnicodeDecodeError:
                for _, block in self._parse("latin1", columns):
                    yield from _split(block, start, size)

    def latest(self, column: str) -> float:
        if self.path.name.endswith(".gz"):
            return math.nan
        with _reading(self.path), self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - CSV_TAIL_BYTES))
            tail = file.read()
        last = tail.rstrip().rpartition(b"\n")[2].decode(errors="replace")
        cells = next(csv.reader([last]), [])
        if len(cells) != len(self.types.names):  # the end of a row of several lines
            return math.nan
        return float(seconds(pa.array([cells[self.types.names.index(column)]]))[0])

    def _parse(self, encoding: str, columns: Sequence[str]) -> Iterator[tuple[int, FileBlock]]:
        """Yield blocks as they are parsed, each with the offset after its last row."""
        bad: list[tuple[int, str]] = []

        def on_bad(row: Any) -> str:
            text = row.text.encode(encoding).decode(errors="backslashreplace")
            reason = f"the row has {row.actual_columns} fields; expected {row.expected_columns}: "
            bad.append((row.number - 2, reason + _short(text)))  # counted from 1, header included
            return "skip"

        at = 0
        with self._reader(encoding, on_bad, columns) as reader:
            for table in reader:
                # Parsing runs ahead: the list may have rows beyond this table, never fewer.
                before = np.array([row - at - i for i, (row, _) in enumerate(bad)], np.int64)
                count = int(np.searchsorted(before, table.num_rows))
                index = np.arange(table.num_rows)
                offset = at + index + np.searchsorted(before[:count], index, "right")
                aside = [(*bad[i], int(before[i])) for i in range(count)]
                at += table.num_rows + count
                del bad[:count]
                if encoding == "latin1":
                    cells = [_as_written(column) for column in table.columns]
                    table = pa.RecordBatch.from_arrays(cells, table.schema.names)
                yield at, FileBlock(table, offset, aside)
        self.rows = at + len(bad)
        if bad:
            none = self.types.empty_table().select(list(columns))
            yield self.rows, FileBlock(none, np.empty(0, np.int64), [(*row, 0) for row in bad])

    def _reader(
        self, encoding: str, on_bad: Callable[[Any], str], columns: Sequence[str] | None = None
    ) -> Any:
        names: dict[str, Any] = {}
        cells: dict[str, Any] = {}
        if columns is not None:
            names = {"column_names": self.types.names, "skip_rows_after_names": 1}
            cells = {
                "column_types": dict.fromkeys(columns, pa.binary()),
                "include_columns": list(columns),
                "strings_can_be_null": True,
                "quoted_strings_can_be_null": False,
                "null_values": [""],
            }
        source = pa.input_stream(str(self.path), compression="detect")
        return pyarrow.csv.open_csv(
            pa.TransformInputStream(source, _checked(encoding)),
            pyarrow.csv.ReadOptions(
                use_threads=False,  # or a malformed row is reported without its number
                block_size=CSV_BLOCK_BYTES,
                encoding=encoding,
                **names,
            ),
            pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=on_bad),
            pyarrow.csv.ConvertOptions(check_utf8=False, **cells),
        )


def _checked(encoding: str) -> Callable[[Any], bytes]:
    """Return a function that checks chunks of text: it removes the byte order mark, and raises if
    bytes are not in the encoding."""
    decoder = codecs.getincrementaldecoder(encoding)()
    first = True

    def check(chunk: Any) -> bytes:
        nonlocal first
        data = bytes(chunk)
        decoder.decode(data, final=not data)
        data, first = data.removeprefix(codecs.BOM_UTF8) if first else data, False
        return data

    return check


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
        bad = [(row, reason, b - lo) for row, reason, b in aside if lo <= b < lo + size]
        yield FileBlock(block.table.slice(lo, size), block.offset[rows], bad)


def open_files(stated: str | list[str], folder: Path, role: str = "path") -> list[File]:
    """Open the files of a path or a list of paths. Raises ``StreamError`` unless all exist,
    have rows and have the same columns.

    Args:
        stated: paths, as in ``RecordedConfig.path``.
        folder: the folder that relative paths start from.
        role: the key of the job under ``stream`` that states them.
    """
    patterns = [stated] if isinstance(stated, str) else stated
    if not patterns:
        raise StreamError(f"stream.{role}: the list of files is empty")
    files: list[File] = []
    for path in (path for pattern in patterns for path in _find(pattern, folder, role)):
        if not path.stat().st_size:
            raise StreamError(f"{path} is empty (0 bytes)")
        file: File = Parquet(path) if path.name.endswith(".parquet") else Csv(path)
        names = file.types.names
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise StreamError(f"{path}: more than one column is named {twice!r}")
        if file.empty():
            raise StreamError(f"{path} has no rows")
        if files and (odd := set(files[0].types.names) ^ set(names)):
            raise StreamError(
                f"{path}: its columns differ from those of {files[0].path}: "
                + ", ".join(map(repr, sorted(odd)))
            )
        files.append(file)
    return files


def _find(pattern: str, folder: Path, role: str) -> list[Path]:
    """Return the files of one path, folder or glob pattern, in the first base folder that has any.
    Raises ``StreamError``."""
    stated = Path(pattern).expanduser()
    bases = [Path()] if stated.is_absolute() else [folder, Path.cwd(), PACKAGE_ROOT]
    for base in bases:
        path = base / stated
        if path.is_file():
            paths = [path]
        elif path.is_dir():
            paths = [p for p in path.iterdir() if p.name.endswith(SUFFIXES)]
            if not paths:
                raise StreamError(f"stream.{role}: no {', '.join(SUFFIXES)} in the folder {path}")
        else:
            start = Path(path.anchor)
            paths = [p for p in start.glob(str(path.relative_to(start))) if p.is_file()]
        if paths:
            break
    else:
        folders = dict.fromkeys(str((base / stated).parent.absolute()) for base in bases)
        raise StreamError(f"stream.{role}: no file {pattern!r}; looked in {', '.join(folders)}")
    for path in paths:
        if not path.name.endswith(SUFFIXES):
            raise StreamError(f"{path}: not one of the known kinds of file: {', '.join(SUFFIXES)}")
    return sorted(paths, key=natural_key)


def natural_key(path: Path) -> tuple[list[str | int], str]:
    """Return the key that sorts paths as people number them: part-2 is before part-10."""
    pieces = re.split(r"(\d+)", str(path))  # text, digits, text, ...
    return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)], str(path)


def seek(files: Sequence[File], column: str, time: float, prefix: str) -> Cursor:
    """Return the cursor of the first row whose time is at or after ``time``, or the end of all
    files.

    Args:
        files: the files; file p is partition p.
        column: the column of times.
        time: in seconds.
        prefix: of the partitions in the cursor.
    """
    cursor: Cursor = {}
    for partition, file in enumerate(files):
        key = f"{prefix}{partition}"
        with closing(file.read(file.earliest(column, time), 1 << 16, [column])) as blocks:
            for block in blocks:
                times = seconds(plain(block.table.column(column)))
                rows = np.flatnonzero((times >= time) & np.isfinite(times))
                if len(rows):
                    cursor[key] = int(block.offset[rows[0]])
                    return cursor
        assert file.rows is not None
        cursor[key] = file.rows
    return cursor


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn an error in reading a file into a ``StreamError`` that names it, on one line."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        if "straddling" in line:
            line = f"a row is longer than {CSV_BLOCK_BYTES >> 20} MiB, or a quote is never closed"
        raise StreamError(f"{path} cannot be read: {_short(line, 200)}") from None


def _short(text: str, maximum: int = 80) -> str:
    return text if len(text) <= maximum else text[: maximum - 3] + "..."
