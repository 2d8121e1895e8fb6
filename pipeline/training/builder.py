"""Build the parts of a job, and save and load their state as one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import NamedTuple

from learners.base import NEEDS_SEGMENTS, Learner, LearnerError
from learners.pretrained.encoders.columns import EncodedColumns
from pipeline.config.errors import JobError
from pipeline.config.job import Job, LoadedJob
from pipeline.config.sections import EvaluateConfig
from pipeline.evaluation.metric_names import unknown_metric
from pipeline.evaluation.once_seen import OnceSeen
from pipeline.evaluation.prequential import Prequential
from pipeline.evaluation.probes import Probes
from pipeline.models.recipe import AddsFeatures, Recipe, needs_imputed, recipe_of
from pipeline.models.snapshot import Snapshot
from pipeline.training.loop import Loop
from pipeline.training.reading.batch_reader import BatchReader
from pipeline.training.reading.encode_ahead import ColumnEncoding, EncodeAhead
from pipeline.training.reading.local_encoding import local_encoding
from streams.core.errors import StreamError, one_line
from streams.core.schema import Schema
from streams.core.settings import unknown
from streams.core.state_dict import State, digest
from streams.core.stream import Stream
from streams.core.stream_config import AggregateConfig, StreamConfig
from streams.operators.base import Operator
from streams.operators.drop_duplicates import DropDuplicates
from streams.operators.drop_late import DropLate
from streams.operators.features.aggregates import (
    KEYS,
    MAX_CLASSES,
    Aggregates,
    auto_aggregates,
)
from streams.operators.features.histories import Histories
from streams.operators.features.impute import Impute
from streams.operators.features.sequences import Sequences
from streams.operators.features.standardise import Standardise
from streams.operators.holdout import HoldOut
from streams.operators.label_encoder import LabelEncoder
from streams.operators.label_join import LabelJoin
from streams.operators.labels_by_id import JoinById
from streams.operators.labels_in_rows import DelayByEvents, DelayByEventTime
from streams.operators.next_of_key import NextOfKey
from streams.operators.partition_clocks import IDLE_S, LAST_READ, PartitionClocks
from streams.times import TimeZone


class Parts(NamedTuple):
    """A job, built."""

    stream: Stream
    vocabulary: LabelEncoder
    reader: BatchReader
    loop: Loop
    recipe: Recipe

    @property
    def encoded(self) -> EncodedColumns | None:
        """The columns that encoders turn into vectors; None: there are none."""
        return None if self.reader.encode is None else self.reader.encode.columns

    def state(self) -> State:
        """Return all that a resumed run needs: the loop's state, and the classes known at its
        cursor."""
        cursor = self.loop.ledger.cursor()
        return {**self.loop.state(), "vocabulary": self.vocabulary.state(cursor)}

    def snapshot(self, metrics: dict[str, float]) -> Snapshot:
        """As ``Loop.snapshot``."""
        return self.loop.snapshot(metrics)

    def load(self, state: State) -> None:
        """Restore what ``state`` returned."""
        self.vocabulary.load(state["vocabulary"])
        self.loop.load(state, self.vocabulary)


class AddedFeatures(NamedTuple):
    """The operators that add features, in their order, and the schema behind them."""

    operators: tuple[AddsFeatures, ...]
    schema: Schema


def build(loaded: LoadedJob, encoding: ColumnEncoding | None = None) -> Parts:
    """Build stream, encoders, operators, label join, learner and metrics of a job.

    Args:
        loaded: the job.
        encoding: where columns are encoded; None: in this process.

    Raises:
        JobError: the job cannot be built.
    """
    job = loaded.job
    with _job_errors(loaded.file, f"stream.kind {job.stream.kind}"):
        stream = loaded.stream(job.stream, loaded.folder)
        stream.group = job.name
    with _job_errors(loaded.file, "stream.encoder"):
        encoding = encoding or local_encoding(loaded, stream.schema)
        encode = None if encoding is None else EncodeAhead(encoding)
        schema = stream.schema if encode is None else encode.columns.schema
    added = _added_features(loaded, stream, schema)
    with _job_errors(loaded.file, f"learner.kind {job.learner.kind}"):
        learner = _learner(loaded, added.schema)
    with _job_errors(loaded.file, "operators"):
        operators = _operators(job.stream, stream, schema, learner, added)
        vocabulary = LabelEncoder(schema.classes)
        _check_fit(job, stream, learner)
        _check_alerts(job)
        probes, once = job.evaluate.probes, job.evaluate.once_seen
        hold_out = HoldOut(probes.share, job.seed) if probes.share else None
        categories = [f.name for f in schema.features if f.kind == "categorical"]
        hashed = categories if learner.takes_keys else []
        reader = BatchReader(stream, job.stream.batch_size, vocabulary, hold_out, hashed, encode)
        once_seen = OnceSeen(once, job.seed) if once.share else None
        if once_seen is not None:
            learner.never_buffer = once_seen.holds
        loop = Loop(
            operators,
            _join(loaded, stream, learner),
            learner,
            _metrics(job.evaluate, added.schema),
            stream.gapless,
            Probes(probes, job.seed) if probes.share else None,
            once_seen,
            stream.place_name,
        )
    located = job.learner.located(loaded.folder)  # a server may start in another folder
    settings = located.model_dump(mode="json", serialize_as_any=True)
    columns = None if encode is None else encode.columns
    standardise = job.stream.standardise
    made = recipe_of(learner, settings, standardise, stream, columns, added.operators)
    return Parts(stream, vocabulary, reader, loop, made)


def _metrics(config: EvaluateConfig, schema: Schema) -> Prequential:
    """Return the prequential metrics of a job. Raise ``StreamError`` where it has no such group."""
    group = config.group_by
    if group is not None:
        names = [f.name for f in schema.features if f.kind == "categorical"]
        if schema.task == "regression":
            raise StreamError("evaluate.group_by: it is of classes: leave it out for a regression")
        if group not in names:
            raise StreamError(
                f"evaluate.group_by: there is no categorical column {unknown(group, names)}; state "
                "a column as categorical under stream.features to group by it"
            )
    sequences = schema if schema.task == "sequences" else None
    return Prequential(schema.task, config.window, config.fading, group, sequences)


@contextmanager
def _job_errors(file: Path, step: str) -> Iterator[None]:
    """Turn the errors of a step, also those of a user's class, into ``JobError``."""
    try:
        yield
    except (StreamError, LearnerError) as error:
        raise JobError(f"{file}: {one_line(error)}") from None
    except (Exception, SystemExit) as error:
        name = type(error).__name__
        first = one_line((str(error).strip() or name).splitlines()[0])
        raise JobError(f"{file}: {step}: {name}: {first}") from error


