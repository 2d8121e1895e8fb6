"""What a server holds of a run: a recipe for the model, and the newest snapshot of its state.

The *recipe* is the same all along: which learner with which settings over which columns, and how
features are scaled before it. It is JSON, and stands in every checkpoint. A *snapshot* is what
changes: the learner's ``servable`` and the scale as they stood after one micro-batch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import learners
from learners.base import Learner, LearnerError, Prediction
from learners.registry import UnknownKind, find
from pipeline.evaluation.once_seen import Kept
from pipeline.evaluation.probes import Segment
from streams.core.batch import Batch, ClassName
from streams.core.schema import Feature, Schema
from streams.core.state_dict import State
from streams.core.stream import Stream
from streams.core.stream_config import StandardiseConfig
from streams.operators.standardise import Standardise

Recipe = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a model at one moment of a run.

    Attributes:
        state: ``learner`` and, where features are scaled, ``standardise``; arrays of its own.
        version: how many times the learner had learned.
        events: events of the stream that had come in.
        metrics: what was last known of the run, by name.
        taken: seconds since the epoch.
        probes: the probes by segment, for those who score them.
        once_seen: the once-seen events, for the same; None: the job has none.
        wanted: one that is not to be left out: a segment has just ended, or the run.
    """

    state: State
    version: int
    events: int
    metrics: dict[str, float] = field(default_factory=dict)
    taken: float = field(default_factory=time.time)
    probes: tuple[Segment, ...] = ()
    once_seen: Kept | None = None
    wanted: bool = False


def recipe(
    learner: Learner,
    settings: dict[str, Any],
    standardise: StandardiseConfig | None,
    stream: Stream,
) -> Recipe:
    """All but the state that makes the model of a run: the learner with its settings (as JSON), how
    features are scaled before it, and how the stream reads numbers and ids."""
    schema = stream.schema
    return {
        "learner": settings,
        "seed": learner.seed,
        "standardise": None if standardise is None else standardise.model_dump(mode="json"),
        "dtype": stream.dtype,
        "id_type": stream.id_type,
        "task": schema.task,
        "classes": list(schema.classes),
        "features": [[f.name, f.kind, list(f.shape)] for f in schema.features],
    }


def schema_of(made: Recipe) -> Schema:
    features = (Feature(name, kind, tuple(shape)) for name, kind, shape in made["features"])
    return Schema(tuple(features), made["task"], tuple(made["classes"]))


def learner_of(made: Recipe) -> Learner:
    """The learner of a recipe, as it is before it has learned anything. Raises ``LearnerError``
    where it cannot be made here."""
    settings = made["learner"]
    try:
        cls = find(learners.KINDS, Learner, settings["kind"])  # type: ignore[type-abstract]
    except UnknownKind as error:
        raise LearnerError(f"learner.kind: {error}") from None
    return cls(cls.Config.model_validate(settings), schema_of(made), made["seed"])


class Servable:
    """A model at one moment, that answers and never learns.

    Raises ``LearnerError`` where the learner of the recipe cannot be made here.
    """

    def __init__(self, made: Recipe, snapshot: Snapshot) -> None:
        self.schema = schema_of(made)
        self.version = snapshot.version
        self.events = snapshot.events
        self.metrics = snapshot.metrics
        self.taken = snapshot.taken
        self._learner = learner_of(made)
        self._learner.load_servable(self._learner.migrate(snapshot.state["learner"]))
        self._standardise: Standardise | None = None
        if made["standardise"] is not None:
            config = StandardiseConfig.model_validate(made["standardise"])
            self._standardise = Standardise(config, self.schema)
            self._standardise.load(snapshot.state["standardise"])

    @property
    def classes(self) -> tuple[ClassName, ...]:
        return self._learner.classes

    def answer(self, batch: Batch) -> Prediction:
        """What the loop would have predicted for these events at that moment."""
        if self._standardise is not None:
            batch = self._standardise.view(batch)
        return self._learner.predict(batch)
