"""A file of events: what its readers have in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from streams.core.batch import Ints
from streams.core.errors import REMEDY, StreamError
from streams.decoding.time_reader import TimeReader
from streams.files.formats.fingerprint import Entry, Fingerprint, Trail

CSV_BLOCK_BYTES = 4 << 20
"""Bytes of the longest row of a CSV file."""


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


class Stat(NamedTuple):
    """What the file system says of a file."""

    size: int
    device: int
    inode: int
    modified: int
    changed: int


class File(ABC):
    """One file.

    Attributes:
        path: the file.
        types: its columns.
        rows: its length; None: not known yet.
    """

    types: pa.Schema
    rows: int | None

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stat = stat_of(path)

    @abstractmethod
    def read(
        self, start: int, size: int, columns: Sequence[str], trail: Trail | None = None
    ) -> Generator[FileBlock]:
        """Yield blocks of at most ``size`` rows of the columns, from row ``start`` on. ``rows`` is
        set once the last has been read. ``trail`` takes what is read."""

    def head(self, count: int, columns: Sequence[str]) -> FileBlock:
        """Return at most the first ``count`` rows of the columns, of a file that has rows."""
        with closing(self.read(0, count, columns)) as blocks:
            return next(blocks)

    @abstractmethod
    def first_rows(self, columns: Sequence[str], first: int = 0) -> Fingerprint:
        """Return the fingerprint of no rows, to which those from ``first`` on are added."""

    @abstractmethod
    def fingerprints(
        self, entries: Sequence[Entry], columns: Sequence[str]
    ) -> Iterator[Fingerprint]:
        """Read the file again; return its fingerprint at the end of each of these, which are in
        order. It stops where the file is shorter."""

    @abstractmethod
    def fingerprint(self, entry: Entry, columns: Sequence[str]) -> Fingerprint:
        """Read the file again; return its fingerprint at the row of an entry."""

    def verify(self, entries: Sequence[Entry], columns: Sequence[str]) -> list[Fingerprint]:
        """Return the fingerprints that these entries are of, in their order.

        Raises:
            StreamError: the file is another one than that which was read.
        """
        found = list(self.fingerprints(entries, columns))
        read = f"of which this run has read {entries[-1]['rows']:,} rows"
        if len(found) < len(entries):
            raise StreamError(f"{self.path}, {read}, is shorter now: {REMEDY}")
        for entry, fingerprint in zip(entries, found, strict=True):
            if fingerprint.entry() != entry:
                row = f"{entry['rows']:,}"
                raise StreamError(f"{self.path}, {read}, has changed before row {row}: {REMEDY}")
        return found

    def check_unchanged(self, entry: Entry | None, columns: Sequence[str]) -> None:
        """Raise ``StreamError`` where the file is no longer what was read of it by now; where no
        fingerprint says what that was, at any change."""
        now = stat_of(self.path)
        if now != self._stat:
            try:
                self._check_length(now)
                if entry is None:
                    raise StreamError(f"{self.path} has changed: {REMEDY}")
                type(self)(self.path).verify([entry], columns)
            except StreamError as error:
                raise StreamError(f"while it was read: {error}") from None
            self._stat = now

    def _check_length(self, now: Stat) -> None:  # noqa: B027
        """Raise ``StreamError`` where a file cannot have become as short without losing rows."""

    def refresh(self) -> None:
        """Take the file as it is now, before it is read. Raise ``StreamError`` where its columns
        are no longer those that the stream was made for."""
        if stat_of(self.path) != self._stat:
            fresh = type(self)(self.path)
            if fresh.types.remove_metadata() != self.types.remove_metadata():
                raise StreamError(f"{self.path} has other columns now than when the run was begun")
            self.__dict__.update(fresh.__dict__)

    def empty(self) -> bool:
        """Whether it has no rows."""
        with closing(self.read(0, 1, self.types.names)) as blocks:
            return next(blocks, None) is None

    def earliest(self, column: str, time: float, times: TimeReader) -> int:
        """Return a row before which every time in the column is before ``time``."""
        return 0

    def latest(self, column: str, times: TimeReader) -> float:
        """Return the time of the last row; NaN: it cannot be read without the rows before it."""
        return math.nan


def stat_of(path: Path) -> Stat:
    """Return what changes when a file is written or replaced; zeros where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return Stat(0, 0, 0, 0, 0)
    return Stat(stat.st_size, stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an error in reading a file into a ``StreamError`` that names it, on one line."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        if "straddling" in line:
            line = f"a row is longer than {CSV_BLOCK_BYTES >> 20} MiB, or a quote is never closed"
        raise StreamError(f"{path} cannot be read: {short(line, 200)}") from None


def short(text: str, maximum: int = 80) -> str:
    return text if len(text) <= maximum else text[: maximum - 3] + "..."
