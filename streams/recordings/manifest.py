"""What a recording says of itself: recording.json and its parts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from streams.core.batch import ClassName
from streams.core.errors import StreamError
from streams.core.live_stream import Ranges
from streams.core.schema import Feature, FeatureKind, Scalar, Schema, Task
from streams.core.settings import Settings
from streams.core.stream import Cursor

ABOUT = "recording.json"


_KEY = b"everlearn"


class RecordingManifest(Settings):
    """What ``recording.json`` says.

    Attributes:
        features: name, kind and shape of each.
        start: where the recorded run began, which a run of the recording begins at too.
        fingerprint: of the recorded job.
        stream: settings of its stream that every stream has.
        modules: the folder that its import paths start from.
        events: at which the recorded run ended; None: it has not ended yet, or was killed.
        cursor: where it had come to then, labels among it.
        finished: it had come to the end of its stream.
        warm_from: the checkpoint that it was begun with; None: with nothing.
    """

    version: Literal[1] = 1
    features: tuple[tuple[str, FeatureKind, tuple[int, ...]], ...]
    task: Task
    classes: tuple[ClassName, ...]
    has_ids: bool
    has_time: bool
    has_arrivals: bool
    gapless: bool
    side_by_side: bool
    id_type: Scalar
    dtype: str
    start: dict[str, int]
    fingerprint: dict[str, Any]
    stream: dict[str, Any]
    modules: str
    events: int | None = None
    cursor: Cursor | None = None
    finished: bool = False
    warm_from: str | None = None

    @property
    def schema_(self) -> Schema:
        return Schema(tuple(Feature(*f) for f in self.features), self.task, self.classes)

    @classmethod
    def read(cls, folder: Path) -> RecordingManifest:
        """Raises ``StreamError``."""
        file = folder / ABOUT
        try:
            return cls.model_validate_json(file.read_text())
        except OSError as error:
            raise StreamError(
                f"{file}: {error.strerror}: a folder that `everlearn record --to` has written is "
                "wanted"
            ) from None
        except (ValidationError, UnicodeDecodeError):
            raise StreamError(f"{file}: not the description of a recording") from None


class Part(NamedTuple):
    """A file of a recording, and what its footer says.

    Attributes:
        blocks: number of the first block, and the one after the last.
        ranges: positions in it.
        events: in it, the dead ones among them.
        latest: the latest event time in it; -inf where there is no event.
        in_rows: labels stood in the rows of their events.
        journal: bytes of the journal of the run up to the last block, and their SHA-256.
    """

    path: Path
    blocks: tuple[int, int]
    ranges: Ranges
    events: int
    latest: float
    in_rows: bool
    journal: tuple[int, str]

    @property
    def after(self) -> Cursor:
        """Positions after what is in it."""
        return {name: after for name, (_, after) in self.ranges.items()}

    def described(self, table: pa.Table) -> pa.Table:
        """The table with this in its footer."""
        said = {k: v for k, v in self._asdict().items() if k != "path"}
        said["latest"] = self.latest if math.isfinite(self.latest) else None
        return table.replace_schema_metadata({_KEY: json.dumps(said)})

    @classmethod
    def read(cls, path: Path) -> Part:
        """Raises ``StreamError``."""
        try:
            said = json.loads(pq.read_metadata(path).metadata[_KEY])
            return cls(
                path,
                tuple(said["blocks"]),
                {name: (first, after) for name, (first, after) in said["ranges"].items()},
                said["events"],
                -math.inf if said["latest"] is None else said["latest"],
                said["in_rows"],
                tuple(said["journal"]),
            )
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise unreadable(path, error) from None


def path_of(folder: Path, block: int) -> Path:
    """The file whose first block has this number."""
    return folder / f"part-{block:012}.parquet"


def parts(folder: Path) -> list[Part]:
    """The files of a recording, in order. Raises ``StreamError`` where one is missing."""
    found = [Part.read(path) for path in sorted(folder.glob("part-*.parquet"))]
    wanted = 0
    for part in found:
        if part.blocks[0] != wanted:
            raise StreamError(f"{path_of(folder, wanted)} is missing: put it back")
        wanted = part.blocks[1]
    return found


def unreadable(path: Path, error: Exception) -> StreamError:
    return StreamError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}")
