"""What a stream has read of its files, and whether they are still what was read."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from streams.core.errors import REMEDY, StreamError
from streams.files.formats.base import File
from streams.files.formats.csv_file import Csv
from streams.files.formats.fingerprint import Entry, Fingerprint, Trail

Rows = Mapping[int, int]
"""The number of a file to a row of it."""


class FilesRead:
    """The fingerprints of the files of one role, events or labels, as they are read.

    Args:
        files: the files.
        columns: that are read of them.
    """

    def __init__(self, files: Sequence[File], columns: Sequence[str]) -> None:
        self._files = files
        self._columns = sorted(columns)
        self._verified: dict[tuple[int, int], Fingerprint] = {}
        self._trails: dict[int, Trail] = {}

    def begin(self, cursor: Rows, first: Rows) -> None:
        """Begin a reading.

        Args:
            cursor: the rows that it begins at.
            first: the rows that the first reading began at.
        """
        recent: deque[tuple[Trail, int]] = deque()
        self._trails = {
            i: Trail(partial(self._before, i, cursor.get(i, 0), first.get(i, 0)), recent)
            for i in range(len(self._files))
        }

    def trail(self, number: int) -> Trail:
        """Return what takes the rows of a file, which is about to be read."""
        self._files[number].refresh()
        return self._trails[number]

    def identity(self, cursor: Rows, first: Rows) -> dict[str, Any]:
        """Return the fingerprints of the files before a cursor. Raise ``StreamError`` where a file
        is no longer what was read of it."""
        entries = []
        for i, rows in sorted(cursor.items()):
            if rows <= first.get(i, 0):
                continue
            entry = self._trails[i].at(rows) if i in self._trails else None
            file = self._files[i]
            if entry is None:  # an earlier reading, perhaps of another process, has read them
                file.check_unchanged(None, self._columns)
                wanted = {"rows": rows, "first": first.get(i, 0)}
                entry = file.fingerprint(wanted, self._columns).entry()
            file.check_unchanged(entry, self._columns)
            entries.append({"number": i, "file": file.path.name, **entry})
        return {"columns": self._columns, "files": entries}

    def verify(self, identities: Sequence[dict[str, Any]], cursor: Rows) -> None:
        """Check the files against identities of theirs, in their order; keep what is found, for a
        reading that begins there. Raise ``StreamError``."""
        self._verified = {}
        known: dict[int, list[Entry]] = {}
        for identity in identities:
            for entry in identity.get("files", ()):
                known.setdefault(entry["number"], []).append(entry)
        for i, entries in sorted(known.items()):
            if i >= len(self._files):
                raise StreamError(f"{entries[-1]['file']}, which was read, is gone: {REMEDY}")
            columns = identities[-1]["columns"]
            wanted = [
                {key: entry[key] for key in entry.keys() - {"number", "file"}} for entry in entries
            ]
            try:
                found = self._files[i].verify(wanted, columns)
            except StreamError:
                self._check_names(known)
                raise
            if columns == self._columns:
                self._verified |= {(i, fingerprint.rows): fingerprint for fingerprint in found}

    def _check_names(self, known: Mapping[int, Sequence[Entry]]) -> None:
        """Raise ``StreamError`` where the files are others, or in another order."""
        now = [file.path.name for file in self._files]
        then = {entries[-1]["file"]: i for i, entries in known.items()}
        last = max(known)
        for name in then:
            if name not in now:
                raise StreamError(f"{name}, which was read, is gone: {REMEDY}")
        for file in self._files[: last + 1]:
            if file.path.name not in then:
                raise StreamError(
                    f"{file.path} is new, and comes before {known[last][-1]['file']}, which was "
                    f"read already: give it a name that comes after; or {REMEDY}"
                )

    def _before(self, number: int, rows: int, first: int) -> Fingerprint:
        """Return the fingerprint of the rows before those that a reading begins with."""
        if (known := self._verified.get((number, rows))) is not None:
            return known.copy()
        file = self._files[number]
        if isinstance(file, Csv) or rows <= first:  # the reading begins with the first byte
            return file.first_rows(self._columns, rows)
        return file.fingerprint({"rows": rows, "first": first}, self._columns)
