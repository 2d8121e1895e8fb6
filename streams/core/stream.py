"""The interface of a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypedDict

from streams.core.batch import Batch
from streams.core.description import StreamDescription, describe_schema
from streams.core.errors import StreamError
from streams.core.schema import Scalar, Schema
from streams.core.stream_config import StreamConfig

Cursor = dict[str, int]
"""Partition to the offset of the next event to read; ``{}`` is the beginning. Partitions of labels
that arrive on their own are named ``labels/...``."""


DataIdentity = dict[str, Any]
"""What a stream has read before a cursor, so that it can be recognised; JSON."""


class JsonLayout(TypedDict, total=False):
    """How an event of a stream is written as JSON in a request to the server; JSON itself.

    Attributes:
        cells: ``json``: values have the types of JSON, as in a message; ``typed``: cells are read
            by their own type, as in Parquet; ``text``: all cells are text, as in CSV.
        nested: whether a name with dots reaches into objects.
        pixels: whether an image may be a list of pixels, besides base64 of a PNG or JPEG.
        id: the field of the event's own id; None where events have none, or it is a feature too.
        fields: the fields of a message besides the features: ``[name, kind, required]`` each.
        columns: what these hold: a role of ``Columns`` to a name, or to ``[name, type]``.
        times: the unit, zone and format of fields that are times.
    """

    cells: Literal["json", "typed", "text"]
    nested: bool
    pixels: bool
    id: str | None
    fields: list[Any]
    columns: dict[str, Any]
    times: dict[str, Any]


class Stream(ABC):
    """A source of events in a fixed order.

    A subclass sets ``kind`` and ``Config`` and takes ``(config, folder)``: its settings and the
    folder that relative paths in them start from. Its constructor raises ``StreamError`` if it can
    already tell that reading will fail.

    Attributes:
        schema: the features and the label.
        has_ids: whether events have ids of their own (else their position is their id).
        has_time: whether events have a time of their own (else their position is their time).
        has_arrivals: whether labels arrive on their own, not in the rows of their events.
        has_segments: whether events have the task or concept that they are of; None: that is not
            known before they are read.
        gapless: whether the offsets of a partition have no gaps, dead events included. A missing
            offset is then an error, not a silent loss. False for Kafka, where it is no loss.
        interleaved_partitions: whether partitions are read interleaved, not one after another.
            Event time then advances in each partition separately.
        open_end: whether it continues after what is read here: a run that reads all of it has not
            finished.
        has_identity: whether it can say what it has read, and recognise it.
        time_zone: the zone of times whose hour may come twice, where their order must still say
            which it is; None: times are certain.
        class_count_hint: how many classes a sample of the stream has; 0: that is not known.
        id_type: the type of the ids by which others name events, in labels and requests.
        dtype: of a matrix of numbers or vectors, ``float64`` or ``float32``.
        readers: actors that read it at once, each its share of the partitions.
        group: a name for those that read it, where the job has stated none: the name of the job.
    """

    kind: ClassVar[str]
    Config: ClassVar[type[StreamConfig]] = StreamConfig

    schema: Schema
    has_ids: bool = False
    has_time: bool = False
    has_arrivals: bool = False
    has_segments: bool | None = None
    gapless: bool = True
    interleaved_partitions: bool = False
    open_end: bool = False
    has_identity: bool = False
    time_zone: str | None = None
    class_count_hint: int = 0
    id_type: Scalar = "int"
    dtype: str = "float64"
    readers: int = 1
    group: str = ""

    @abstractmethod
    def __init__(self, config: Any, folder: Path) -> None: ...

    @abstractmethod
    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        """Yield blocks of about ``block_size`` events; the first event is the one at the cursor.

        It returns when the stream has truly ended; an unbounded stream never returns. ``y`` and the
        ``y`` of arrivals are codes into the block's own ``classes``, in any order; the label
        encoder turns them into one numbering."""

    def origin(self) -> Cursor:
        """Return where a new run begins; ``{}``: each partition at the first event read from it."""
        return {}

    def identity(self, cursor: Cursor) -> DataIdentity:
        """Return fingerprints of what was read before a cursor. Where that is no longer what the
        source holds, raise ``StreamError``."""
        return {}

    def verify_identity(self, identities: Sequence[DataIdentity], cursor: Cursor) -> None:  # noqa: B027
        """Raise ``StreamError`` where the source is not what was read of it.

        Args:
            identities: what ``identity`` returned at some cursors, in their order; empty: nothing
                was kept.
            cursor: up to which the source was read.
        """

    def sources(self) -> list[str]:
        """Return the names of what is read, in order: the files of a stream of files."""
        return []

    def commit(self, cursor: Cursor) -> None:  # noqa: B027
        """Note that a checkpoint holds all events before this cursor, as for a consumer group to
        see. Never waits."""

    def seek(self, time: float) -> Cursor:
        """Return the cursor of the first event at or after ``time`` (seconds of event time)."""
        raise StreamError(f"a stream of kind {type(self).__name__} cannot seek by time")

    def describe(self) -> StreamDescription:
        """Return what the stream takes its columns for, and what looks wrong in them. Reads at most
        a sample, and never a message of a live stream. Raises ``StreamError``."""
        return describe_schema(self.kind, self.schema)

    def json_layout(self) -> JsonLayout:
        """Return how an event of the stream is written as JSON, for the server."""
        return {"cells": "json", "nested": False, "pixels": True, "id": None}

    def place_name(self, partition: int, label: bool) -> str:
        """Return the name of a partition of events, or of labels, for messages."""
        return f"{'labels/' if label else ''}{partition}"

    def __len__(self) -> int:
        """The number of events if it is known in advance, for the progress bar."""
        raise TypeError("the stream has no known length")
