"""What a learner promises: predict, observe, learn, and say all that it knows."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from streams.core.batch import Array, Batch, ClassName, Ints
from streams.core.schema import Schema, Task
from streams.core.settings import Settings
from streams.core.state_dict import State, leaves
from streams.operators.label_join import Revealed


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a learner says of n events.

    Attributes:
        ids: (n,) int64.
        kind: classification or regression.
        value: (n,) int64 class codes (-1: cannot say yet) or float64 targets (NaN: cannot say).
        proba: (n, classes) probabilities by class code, or None; all 0 in a row that cannot say.
            A classifier that knows two classes and no more has two columns from the start.
        classes: names of the class codes, as far as they are known.
        version: how many times the learner had learned.
    """

    ids: Ints
    kind: Task
    value: Array
    proba: Array | None
    classes: tuple[ClassName, ...]
    version: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class BufferSummary:
    """What there is to see of a memory.

    Attributes:
        stored: events that are remembered.
        intervals: (63,) int64: of the recalls so far that were counted, how many came 2**i to
            2**(i+1) - 1 presentations after their event was presented last.
        values: what is known of remembered events, by name: (m,) each, of m events evenly chosen.
    """

    stored: int
    intervals: Ints
    values: dict[str, Array]


class LearnerError(Exception):
    """The learner cannot do what is asked: the message names the place and the remedy."""


class LearnerConfig(Settings):
    """Settings of a learner, as they stand in a job under ``learner:``."""

    kind: str


Handles = Literal["classification", "binary", "regression", "sequences"]


