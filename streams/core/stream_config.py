"""The settings that every stream has."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
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


Scale = Annotated[float, Field(gt=1)] | None


class AggregateConfig(Settings):
    """Fading aggregates of the events that have the same value in a column, or in several.

    At least one of ``mean``, ``count`` and ``since_last`` is stated.

    Attributes:
        by: the column, or up to four: texts, categories, or numbers in bins by quantiles.
        mean: ``label``, for the mean of the labels that are known by then, or a numeric column.
        count: whether to count the events before.
        since_last: whether to give the seconds of event time since the event before.
        scales: over how many labels (a label mean) or events (other aggregates) of the stream the
            weight of one fades to a third; null: it does not fade. By default 100, 1,000 and null.
    """

    by: Annotated[tuple[str, ...], Field(min_length=1, max_length=4)]
    mean: str | None = None
    count: bool = False
    since_last: bool = False
    scales: Annotated[tuple[Scale, ...] | None, Field(min_length=1, max_length=8)] = None

    @field_validator("by", mode="before")
    @classmethod
    def _list_of_columns(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _something(self) -> AggregateConfig:
        fading = self.mean is not None or self.count
        if not fading and not self.since_last:
            raise ValueError("state at least one of mean, count: true and since_last: true")
        if self.scales is not None and not fading:
            raise ValueError("scales: they are for mean and count")
        for name, values in (("by", self.by), ("scales", self.scales or ())):
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: one is stated twice")
        return self


class HistoryConfig(Settings):
    """The last values that events of the same key had, as one more feature of each event.

    Attributes:
        by: the categorical column of the key, as of a user.
        of: the categorical column of the values, as of an item.
        length: how many values of a key are kept.
        keys: how many keys have a history; it bounds the memory.
        positive: whether only events of class 1 enter it, as clicks. They enter once their label is
            known.
    """

    by: str
    of: str
    length: PositiveInt = Field(64, le=4096)
    keys: PositiveInt = Field(16_384, le=1 << 22)
    positive: bool = True


class SequenceConfig(Settings):
    """Take the label of a stream for the type of an event, and predict type and time of the next
    event of the same key.

    Attributes:
        by: the categorical column of the key, as of a user.
        length: how many events of a key are kept, the newest among them.
        keys: how many keys have a history; it bounds the memory. A new key takes the place of one
            that was not seen for longest.
        horizon: seconds without an event of the key after which it is known that nothing came.
            None: that is never known.
        expire: seconds without an event after which a key begins anew. None: it never does.
        resolution: the smallest difference in seconds between two times of the stream. A predicted
            distribution is scored by its mass within such a step, so that events at equal times
            have a finite likelihood.
    """

    by: str
    length: PositiveInt = Field(32, le=4096)
    keys: PositiveInt = Field(100_000, le=1 << 22)
    horizon: PositiveFloat | None = None
    expire: PositiveFloat | None = None
    resolution: PositiveFloat = 1e-6

    @model_validator(mode="after")
    def _expires_after_the_horizon(self) -> SequenceConfig:
        if self.expire is not None and self.horizon is not None and self.expire < self.horizon:
            raise ValueError("expire: it is shorter than horizon: an event still counts until then")
        return self


Aggregates = Annotated[tuple[AggregateConfig, ...], Field(min_length=1)] | Literal["auto", "none"]


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
        aggregates: what is kept of the events before, by the values of their columns, as one more
            feature. ``auto``: label means by every category and number. ``none``: nothing. Unless
            stated, networks over columns of several kinds have ``auto``, and others ``none``.
        history: the last values that events of the same key had, for a learner that takes them.
        sequence: take the events of a key for a sequence, and predict the next one of the key.
        aggregate_keys: the most values of columns that aggregates are kept for, 65,536 by default.
        encoder: the frozen encoder whose vectors stand for a column of text or images: its name, or
            a mapping with its ``kind`` and settings, for all columns of a suitable kind; or a
            mapping of column to such a name or mapping.
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
    aggregates: Aggregates | None = None
    history: HistoryConfig | None = None
    sequence: SequenceConfig | None = None
    aggregate_keys: PositiveInt | None = None
    encoder: dict[str, Any] | None = None
    dead_letters: DeadLetters = DeadLetters()

    @field_validator("encoder", mode="before")
    @classmethod
    def _written_out(cls, value: Any) -> Any:
        """Return ``{kind: NAME}`` for a name, alone or of a column."""
        if isinstance(value, str):
            return {"kind": value}
        if not isinstance(value, dict) or isinstance(value.get("kind"), str):
            return value
        return {k: {"kind": v} if isinstance(v, str) else v for k, v in value.items()}