def aggregates_of_job(
    loaded: LoadedJob, stream: Stream, schema: Schema
) -> tuple[AggregateConfig, ...]:
    """Return the aggregates that a job adds to its features, which have a schema.

    A job that states nothing has the automatic ones where its learner takes them and its stream has
    columns of several kinds. Of more than eight classes there are no automatic ones.

    Raises:
        StreamError: the stream has not what the job states of them.
    """
    config = loaded.job.stream
    stated = config.aggregates
    if stated is None:
        takes = loaded.learner.wants_aggregates(loaded.job.learner)
        stated = "auto" if takes and not schema.matrix else "none"
    if isinstance(stated, str):
        classes = len(schema.classes) or stream.class_count_hint
        return auto_aggregates(schema) if stated == "auto" and classes <= MAX_CLASSES else ()
    label = getattr(config, "label", None)
    for i, aggregate in enumerate(stated):
        if label in aggregate.by:
            raise StreamError(
                f"stream.aggregates.{i}.by: {label!r} is the label, which is not known when an "
                "event is predicted: state mean: label by another column"
            )
        if aggregate.since_last and not stream.has_time:
            raise StreamError(
                f"stream.aggregates.{i}.since_last: the events of this stream have no time: state "
                "the column of their time (stream.time), or leave it out"
            )
    return stated


