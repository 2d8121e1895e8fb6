"""Prototypes: the nearest mean, as scikit-learn finds it."""

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from learners.pretrained.closed_form.statistics import unit_length
from tests.learners.pretrained.closed_form.problems import (
    CLASSES,
    events,
    learn,
    new,
    predicted,
    vectors,
)


@pytest.mark.parametrize("size", [1, 7, 400])
def test_euclidean_is_the_nearest_centroid(size: int) -> None:
    x, y = vectors()
    learner = learn(new("prototype", distance="euclidean"), events(x, y), size)
    later, _ = vectors(300, seed=1)
    expected = NearestCentroid().fit(x, y).predict(later)
    assert (predicted(learner, later) == expected).mean() > 0.99  # ties in float32


def test_cosine_is_the_largest_cosine_to_the_sum_of_directions() -> None:
    x, y = vectors()
    learner = learn(new("prototype"), events(x, y))
    later, _ = vectors(300, seed=1)
    sums = np.stack([unit_length(x[y == code]).sum(0) for code in range(CLASSES)])
    expected = (later @ unit_length(sums).T).argmax(1)
    assert (predicted(learner, later) == expected).mean() > 0.99


def test_sums_are_exact_at_any_order_and_size() -> None:
    x, y = vectors()
    for seed, size in ((0, 1), (1, 13), (2, 400)):
        order = np.random.default_rng(seed).permutation(len(x))
        sums = learn(new("prototype"), events(x[order], y[order]), size).statistics
        one_hot = np.eye(CLASSES)[y]
        expected = one_hot.T @ unit_length(x).astype(np.float64)
        np.testing.assert_allclose(sums.state()["sums"], expected, rtol=1e-10, atol=1e-12)


def test_a_row_of_zeros_and_one_event_of_a_class_are_predicted() -> None:
    x, y = vectors(4)
    x[2] = 0
    for distance in ("cosine", "euclidean"):
        learner = learn(new("prototype", distance=distance), events(x, y))
        assert np.isfinite(learner.weights["w"]).all()
        assert (predicted(learner, x) >= 0).all()
        assert (predicted(learner, x[[0, 1, 3]]) == y[[0, 1, 3]]).all()
