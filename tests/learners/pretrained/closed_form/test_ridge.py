"""Ridge regression from sums equals ridge regression from rows, and its ridge suits new rows."""

import numpy as np
import pytest

from learners.pretrained.closed_form.solvers.ridge import START, Problem
from learners.pretrained.closed_form.statistics.gram import GramSums
from streams.core.batch import Array

WIDTH = 30


def targets(n: int, noise: float, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = (3 + 2 * rng.normal(size=(n, WIDTH))).astype(np.float32)
    weights = np.random.default_rng(99).normal(size=WIDTH)
    return x, 40 + x @ weights + noise * rng.normal(size=n)


def problem(x: Array, y: Array) -> Problem:
    sums = GramSums(WIDTH, targets=True)
    sums.add(x, y)
    return Problem.of(sums)


def leave_one_out(x: Array, y: Array, added: float) -> float:
    """Return the mean squared error of rows left out in turn, by refitting n times."""
    errors = []
    for i in range(len(x)):
        others = np.arange(len(x)) != i
        mean, label = x[others].mean(0), y[others].mean()
        centred = x[others] - mean
        w = np.linalg.solve(
            centred.T @ centred + added * np.eye(WIDTH), centred.T @ (y[others] - label)
        )
        errors.append((y[i] - label - (x[i] - mean) @ w) ** 2)
    return float(np.mean(errors))


def test_weights_equal_those_of_the_rows() -> None:
    x, y = targets(200, 1.0)
    solved = problem(x, y).solve(10.0)
    exact = x.astype(np.float64)
    centred = exact - exact.mean(0)
    added = 10 * centred.var(0).mean()
    w = np.linalg.solve(centred.T @ centred + added * np.eye(WIDTH), centred.T @ (y - y.mean()))
    np.testing.assert_allclose(solved.w[0], w, rtol=1e-8, atol=1e-10)
    assert solved.b[0] == pytest.approx(y.mean() - exact.mean(0) @ w, rel=1e-8)


@pytest.mark.parametrize("ridge", [1.0, 30.0, 300.0])
def test_expected_error_is_that_of_rows_left_out(ridge: float) -> None:
    x, y = targets(120, 3.0)
    posed = problem(x, y)
    exact = leave_one_out(x.astype(np.float64), y, ridge * posed.scale)
    assert posed.solve(ridge).error == pytest.approx(exact, rel=0.1)


def test_ridge_does_not_depend_on_the_scale_of_features() -> None:
    x, y = targets(200, 3.0)
    small, large = problem(x, y).search(START), problem(512 * x, y).search(START)
    assert small.ridge == large.ridge
    np.testing.assert_allclose(small.w, 512 * large.w, rtol=1e-6)


@pytest.mark.parametrize("noise", [0.1, 10.0, 100.0])
def test_searched_ridge_is_near_the_best_for_new_rows(noise: float) -> None:
    x, y = targets(90, noise)
    new, truth = targets(4000, 0.0, seed=1)
    posed = problem(x, y)

    def error(ridge: float) -> float:
        solved = posed.solve(ridge)
        return float(np.mean((new @ solved.w[0] + solved.b[0] - truth) ** 2))

    best = min(error(10.0**power) for power in range(6))
    chosen = error(posed.search(START).ridge)
    assert chosen <= 1.5 * best + 0.05


def test_rows_without_variation_give_the_mean() -> None:
    solved = problem(np.ones((5, WIDTH), np.float32), np.arange(5.0)).search(START)
    assert not solved.w.any()
    assert solved.b[0] == 2


def test_few_rows_and_equal_features_can_be_solved() -> None:
    x, y = targets(6, 1.0)
    x[:, 1] = x[:, 0]
    solved = problem(x, y).search(START)
    assert np.isfinite(solved.w).all()


@pytest.mark.timeout(20)
def test_a_search_ends_where_small_ridges_have_no_solution() -> None:
    """Features that hardly vary beside their mean leave a matrix that is not positive definite."""
    n = 1_000_000
    diagonal = np.full(WIDTH, float(n))
    diagonal[-1] = -100.0
    posed = Problem(
        np.diag(diagonal), np.zeros((WIDTH, 1)), float(n), n, np.zeros(WIDTH), np.zeros(1)
    )
    found = posed.search(1000.0, tolerance=0.05)
    assert 100 < found.ridge < 1000
    assert np.isfinite(found.w).all()
