"""``knn``: bounded memory, votes, deletion by id, corrections."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from learners.base import LearnerError
from learners.pretrained.closed_form.knn import Knn
from streams.core.batch import Array, Batch, Ints
from streams.core.schema import Feature, Schema, Task
from streams.operators.label_join import Revealed

WIDTH = 4


def learner(task: Task = "classification", **settings: Any) -> Knn:
    schema = Schema((Feature("v", "vector", (WIDTH,), unit=True),), task)
    return Knn(Knn.Config.model_validate({"kind": "knn", **settings}), schema, seed=1)


def batch_of(x: Any, y: Any) -> Batch:
    y, x = np.asarray(y), np.asarray(x, np.float32)
    offset = np.arange(len(y))
    classes = ("a", "b", "c") if y.dtype.kind == "i" else ()
    return Batch(offset, offset * 1.0, x, np.zeros(len(y), np.int32), offset, y, classes=classes)


def learn(model: Knn, batch: Batch) -> None:
    model.step(replace(batch[:0], y=None), Revealed(batch, np.zeros(len(batch), np.int64)))


def predicted(model: Knn, x: Array) -> Array:
    return model.predict(replace(batch_of(x, np.zeros(len(x), np.int64)), y=None)).value


def blobs(n: int = 200, seed: int = 0) -> tuple[Array, Ints]:
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(3), rng.integers(0, 3, n)])[:n]
    return rng.normal(size=(n, WIDTH)) + 3 * np.eye(WIDTH)[y], y


def test_equal_votes_are_those_of_the_nearest() -> None:
    x, y = blobs()
    new = blobs(50, seed=1)[0]
    model = learner(neighbours=7, metric="euclidean", votes="equal")
    learn(model, batch_of(x, y))
    x, new = x.astype(np.float32), new.astype(np.float32)
    nearest = np.argsort(((new[:, None] - x) ** 2).sum(2), axis=1)[:, :7]
    counts = np.stack([np.bincount(y[row], minlength=3) for row in nearest])
    assert np.array_equal(predicted(model, new), counts.argmax(1))


def test_an_equal_row_decides_alone_by_distance() -> None:
    model = learner(neighbours=3, metric="euclidean")
    learn(model, batch_of([[1, 0, 0, 0], [1.1, 0, 0, 0], [0.9, 0, 0, 0]], [1, 0, 0]))
    assert predicted(model, np.array([[1, 0, 0, 0]])).tolist() == [1]
    assert predicted(model, np.array([[1.06, 0, 0, 0]])).tolist() == [0]


def test_cosine_ignores_length_and_takes_zeros_for_no_direction() -> None:
    model = learner(neighbours=1)
    learn(model, batch_of([[1, 0, 0, 0], [0, 9, 0, 0], [0, 0, 0, 0]], [0, 1, 2]))
    queries = np.array([[50, 1, 0, 0], [0.1, 0.2, 0, 0], [0, 0, 0, 0]])
    assert predicted(model, queries).tolist() == [0, 1, 2]


def test_of_two_equal_rows_the_later_one_decides() -> None:
    model = learner(neighbours=1)
    learn(model, batch_of([[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]], [0, 1, 2]))
    assert predicted(model, np.array([[1, 0, 0, 0]])).tolist() == [1]


def test_targets_are_the_weighted_mean() -> None:
    model = learner("regression", neighbours=2, metric="euclidean", calibration="none")
    learn(model, batch_of([[0, 0, 0, 0], [4, 0, 0, 0], [90, 0, 0, 0]], [10.0, 20.0, 500.0]))
    # At distances 1 and 3 the votes are 3/4 and 1/4.
    assert predicted(model, np.array([[1, 0, 0, 0]])) == pytest.approx([12.5])
    with pytest.raises(LearnerError, match="class-balanced"):
        learner("regression", admission="class-balanced")


def test_memory_is_bounded_and_balanced() -> None:
    x, y = blobs(900)
    y[3:800] = 0
    model = learner(capacity=60)
    learn(model, batch_of(x, y))
    assert model.statistics.counts.tolist() == [20, 20, 20]
    assert model.buffer_bytes > 60 * WIDTH * 4


def test_deleted_events_no_longer_vote() -> None:
    x, y = blobs()
    control, model = learner(), learner()
    learn(model, batch_of(x, y))
    assert model.forget(np.arange(100, 250)) == 100
    learn(control, batch_of(x[:100], y[:100]))
    new = blobs(80, seed=1)[0]
    assert np.array_equal(predicted(model, new), predicted(control, new))
    model.forget_class("b")
    assert set(predicted(model, new).tolist()) == {0, 2}
    model.unlearn(batch_of(x, y))
    assert predicted(model, new[:2]).tolist() == [-1, -1]
    with pytest.raises(LearnerError, match="none of these events is stored"):
        model.unlearn(batch_of(x, y))


def test_events_to_be_evaluated_later_are_not_stored() -> None:
    x, y = blobs()
    model = learner()
    model.never_buffer = lambda ids: ids % 2 == 0
    learn(model, batch_of(x, y))
    assert sorted(model.statistics.column("ids").tolist()) == list(range(1, 200, 2))


def test_corrected_labels_vote_as_corrected() -> None:
    model = learner(neighbours=1)
    batch = batch_of([[1, 0, 0, 0], [0, 1, 0, 0]], [0, 1])
    learn(model, batch)
    nothing = Revealed(batch[:0], np.zeros(0, np.int64), (np.array([0, 77]), np.array([2, 0])))
    model.step(replace(batch[:0], y=None), nothing)
    assert predicted(model, np.array([[1, 0, 0, 0]])).tolist() == [2]