def _added_features(loaded: LoadedJob, stream: Stream, schema: Schema) -> AddedFeatures:
    """Return what a job adds to the features of its stream, which have a schema."""
    with _job_errors(loaded.file, "stream.aggregates"):
        aggregates = _aggregates(loaded, stream, schema)
    with _job_errors(loaded.file, "stream.history"):
        histories = _histories(loaded, schema)
    with _job_errors(loaded.file, "stream.sequence"):
        sequences = _sequences(loaded.job.stream, stream, schema)
    operators = tuple(o for o in (aggregates, histories, sequences) if o is not None)
    learned = schema
    for operator in operators:
        learned = operator.schema(learned)
    return AddedFeatures(operators, learned)


def _aggregates(loaded: LoadedJob, stream: Stream, schema: Schema) -> Aggregates | None:
    """Return the operator that adds aggregates to the features; None: there are none."""
    configs = aggregates_of_job(loaded, stream, schema)
    if not configs:
        return None
    keys = loaded.job.stream.aggregate_keys or KEYS
    return Aggregates(configs, schema, keys, stream.class_count_hint)


def _histories(loaded: LoadedJob, schema: Schema) -> Histories | None:
    """Return the operator that adds histories to the features; None: there is none."""
    config = loaded.job.stream.history
    if config is None:
        return None
    if not loaded.learner.wants_histories(loaded.job.learner):
        raise StreamError(
            f"stream.history: learner {loaded.job.learner.kind!r} takes no histories: use "
            "click-model, or leave it out"
        )
    return Histories(config, schema)


def _sequences(config: StreamConfig, stream: Stream, schema: Schema) -> Sequences | None:
    """Return the operator that makes sequences of the events of a key; None: there is none."""
    if config.sequence is None:
        return None
    if not stream.has_time:
        raise StreamError(
            "stream.sequence: the events of this stream have no time: state the column of their "
            "time (stream.time)"
        )
    if stream.has_arrivals:
        raise StreamError(
            "stream.sequence: the label is the next event of the key, and this stream has labels "
            "that arrive on their own: state the column of the type as stream.label"
        )
    if "label_delay" in config.model_fields_set:
        raise StreamError(
            "stream.label_delay: with stream.sequence a label is known when the next event of the "
            "key comes: leave it out"
        )
    return Sequences(config.sequence, schema)


def _operators(
    config: StreamConfig,
    stream: Stream,
    schema: Schema,
    learner: Learner,
    added: AddedFeatures,
) -> list[Operator]:
    operators: list[Operator] = []
    if stream.has_ids:
        operators.append(DropDuplicates(config.id_window))
    if stream.has_time and stream.interleaved_partitions:
        operators.append(_clocks(config, stream))
    elif stream.has_time:
        stated = getattr(config, "time_zone", None) is not None
        operators.append(DropLate(config.lateness, stated))
    operators += added.operators
    schema = added.schema
    if config.standardise is not None:
        try:
            operators.append(Standardise(config.standardise, schema))
        except ValueError as error:
            raise StreamError(str(error)) from None
    if needs_imputed(learner):
        operators.append(Impute(schema))
    by_time = config.label_delay.events is None or config.label_timeout_seconds is not None
    if by_time and stream.interleaved_partitions and not stream.has_time:
        operators.append(_clocks(config, stream))  # last: states of before had none
    return operators


