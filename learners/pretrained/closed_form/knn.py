"""The nearest neighbours among stored rows, found exactly."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field, PositiveInt

from buffers.buffer import Buffer
from learners.base import LearnerError
from learners.pretrained.closed_form.base import ClosedFormLearner
from learners.pretrained.closed_form.class_codes import codes_of
from learners.pretrained.closed_form.settings import ClosedFormConfig
from learners.pretrained.closed_form.statistics import Statistics, grown, unit_length
from learners.pretrained.closed_form.statistics.neighbours import Neighbours, Stored, nearest
from streams.core.batch import Array, Batch, ClassName, Ints
from streams.core.schema import Task
from streams.core.state_dict import State

_SMOOTHING = 0.5  # of a vote, that all classes share


class KnnConfig(ClosedFormConfig):
    """Settings of ``knn``.

    Attributes:
        neighbours: stored events that vote on a prediction.
        metric: ``cosine``, or ``euclidean`` distance.
        votes: a neighbour's vote weighs 1 / ``distance``, or 1 (``equal``).
        capacity: the most events that are stored.
        admission: the rule by which they are chosen. None: ``class-balanced``, or ``reservoir`` for
            targets. A ``ring`` follows drift.
    """

    neighbours: PositiveInt = 10
    metric: Literal["cosine", "euclidean"] = "cosine"
    votes: Literal["distance", "equal"] = "distance"
    capacity: PositiveInt = Field(10_000, le=10**8)
    admission: Literal["class-balanced", "reservoir", "ring", "random-insert"] | None = None


class StoredRows(Statistics):
    """Rows in a buffer: those that an admission rule keeps of all rows added.

    Args:
        config: settings.
        targets: whether labels are targets.
        seed: of the admission rule.

    Attributes:
        buffer: the rows.
    """

    def __init__(self, config: KnnConfig, targets: bool, seed: int) -> None:
        admission = config.admission or ("reservoir" if targets else "class-balanced")
        self.buffer = Buffer(config.capacity, admission, "uniform", seed)
        self.counts = np.zeros(int(targets), np.int64)
        self._targets = targets
        self._turn = 0

    def grow(self, classes: int) -> None:
        self.counts = grown(self.counts, classes)

    def add(self, x: Array, y: Array) -> None:
        raise NotImplementedError("rows of a buffer have ids: use `put`")

    def put(self, ids: Ints, x: Array, y: Array) -> None:
        """Offer rows (m, d) float32 with ids (m,) and labels (m,)."""
        turns = np.arange(self._turn, self._turn + len(ids))
        self._turn += len(ids)
        squares = np.einsum("md,md->m", x, x)
        self.buffer.add(ids, x=x, square=squares, y=y, turn=turns)
        self.count()

    def count(self) -> None:
        """Count what is stored of each class."""
        if self._targets:
            self.counts = np.array([len(self.buffer)])
        else:
            self.counts = np.bincount(self.column("y"), minlength=len(self.counts))

    def column(self, name: str) -> Array:
        """Return a column of the stored rows: a view (m, ...)."""
        return self.buffer.columns.get(name, np.zeros(0, np.int64))

    def state(self) -> State:
        return {"buffer": self.buffer.state(), "counts": self.counts, "turn": self._turn}

    def load(self, state: State) -> None:
        self.buffer.load(state["buffer"])
        self.counts, self._turn = np.array(state["counts"]), state["turn"]


class Knn(ClosedFormLearner):
    """Predict by the votes of the nearest stored events, or by the mean of their targets.

    Memory is bounded: an admission rule chooses the events that are stored, and with them the rows
    that vote. The search is exact (``statistics/neighbours.py``); of two events at one distance the
    later one is nearer. Events that ``never_buffer`` names are not stored.

    With ``distance``, a vote weighs 1 / distance, and where stored rows equal that of the event
    these alone vote. The cosine distance is 1 - cosine. A row of zeros has no direction: it is
    orthogonal to all other rows.

    Probabilities are shares of the votes, to which half a vote is added that all classes share. The
    temperature starts from these.
    """

    kind = "knn"
    Config = KnnConfig
    lazy = False
    merges = False
    forgets_classes = True
    statistics: StoredRows

    config: KnnConfig

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return super().example(task) | {"metric": "euclidean", "capacity": 300}

    def new_statistics(self, width: int) -> StoredRows:
        admission = self.config.admission
        if self.schema.task == "regression" and admission == "class-balanced":
            raise LearnerError(
                "learner.admission: 'class-balanced' needs classes, but the label of this stream "
                "is for regression: use 'reservoir', 'ring' or 'random-insert'"
            )
        return StoredRows(self.config, self.schema.task == "regression", self.seed)

    def transform(self, x: Array) -> Array:
        if self.config.metric == "euclidean":
            return x
        unit = unit_length(x)
        return np.column_stack([unit, ~unit.any(1)]).astype(np.float32)

    def add_rows(self, ids: Ints, x: Array, y: Array) -> None:
        if self.never_buffer is not None and (excluded := self.never_buffer(ids)).any():
            ids, x, y = ids[~excluded], x[~excluded], y[~excluded]
        self.statistics.put(ids, x, y)

    def fit(self) -> dict[str, Array]:
        """Return the stored rows themselves, as views."""
        columns = self.statistics.buffer.columns
        return {name: columns[name] for name in ("x", "y", "square", "turn")}

    def scores(self, x: Array) -> Array:
        stored = Stored(self.weights["x"], self.weights["square"], self.weights["turn"])
        found = nearest(x, stored, self.config.neighbours)
        votes = self._votes(found)
        labels = self.weights["y"][found.places]
        if self.schema.task == "regression":
            target: Array = (votes * labels).sum(1, keepdims=True)
            return target
        shares = np.zeros((len(x), len(self.weights["seen"])))
        np.add.at(shares, (np.arange(len(x))[:, None], labels), votes)
        k = votes.shape[1]
        smoothed = (k * shares + _SMOOTHING / shares.shape[1]) / (k + _SMOOTHING)
        scores: Array = np.log(smoothed).astype(np.float32)
        return scores

    def _votes(self, found: Neighbours) -> Array:
        """Return the weights of votes (n, k), which sum to 1 in each row."""
        if self.config.votes == "equal":
            votes = np.ones(found.distances.shape)
        else:
            # Of rows of length 1, the cosine distance is half the squared distance.
            cosine = self.config.metric == "cosine"
            distances = found.distances / 2 if cosine else np.sqrt(found.distances)
            equal = distances == 0
            votes = np.where(equal.any(1, keepdims=True), equal, 1 / np.where(equal, 1, distances))
        weights: Array = votes / votes.sum(1, keepdims=True)
        return weights

    def unlearn(self, batch: Batch) -> None:
        """Delete these events, which the learner has learned. They are found by id."""
        if not self.forget(batch.ids):
            raise LearnerError(
                "none of these events is stored: they were not learned, or evicted since"
            )

    def forget(self, ids: Ints) -> int:
        """Delete the events with these ids (m,). Return how many were stored."""
        self._require_fixed_scale("forget")
        deleted = self.statistics.buffer.delete(ids)
        self.statistics.count()
        self._changed()
        return deleted

    def forget_class(self, name: ClassName) -> None:
        code = codes_of((name,), self.classes)[0]
        self.forget(self.statistics.column("ids")[self.statistics.column("y") == code])

    def correct(self, ids: Ints, y: Array) -> None:
        if self.schema.task == "classification":
            self._grow()
        else:
            y = self._clipped(y)
        if self._kept:
            places = {id_: place for place, id_ in enumerate(self._kept["ids"].tolist())}
            for id_, label in zip(ids.tolist(), y, strict=True):
                if id_ in places:
                    self._kept["y"][places[id_]] = label
        self.statistics.buffer.relabel(ids, y)
        self.statistics.count()
        self._solve()

    def state(self) -> State:
        return {**super().state(), "seed": self.seed}

    def load(self, state: State) -> None:
        self.seed = state["seed"]  # of the buffer that is filled anew when rows have changed
        super().load(state)

    @property
    def buffer_bytes(self) -> int:
        return self.statistics.buffer.memory_bytes()
