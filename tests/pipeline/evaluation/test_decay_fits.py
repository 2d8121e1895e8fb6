"""Curves fitted to shares: the fits recover the curves that made them."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.decay_fits import Fit, better, error, fits

T = np.array([1.0, 3, 7, 14, 30, 70, 140, 300, 700, 1400])


@pytest.mark.parametrize(("scale", "rate"), [(0.9, 0.3), (0.25, 0.36), (1.0, 0.05)])
def test_fits_recover_a_power_law(scale: float, rate: float) -> None:
    pair = fits(T, scale * T**-rate, np.full(len(T), 0.01))
    assert pair is not None
    power, exponential = pair
    assert (power.scale, power.rate) == pytest.approx((scale, rate), rel=0.01)
    assert power.off < 0.1
    assert better(power, exponential) == power
    assert power.at(np.array([1.0, 100.0])) == pytest.approx([scale, scale * 100**-rate], rel=0.01)


@pytest.mark.parametrize(("scale", "rate"), [(0.9, 0.01), (1.0, 0.3), (0.5, 0.001)])
def test_fits_recover_an_exponential(scale: float, rate: float) -> None:
    pair = fits(T, scale * np.exp(-rate * T), np.full(len(T), 0.01))
    assert pair is not None
    power, exponential = pair
    assert (exponential.scale, exponential.rate) == pytest.approx((scale, rate), rel=0.01)
    assert exponential.off < 0.1
    assert better(power, exponential) == exponential
    assert exponential.at(np.array([0.0])) == pytest.approx([scale], rel=0.01)


def test_fits_of_a_constant_share_are_both_constant() -> None:
    pair = fits(T, np.full(len(T), 0.8), np.full(len(T), 0.01))
    assert pair is not None
    assert better(*pair) is None
    for fit in pair:
        assert fit.at(T) == pytest.approx(np.full(len(T), 0.8), abs=1e-9)
        assert fit.off == pytest.approx(0, abs=1e-9)


def test_fits_weight_a_smaller_error_more() -> None:
    """Two times with 0.8 and two with 0.4, at the same four times apart: the mean by 1/error**2."""
    t = np.array([1.0, 1.0, 1.0, 1.0])
    share = np.array([0.8, 0.8, 0.4, 0.4])
    pair = fits(t, share, np.array([0.1, 0.1, 0.2, 0.2]))
    assert pair is not None
    assert pair[0].at(t[:1]) == pytest.approx([(4 * 0.8 + 0.4) / 5])
    assert pair[0].off == pytest.approx(2 * (0.08 / 0.1) ** 2 + 2 * (0.32 / 0.2) ** 2)


def test_fits_scale_is_at_most_one() -> None:
    pair = fits(T, np.full(len(T), 1.2), np.full(len(T), 0.1))
    assert pair is not None
    assert [fit.scale for fit in pair] == [1.0, 1.0]
    pair = fits(T, np.full(len(T), -0.2), np.full(len(T), 0.1))
    assert pair is not None
    assert [fit.scale for fit in pair] == [0.0, 0.0]


def test_fits_of_too_few_times_are_none() -> None:
    assert fits(T[:3], T[:3] / 100, np.ones(3)) is None


def test_better_needs_a_clear_difference() -> None:
    one, other = Fit("power", 1, 1, 5.0), Fit("exponential", 1, 1, 7.1)
    assert better(one, other) == one
    assert better(one, other._replace(off=6.9)) is None
    assert better(one._replace(off=9.2), other) == other


def test_error_of_a_share_by_hand() -> None:
    errors = error(np.array([46.0, 0.0]), np.array([96.0, 16.0]))
    assert errors == pytest.approx([(0.48 * 0.52 / 96) ** 0.5, (0.1 * 0.9 / 16) ** 0.5])
