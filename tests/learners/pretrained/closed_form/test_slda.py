"""slda: linear discriminant analysis of all rows, however they arrive."""

import numpy as np
import pytest
from sklearn.covariance import OAS
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from learners.pretrained.closed_form.slda import Slda
from learners.pretrained.closed_form.solvers.covariance import oas_share, solve_shrunk
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


def slda(x: Array, y: Array, size: int = 32, **settings: object) -> Slda:
    settings = {"normalise": False, "refit_growth": 0.0, **settings}
    learner = learn(new("slda", x.shape[1], **settings), events(x, y), size)
    assert isinstance(learner, Slda)
    return learner


@pytest.mark.parametrize("shrinkage", [0.01, 0.3])
@pytest.mark.parametrize("prior", ["equal", "counts"])
def test_classes_are_those_of_scikit_learn(shrinkage: float, prior: str) -> None:
    x, y = vectors()
    if prior == "equal":  # scikit-learn weighs the covariances of classes by the prior
        x, y = (
            np.concatenate([x[y == c][:60] for c in range(CLASSES)]),
            np.repeat(range(CLASSES), 60),
        )
    learner = slda(x, y, shrinkage=shrinkage, class_prior=prior, calibration=None)
    lda = LinearDiscriminantAnalysis("lsqr", shrinkage=shrinkage).fit(x, y)
    later, _ = vectors(500, seed=1)
    w = learner.weights["w"] * np.sqrt(WIDTH)
    np.testing.assert_allclose(w - w[0], lda.coef_ - lda.coef_[0], rtol=1e-3, atol=1e-4)
    if prior == "equal":  # otherwise the prior is not divided by sqrt(d) as the rest is
        assert (predicted(learner, later) == lda.predict(later)).mean() > 0.99


def test_oas_share_is_that_of_scikit_learn() -> None:
    x, y = vectors(60)
    means = np.stack([x[y == code].mean(0) for code in range(CLASSES)])
    centred = (x - means[y]).astype(np.float64)
    oas = OAS(assume_centered=True).fit(centred)
    covariance = centred.T @ centred / len(x)
    assert oas_share(covariance, len(x)) == pytest.approx(oas.shrinkage_, rel=1e-6)
    sides = np.eye(WIDTH)
    solved = solve_shrunk(covariance, oas_share(covariance, len(x)), sides)
    np.testing.assert_allclose(solved, np.linalg.inv(oas.covariance_), rtol=1e-5, atol=1e-8)


def test_the_covariance_is_exact_at_any_order_and_size() -> None:
    x, y = vectors()
    exact = x.astype(np.float64)
    means = np.stack([exact[y == code].mean(0) for code in range(CLASSES)])
    expected = (exact - means[y]).T @ (exact - means[y]) / len(x)
    for seed, size in ((0, 1), (1, 13), (2, 400)):
        order = np.random.default_rng(seed).permutation(len(x))
        learner = slda(x[order], y[order], size)
        _, covariance = learner.means_and_covariance()
        np.testing.assert_allclose(covariance, expected, rtol=1e-10, atol=1e-10)


def odd_streams() -> list[tuple[Array, Array]]:
    x, y = vectors(300)
    constant = x.copy()
    constant[:, :3] = 7
    offset = (x + 1000).astype(np.float32)
    few, few_y = vectors(12, width=64)
    return [
        (x[:1], y[:1]),
        (np.repeat(x[:2], 50, 0), np.repeat(y[:2], 50)),
        (constant, y),
        (offset, y),
        (few, few_y),
        (np.zeros((20, WIDTH), np.float32), np.arange(20) % 2),
    ]


@pytest.mark.parametrize("shrinkage", ["oas", 1e-4])
def test_weights_are_finite_whatever_the_rows(shrinkage: object) -> None:
    for x, y in odd_streams():
        learner = slda(x, y, shrinkage=shrinkage)
        learner.verify()
        assert (predicted(learner, x) >= 0).all()


def test_a_class_of_one_event_is_predicted_at_once() -> None:
    x, y = vectors(400)
    early = y < 3
    learner = slda(x[early], y[early])
    new_one = np.flatnonzero(~early)[:1]
    learn(learner, events(x[new_one], y[new_one]))
    assert (predicted(learner, x[new_one]) == 3).all()
