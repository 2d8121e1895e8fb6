"""Samples of forecasts against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from learners.sequences import forecast as forecasts
from learners.sequences.sampling import sample


def _repeated(cells: list[list[float]], n: int = 40_000) -> np.ndarray:
    return np.repeat(np.array([cells], np.float32), n, axis=0)


def test_poisson_has_mean_and_deviation_of_its_rate() -> None:
    wait, types = sample(
        _repeated([[0.0, 2.0]]), np.tile([0.25, 0.75], (40_000, 1)), np.random.default_rng(0)
    )
    assert wait.mean() == pytest.approx(0.5, abs=0.01)
    assert wait.std() == pytest.approx(0.5, abs=0.015)
    assert types.mean() == pytest.approx(0.75, abs=0.01)


def test_samples_follow_the_survival_of_any_forecast() -> None:
    cells = [
        [0.0, 3e5, 1.0, 0.0],
        [1e-6, 0.0, 0.5, 0.5],
        [0.5, 4.0, 0.2, 0.8],
        [1.0, 0.3, 0.9, 0.1],
    ]
    forecast, random = _repeated(cells), np.random.default_rng(1)
    wait, types = sample(forecast, np.zeros((len(forecast), 2)), random)
    for at in (1e-6, 0.4, 0.7, 1.0, 3.0):
        later = np.exp(-forecasts.cumulative(forecast[:1], np.array([at])))[0]
        assert (wait > at).mean() == pytest.approx(later, abs=0.01)
    assert wait.mean() == pytest.approx(forecasts.mean(forecast[:1])[0], abs=0.03)
    for first, last, share in ((0.0, 1e-6, 0.0), (0.5, 1.0, 0.8), (1.0, np.inf, 0.1)):
        inside = (wait >= first) & (wait < last)
        assert types[inside].mean() == pytest.approx(share, abs=0.015)
    assert types.mean() == pytest.approx(forecasts.types_of(forecast[:1])[0, 1], abs=0.01)


def test_an_event_may_never_come() -> None:
    wait, types = sample(
        _repeated([[0.0, 0.5], [2.0, 0.0]]), np.ones((40_000, 1)), np.random.default_rng(2)
    )
    assert np.isinf(wait).mean() == pytest.approx(np.exp(-1), abs=0.01)
    assert ((types == -1) == np.isinf(wait)).all()
    assert np.isnan(
        sample(forecasts.point(np.ones(3)), np.ones((3, 1)), np.random.default_rng(0))[0]
    ).all()
