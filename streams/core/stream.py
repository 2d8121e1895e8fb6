"""What a stream is, and how a job names one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from streams.core.batch import Batch
from streams.core.errors import StreamError
from streams.core.schema import Schema
from streams.core.settings import Settings
from streams.decoding.columns import Scalar
from streams.operators.standardise import StandardiseConfig

Cursor = dict[str, int]
"""Partition to the offset of the next event to read; ``{}`` is the beginning. Labels that come on
their own are partitions named ``labels/...``."""


class LabelDelay(Settings):
    """When the label of an event becomes known; exactly one of the three is stated.

    ``events: d``: just before the d-th event after it is predicted (0 and 1 alike: before the next
    event). ``seconds: s``: once event time has moved on by s. ``column: c``: at the event time that
    stands in column c of its row (empty: never).
    """

    events: NonNegativeInt | None = None
    seconds: NonNegativeFloat | None = None
    column: str | None = None

    @model_validator(mode="after")
    def _one(self) -> LabelDelay:
        if sum(v is not None for v in (self.events, self.seconds, self.column)) != 1:
            raise ValueError("state one of events, seconds and column")
        return self


class DeadLetters(Settings):
    """When dead events are too many.

    Attributes:
        share: the run stops when more than this share of the last ``of`` events (or of the last
            ``of`` labels, which come on their own) are dead; with 1 it never does.
        of: how many are looked at.
    """

    share: float = Field(1.0, ge=0, le=1)
    of: PositiveInt = 1000


class StreamConfig(Settings):
    """Settings that every stream has, as they stand in a job under ``stream:``.

    Attributes:
        kind: the name of the stream, or the import path of a user's class.
        batch_size: events in a micro-batch.
        label_delay: when labels become known, for labels that stand in the rows of their events.
        wait: an event whose label has not come after this many later events expires; it bounds the
            memory of awaited events. For labels in the rows it must exceed the delay.
        id_window: an id seen before within this many events is a duplicate, set aside as dead.
            Checked only where events have ids of their own.
        lateness: how many seconds event time may step back before an event is set aside as dead.
        within: an event whose label has not come when event time has moved on by so many seconds
            (and ``lateness``) expires; for labels that arrive on their own. ``wait`` holds as well.
        standardise: scale numeric features by the recent past, before anything sees them.
        dead_letters: what becomes of dead events, beside ``dead.jsonl``.
    """

    beside: ClassVar[frozenset[str]] = frozenset(("dead_letters",))
    """Settings that are no part of what a job is: they may change when a run goes on."""

    kind: str
    batch_size: PositiveInt = 32
    label_delay: LabelDelay = Field(default_factory=lambda: LabelDelay(events=0))
    wait: PositiveInt = 100_000
    id_window: PositiveInt = 100_000
    lateness: NonNegativeFloat = 0.0
    within: PositiveFloat | None = None
    standardise: StandardiseConfig | None = None
    dead_letters: DeadLetters = DeadLetters()


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
        side_by_side: whether partitions are read side by side, and not one after the other: event
            time then moves on in each by itself.
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
    side_by_side: bool = False
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
