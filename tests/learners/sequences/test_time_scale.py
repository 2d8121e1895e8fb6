"""The scale of times: unit waits on any clock, ties, waits that were not seen to end, and state."""

from __future__ import annotations

import numpy as np
import pytest

from learners.sequences.time_scale import MOST_UNITS, TimeScale
from streams.core.state_dict import digest


def _observed(wait: np.ndarray, came: np.ndarray | None = None, cells: int = 64) -> TimeScale:
    scale = TimeScale(1e-6, cells)
    scale.observe(wait, np.ones(len(wait), bool) if came is None else came)
    return scale


@pytest.mark.parametrize("clock", [1e-3, 1.0, 86_400.0])
@pytest.mark.parametrize("shape", ["exponential", "lognormal", "pareto"])
def test_waits_have_unit_mean_on_any_clock(clock: float, shape: str) -> None:
    rng = np.random.default_rng(0)
    waits = {
        "exponential": rng.exponential(1.0, 20_000),
        "lognormal": rng.lognormal(0.0, 2.0, 20_000),
        "pareto": rng.pareto(1.2, 20_000) + 0.01,
    }[shape]
    units = _observed(clock * waits).to_units(clock * waits)
    assert units.mean() == pytest.approx(1.0, abs=0.03)
    assert np.quantile(units, [0.25, 0.5, 0.9]) == pytest.approx(-np.log([0.75, 0.5, 0.1]), abs=0.1)


def test_density_in_seconds_is_that_of_units_by_the_hazard() -> None:
    rng = np.random.default_rng(1)
    waits = rng.lognormal(3.0, 1.5, 5_000)
    scale = _observed(waits)
    places = np.exp(rng.uniform(0, 6, 200))
    step = 1e-4 * places
    slope = (scale.to_units(places + step) - scale.to_units(places)) / step
    expected = scale.steps(places) / scale.resolution
    inside = np.searchsorted(scale.starts, places) == np.searchsorted(scale.starts, places + step)
    assert slope[inside] == pytest.approx(expected[inside], rel=1e-6)
    assert scale.to_seconds(scale.to_units(places)) == pytest.approx(places, rel=1e-9)


def test_exponential_waits_have_the_likelihood_of_their_process() -> None:
    """With intensity 1 per unit, waits of a Poisson process of rate 2 have 1 - ln 2 nats."""
    waits = np.random.default_rng(2).exponential(0.5, 50_000)
    scale = _observed(waits)
    nats = scale.to_units(waits) - np.log(scale.steps(waits) / scale.resolution)
    assert nats.mean() == pytest.approx(1 - np.log(2), abs=0.01)


def test_ties_fill_the_first_cell() -> None:
    waits = np.where(np.random.default_rng(3).random(10_000) < 0.3, 0.0, 5.0)
    scale = _observed(waits)
    assert scale.starts[:2].tolist() == [0.0, 1e-6]
    assert -np.expm1(-scale.units[1]) == pytest.approx(0.3, abs=0.02)


def test_waits_that_were_not_seen_to_end_count_as_reached() -> None:
    waits = np.random.default_rng(4).exponential(10.0, 20_000)
    came = waits < 8.0
    scale = _observed(np.minimum(waits, 8.0), came)
    share = -np.expm1(-scale.to_units(np.array([2.0, 7.0])))
    assert share == pytest.approx(-np.expm1([-0.2, -0.7]), abs=0.02)


def test_bounds_hold_for_odd_waits() -> None:
    for waits in ([0.0], [1e300, 0.0], [1e-9], [3.0, 3.0, 3.0]):
        scale = _observed(np.array(waits))
        assert (np.diff(scale.starts) >= 0).all()
        assert (np.diff(scale.units) >= 0).all()
        assert np.isfinite(scale.starts).all()
        assert np.isfinite(scale.hazards).all()
        units = scale.to_units(np.array([0.0, 1.0, 1e300]))
        assert ((units >= 0) & (units <= MOST_UNITS)).all()
    nothing = TimeScale(1e-6, 8)
    nothing.observe(np.array([4.0]), np.array([False]))
    assert np.isfinite(nothing.to_units(np.array([4.0]))).all()


def test_state_continues_and_does_not_depend_on_cuts() -> None:
    waits = np.random.default_rng(5).exponential(1.0, 300)
    came = waits < 2
    whole, cut = TimeScale(1e-6, 16), TimeScale(1e-6, 16)
    whole.observe(waits, came)
    for start in range(0, 300, 7):
        cut.observe(waits[start : start + 7], came[start : start + 7])
    assert cut.to_units(waits) == pytest.approx(whole.to_units(waits), rel=1e-12)
    loaded = TimeScale(1e-6, 16)
    loaded.load(cut.state())
    assert digest(loaded.state()) == digest(cut.state())
    assert np.array_equal(loaded.to_units(waits), cut.to_units(waits))
