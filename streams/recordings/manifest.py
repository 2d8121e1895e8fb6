"""The manifest of a recording (recording.json), and the footers of its parts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from streams.core.batch import ClassName
from streams.core.errors import StreamError
from streams.core.live_stream import Ranges
from streams.core.schema import Feature, FeatureKind, Missing, Scalar, Schema, Task
from streams.core.settings import FormerName, Settings
from streams.core.stream import Cursor

MANIFEST = "recording.json"
_METADATA_KEY = b"everlearn"


class RecordingManifest(Settings):
    """The contents of ``recording.json``.

    Attributes:
        features: name, kind and shape of each feature, and what becomes of a missing value (None:
            the default). The last is not in older recordings.
        interleaved_partitions: as in ``Stream`` (``side_by_side`` in the file).
        start: the cursor where the recorded run began. A run of the recording begins there too.
        fingerprint: the fingerprint of the recorded job.
        stream: the settings of its stream that every stream has.
        module_folder: the folder that its import paths start from (``modules`` in the file).
        events: the number of events when the recorded run ended. None: it has not ended yet, or was
            killed.
        cursor: the cursor when it ended, labels included.
        finished: whether it had read its stream to the end.
        warm_from: the checkpoint that it was started with, or None.
    """

    version: Literal[1] = 1
    features: tuple[
        tuple[str, FeatureKind, tuple[int, ...], Missing | None]
        | tuple[str, FeatureKind, tuple[int, ...], Missing | None, bool, str | None]
        | tuple[str, FeatureKind, tuple[int, ...]],
        ...,
    ]
    task: Task
    classes: tuple[ClassName, ...]
    has_ids: bool
    has_time: bool
    has_arrivals: bool
    gapless: bool
    interleaved_partitions: Annotated[
        bool, FormerName("side_by_side"), Field(serialization_alias="side_by_side")
    ]
    id_type: Scalar
    dtype: str
    start: dict[str, int]
    fingerprint: dict[str, Any]
    stream: dict[str, Any]
    module_folder: Annotated[str, FormerName("modules"), Field(serialization_alias="modules")]
    events: int | None = None
    cursor: Cursor | None = None
    finished: bool = False
    warm_from: str | None = None

    @property
    def schema_(self) -> Schema:
        """The schema of the recorded stream."""
        return Schema(tuple(Feature(*f) for f in self.features), self.task, self.classes)

    @classmethod
    def read(cls, folder: Path) -> RecordingManifest:
        """Read the manifest in a folder. Raises ``StreamError``."""
        file = folder / MANIFEST
        try:
            return cls.model_validate_json(file.read_text())
        except OSError as error:
            raise StreamError(
                f"{file}: {error.strerror}: give a folder that `everlearn record --to` has written"
            ) from None
        except (ValidationError, UnicodeDecodeError):
            raise StreamError(f"{file}: not the manifest of a recording") from None

    def to_json(self) -> str:
        """Return the text of ``recording.json``."""
        return self.model_dump_json(indent=1, by_alias=True) + "\n"


class Part(NamedTuple):
    """A Parquet file of a recording, and the metadata in its footer.

    Attributes:
        path: the file.
        blocks: the number of its first block, and that after its last.
        ranges: the positions in it.
        events: the number of events in it, dead ones included.
        latest: the latest event time in it; -inf without events.
        in_rows: whether labels are in the rows of their events.
        journal: the bytes of the run's journal up to the last block, and their SHA-256.
    """

    path: Path
    blocks: tuple[int, int]
    ranges: Ranges
    events: int
    latest: float
    in_rows: bool
    journal: tuple[int, str]

    @property
    def end(self) -> Cursor:
        """The cursor after its last position."""
        return {name: stop for name, (_, stop) in self.ranges.items()}

    def with_footer(self, table: pa.Table) -> pa.Table:
        """Return the table with this metadata, to be written into its footer."""
        footer = {key: value for key, value in self._asdict().items() if key != "path"}
        footer["latest"] = self.latest if math.isfinite(self.latest) else None
        return table.replace_schema_metadata({_METADATA_KEY: json.dumps(footer)})

    @classmethod
    def read(cls, path: Path) -> Part:
        """Read the footer of a part. Raises ``StreamError``."""
        try:
            footer = json.loads(pq.read_metadata(path).metadata[_METADATA_KEY])
            return cls(
                path,
                tuple(footer["blocks"]),
                {name: (first, stop) for name, (first, stop) in footer["ranges"].items()},
                footer["events"],
                -math.inf if footer["latest"] is None else footer["latest"],
                footer["in_rows"],
                tuple(footer["journal"]),
            )
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise unreadable(path, error) from None


def path_of(folder: Path, block: int) -> Path:
    """Return the path of the part whose first block has this number."""
    return folder / f"part-{block:012}.parquet"


def parts(folder: Path) -> list[Part]:
    """Return the parts of a recording, in order. Raises ``StreamError`` if one is missing."""
    all_parts = [Part.read(path) for path in sorted(folder.glob("part-*.parquet"))]
    next_block = 0
    for part in all_parts:
        if part.blocks[0] != next_block:
            raise StreamError(f"{path_of(folder, next_block)} is missing: put it back")
        next_block = part.blocks[1]
    return all_parts


def unreadable(path: Path, error: Exception) -> StreamError:
    """Return the error of a part that cannot be read."""
    return StreamError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}: restore it")