def _clocks(config: StreamConfig, stream: Stream) -> PartitionClocks:
    """Return the clocks of the partitions of a stream."""
    by_slowest = stream.has_arrivals and config.label_timeout_seconds is not None
    if config.sequence is not None and config.sequence.horizon is not None:
        by_slowest = True
    return PartitionClocks(
        config.lateness,
        rejects=stream.has_time,
        slowest=by_slowest,
        idle_s=config.idle_timeout_seconds or IDLE_S,
        zone=None if stream.time_zone is None else TimeZone(stream.time_zone),
    )


def _check_fit(job: Job, stream: Stream, learner: Learner) -> None:
    """Raise ``LearnerError`` where the job asks for what its stream and learner cannot do."""
    if learner.requires_segments and stream.has_segments is False:
        raise LearnerError(f"learner.every: learner {job.learner.kind!r} {NEEDS_SEGMENTS}")
    regression = learner.schema.task != "classification"
    if job.evaluate.probes.cut.drift is not None and regression:
        raise LearnerError("evaluate.probes.cut.drift: it is for classification")
    if not job.evaluate.once_seen.share:
        return
    if regression:
        raise LearnerError("evaluate.once_seen.share: it is for classification")
    if learner.opaque:
        raise LearnerError(
            f"evaluate.once_seen.share: learner {job.learner.kind!r} is an object that may "
            "remember events, and cannot be told to keep some out of its memory"
        )


def _check_alerts(job: Job) -> None:
    """Raise ``LearnerError`` where an alert is on something that is no metric: it would never
    fire."""
    for i, alert in enumerate(() if job.track is None else job.track.alerts):
        if wrong := unknown_metric(alert.metric):
            raise LearnerError(f"track.alerts.{i}.metric: {wrong}")


def _learner(loaded: LoadedJob, schema: Schema) -> Learner:
    job, config = loaded.job, loaded.job.learner.located(loaded.folder)
    if "device" in signature(loaded.learner).parameters:
        return loaded.learner(config, schema, job.seed, device=job.device)  # type: ignore[call-arg]
    if job.device != "cpu":
        raise LearnerError(
            f"device: {job.device!r}, but learner {job.learner.kind!r} knows only cpu"
        )
    return loaded.learner(config, schema, job.seed)


def _join(loaded: LoadedJob, stream: Stream, learner: Learner) -> LabelJoin:
    settings, delay = loaded.job.stream, loaded.job.stream.label_delay
    segments, exact = learner.needs_boundaries, learner.per_event
    if stream.has_arrivals:
        numeric = stream.schema.task == "regression"
        window = (settings.id_window, settings.label_timeout_seconds, settings.lateness)
        return JoinById(settings.label_timeout_events, segments, exact, numeric, *window)
    if settings.label_timeout_seconds is not None:
        raise StreamError(
            "stream.label_timeout_seconds: only for labels that arrive on their own; labels in the "
            "rows of their events come after label_delay, bounded by label_timeout_events"
        )
    if settings.sequence is not None:
        horizon, timeout = settings.sequence.horizon, settings.label_timeout_events
        return NextOfKey(horizon, settings.lateness, timeout, segments, exact)
    if delay.events is not None:
        return DelayByEvents(delay.events, settings.label_timeout_events, segments, exact)
    return DelayByEventTime(delay.seconds, settings.label_timeout_events, segments, exact)


def state_digest(state: State) -> str:
    """Return the digest that two exact runs share.

    Not in it: model versions, the objects of opaque learners, means by which no number was imputed,
    and the reader's clock, which only tells when a partition is idle.
    """
    learner = _exact_part(state["learner"])
    operators = {
        i: {k: v for k, v in operator.items() if k != LAST_READ}
        for i, operator in state["operators"].items()
        if operator.get("imputed", True)
    }
    return digest({**state, "learner": learner, "operators": operators})


def _exact_part(learner: State) -> State:
    """Return the state of a learner, and of one that it wraps, without version and objects."""
    return {
        key: _exact_part(value) if key == "base" and "version" in value else value
        for key, value in learner.items()
        if key not in ("version", "opaque")
    }
