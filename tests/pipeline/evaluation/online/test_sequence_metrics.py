"""Metrics of sequences: values by hand, what is undefined, cuts and state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from learners.sequences import forecast as fc
from pipeline.evaluation.online.sequence_metrics import SequenceMetrics
from pipeline.evaluation.prequential import Prequential
from streams.core.batch import Array
from streams.core.schema import Feature, Schema
from streams.core.state_dict import copied, digest
from streams.core.stream_config import SequenceConfig
from streams.operators.label_join import Outcome

NONE = np.empty(0, np.int64)


def schema(horizon: float | None = None) -> Schema:
    config = SequenceConfig(by="user", horizon=horizon)
    return Schema((Feature("user", "categorical"),), "sequences", sequence=config)


def outcome(
    y: Array, wait: Array, rates: Array | None, proba: Array | None = None, first: int = 0
) -> Outcome:
    """Return outcomes of Poisson forecasts of these rates."""
    ids = first + np.arange(len(y))
    value = np.zeros(len(y), np.int64) if proba is None else proba.argmax(1)
    forecast = None if rates is None else fc.constant(rates)
    none = (NONE, NONE, NONE)
    return Outcome(
        ids, y, value, proba, np.zeros(len(y), np.int64), 0 * ids, ids, *none, None, wait, forecast
    )


def results(out: Outcome, horizon: float | None = None) -> dict[str, float]:
    metrics = SequenceMetrics(schema(horizon), 1000)
    metrics.add(out)
    return metrics.results()


PROBA = np.array([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]])
Y, WAIT = np.array([0, 1, -1]), np.array([1.0, 2.0, 4.0])
"""Two events came, after 1 and 2 seconds; to the third key nothing came for 4."""


def test_values_are_those_computed_by_hand() -> None:
    found = results(outcome(Y, WAIT, np.array([2.0, 1.0, 0.5]), PROBA))
    times = np.array([2 - np.log(2), 2.0, 2.0])
    kinds = np.array([np.log(2), -np.log(0.8)])
    assert found["nll_time"] == pytest.approx(times.mean(), abs=1e-5)
    assert found["nll_type"] == pytest.approx(kinds.mean())
    assert found["nll"] == pytest.approx((times.sum() + kinds.sum()) / 3, abs=1e-5)
    assert found["time_mae"] == pytest.approx(np.abs(np.log(2) / [2, 1] - WAIT[:2]).mean())
    assert found["time_rmse"] == pytest.approx(
        np.sqrt(((1 / np.array([2, 1]) - WAIT[:2]) ** 2).mean())
    )
    assert found["time_coverage_90"] == pytest.approx(2 / 3)  # before 1.15, 2.3 and 4.6 s
    assert found["time_coverage_10"] == 0


def test_quantiles_behind_the_horizon_are_left_out() -> None:
    """With the horizon at 3 s only the first two 90% quantiles, at 1.15 and 2.3 s, can be told."""
    found = results(outcome(Y, np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, 0.5]), PROBA), 3.0)
    assert found["time_coverage_90"] == 1
    assert found["time_coverage_50"] == 0  # at 0.35, 0.69 and 1.39 s


def test_coverage_is_unbiased_with_a_horizon() -> None:
    """Quantiles of the true process are covered as often as they say, wherever the horizon is."""
    rng = np.random.default_rng(0)
    rates = rng.choice([0.3, 1.0, 5.0], 40_000)
    wait, horizon = rng.exponential(1 / rates), 1.5
    y = np.where(wait <= horizon, 0, -1)
    found = results(outcome(y, np.minimum(wait, horizon), rates), horizon)
    for level in (10, 50, 90):
        assert found[f"time_coverage_{level}"] == pytest.approx(level / 100, abs=0.01)


def test_what_is_not_predicted_is_absent() -> None:
    """Without a forecast there is nothing of times; without probabilities nothing of types."""
    found = results(outcome(Y, WAIT, None, PROBA))
    assert set(found) == {"nll_type", "nll_type_window"}
    found = results(outcome(Y, WAIT, np.array([2.0, 1.0, 0.5])))
    assert not {"nll_type", "nll_type_window"} & set(found)
    assert found["nll"] == pytest.approx(2.0)  # of the third alone, which needs no type
    found = results(outcome(Y[2:], WAIT[2:], np.array([0.5]), PROBA[2:]))
    assert not {name for name in found if "mae" in name or "rmse" in name or "type" in name}
    assert results(outcome(Y[:0], WAIT[:0], None)) == {}


def test_point_forecast_has_errors_and_no_likelihood() -> None:
    out = replace(outcome(Y, WAIT, None, PROBA), forecast=fc.point(np.array([1.5, 2.0, 3.0])))
    found = results(out)
    assert found["time_mae"] == 0.25
    assert found["time_rmse"] == pytest.approx(np.sqrt(0.125))
    assert not {name for name in found if "coverage" in name or name in ("nll", "nll_time")}


def _many(n: int = 3000) -> Outcome:
    rng = np.random.default_rng(1)
    rates = rng.exponential(1.0, n)
    rates[:40] = np.nan  # before the first label
    proba = rng.dirichlet(np.ones(2), n)
    return outcome(rng.integers(-1, 2, n), rng.exponential(1.0, n), rates, proba)


def _part(out: Outcome, rows: slice) -> Outcome:
    names = ("ids", "y", "value", "proba", "no_change", "lag", "wait", "forecast")
    return replace(out, **{name: getattr(out, name)[rows] for name in names})


@pytest.mark.parametrize("size", [7, 512, 3000])
def test_cuts_do_not_matter(size: int) -> None:
    out, plain = _many(), Prequential("sequences", 400, schema=schema())
    plain.add(out)
    cut = Prequential("sequences", 400, schema=schema())
    for start in range(0, 3000, size):
        cut.add(_part(out, slice(start, start + size)))
    assert cut.results() == plain.results()
    assert digest(cut.state()) == digest(plain.state())


@pytest.mark.parametrize("stop", [0, 100, 1024, 2999])
def test_metrics_continue_from_a_state(stop: int) -> None:
    out = _many()
    whole, donor, heir = (Prequential("sequences", 400, schema=schema()) for _ in range(3))
    whole.add(out)
    donor.add(_part(out, slice(0, stop)))
    heir.load(copied(donor.state()))
    heir.add(_part(out, slice(stop, None)))
    assert heir.results() == whole.results()
    assert digest(heir.state()) == digest(whole.state())


def test_types_are_scored_as_classes_where_something_came() -> None:
    out = _many()
    metrics = Prequential("sequences", 400, schema=schema())
    metrics.add(out)
    came = out.y >= 0
    found = metrics.results()
    assert found["online/scored"] == came.sum()
    assert found["online/accuracy"] == pytest.approx((out.value == out.y)[came].mean())
    assert {"online/macro_f1", "online/nll_window", "online/time_mae_window"} <= found.keys()
