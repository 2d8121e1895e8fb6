"""What a stream is, and how a job names one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from streams.core.batch import Batch
from streams.core.errors import StreamError
from streams.core.schema import Scalar, Schema
from streams.core.stream_config import StreamConfig

Cursor = dict[str, int]
"""Partition to the offset of the next event to read; ``{}`` is the beginning. Labels that come on
their own are partitions named ``labels/...``."""


class Stream(ABC):
    """A source of events in a fixed order.

    A subclass sets ``kind`` and ``Config`` and takes ``(config, folder)``: its settings and the
    folder that relative paths in them start from. It raises ``StreamError`` in the constructor
    where it can already tell that reading will fail.

    Attributes:
        schema: the features and the label.
        has_ids: whether events bring ids of their own (else their position is their id).
        has_time: whether events bring a time of their own (else their position is their time).
        has_arrivals: whether labels arrive on their own, and not in the rows of their events.
        gapless: whether the positions of a partition follow one another without gaps, dead events
            among them; a position passed over is then an error, not a loss that nobody sees. False
            for sources such as a compacted topic of Kafka.
        interleaved_partitions: whether partitions are read interleaved, not one after another:
            event time then advances in each by itself.
        open_end: whether it goes on after what is read of it here: a run that has come to the last
            of it has not finished.
        id_type: how an id is read that somebody else names an event by.
        dtype: of a matrix of numbers or vectors, ``float64`` or ``float32``.
    """

    kind: ClassVar[str]
    Config: ClassVar[type[StreamConfig]] = StreamConfig

    schema: Schema
    has_ids: bool = False
    has_time: bool = False
    has_arrivals: bool = False
    gapless: bool = True
    interleaved_partitions: bool = False
    open_end: bool = False
    id_type: Scalar = "int"
    dtype: str = "float64"

    @abstractmethod
    def __init__(self, config: Any, folder: Path) -> None: ...

    @abstractmethod
    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        """Blocks of about ``block_size`` events from the cursor on, exactly: the first event read
        is the one at the cursor. Returning means that the stream has truly ended; an unbounded
        stream never returns. ``y`` and the ``y`` of arrivals are codes into the block's own
        ``classes``, in any order; the vocabulary operator makes them one numbering."""

    def origin(self) -> Cursor:
        """Where a new run begins; ``{}`` where each partition begins with the first that is read of
        it."""
        return {}

    def seek(self, time: float) -> Cursor:
        """The cursor of the first event at or after ``time`` (seconds of event time)."""
        raise StreamError(f"a stream of kind {type(self).__name__} cannot seek by time")

    def place_name(self, partition: int, label: bool) -> str:
        """What people call a partition of events, or of labels."""
        return f"{'labels/' if label else ''}{partition}"

    def __len__(self) -> int:
        """Number of events where it is known beforehand, for the progress bar."""
        raise TypeError("the stream has no known length")
