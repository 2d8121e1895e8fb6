"""The settings that every stream has."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from streams.core.settings import FormerName, Settings


class LabelDelay(Settings):
    """When the label of an event becomes known; exactly one of the three is stated.

    Attributes:
        events: just before the d-th event after it is predicted (0 and 1: before the next event).
        seconds: once event time has advanced by this much.
        column: at the event time in this column of its row (empty: never).
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
    """The limit of dead letters.

    Attributes:
        share: the run fails when more than this share of the last ``of`` events, or of the last
            ``of`` labels that arrive on their own, are dead; also at the end of a stream that is
            shorter. With 1 it never does.
        of: the size of that window.
    """

    share: float = Field(0.5, ge=0, le=1)
    of: PositiveInt = 1000


class StandardiseConfig(Settings):
    """Settings of the scaling of features.

    Attributes:
        half_life: the number of events after which the weight of an event in mean and variance has
            halved; None: all events weigh the same.
    """

    half_life: PositiveFloat | None = None


class StreamConfig(Settings):
    """Settings that every stream has, under ``stream:`` in a job.

    Attributes:
        kind: the name of the stream, or the import path of a user's class.
        batch_size: events in a micro-batch.
        label_delay: when labels become known, for labels in the rows of their events.
        label_timeout_events: an event expires when its label has not arrived after this many later
            events. This bounds the memory of the label join. For labels in the rows it must exceed
            the delay. Formerly ``wait``.
        id_window: an event whose id was seen within this many events is a duplicate, and dead.
            Checked only if events have ids of their own.
        lateness: how many seconds event time may step back before an event is dead.
        label_timeout_seconds: an event also expires when its label has not arrived after this many
            seconds of event time (plus ``lateness``). Only for labels that arrive on their own.
            Formerly ``within``.
        idle_timeout_seconds: where partitions are read interleaved, event time for
            ``label_timeout_seconds`` goes by the slowest of them; one without events for this many
            seconds of the reader's clock (60 by default) does not count.
        standardise: scale numeric features by their running mean and standard deviation.
        dead_letters: the limit of dead letters: by default a run fails when half are dead.
    """

    runtime_only_keys: ClassVar[frozenset[str]] = frozenset(("dead_letters",))
    """Settings that do not shape the state: they may change when a run resumes."""
    location_keys: ClassVar[frozenset[str]] = frozenset()
    """Settings that say where the data lie. They may change where a checkpoint knows the data."""

    kind: str
    batch_size: PositiveInt = 32
    label_delay: LabelDelay = Field(default_factory=lambda: LabelDelay(events=0))
    label_timeout_events: Annotated[PositiveInt, FormerName("wait")] = 100_000
    id_window: PositiveInt = 100_000
    lateness: NonNegativeFloat = 0.0
    label_timeout_seconds: Annotated[PositiveFloat | None, FormerName("within")] = None
    idle_timeout_seconds: PositiveFloat | None = None
    standardise: StandardiseConfig | None = None
    dead_letters: DeadLetters = DeadLetters()
