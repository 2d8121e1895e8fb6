"""Snapshots of a run's model, and the model that predicts from one.

The *recipe* of a model never changes: which learner with which settings over which columns, and
what operators do to features before it. It is JSON, and part of every checkpoint. A *snapshot* is
what changes: the learner's ``servable`` and the state of those operators after one micro-batch. Of
a large array it has the rows that differ from a base, which it shares with other snapshots
(``delta.py``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from learners.pretrained.encoders.columns import ColumnEncoders
from learners.results import Prediction
from learners.sequences.forecast import TYPES, after, types_of
from learners.sequences.history import history_of
from pipeline.evaluation.once_seen import OnceSeenSample
from pipeline.evaluation.probes import Segment
from pipeline.models.delta import Base, decoded
from pipeline.models.recipe import Recipe, learner_of, operators_of, schema_of
from streams.core.batch import Batch, ClassName, Floats
from streams.core.state_dict import State


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a model at one moment of a run.

    Attributes:
        state: ``learner``, and of the operators before it ``aggregates``, ``standardise`` and
            ``impute`` where there are such; arrays of its own. ``RowChanges`` stand for arrays that
            have a base.
        version: how many times the learner had learned.
        events: how many events of the stream had been read.
        metrics: the latest of the run, by name.
        taken: seconds since the epoch.
        probes: the probes by segment, for their evaluation.
        once_seen: the once-seen events, for the same; None where the job has none.
        wanted: whether its evaluation may not be skipped: a segment has just ended, or the run.
        bases: of large arrays, by their path in the state.
    """

    state: State
    version: int
    events: int
    metrics: dict[str, float] = field(default_factory=dict)
    taken: float = field(default_factory=time.time)
    probes: tuple[Segment, ...] = ()
    once_seen: OnceSeenSample | None = None
    wanted: bool = False
    bases: Mapping[str, Base] = field(default_factory=dict)

    def whole(self) -> State:
        """Return the state with all rows of all arrays."""
        return decoded(self.state, self.bases)


class InferenceModel:
    """A model as of one snapshot: it predicts, and never learns.

    Args:
        recipe: of the model.
        snapshot: of its state.
        encoders: of the columns that the recipe says are encoded; None where it says none. The
            models of later snapshots share them.

    Raises:
        LearnerError: the learner of the recipe cannot be made here.
        NotFiniteError: the state of the snapshot is not finite, and must not be served.
    """

    def __init__(
        self, recipe: Recipe, snapshot: Snapshot, encoders: ColumnEncoders | None = None
    ) -> None:
        self.schema = schema_of(recipe)
        self.version = snapshot.version
        self.events = snapshot.events
        self.metrics = snapshot.metrics
        self.taken = snapshot.taken
        self._learner = learner_of(recipe)
        state = snapshot.whole()
        self._learner.load_servable(self._learner.migrate(state["learner"]))
        self._learner.verify()
        self._encoders = encoders
        self._operators = operators_of(recipe, state)

    @property
    def encodes(self) -> bool:
        """Whether events go through an encoder, which takes a few milliseconds or more."""
        return self._encoders is not None or self._learner.encodes

    @property
    def classes(self) -> tuple[ClassName, ...]:
        """The names of the classes, in the order of their codes."""
        return self._learner.classes

    def answer(self, batch: Batch) -> Prediction:
        """Return what the training loop would have predicted for these events at that moment.

        A request about sequences states a key, and the time where it is not that of the last event
        of the key: nothing has come until then.
        """
        if self._encoders is not None:
            batch = self._encoders.apply(batch)
        for operator in self._operators:
            batch = operator.view(batch)
        prediction = self._learner.predict(batch)
        if self._learner.schema.task != "sequences":
            return prediction
        return _as_of(prediction, history_of(batch).time, batch.time)


def _as_of(prediction: Prediction, last: Floats, now: Floats) -> Prediction:
    """Return what is predicted at a time of which it is known that nothing came until then.

    Args:
        prediction: after the last events of n keys.
        last: (n,) the times of these; NaN: the key is not known.
        now: (n,) NaN: that of the last event.
    """
    since = np.fmax(last, now)
    forecast = prediction.forecast
    elapsed = np.nan_to_num(since - last)
    if forecast is None or not elapsed.any():
        return replace(prediction, since=since)
    later = after(forecast, elapsed)
    if later.shape[2] == TYPES or prediction.proba is None:
        return replace(prediction, forecast=later, since=since)
    proba = np.where(elapsed[:, None] > 0, types_of(later), prediction.proba)
    value = np.where(proba.any(1), proba.argmax(1), -1)
    return replace(prediction, value=value, proba=proba, forecast=later, since=since)
