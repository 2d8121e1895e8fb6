"""The contract of a learner: predict, observe, learn, save and load."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from learners.results import BufferSummary, Encoding, Prediction
from streams.core.batch import Array, Batch, ClassName, Ints
from streams.core.schema import FeatureKind, Schema, Task
from streams.core.settings import Settings
from streams.core.state_dict import State, bytes_of
from streams.operators.label_join import Revealed

NEEDS_SEGMENTS = (
    "needs to know where tasks end, and this stream has no segments: state how many events a task "
    "has (learner.every), or the column of the task where the stream has one (stream.segment); or "
    "take a learner that needs no boundaries, as replay, er-ace, der++ or view-batch"
)
"""What is wrong with a learner that requires segments on a stream without any, and the remedy."""


class LearnerError(Exception):
    """The learner cannot do what a job asks. The message names the place and the remedy."""


class NotFiniteError(LearnerError):
    """The numbers of a learner are no longer finite: its state must be neither kept nor served."""


class LearnerConfig(Settings):
    """Settings of a learner: the keys under ``learner:`` in a job."""

    kind: str


Handles = Literal["classification", "binary", "regression", "sequences"]


class Learner(ABC):
    """A continual learner.

    A subclass sets ``kind``, ``Config`` and what it handles. It takes ``(config, schema, seed)``,
    and implements ``predict``, ``learn``, ``state`` and ``load``. ``learners.checks`` tests whether
    it keeps the contract.

    Args:
        config: settings, of the class ``Config``.
        schema: features and label of the stream.
        seed: of all random generators of the learner.

    Raises:
        LearnerError: the learner does not handle the task or the stated classes.

    Attributes:
        kind: the name of the learner in a job.
        handles: tasks that it learns; ``binary`` is classification of two classes.
        per_event: it interleaves predict and learn event by event, at any batch size. Other
            learners do not change while a micro-batch is predicted.
        opaque: its state is an object that cannot be compared byte for byte.
        needs_boundaries: it may read ``segment``.
        handles_missing: it takes NaN for a missing number. For other learners missing numbers are
            replaced by the running mean before.
        takes_keys: it takes the values of categorical columns as keys (int64 hashes), not as text.
        takes_aggregates: unless a job says otherwise, aggregates of the events before are among its
            features where the stream has columns of several kinds.
        takes_histories: it takes the column ``history`` of ``stream.history``.
        unlearns: ``unlearn`` removes what it has learned of events.
        forgets_classes: ``forget_class`` removes what it has learned of a class.
        merges: ``merge`` adds what another learner has learned.
        encodes: its events pass a pretrained network, which takes milliseconds. A server then
            answers on a thread.
        example_column: the kind of the columns that ``example`` is for.
        baseline: it serves as a reference, and need not learn from the features.
        remedy: what to do where its numbers are no longer finite, for the message.
        version: how many times it has learned.
        classes: names of the class codes it has learned, in order.
        never_buffer: maps ids (n,) to (n,) bool: the events that no buffer may keep, because they
            are learned once and evaluated later. None: it may keep all.
    """

    kind: ClassVar[str]
    Config: ClassVar[type[LearnerConfig]] = LearnerConfig
    handles: ClassVar[frozenset[Handles]] = frozenset({"classification", "binary", "regression"})
    per_event: bool = False
    opaque: bool = False
    takes_keys: bool = False
    takes_aggregates: ClassVar[bool] = False
    takes_histories: ClassVar[bool] = False
    unlearns: ClassVar[bool] = False
    forgets_classes: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    encodes: ClassVar[bool] = False
    baseline: ClassVar[bool] = False
    example_column: ClassVar[FeatureKind] = "numeric"
    remedy: ClassVar[str] = (
        "mend or leave out that value, or, in a new run, scale and clip the features "
        "(stream.standardise) or lower the learning rate"
    )
    state_version: ClassVar[int] = 1
    needs_boundaries: bool = False
    handles_missing: bool = False
    never_buffer: Callable[[Ints], NDArray[np.bool_]] | None = None

    def __init__(self, config: Any, schema: Schema, seed: int) -> None:
        if schema.task not in self.handles and not (
            schema.task == "classification" and "binary" in self.handles
        ):
            other = "or state the task of the label (docs/odd-inputs.md)"
            if "sequences" in (*self.handles, schema.task):
                other = "or change stream.sequence, with which the label is the next event of a key"
            raise LearnerError(
                f"learner {self.kind!r} handles {', '.join(sorted(self.handles))}, but the label "
                f"of this stream is for {schema.task}: take another (docs/choose-a-learner.md), "
                f"{other}"
            )
        self.schema = schema
        self.seed = seed
        self.version = 0
        self.classes: tuple[ClassName, ...] = schema.classes
        self._check_class_count(len(schema.classes))

    @property
    def requires_segments(self) -> bool:
        """Whether it cannot learn from events whose ``segment`` is not known."""
        return False

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        """Return settings for a small problem of that task. The checks use them."""
        return {"kind": cls.kind}

    @classmethod
    def wants_aggregates(cls, config: Any) -> bool:
        """Return whether a learner with these settings takes aggregates unless a job says not."""
        return cls.takes_aggregates

    @classmethod
    def wants_histories(cls, config: Any) -> bool:
        """Return whether a learner with these settings takes the histories of a job."""
        return cls.takes_histories

    @abstractmethod
    def predict(self, batch: Batch) -> Prediction:
        """Return predictions for the n events of a batch. Pure: no state changes."""

    def observe(self, batch: Batch) -> None:  # noqa: B027 (most learners observe nothing)
        """Learn what needs no label, such as the scale of features, from n >= 1 events."""

    @abstractmethod
    def learn(self, batch: Batch) -> None:
        """Learn from m >= 1 events whose ``y`` is known."""

    def correct(self, ids: Ints, y: Array) -> None:  # noqa: B027 (only for stored labels)
        """Correct the stored labels of events ``ids`` (m,) to ``y`` (m,). Learn nothing twice."""

    def unlearn(self, batch: Batch) -> None:
        """Remove what was learned of events with labels, as if they had never been learned.

        Raises:
            LearnerError: the learner cannot, or it has not learned these events.
        """
        raise LearnerError(f"learner {self.kind!r} cannot unlearn events")

    def forget_class(self, name: ClassName) -> None:
        """Remove what was learned of a class, as if none of its events had been learned.

        The class keeps its code. It is not predicted until it is learned again.

        Raises:
            LearnerError: the learner cannot, or it knows no such class.
        """
        raise LearnerError(f"learner {self.kind!r} cannot forget a class")

    def merge(self, other: Learner) -> None:
        """Add what another learner has learned, as if this one had learned it too.

        Both have the same settings, and learned different events from one start. Classes are joined
        by name. The other one does not change.

        Raises:
            LearnerError: the learner cannot, or not with this one.
        """
        raise LearnerError(f"learner {self.kind!r} cannot merge")

    def verify(self) -> None:  # noqa: B027 (most learners have nothing to verify)
        """Verify the state before it is saved or served.

        Raises:
            NotFiniteError: the state is unusable, as after divergence. The run then resumes from
                the checkpoint before it, and that model is served on.
        """

    def step(self, batch: Batch, revealed: Revealed) -> Prediction:
        """Predict a micro-batch, observe it, and learn the labels revealed by its end.

        Args:
            batch: n events without labels. Rows marked as probes are not observed.
            revealed: m events with labels, without probes.

        Returns:
            Predictions for the n events of ``batch``.
        """
        if self.per_event:
            return self._interleave(batch, revealed)
        prediction = self.predict(batch)
        self._observe(batch)
        self._learn(revealed.batch)
        self._correct(revealed)
        return prediction

    def _interleave(self, batch: Batch, revealed: Revealed) -> Prediction:
        n, m = len(batch), len(revealed)
        predictions: list[Prediction] = []
        row = learned = 0
        for before in [*np.unique(revealed.insert_before).tolist(), n]:
            if row < before:
                part = batch[row:before]
                predictions.append(self._predict_part(part))
                self._observe(part)
                row = before
            known = int(np.searchsorted(revealed.insert_before, before, side="right"))
            if learned < known:
                self._learn(revealed.batch[learned:known])
                learned = known
        assert learned == m
        self._correct(revealed)
        return _concatenate(predictions) if predictions else self.predict(batch)

    def _predict_part(self, part: Batch) -> Prediction:
        """Return predictions for a part of a micro-batch; mark those made before the first label,
        as there may be one before the next part."""
        prediction = self.predict(part)
        if self.version or prediction.kind == "classification":
            return prediction
        return replace(prediction, abstains=np.isnan(prediction.value))

    def _observe(self, batch: Batch) -> None:
        if type(self).observe is Learner.observe:
            return
        if batch.probe is not None and batch.probe.any():
            batch = batch.take(~batch.probe)
        if len(batch):
            self.observe(batch)

    def _learn(self, batch: Batch) -> None:
        if len(batch):
            assert batch.y is not None
            self._register_classes(batch.y, batch.classes)
            self.learn(batch)
            self.version += 1

    def _correct(self, revealed: Revealed) -> None:
        keeps_labels = type(self).correct is not Learner.correct
        if revealed.corrected is not None and keeps_labels:
            ids, y = revealed.corrected
            self._register_classes(y, revealed.batch.classes)
            self.correct(ids, y)

    def _register_classes(self, y: Array, classes: tuple[ClassName, ...]) -> None:
        """Add the names of classes that occur in ``y`` (m,) for the first time."""
        if self.schema.task != "regression":
            known = int(y.max()) + 1
            if known > len(self.classes):
                self._check_class_count(known)
                assert known <= len(classes), "a batch names the classes of its labels"
                self.classes = classes[:known]

    def _check_class_count(self, classes: int) -> None:
        """Raise ``LearnerError`` where there are more classes than the learner handles."""
        if classes > 2 and not self.handles & {"classification", "sequences"}:
            raise LearnerError(
                f"learner {self.kind!r} handles two classes, and the stream has {classes} or more"
            )

    @abstractmethod
    def state(self) -> State:
        """Return all that the learner knows, for ``load`` to continue from bit for bit."""

    @abstractmethod
    def load(self, state: State) -> None:
        """Replace what the learner knows by a ``state``."""

    def servable(self) -> State:
        """Return what a server needs to predict as the learner does now.

        By default that is the whole state. Leave out what serves only learning, as a buffer or an
        optimizer. Return a table of many rows as an array in which rows keep their places:
        snapshots then carry the few that have changed. Arrays may be views.
        """
        return self.state()

    def load_servable(self, state: State) -> None:
        """Load what ``servable`` returned, or a whole state. The learner then only predicts."""
        self.load(state)

    def common_state(self) -> State:
        """Return the part of the state that every learner has. A subclass adds its own."""
        return {
            "state_version": self.state_version,
            "version": self.version,
            "classes": list(self.classes),
        }

    def load_common(self, state: State) -> None:
        """Load the part of a state that ``common_state`` returned."""
        self.version = state["version"]
        self.classes = tuple(state["classes"])

    def encodings(self) -> dict[str, Encoding]:
        """Return how each feature reaches the model, by name; empty where that is not known."""
        return {}

    def memories(self) -> tuple[str, ...]:
        """Return what it stores of events to correct its predictions by, a line each."""
        return ()

    def warnings(self, classes: tuple[ClassName, ...]) -> tuple[str, ...]:
        """Return what looks wrong in the settings, a line each, where a sample has these classes.

        It is called once, before the first event.
        """
        return ()

    def current_warnings(self) -> tuple[str, ...]:
        """Return what looks wrong in what was learned so far, a line each.

        It is called after each micro-batch, and must cost little. A run says each line once, so a
        line has no numbers that change.
        """
        return ()

    def metrics(self) -> dict[str, float]:
        """Return statistics by name, which a run logs as ``learner/NAME``. Pure.

        They are read with each row of metrics and each snapshot, and must cost little.
        """
        return {}

    @property
    def has_activations(self) -> bool:
        """Whether ``activations`` of some events are not empty. It does not change."""
        return type(self).activations is not Learner.activations

    def activations(self, batch: Batch) -> list[Array]:
        """Return the outputs of each hidden layer for the n events of a batch, in order. Pure.

        Each is (n, units), or (n, units, ...) of feature maps. The list is empty without a network.
        """
        return []

    def buffer_summary(self) -> BufferSummary | None:
        """Return statistics of the buffer, or None without one. Pure."""
        return None

    def weight_vector(self) -> Array | None:
        """Return all trained weights of the network as one vector, or None. Do not write to it."""
        return None

    @classmethod
    def migrate(cls, state: State) -> State:
        """Return the state of an older ``state_version`` as one of this version.

        Raises:
            LearnerError: this everlearn cannot read that version.
        """
        if state["state_version"] != cls.state_version:
            raise LearnerError(
                f"the state is version {state['state_version']} of learner {cls.kind!r}, and this "
                f"everlearn reads version {cls.state_version}: resume with the one that wrote it"
            )
        return state

    @property
    def gradient_steps(self) -> int:
        """Gradient steps taken so far; 0 for a learner that takes none."""
        return 0

    @property
    def buffer_bytes(self) -> int:
        """Bytes of the buffer at full capacity; 0 without one."""
        return 0

    def memory_bytes(self) -> int:
        """Return the bytes of the state: of its arrays, and of the rest as JSON."""
        return bytes_of(self.state())


def _concatenate(predictions: list[Prediction]) -> Prediction:
    if len(predictions) == 1:
        return predictions[0]
    last = predictions[-1]
    proba = None
    if last.proba is not None:
        width = last.proba.shape[1]
        parts = [p.proba for p in predictions if p.proba is not None]
        proba = np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1]))) for p in parts])
    marks = None
    if any(p.abstains is not None for p in predictions):
        marks = [
            np.zeros(len(p), np.bool_) if p.abstains is None else p.abstains for p in predictions
        ]
    return Prediction(
        np.concatenate([p.ids for p in predictions]),
        last.kind,
        np.concatenate([p.value for p in predictions]),
        proba,
        last.classes,
        last.version,
        None if marks is None else np.concatenate(marks),
        None if last.forecast is None else _concatenate_forecasts(predictions),
    )


def _concatenate_forecasts(predictions: list[Prediction]) -> Array:
    forecasts = [p.forecast for p in predictions if p.forecast is not None]
    width = forecasts[-1].shape[2]
    return np.concatenate([np.pad(f, ((0, 0), (0, 0), (0, width - f.shape[2]))) for f in forecasts])
