"""fecam: Mahalanobis distances by covariances of each class."""

from dataclasses import replace

import numpy as np
import pytest

from learners.pretrained.closed_form.fecam import Fecam
from learners.pretrained.closed_form.statistics import unit_length
from learners.pretrained.closed_form.statistics.class_products import ClassProducts
from streams.core.batch import Array
from tests.learners.pretrained.closed_form.problems import (
    CLASSES,
    WIDTH,
    events,
    learn,
    new,
    predicted,
    vectors,
)


def by_hand(x: Array, y: Array, later: Array) -> Array:
    """Return -(x - m)' N^-1 (x - m) by the formula of the paper, without the shared covariance."""
    x, later = (unit_length(rows).astype(np.float64) for rows in (x, later))
    scores = np.empty((len(later), CLASSES))
    for code in range(CLASSES):
        rows = x[y == code]
        covariance = np.cov(rows.T)
        variance = np.trace(covariance) / WIDTH
        rest = (covariance.sum() - np.trace(covariance)) / (WIDTH**2 - WIDTH)
        shrunk = covariance + np.where(np.eye(WIDTH) > 0, variance, rest)
        deviations = np.sqrt(np.diagonal(shrunk))
        inverse = np.linalg.inv(shrunk / np.outer(deviations, deviations))
        mean = rows.mean(0)
        apart = later - mean / np.linalg.norm(mean)
        scores[:, code] = -np.einsum("ni,ij,nj->n", apart, inverse, apart)
    return scores


def test_scores_are_those_of_the_formula() -> None:
    x, y = vectors(800)
    later, _ = vectors(200, seed=1)
    learner = learn(new("fecam", shared=1e-6, refit_growth=0.0), events(x, y))
    expected = by_hand(x, y, later)
    scores = learner.scores(unit_length(later))
    ratio = scores / expected
    assert np.ptp(ratio) / ratio.mean() < 1e-3
    assert (predicted(learner, later) == expected.argmax(1)).mean() > 0.99


@pytest.mark.parametrize("full", [True, False])
def test_products_are_exact_at_any_order_and_after_a_merge(full: bool) -> None:
    x, y = vectors()
    exact = x.astype(np.float64)
    for seed, size in ((0, 1), (1, 13), (2, 400)):
        order = np.random.default_rng(seed).permutation(len(x))
        parts = [ClassProducts(WIDTH, full) for _ in range(2)]
        for sums in parts:
            sums.grow(CLASSES)
        for start in range(0, len(x), size):
            rows = order[start : start + size]
            parts[start % 2].add(x[rows], y[rows])
        parts[0].merge(parts[1], np.arange(CLASSES))
        for code in range(CLASSES):
            rows = exact[y == code]
            expected = (rows - rows.mean(0)).T @ (rows - rows.mean(0))
            expected = expected if full else np.diagonal(expected)
            np.testing.assert_allclose(parts[0].scatter(code), expected, rtol=1e-10, atol=1e-9)


def test_classes_with_few_events_have_a_covariance() -> None:
    x, y = vectors(400)
    for rows in (slice(0, 1), slice(0, 6)):
        learner = learn(new("fecam"), events(x[rows], y[rows]))
        learner.verify()
        assert (predicted(learner, x) >= 0).all()
    wide, codes = vectors(10, width=64)
    assert (predicted(learn(new("fecam", 64), events(wide, codes)), wide) == codes).all()


def test_tukey_takes_the_root_of_what_is_not_negative() -> None:
    learner = new("fecam", tukey=0.5)
    x = np.array([[4.0, -1, 0, 0, 0, 0, 0, 9]], np.float32)
    np.testing.assert_allclose(
        learner.transform(x), unit_length(np.array([[2.0, 0, 0, 0, 0, 0, 0, 3]])), rtol=1e-6
    )


def test_diagonal_keeps_two_rows_of_numbers_for_a_class() -> None:
    x, y = vectors()
    learner = learn(new("fecam", covariance="diagonal"), events(x, y))
    assert isinstance(learner, Fecam)
    assert learner.statistics.products.shape == (CLASSES, WIDTH)
    assert (predicted(learner, x) == y).mean() > 0.5


def test_used_memory_gives_no_scores_to_classes_without_events() -> None:
    x, y = vectors(40)
    learner = learn(new("fecam"), events(x, 2 * (y % 2)))
    used = [np.full((40, len(learner.statistics.counts)), np.nan, np.float32) for _ in range(9)]
    del used
    assert (learner.scores(learner.transform(x))[:, 1] == 0).all()
    proba = learner.predict(replace(events(x, y), y=None)).proba
    assert proba is not None
    assert np.isfinite(proba).all()