class Learner(ABC):
    """A continual learner.

    A subclass sets ``kind``, ``Config`` and what it handles, takes ``(config, schema, seed)``, and
    writes ``predict``, ``learn``, ``state`` and ``load``. ``learners/checks/`` holds what is
    checked of it.

    Attributes:
        kind: the name by which a job asks for it.
        handles: tasks it can learn; ``binary`` is classification of two classes.
        per_event: it interleaves exactly, event by event, whatever the batch size. The others are
            frozen while a micro-batch is predicted.
        opaque: its state is an object that cannot be compared byte for byte.
        needs_boundaries: it may read ``segment``.
        baseline: it is there to be beaten, and need not learn anything from the features.
        version: how many times it has learned.
        classes: names of the class codes it has learned, in order.
        never_buffer: tells of ids (n,) which of these events (n,) bool no memory may keep: they are
            learned once, and asked about later. None: it may keep all.
    """

    kind: ClassVar[str]
    Config: ClassVar[type[LearnerConfig]] = LearnerConfig
    handles: ClassVar[frozenset[Handles]] = frozenset({"classification", "binary", "regression"})
    per_event: ClassVar[bool] = False
    opaque: ClassVar[bool] = False
    needs_boundaries: ClassVar[bool] = False
    baseline: ClassVar[bool] = False
    state_version: ClassVar[int] = 1
    never_buffer: Callable[[Ints], NDArray[np.bool_]] | None = None

    def __init__(self, config: Any, schema: Schema, seed: int) -> None:
        if schema.task not in self.handles and not (
            schema.task == "classification" and "binary" in self.handles
        ):
            raise LearnerError(
                f"learner {self.kind!r} handles {', '.join(sorted(self.handles))}, but the label "
                f"of this stream is for {schema.task}"
            )
        self.schema = schema
        self.seed = seed
        self.version = 0
        self.classes: tuple[ClassName, ...] = schema.classes
        self._limit(len(schema.classes))

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        """Settings for a small problem of that task: what the checks run it with."""
        return {"kind": cls.kind}

    @abstractmethod
    def predict(self, batch: Batch) -> Prediction:
        """Predictions for the n events of a batch. Pure: no state changes."""

    def observe(self, batch: Batch) -> None:  # noqa: B027 (nothing to observe is the usual case)
        """Learns what needs no label: scales, key initialisation, histories."""

    @abstractmethod
    def learn(self, batch: Batch) -> None:
        """Learns from m >= 1 events whose ``y`` is known."""

    def correct(self, ids: Ints, y: Array) -> None:  # noqa: B027 (nothing kept, nothing to mend)
        """Labels of events learned earlier turned out to be these. Nothing is learned twice."""

    def verify(self) -> None:  # noqa: B027 (most learners cannot fail so)
        """Called before the state is kept. Raises ``LearnerError`` where it is not worth keeping:
        the checkpoint before it is the one to go on from."""

    def step(self, batch: Batch, revealed: Revealed) -> Prediction:
        """Predicts a micro-batch, observes it, and learns the labels revealed by the end of it.

        Args:
            batch: n events without labels; rows marked as probes are not observed.
            revealed: m events with labels, probes not among them.
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
                predictions.append(self.predict(part))
                self._observe(part)
                row = before
            known = int(np.searchsorted(revealed.insert_before, before, side="right"))
            if learned < known:
                self._learn(revealed.batch[learned:known])
                learned = known
        assert learned == m
        self._correct(revealed)
        return _join(predictions) if predictions else self.predict(batch)

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
        """Takes up the names of classes that are seen for the first time."""
        if self.schema.task == "classification":
            known = int(y.max()) + 1
            if known > len(self.classes):
                self._limit(known)
                assert known <= len(classes), "a batch names the classes of its labels"
                self.classes = classes[:known]

    def _limit(self, classes: int) -> None:
        if classes > 2 and "classification" not in self.handles:
            raise LearnerError(
                f"learner {self.kind!r} handles two classes, and the stream has {classes} or more"
            )

    @abstractmethod
    def state(self) -> State:
        """All that it knows; ``load`` of it into a new learner goes on bit for bit."""

    @abstractmethod
    def load(self, state: State) -> None: ...

    def servable(self) -> State:
        """What is needed to predict as it would predict now, and no more if that can be told apart:
        no buffer, no optimizer."""
        return self.state()

    def load_servable(self, state: State) -> None:
        """Takes over what ``servable`` gave, or the whole of a state; it will only predict."""
        self.load(state)

    def common_state(self) -> State:
        """What every learner keeps; a subclass adds its own to it."""
        return {
            "state_version": self.state_version,
            "version": self.version,
            "classes": list(self.classes),
        }

    def load_common(self, state: State) -> None:
        self.version = state["version"]
        self.classes = tuple(state["classes"])

    def activations(self, batch: Batch) -> list[Array]:
        """What each hidden layer of its network gives for the n events of a batch, the last one
        last: (n, units), or (n, units, ...) of feature maps. Empty without a network. Pure."""
        return []

    def buffer_summary(self) -> BufferSummary | None:
        """What there is to see of its memory; None without one. Pure."""
        return None

    def weight_vector(self) -> Array | None:
        """All weights of its network that are trained, as one vector to look at, or None."""
        return None

    @classmethod
    def migrate(cls, state: State) -> State:
        """The state of an older ``state_version`` as one of this version."""
        if state["state_version"] != cls.state_version:
            raise LearnerError(
                f"the state is version {state['state_version']} of learner {cls.kind!r}, and this "
                f"everlearn reads version {cls.state_version}: resume with the one that wrote it"
            )
        return state

    @property
    def gradient_steps(self) -> int:
        """Steps of gradient descent taken so far; 0 for a learner that takes none."""
        return 0

    @property
    def buffer_bytes(self) -> int:
        """Bytes of remembered events at full capacity; 0 for a learner that remembers none."""
        return 0

    def memory_bytes(self) -> int:
        """Bytes of the state: of its arrays, and of the rest as JSON."""
        return sum(
            leaf.nbytes if isinstance(leaf, np.ndarray | np.generic) else len(json.dumps(leaf))
            for _, leaf in leaves(self.state())
        )


def _join(predictions: list[Prediction]) -> Prediction:
    if len(predictions) == 1:
        return predictions[0]
    last = predictions[-1]
    proba = None
    if last.proba is not None:
        width = last.proba.shape[1]
        parts = [p.proba for p in predictions if p.proba is not None]
        proba = np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1]))) for p in parts])
    return Prediction(
        np.concatenate([p.ids for p in predictions]),
        last.kind,
        np.concatenate([p.value for p in predictions]),
        proba,
        last.classes,
        last.version,
    )
