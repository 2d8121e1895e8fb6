"""``ranpac`` and ``rls``: exact sums in any order, shards, drift, and few solves."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from learners.base import Learner, LearnerError
from learners.pretrained.closed_form.ranpac import Ranpac
from learners.pretrained.closed_form.rls import Rls
from streams.core.batch import Array, Batch
from streams.core.schema import Feature, Schema, Task
from streams.operators.label_join import Revealed

WIDTH = 8
NAMES = ("a", "b", "c", "d")
SMALL = {"kind": "relu", "dimension": 60}


def learner(cls: type[Learner], task: Task = "classification", **settings: Any) -> Any:
    schema = Schema((Feature("v", "vector", (WIDTH,), unit=True),), task)
    return cls(cls.Config.model_validate({"kind": cls.kind, **settings}), schema, seed=1)


def stream(n: int = 600, seed: int = 0) -> Batch:
    """Return classes that no linear function separates: rings around the origin, by radius."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(4), rng.integers(0, 4, n)])[:n]
    x = rng.normal(size=(n, WIDTH))
    x *= (1 + y / np.linalg.norm(x, axis=1) * 2)[:, None]
    return batch_of(x, y)


def batch_of(x: Array, y: Array) -> Batch:
    offset = np.arange(len(y))
    x = x.astype(np.float32)
    return Batch(offset, offset * 1.0, x, np.zeros(len(y), np.int32), offset, y, classes=NAMES)


def feed(model: Learner, batch: Batch, size: int = 50) -> list[Array]:
    values = []
    for part in batch.micro_batches(size):
        revealed = Revealed(part, np.full(len(part), len(part)))
        values.append(model.step(replace(part, y=None), revealed).value)
    return values


def accuracy(model: Learner, batch: Batch) -> float:
    return float((model.predict(replace(batch, y=None)).value == batch.y).mean())


def test_random_features_separate_what_rows_do_not() -> None:
    train, new = stream(3000), stream(1000, seed=1)
    scores = {}
    for features in (None, {"kind": "relu", "dimension": 300}):
        model = learner(Ranpac, features=features)
        feed(model, train)
        scores[features is None] = accuracy(model, new)
    assert scores[True] < 0.45
    assert scores[False] > 0.5


def test_any_order_of_events_and_classes_gives_the_same_scores() -> None:
    train, new = stream(), replace(stream(50, seed=1), y=None)
    assert train.y is not None
    tail = np.arange(4, 600)
    by_class = np.r_[0:4, tail[np.argsort(train.y[tail], kind="stable")]]
    backwards = np.r_[0:4, tail[::-1]]
    proba = []
    for order in (np.arange(600), backwards, by_class):
        model = learner(Ranpac, features=SMALL, ridge=50, calibration="none", refit_every=600)
        feed(model, train.take(order))
        model._solve()
        proba.append(model.predict(new).proba)
    np.testing.assert_allclose(proba[1], proba[0], atol=1e-5)
    np.testing.assert_allclose(proba[2], proba[0], atol=1e-5)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_merged_shards_score_as_one_that_learned_all(task: Task) -> None:
    train, new = stream(), replace(stream(50, seed=1), y=None)
    if task == "regression":
        assert isinstance(train.x, np.ndarray)
        train = replace(train, y=30 + train.x[:, 0].astype(np.float64), classes=())
    models = [learner(Ranpac, task, features=SMALL, ridge=50, calibration="none") for _ in range(3)]
    for model, part in zip(models, (train[:250], train[250:], train), strict=True):
        feed(model, part)
    models[0].merge(models[1])
    for model in (models[0], models[2]):
        model._solve()
    merged, whole = models[0].predict(new), models[2].predict(new)
    if task == "regression":
        np.testing.assert_allclose(merged.value, whole.value, rtol=1e-5)
    else:
        np.testing.assert_allclose(merged.proba, whole.proba, atol=1e-5)


def test_other_random_features_do_not_merge() -> None:
    one, other = learner(Ranpac, features=SMALL), learner(Ranpac, features=SMALL)
    feed(one, stream())
    other.seed = 2
    with pytest.raises(LearnerError, match="same random features"):
        one.merge(other)


@pytest.mark.parametrize("cls", [Ranpac, Rls])
def test_unlearned_events_leave_no_trace(cls: type[Learner]) -> None:
    train, new = stream(), replace(stream(50, seed=1), y=None)
    settings = {"features": SMALL, "ridge": 50, "calibration": "none"}
    taught, control = learner(cls, **settings), learner(cls, **settings)
    feed(taught, train)
    taught.unlearn(train[400:])
    feed(control, train[:400])
    if cls is Rls:  # it scales scores by errors of late, which are not unlearned
        assert isinstance(taught, Rls)
        taught.statistics.error = control.statistics.error
    for model in (taught, control):
        model._solve()
    ours, theirs = taught.predict(new).proba, control.predict(new).proba
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("cls", [Ranpac, Rls])
def test_targets_are_learned_whatever_their_offset(cls: type[Learner]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, WIDTH))
    y = 1e6 + 3 * x[:, 0] + 0.1 * rng.normal(size=500)
    model = learner(cls, "regression", features=None, ridge=1)
    feed(model, replace(batch_of(x, y), classes=()))
    new = rng.normal(size=(100, WIDTH))
    value = model.predict(replace(batch_of(new, y[:100]), y=None, classes=())).value
    assert np.abs(value - 1e6 - 3 * new[:, 0]).mean() < 0.1


def test_solves_are_few_and_ridge_is_known() -> None:
    model = learner(Ranpac, features=SMALL, refit_every=1000, refit_growth=1.0)
    feed(model, stream(4000), size=20)
    metrics = model.metrics()
    assert metrics["solves"] < 60  # of 200 micro-batches
    assert metrics["ridge"] > 0


def test_forgetting_follows_drift_and_the_others_do_not() -> None:
    """The classes change places after 2,000 of 4,000 events."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 4000)
    y[:2] = 0, 1
    x = rng.normal(size=(4000, WIDTH))
    x[:, 0] += np.where(np.arange(4000) < 2000, 3, -3) * (2 * y - 1)
    drifting = replace(batch_of(x, y), classes=NAMES[:2])
    last = {}
    for name, model in (
        ("forgets", learner(Rls, half_life=200)),
        ("rls", learner(Rls)),
        ("ranpac", learner(Ranpac, features=None)),
    ):
        values = np.concatenate(feed(model, drifting))
        last[name] = float((values == y)[2500:3000].mean())
    assert last["forgets"] > 0.95
    assert last["rls"] < 0.5
    assert last["ranpac"] < 0.5


def test_rare_class_is_not_drowned_by_a_frequent_one() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random(3000) < 0.03).astype(np.int64)
    y[:2] = 0, 1
    x = rng.normal(size=(3000, WIDTH))
    x[:, 0] += 5 * y
    model = learner(Ranpac, features=SMALL)
    feed(model, replace(batch_of(x, y), classes=NAMES[:2]))
    rare = replace(batch_of(x[y == 1], y[y == 1]), y=None, classes=NAMES[:2])
    assert float((model.predict(rare).value == 1).mean()) > 0.7
