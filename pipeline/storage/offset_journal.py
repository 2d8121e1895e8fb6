"""The journal of a live run: a write-ahead log of the blocks that it has read.

The partitions of a live stream interleave differently each time they are read. The journal keeps
the order: the first line of ``journal.jsonl`` says where the run began, each other line names a
block by its ranges of offsets, with a hash of the last record of each, or says where a run that
goes on after its end is to end now. A run that was killed reads the blocks after its checkpoint
again by the journal, and comes to the state of a run that was not killed.

A line is written before its block is learned, so a killed process loses none. It is on the disk
before a checkpoint that needs it: a loss of power loses only lines that no checkpoint needs.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple

from pipeline.config.errors import JobError
from pipeline.storage.run_folder import JOURNAL
from streams.core.batch import ReadMarks
from streams.core.live_stream import Ranges, reached
from streams.core.stream import Cursor

_REMEDY = "restore the file, or start another run (another --run-dir)"


class Entry(NamedTuple):
    """A block of a live stream.

    Attributes:
        number: its number.
        ranges: its ranges of offsets.
        ends: whether a micro-batch ends with it.
        read_at: seconds of the reader's clock when it was read; None where the stream has none.
        digests: a hash of the last record of each range; without those that are not known.
        ordered: as in ``ReadMarks``.
    """

    number: int
    ranges: Ranges
    ends: bool
    read_at: float | None = None
    digests: Mapping[str, str] = MappingProxyType({})
    ordered: bool = False


class Journal:
    """The journal in a run folder. Its methods raise ``JobError`` where it cannot be read.

    Attributes:
        start: where the run began.
        stop: where the run ends; None where it has no end.
        fingerprint: of the job that began the run.
        topics: the ids of the topics that it read then.
        schemas: topic to the id of the schema that its messages had then, where a job states none.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL
        self.start: Cursor = {}
        self.stop: Cursor | None = None
        self.fingerprint: dict[str, Any] = {}
        self.topics: dict[str, str] = {}
        self.schemas: dict[str, int] = {}
        self._file: IO[bytes] | None = None
        self._next = 0  # number of the next block
        self._end = 0  # bytes of the lines before it
        # Blocks that may not be learned yet: where their line begins, number, and last positions.
        self._open: deque[tuple[int, int, Cursor]] = deque()

    @property
    def begun(self) -> bool:
        """Whether there is a journal with its first line."""
        try:
            with self.path.open("rb") as file:
                return file.readline().endswith(b"\n")
        except OSError:
            return False

    def head(self) -> Cursor:
        """Read the first line; return where the run began."""
        with self.path.open("rb") as file:
            line = file.readline()
        try:
            first = self._json(line)
            self.start, self.stop = first["start"], first["stop"]
            self.fingerprint = first["fingerprint"]
            self.topics = first.get("topics", {})
            self.schemas = first.get("schemas", {})
        except (KeyError, TypeError):
            raise self._broken(line) from None
        return self.start

    def begin(
        self,
        start: Cursor,
        stop: Cursor | None,
        fingerprint: dict[str, Any] | None = None,
        topics: Mapping[str, str] = MappingProxyType({}),
        schemas: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Begin a new journal; delete the old one."""
        self.close()
        self.path.unlink(missing_ok=True)
        self.start, self.stop, self._next, self._end = start, stop, 0, 0
        self._open.clear()
        self._file = self.path.open("ab")
        self.fingerprint, self.topics = fingerprint or {}, dict(topics)
        line = {"start": start, "stop": stop, "fingerprint": self.fingerprint}
        self.schemas = dict(schemas)
        line |= {"topics": self.topics} if topics else {}
        self._append(line | ({"schemas": self.schemas} if schemas else {}))
        self.sync()

    def go_on(self, at: tuple[int, int] | None, stop: Cursor | None = None) -> Iterator[Entry]:
        """Read the blocks from a position on; then ``write`` appends to the journal.

        Args:
            at: as ``position`` returned it; None reads all blocks.
            stop: where the run was to end at that position; None: as at the beginning.
        """
        self.close()
        self._open.clear()
        try:
            self.head()
        except OSError as error:
            raise JobError(f"{self.path}: {error.strerror}: {_REMEDY}") from None
        self.stop = stop or self.stop
        with self.path.open("r+b") as file:
            file.readline()
            self._end, self._next = (file.tell(), 0) if at is None else at
            file.seek(self._end - 1)
            if file.read(1) != b"\n":
                raise JobError(f"{self.path}: block {self._next} is not where it was: {_REMEDY}")
            while (line := file.readline()).endswith(b"\n"):
                fields = self._json(line)
                if "stop" in fields:
                    self.stop = fields["stop"]
                    self._end += len(line)
                    continue
                entry = self._entry(fields, line)
                if entry.number != self._next:
                    raise self._broken(line)
                self._note(entry)
                self._end += len(line)
                self._next = entry.number + 1
                yield entry
            file.truncate(self._end)  # a partial line of a killed process
        self._file = self.path.open("ab")

    def extend(self, stop: Cursor) -> None:
        """Note that the run, which has come to its end, goes on and ends here."""
        self.stop = stop
        self._append({"stop": stop})
        self.sync()

    def write(
        self,
        ranges: Ranges,
        ends: bool,
        read_at: float | None = None,
        marks: ReadMarks | None = None,
    ) -> int:
        """Write the next block; return its number. It may be learned when this returns."""
        entry = Entry(self._next, ranges, ends, read_at, *_digests(ranges, marks))
        self._note(entry)
        fields = {
            "block": entry.number,
            "ranges": ranges,
            "ends": ends or None,
            "read_at": read_at,
            "digests": entry.digests or None,
            "ordered": entry.ordered or None,
        }
        self._append({name: value for name, value in fields.items() if value is not None})
        self._next += 1
        return entry.number

    def position(self, cursor: Cursor) -> tuple[int, int]:
        """Return the byte and the number of the oldest block that is not learned at a cursor."""
        while self._open and reached(cursor, self._open[0][2]):
            self._open.popleft()
        if self._open:
            return self._open[0][0], self._open[0][1]
        return self._end, self._next

    @property
    def end(self) -> int:
        """The byte after the line of the last block that was written or read."""
        return self._end

    def sync(self) -> None:
        """Return once all lines are on the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()

    def _append(self, entry: dict[str, Any]) -> None:
        assert self._file is not None, "the journal is open once all of it has been read"
        self._end += self._file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        self._file.flush()

    def _note(self, entry: Entry) -> None:
        last = {name: after for name, (_, after) in entry.ranges.items()}
        self._open.append((self._end, entry.number, last))

    def _entry(self, fields: dict[str, Any], line: bytes) -> Entry:
        try:
            ranges = {name: (first, after) for name, (first, after) in fields["ranges"].items()}
            return Entry(
                fields["block"],
                ranges,
                fields.get("ends", False),
                fields.get("read_at"),
                fields.get("digests", {}),
                fields.get("ordered", False),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._broken(line) from None

    def _json(self, line: bytes) -> dict[str, Any]:
        try:
            fields = json.loads(line)
        except ValueError:
            raise self._broken(line) from None
        if not isinstance(fields, dict):
            raise self._broken(line)
        return fields

    def _broken(self, line: bytes) -> JobError:
        return JobError(f"{self.path}: a line is not the one expected ({line[:80]!r}): {_REMEDY}")


def _digests(ranges: Ranges, marks: ReadMarks | None) -> tuple[dict[str, str], bool]:
    """Return the hash of the last record of each range, where it is known, and ``ordered``."""
    if marks is None:
        return {}, False
    digests = {
        name: mark.digest
        for name, mark in marks.last.items()
        if name in ranges and mark.offset + 1 == ranges[name][1]
    }
    return digests, marks.ordered
