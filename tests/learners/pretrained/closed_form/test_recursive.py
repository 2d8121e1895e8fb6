"""Recursive least squares equals ridge regression, weighted by age, and does not wind up."""

import numpy as np
import pytest

from learners.base import LearnerError
from learners.pretrained.closed_form.statistics.recursive import RecursiveSums
from streams.core.batch import Array
from streams.core.state_dict import copied, digest

WIDTH, RIDGE = 6, 2.0


def rows(n: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.normal(0.5, 1, (n, WIDTH)).astype(np.float32)
    return x, 20 + x @ np.arange(WIDTH) + rng.normal(size=n)


def learned(x: Array, y: Array, size: int = 50, half_life: float | None = None) -> RecursiveSums:
    sums = RecursiveSums(WIDTH, True, RIDGE, half_life)
    for start in range(0, len(x), size):
        sums.add(x[start : start + size], y[start : start + size])
    return sums


def ridge(x: Array, y: Array, prior: Array, weight: Array | float = 1.0) -> Array:
    """Return the weights of ridge regression on rows with a constant."""
    h = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    weighted = h * np.broadcast_to(weight, len(h))[:, None]
    solved: Array = np.linalg.solve(weighted.T @ h + np.diag(prior), weighted.T @ (y - y[0]))
    return solved


def prior_left(sums: RecursiveSums, half_life: float) -> Array:
    state = sums.state()
    left: Array = state["prior"] * 0.5 ** ((state["rows"] - state["renewed"]) / half_life)
    return left


@pytest.mark.parametrize("size", [1, 7, 50, 300])
def test_without_forgetting_it_is_ridge_regression(size: int) -> None:
    x, y = rows(300)
    sums = learned(x, y, size)
    exact = ridge(x, y, sums.state()["prior"])
    np.testing.assert_allclose(sums.weights[:, 0], exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("half_life", [3, 40, 1000])
@pytest.mark.parametrize("size", [1, 50])
def test_with_forgetting_it_is_ridge_regression_by_age(half_life: float, size: int) -> None:
    x, y = rows(300)
    sums = learned(x, y, size, half_life)
    age = np.arange(len(x))[::-1]
    exact = ridge(x, y, prior_left(sums, half_life), 0.5 ** (age / half_life))
    np.testing.assert_allclose(sums.weights[:, 0], exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("half_life", [3, 40])
def test_covariance_is_bounded_though_rows_are_all_equal(half_life: float) -> None:
    """Without a renewed prior it doubles in every half-life, in all other directions."""
    x, y = rows(64)
    x[:] = x[0]
    sums = RecursiveSums(WIDTH, True, RIDGE, half_life)
    for _ in range(300):
        sums.add(x, y)
    prior = sums.state()["prior"]
    root = np.sqrt(prior)
    in_priors = np.linalg.eigvalsh(root[:, None] * sums.covariance * root)
    assert in_priors[0] > 0
    assert in_priors[-1] <= 2 * 2 ** (64 / half_life)  # coordinates wait for a micro-batch too
    assert np.array_equal(sums.covariance, sums.covariance.T)
    before = sums.weights.copy()
    new, targets = rows(1, seed=5)
    sums.add(new, targets)
    assert np.abs(sums.weights - before).max() < 100


def test_a_class_may_come_at_any_time() -> None:
    x, _ = rows(200)
    y = np.where(np.arange(200) < 120, 0, 1)
    late, early = (RecursiveSums(WIDTH, False, RIDGE) for _ in range(2))
    early.grow(2)
    late.grow(1)
    for part in (slice(0, 120), slice(120, 200)):
        late.grow(int(y[part].max()) + 1)
        for sums in (early, late):
            sums.add(x[part], y[part])
    np.testing.assert_allclose(late.weights, early.weights, rtol=1e-12, atol=1e-12)


def test_subtracted_rows_were_never_there() -> None:
    x, y = rows(300)
    sums, kept = learned(x, y), learned(x[:220], y[:220])
    sums.subtract(x[220:], y[220:])
    np.testing.assert_allclose(sums.weights, kept.weights, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(sums.covariance, kept.covariance, rtol=1e-6, atol=1e-9)
    with pytest.raises(LearnerError, match="half_life"):
        learned(x, y, half_life=9).subtract(x, y)
    with pytest.raises(LearnerError, match="more events"):
        kept.subtract(x, y)


def test_state_continues_bit_for_bit() -> None:
    x, y = rows(300)
    unbroken = learned(x, y, half_life=30)
    heir = RecursiveSums(WIDTH, True, RIDGE, 30)
    heir.load(copied(learned(x[:150], y[:150], half_life=30).state()))
    for start in range(150, 300, 50):
        heir.add(x[start : start + 50], y[start : start + 50])
    assert digest(heir.state()) == digest(unbroken.state())


@pytest.mark.soak
def test_a_million_rows_leave_it_ridge_regression() -> None:
    """Two columns differ by 1e-2, so that the covariance spans six orders of magnitude."""
    x, y = rows(1000)
    x[:, 1] = x[:, 0] + np.float32(1e-2) * x[:, 1]
    sums = RecursiveSums(WIDTH, True, RIDGE)
    for _ in range(1000):
        sums.add(x, y)
    exact = ridge(x, y, sums.state()["prior"] / 1000)
    np.testing.assert_allclose(sums.weights[:, 0], exact, rtol=1e-5, atol=1e-5)
    assert np.linalg.eigvalsh(sums.covariance)[0] > 0


def test_what_was_never_learned_is_not_unlearned() -> None:
    x, y = rows(200)
    sums = learned(x, y)
    before = digest(copied(sums.state()))
    with pytest.raises(LearnerError, match="unlearn only events that this learner has learned"):
        sums.subtract(9 * x[:150], y[:150])
    assert digest(sums.state()) == before
