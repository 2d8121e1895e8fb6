"""What a check works on: a class, small streams, and a learner that is led through them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from learners.base import Learner
from learners.results import Prediction
from streams.core.batch import Array, Batch, ClassName, Features, Ragged
from streams.core.schema import Feature, Schema, Task
from streams.core.state_dict import digest
from streams.core.stream_config import SequenceConfig
from streams.operators.features.sequences import GAPS, TYPES, Sequences
from streams.operators.label_join import LabelJoin, Revealed
from streams.operators.labels_in_rows import DelayByEvents
from streams.operators.next_of_key import NextOfKey

Make = Callable[[Schema, int], Learner]
"""Make a learner for a schema and a seed."""

NAMES: tuple[ClassName, ...] = ("a", "b", "c")
WIDTH = 6
"""Features of a row."""
KEYS = 4
"""Keys of a stream of sequences, whose events come in turn."""
_SEQUENCES = SequenceConfig(by="user", length=8, keys=64)


def handles(cls: type[Learner], task: Task) -> bool:
    """Return whether the class declares that it learns this task, if only for two classes."""
    return task in cls.handles or (task == "classification" and "binary" in cls.handles)


def many_classes(cls: type[Learner]) -> bool:
    """Return whether the class declares that it learns more than two classes."""
    return bool(cls.handles & {"classification", "sequences"})


def with_example_settings(cls: type[Learner]) -> Make:
    """Return a function that makes learners of a class with its example settings."""

    def make(schema: Schema, seed: int) -> Learner:
        return cls(cls.Config.model_validate(cls.example(schema.task)), schema, seed)

    return make


@dataclass(frozen=True)
class Case:
    """A class, a task, and small streams of that task."""

    cls: type[Learner]
    task: Task
    make: Make

    @property
    def texts(self) -> bool:
        """Whether events are texts, and not numbers."""
        return self.cls.example_column == "text"

    def schema(self, classes: tuple[ClassName, ...] = ()) -> Schema:
        """Return the schema of the streams, with these stated classes."""
        if self.task == "sequences":
            users = Schema((Feature("user", "categorical"),), "classification", classes)
            return Sequences(_SEQUENCES, users).schema(users)
        columns = [Feature(f"x{i}", "numeric") for i in range(WIDTH)]
        features = [Feature("text", "text")] if self.texts else columns
        return Schema(tuple(features), self.task, classes)

    def new(self, seed: int = 1) -> Learner:
        """Return a new learner."""
        return self.make(self.schema(), seed)

    def stream(self, n: int = 160, seed: int = 0, names: tuple[ClassName, ...] = ()) -> Batch:
        """Return n events: classes that lie apart, a linear target with little noise, or types of
        which one follows another."""
        rng = np.random.default_rng(seed)
        if self.task == "sequences":
            return _sequences(n, rng, names or NAMES)
        x = rng.normal(size=(n, WIDTH))
        y: Array = 30 + 5 * x[:, 0] - 3 * x[:, 1] + 0.1 * rng.normal(size=n)
        if self.task == "classification":
            names = names or NAMES[: 3 if many_classes(self.cls) else 2]
            y = np.concatenate([np.arange(len(names)), rng.integers(0, len(names), n)])[:n]
            x[np.arange(n), y] += 5
        ids = rng.permutation(10 * n)[:n].astype(np.int64)
        offset = np.arange(n)
        features: Features = {"text": _texts(x)} if self.texts else x
        return Batch(ids, offset * 60.0, features, np.zeros(n, np.int32), offset, y, classes=names)

    def wild(self, batch: Batch, rows: Array) -> Batch:
        """Return the batch with quite other features in these rows (n,) bool."""
        if isinstance(batch.x, np.ndarray):
            return replace(batch, x=np.where(rows[:, None], 1e6 * (1 + batch.x), batch.x))
        if self.task == "sequences":
            types, gaps = (np.asarray(batch.x[name]) for name in (TYPES, GAPS))
            other = np.where(rows[:, None] & (types > 0), types - 1, types)
            longer = np.where(rows[:, None], 100 * gaps, gaps)
            return replace(batch, x={**batch.x, TYPES: other, GAPS: longer})
        column = batch.x["text"]
        assert isinstance(column, Ragged)
        texts = [
            f"wild {i}" if r else t
            for i, (t, r) in enumerate(zip(column.texts(), rows, strict=True))
        ]
        return replace(batch, x={"text": Ragged.of_text(texts)})

    def fingerprint(self, learner: Learner) -> str:
        """Return a digest of the state, or of some predictions where the state is opaque."""
        if not self.cls.opaque:
            return digest(learner.state())
        prediction = learner.predict(replace(self.stream(50, seed=9), y=None))
        proba = {} if prediction.proba is None else {"proba": prediction.proba}
        return digest({"value": prediction.value, **proba})


def _sequences(n: int, rng: np.random.Generator, names: tuple[ClassName, ...]) -> Batch:
    """Return n events of ``KEYS`` keys in turn: after a type comes the next one, in 9 of 10 cases,
    and after the first type the next event takes longer."""
    offset = np.arange(n)
    y = np.zeros(n, np.int64)
    for i in range(n):
        follows = i >= KEYS and rng.random() < 0.9
        y[i] = (y[i - KEYS] + 1) % len(names) if follows else rng.integers(len(names))
    y[: len(names)] = offset[: len(names)] if n >= len(names) else y
    time = np.cumsum(rng.exponential(15.0, n) * np.where(y == 1, 4.0, 1.0))
    ids = rng.permutation(10 * n)[:n].astype(np.int64)
    x = {"user": offset % KEYS}
    batch = Batch(ids, time, x, np.zeros(n, np.int32), offset, y, classes=names)
    users = Schema((Feature("user", "categorical"),), "classification")
    return replace(Sequences(_SEQUENCES, users).apply(batch), wait=np.full(n, 60.0))


def _texts(x: Array) -> Ragged:
    """Return rows of numbers (n, d) as texts: a word for each that does not round to 0."""
    rows = np.rint(x).astype(int).tolist()
    return Ragged.of_text(" ".join(f"x{i}:{v}" for i, v in enumerate(row) if v) for row in rows)


class LearnerRun:
    """Lead a learner through a stream as the training loop does.

    Args:
        learner: the learner to lead.
        delay: events after which a label is revealed; of task sequences it is the next event of the
            key.
    """

    def __init__(self, learner: Learner, delay: int = 5) -> None:
        self.learner = learner
        segments = learner.needs_boundaries
        self.join: LabelJoin = (
            NextOfKey(None, 0.0, 10_000, segments, learner.per_event)
            if learner.schema.task == "sequences"
            else DelayByEvents(delay, delay + 10_000, segments, learner.per_event)
        )
        self.predictions: list[Prediction] = []

    def step(self, batch: Batch, labels: bool = True) -> Prediction:
        """Predict a micro-batch and learn what it reveals, or nothing without ``labels``."""
        pushed = self.join.push(batch)
        revealed = pushed.revealed
        if not labels:
            revealed = Revealed(revealed.batch[:0], revealed.insert_before[:0])
        if not batch.ids.flags.writeable:  # the join copies; its copies must be read-only too
            revealed = replace(revealed, batch=read_only(revealed.batch))
        prediction = self.learner.step(self._without_labels(batch), revealed)
        pushed.settle(prediction.value, prediction.proba, prediction.forecast)
        self.predictions.append(prediction)
        return prediction

    def feed(self, batch: Batch, size: int = 16) -> LearnerRun:
        """Step through all events in micro-batches of ``size``. Return the run itself."""
        for part in batch.micro_batches(size):
            self.step(part)
        return self

    def finish(self, size: int = 16) -> LearnerRun:
        """Learn the labels that are still awaited. Return the run itself."""
        for revealed, _ in self.join.finish(size):
            self.learner.step(revealed.batch[:0], revealed)
        return self

    def values(self) -> Array:
        """Return all predicted values so far: (n,)."""
        return np.concatenate([p.value for p in self.predictions])

    def probabilities(self, width: int) -> Array:
        """Return all probabilities so far: (n, width), 0 for classes not known at the time."""
        parts = [np.zeros((len(p), 0)) if p.proba is None else p.proba for p in self.predictions]
        return np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1]))) for p in parts])

    def forecasts(self) -> Array:
        """Return all forecasts so far: (n, cells, width), 0 for types not known at the time; NaN
        without forecasts."""
        parts = [
            np.full((len(p), 1, 2), np.nan) if p.forecast is None else p.forecast
            for p in self.predictions
        ]
        width = max(part.shape[2] for part in parts)
        return np.concatenate(
            [np.pad(part, ((0, 0), (0, 0), (0, width - part.shape[2]))) for part in parts]
        )

    def _without_labels(self, batch: Batch) -> Batch:
        segment = batch.segment if self.learner.needs_boundaries else None
        return replace(batch, y=None, wait=None, segment=segment)


def read_only(batch: Batch) -> Batch:
    """Return a copy of the batch whose arrays cannot be written to."""
    names = ("ids", "time", "x", "partition", "offset", "y")
    return replace(batch, **{name: read_only_array(getattr(batch, name)) for name in names})


def read_only_array(leaf: Any) -> Any:
    """Return a read-only copy of an array; anything else as it is."""
    if not isinstance(leaf, np.ndarray):
        return leaf
    leaf = leaf.copy()
    leaf.flags.writeable = False
    return leaf
