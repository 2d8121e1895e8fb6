"""A job, built: its parts put together, and their state as one."""

from __future__ import annotations

from inspect import signature
from typing import NamedTuple

from learners.base import Learner, LearnerError
from pipeline.config.errors import JobError
from pipeline.config.job import LoadedJob
from pipeline.evaluation.once_seen import OnceSeen
from pipeline.evaluation.prequential import Prequential
from pipeline.evaluation.probes import Probes
from pipeline.models.recipe import Recipe, recipe
from pipeline.models.snapshot import Snapshot
from pipeline.training.loop import Loop, Source
from streams.core.errors import StreamError, one_line
from streams.core.live_stream import LiveStream
from streams.core.state_dict import State, copied, digest
from streams.core.stream import Stream
from streams.operators.base import Operator
from streams.operators.drop_duplicates import DropDuplicates
from streams.operators.drop_late import DropLate
from streams.operators.holdout import HoldOut
from streams.operators.label_encoder import LabelEncoder
from streams.operators.label_join import LabelJoin
from streams.operators.labels_by_id import JoinById
from streams.operators.labels_in_rows import DelayByEvents, DelayByEventTime
from streams.operators.standardise import Standardise


class Parts(NamedTuple):
    """A job, built."""

    stream: Stream
    vocabulary: LabelEncoder
    source: Source
    loop: Loop
    recipe: Recipe

    def state(self) -> State:
        """All that a run must know to go on: the loop's, and the classes known at its cursor."""
        cursor = self.loop.ledger.cursor()
        return {**self.loop.state(), "vocabulary": self.vocabulary.state(cursor)}

    def snapshot(self, metrics: dict[str, float]) -> Snapshot:
        """What a server needs, as of now; arrays of its own."""
        learner = self.loop.learner
        state: State = {"learner": learner.servable()}
        for operator in self.loop.operators:
            if isinstance(operator, Standardise):
                state["standardise"] = operator.state()
        return Snapshot(copied(state), learner.version, self.loop.events, dict(metrics))

    def load(self, state: State) -> None:
        self.vocabulary.load(state["vocabulary"])
        self.loop.load(state, self.vocabulary)


def build(loaded: LoadedJob) -> Parts:
    """Stream, operators, join, learner and metrics of a job. Raises ``JobError``."""
    job = loaded.job
    making = f"stream.kind {job.stream.kind}"
    try:
        stream = loaded.stream(job.stream, loaded.folder)
        if isinstance(stream, LiveStream):
            stream.group = job.name
        schema = stream.schema
        making = f"learner.kind {job.learner.kind}"
        learner = _learner(loaded, stream)
        making = "operators"
        operators: list[Operator] = []
        if stream.has_ids:
            operators.append(DropDuplicates(job.stream.id_window))
        if stream.has_time:
            operators.append(DropLate(job.stream.lateness, stream.interleaved_partitions))
        if job.stream.standardise is not None:
            operators.append(Standardise(job.stream.standardise, schema))
        vocabulary = LabelEncoder(schema.classes)
        held = job.evaluate.probes
        if held.cut.drift is not None and schema.task == "regression":
            raise LearnerError("evaluate.probes.cut.drift: it is for classification")
        once = job.evaluate.once_seen
        if once.share and schema.task == "regression":
            raise LearnerError("evaluate.once_seen.share: it is for classification")
        if once.share and learner.opaque:
            raise LearnerError(
                f"evaluate.once_seen.share: learner {job.learner.kind!r} is an object that may "
                "remember events, and cannot be told to keep some out of its memory"
            )
        hold_out = HoldOut(held.share, job.seed) if held.share else None
        source = Source(stream, job.stream.batch_size, vocabulary, hold_out)
        metrics = Prequential(schema.task, job.evaluate.window, job.evaluate.fading)
        join = _join(loaded, stream, learner)
        probes = Probes(held, job.seed) if held.share else None
        once_seen = OnceSeen(once, job.seed) if once.share else None
        if once_seen is not None:
            learner.never_buffer = once_seen.holds
        loop = Loop(operators, join, learner, metrics, stream.gapless, probes, once_seen)
    except (StreamError, LearnerError) as error:
        raise JobError(f"{loaded.file}: {one_line(error)}") from None
    except (Exception, SystemExit) as error:  # whatever a user's class may raise
        what = type(error).__name__
        first = one_line((str(error).strip() or what).splitlines()[0])
        raise JobError(f"{loaded.file}: {making}: {what}: {first}") from error
    made = recipe(
        learner,
        job.learner.model_dump(mode="json", serialize_as_any=True),
        job.stream.standardise,
        stream,
    )
    return Parts(stream, vocabulary, source, loop, made)


def _learner(loaded: LoadedJob, stream: Stream) -> Learner:
    job, schema = loaded.job, stream.schema
    if "device" in signature(loaded.learner).parameters:
        return loaded.learner(job.learner, schema, job.seed, device=job.device)  # type: ignore[call-arg]
    if job.device != "cpu":
        raise LearnerError(
            f"device: {job.device!r}, but learner {job.learner.kind!r} knows only cpu"
        )
    return loaded.learner(job.learner, schema, job.seed)


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
    if delay.events is not None:
        return DelayByEvents(delay.events, settings.label_timeout_events, segments, exact)
    return DelayByEventTime(delay.seconds, settings.label_timeout_events, segments, exact)


def state_digest(state: State) -> str:
    """The digest that the contract of exactness is about: without model versions, and without the
    objects of opaque learners."""
    learner = {k: v for k, v in state["learner"].items() if k not in ("version", "opaque")}
    return digest({**state, "learner": learner})
