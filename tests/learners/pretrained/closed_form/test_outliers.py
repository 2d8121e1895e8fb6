"""Absurd numbers and targets: what is learned outlives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import learners
from learners.pretrained.closed_form import ClosedFormLearner
from learners.registry import find
from streams.core.batch import Array, Batch
from streams.core.schema import Feature, Schema
from tests.learners.pretrained.closed_form.problems import NAMES, events, new, vectors

FOURIER = {"features": {"kind": "fourier", "dimension": 64}}
RELU = {"features": {"kind": "relu", "dimension": 64}}
CLASSIFIERS = [
    ("prototype", {}),
    ("prototype", {"distance": "euclidean"}),
    ("slda", {}),
    ("slda", FOURIER),
    ("fecam", {}),
    ("ranpac", RELU),
    ("ranpac", FOURIER),
    ("rls", RELU),
    ("knn", {}),
    ("knn", {"metric": "euclidean"}),
]


@pytest.mark.parametrize(("kind", "settings"), CLASSIFIERS)
def test_absurd_vectors_leave_finite_numbers(kind: str, settings: dict[str, Any]) -> None:
    x, y = vectors(300)
    x[::50] = np.finfo(np.float32).max
    learner = new(kind, **settings)
    for part in events(x, y).micro_batches(32):
        learner.learn(_named(learner, part))
        learner.verify()
    prediction = learner.predict(replace(events(x, y), y=None))
    assert not len(prediction.not_finite())


ROWS: dict[str, Callable[[Array], Array]] = {
    "absurd": lambda x: x * np.float32(1e13),
    "tiny": lambda x: x * np.float32(1e-40),
    "one column": lambda x: np.column_stack([np.float32(1e8) + 100 * x[:, 0], x[:, 1:]]),
    "all but equal": lambda x: np.float32([1, 0, 0, 0, 0, 0, 0, 0]) + np.float32(1e-8) * x,
    "equal": np.ones_like,
}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(
    ("kind", "settings"), [*CLASSIFIERS, ("fecam", {"covariance": "diagonal"})]
)
def test_a_class_without_events_is_never_predicted(
    kind: str, settings: dict[str, Any], rows: str
) -> None:
    """Though scores of the others may be far below any number that stands for 'never'."""
    x, y = vectors(300)
    x = ROWS[rows](x)
    learner = new(kind, **settings)
    learner.classes = ("before", *NAMES)  # a class known from the job, which has no events
    batch = replace(events(x, y + 1), classes=learner.classes)
    for part in batch.micro_batches(32):
        learner.learn(part)
    learner.verify()
    prediction = learner.predict(replace(batch, y=None))
    assert prediction.proba is not None
    np.testing.assert_allclose(prediction.proba.sum(1), 1, atol=1e-5)
    assert prediction.proba[:, 0].max() == 0
    assert prediction.value.min() >= 1


@pytest.mark.parametrize("absurd", [1e39, -1e300])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [("ranpac", RELU), ("ranpac", {"features": None}), ("rls", {}), ("knn", {})],
)
def test_one_absurd_target_does_not_spoil_the_others(
    kind: str, settings: dict[str, Any], absurd: float
) -> None:
    x, _ = vectors(2000)
    y = x[:, 0].astype(np.float64)
    learner = _regression(kind, settings, x.shape[1])
    plain = _regression(kind, settings, x.shape[1])
    wrong = y.copy()
    wrong[100] = absurd
    for each, targets in ((learner, wrong), (plain, y)):
        for part in replace(events(x, targets), classes=()).micro_batches(32):
            each.learn(part)
    learner.verify()
    errors = [np.abs(each.predict(events(x, y)).value - y).mean() for each in (learner, plain)]
    assert errors[0] < errors[1] + 0.25 * np.abs(y).mean()


def test_an_absurd_correction_of_a_target_is_clipped() -> None:
    x, _ = vectors(500)
    y = x[:, 0].astype(np.float64)
    learner = _regression("knn", {"neighbours": 1}, x.shape[1])
    batch = replace(events(x, y), classes=())
    learner.learn(batch)
    learner.correct(batch.ids[:1], np.array([1e300]))
    assert 50 * y.std() < learner.predict(batch[:1]).value[0] < 200 * y.std()


def _named(learner: ClosedFormLearner, batch: Batch) -> Batch:
    learner.classes = NAMES
    return batch


def _regression(kind: str, settings: dict[str, Any], width: int) -> ClosedFormLearner:
    cls = find(learners.KINDS, ClosedFormLearner, kind)  # type: ignore[type-abstract]
    config = cls.Config.model_validate({"kind": kind, **settings})
    schema = Schema((Feature("v", "vector", (width,), unit=True),), "regression")
    return cls(config, schema, 0)
