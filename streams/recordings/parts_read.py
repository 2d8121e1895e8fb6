"""What a run has read of the parts of a recording, and whether they are still what was read.

A part never changes once it is written. So its fingerprint is a hash of its bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from streams.core.errors import REMEDY, StreamError
from streams.core.stream import DataIdentity
from streams.recordings.manifest import Part, unreadable


class PartsRead:
    """The fingerprints of parts, each from the first time that it is read.

    Args:
        folder: of the recording.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, str] = {}

    def table(self, part: Part) -> pa.Table:
        """Read the table of a part. Raise ``StreamError``, also where the part has changed since it
        was first read."""
        try:
            data = part.path.read_bytes()
            table = pq.ParquetFile(pa.BufferReader(data)).read()
        except (OSError, pa.ArrowException) as error:
            raise unreadable(part.path, error) from None
        found = xxhash.xxh3_128_hexdigest(data)
        if self._known.setdefault(part.path.name, found) != found:
            raise _changed(part.path)
        return table

    def identity(self, parts: Sequence[Part]) -> DataIdentity:
        """Return the fingerprints of parts by name. Raise ``StreamError``."""
        return {"parts": {part.path.name: self._fingerprint(part) for part in parts}}

    def verify(self, identities: Sequence[DataIdentity], parts: Sequence[Part]) -> None:
        """Raise ``StreamError`` where a part that was read is missing, or has changed.

        Args:
            identities: what ``identity`` returned.
            parts: of the recording now.
        """
        now = {part.path.name: part for part in parts}
        for identity in identities:
            for name, known in identity.get("parts", {}).items():
                if name not in now:
                    path = self._folder / name
                    raise StreamError(f"{path}, which this run has read, is gone: {REMEDY}")
                if self._fingerprint(now[name]) != known:
                    raise _changed(now[name].path)

    def _fingerprint(self, part: Part) -> str:
        """Return the hash of a part; read the file where it was not read before."""
        name = part.path.name
        if name not in self._known:
            try:
                with part.path.open("rb") as file:
                    self._known[name] = hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
            except OSError as error:
                raise unreadable(part.path, error) from None
        return self._known[name]


def _changed(path: Path) -> StreamError:
    return StreamError(f"{path}, which this run has read, has changed: {REMEDY}")
