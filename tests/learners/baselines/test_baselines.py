"""No-change and prior; that they are river's is shown in test_river.py."""

import numpy as np

from learners.base import LearnerConfig
from learners.baselines.no_change import NoChange
from learners.baselines.prior import Prior
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema
from streams.operators.label_join import Revealed

CLASSES = Schema((Feature("a", "numeric"),), "classification")
TARGETS = Schema((Feature("a", "numeric"),), "regression")


def events(y: list[float], schema: Schema) -> Batch:
    i = np.arange(len(y))
    x = np.zeros((len(y), 1))
    labels = np.array(y, np.float64 if schema is TARGETS else np.int64)
    return Batch(i, i * 1.0, x, i.astype(np.int32), i, labels, classes=("a", "b", "c"))


def test_no_change_predicts_last_label() -> None:
    learner = NoChange(LearnerConfig(kind="no-change"), CLASSES, 0)
    batch = events([0, 1, 1, 2], CLASSES)
    said = learner.step(batch, Revealed(batch, np.array([1, 2, 3, 4])))
    assert said.value.tolist() == [-1, 0, 1, 1]
    assert said.proba is None
    learner = NoChange(LearnerConfig(kind="no-change"), TARGETS, 0)
    batch = events([0.5, 2.5], TARGETS)
    said = learner.step(batch, Revealed(batch, np.array([1, 2])))
    np.testing.assert_array_equal(said.value, [np.nan, 0.5])


def test_prior_predicts_shares_and_lower_code_on_tie() -> None:
    learner = Prior(LearnerConfig(kind="prior"), CLASSES, 0)
    batch = events([0, 1, 1, 2], CLASSES)
    said = learner.step(batch, Revealed(batch, np.array([1, 2, 3, 4])))
    assert said.value.tolist() == [-1, 0, 0, 1]
    assert said.proba is not None
    np.testing.assert_allclose(said.proba, [[0, 0], [1, 0], [1 / 2, 1 / 2], [1 / 3, 2 / 3]])
    last = learner.predict(batch[:1])
    assert last.classes == ("a", "b", "c")
    assert last.proba is not None
    assert last.proba.tolist() == [[0.25, 0.5, 0.25]]


def test_prior_mean_is_independent_of_batch_cuts() -> None:
    y = np.random.default_rng(0).normal(size=50).tolist()
    learners = [Prior(LearnerConfig(kind="prior"), TARGETS, 0) for _ in range(2)]
    batch = events(y, TARGETS)
    learners[0].learn(batch)
    for i in range(50):
        learners[1].learn(batch[i : i + 1])
    one, other = (learner.predict(batch[:1]).value[0] for learner in learners)
    assert one == other
    np.testing.assert_allclose(one, np.mean(y))
