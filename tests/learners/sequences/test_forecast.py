"""Forecasts against closed forms and against numerical integration."""

from __future__ import annotations

import numpy as np
import pytest

from learners.sequences import forecast as fc
from streams.core.batch import Array, Floats

R = 1e-6


def cells(*rows: list[tuple[float, ...]]) -> Array:
    return np.array(rows, np.float32)


def test_poisson_has_the_entropy_of_its_rate() -> None:
    """An event of a Poisson process of rate 2 costs 1 - ln 2 = 0.307 nats."""
    waits = np.random.default_rng(0).exponential(0.5, 200_000)
    forecast = fc.constant(np.full(len(waits), 2.0))
    scores = fc.time_scores(forecast, waits, np.ones(len(waits), bool), R)
    assert scores.mean() == pytest.approx(1 - np.log(2), abs=4 * scores.std() / len(waits) ** 0.5)
    assert np.allclose(scores, 2 * waits - np.log(2), atol=1e-5)


def test_type_scores_notice_marks_shifted_by_one() -> None:
    """A forecast whose probabilities are those of the type before is worse by the divergence."""
    p = np.array([0.6, 0.3, 0.1])
    y = np.random.default_rng(1).choice(3, 20_000, p=p)
    wait = np.ones(len(y))
    right, shifted = (np.tile(q, (len(y), 1)) for q in (p, np.roll(p, 1)))
    entropy = -(p * np.log(p)).sum()
    assert fc.type_scores(None, right, wait, y).mean() == pytest.approx(entropy, abs=0.02)
    worse = fc.type_scores(None, shifted, wait, y).mean()
    assert worse == pytest.approx(-(p * np.log(np.roll(p, 1))).sum(), abs=0.02)
    assert worse > entropy + 0.4


def _random(n: int = 6, seed: int = 2) -> Array:
    rng = np.random.default_rng(seed)
    forecast = np.empty((n, 4, 5), np.float32)
    forecast[:, 0, 0] = 0
    forecast[:, 1:, 0] = np.cumsum(rng.exponential(1, (n, 3)), 1)
    forecast[:, :, 1] = rng.exponential(1, (n, 4))
    forecast[:, :, 2:] = rng.dirichlet(np.ones(3), (n, 4))
    return forecast


def _survival(forecast: Array, times: Floats) -> Floats:
    n = len(forecast)
    return np.stack([np.exp(-fc.cumulative(forecast, np.full(n, t))) for t in times])


def test_scores_are_the_density_of_the_survival() -> None:
    forecast = _random()
    came = np.ones(len(forecast), bool)
    wait = np.linspace(0.05, 3, len(forecast))
    a, b = (np.exp(-fc.cumulative(forecast, wait + d)) for d in (0.0, 1e-5))
    assert np.allclose(fc.time_scores(forecast, wait, came, R), -np.log((a - b) / 1e-5), atol=1e-3)
    assert np.allclose(fc.time_scores(forecast, wait, ~came, R), -np.log(a))


def test_density_and_types_sum_to_one() -> None:
    forecast, came = _random(), np.ones(6, bool)
    step = 0.001
    times = np.arange(0, 60, step)
    total = np.zeros((6, 3))
    for t in times:
        wait = np.full(6, t)
        density = np.exp(-fc.time_scores(forecast, wait, came, step)) * step
        total += density[:, None] * fc.types_at(forecast, np.zeros((6, 3)), wait)
    assert np.allclose(total.sum(1), 1, atol=1e-3)
    assert np.allclose(total, fc.types_of(forecast), atol=2e-3)


def test_quantiles_and_mean_are_those_of_the_survival() -> None:
    forecast = _random()
    levels = np.array([0.05, 0.5, 0.95])
    found = fc.quantiles(forecast, levels)
    for j, level in enumerate(levels):
        assert np.allclose(np.exp(-fc.cumulative(forecast, found[:, j])), 1 - level)
    times = np.arange(0, 100, 0.005)
    integral = np.trapezoid(_survival(forecast, times), times, axis=0)
    assert np.allclose(integral, fc.mean(forecast), 1e-3)


def test_process_that_may_end_has_infinite_quantiles() -> None:
    """With intensity 1 for a second and none after, there is an event with probability 0.632."""
    forecast = cells([(0, 1), (1, 0)])
    assert fc.quantiles(forecast, np.array([0.5, 0.7])).tolist()[0] == [
        pytest.approx(np.log(2)),
        np.inf,
    ]
    assert np.isinf(fc.mean(forecast))
    assert fc.time_scores(forecast, np.array([5.0]), np.array([False]), R) == pytest.approx(1)
    assert np.isfinite(fc.time_scores(forecast, np.array([5.0]), np.array([True]), R))


def test_empty_cells_count_for_nothing() -> None:
    forecast = _random(3)
    wide = np.insert(forecast, 1, forecast[:, 1], axis=1)
    wide[:, 1, 1] = 99  # begins where the next begins
    wait = np.array([0.1, 1.0, 4.0])
    came = np.ones(3, bool)
    for a, b in (
        (fc.time_scores(forecast, wait, came, R), fc.time_scores(wide, wait, came, R)),
        (fc.mean(forecast), fc.mean(wide)),
        (fc.types_of(forecast), fc.types_of(wide)),
        (fc.quantiles(forecast, np.array([0.3])), fc.quantiles(wide, np.array([0.3]))),
    ):
        assert np.allclose(a, b)


def test_forecast_as_of_later_is_the_conditional_one() -> None:
    """P(T > e + t | T > e) = S(e + t) / S(e), and types are those of the cell at e + t."""
    forecast = _random()
    elapsed, wait = np.array([0.0, 0.3, 1.0, 2.0, 0.1, 9.0]), np.linspace(0.1, 2, 6)
    later = fc.after(forecast, elapsed)
    whole, before = fc.cumulative(forecast, elapsed + wait), fc.cumulative(forecast, elapsed)
    assert np.allclose(fc.cumulative(later, wait), whole - before, atol=1e-5)
    kinds = fc.types_at(later, np.zeros((6, 3)), wait)
    assert np.allclose(kinds, fc.types_at(forecast, np.zeros((6, 3)), elapsed + wait))
    assert fc.after(fc.point(np.array([2.0])), np.array([3.0]))[0, 0, 0] == 0


def test_row_without_forecast_has_no_scores() -> None:
    forecast = fc.constant(np.array([np.nan, 2.0]))
    scores = fc.time_scores(forecast, np.ones(2), np.array([True, False]), R)
    assert np.isnan(scores).tolist() == [True, False]
    assert fc.has_forecast(forecast).tolist() == [False, True]
    for values in (fc.mean(forecast), fc.quantiles(forecast, np.array([0.5]))[:, 0]):
        assert np.isnan(values).tolist() == [True, False]


def test_event_at_an_equal_time_has_a_finite_score() -> None:
    """The score of a wait of 0 is bounded by the resolution, however high the intensity."""
    forecast = fc.constant(np.array([1e30]))
    score = fc.time_scores(forecast, np.zeros(1), np.ones(1, bool), 0.5)
    assert score == pytest.approx(np.log(0.5))


def test_type_that_was_not_known_has_the_least_probability() -> None:
    proba = np.array([[0.5, 0.5], [0.0, 0.0]])
    scores = fc.type_scores(None, proba, np.ones(2), np.array([4, 1]))
    assert scores[0] == pytest.approx(-np.log(1e-15))
    assert np.isnan(scores[1])
    assert np.isnan(fc.type_scores(None, proba[:1], np.ones(1), np.array([-1])))[0]
