"""The figures on what is remembered: the right numbers in the right place."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.decay_fits import Fit
from pipeline.report import buffer_charts
from pipeline.report.charts import CELLS
from pipeline.report.histograms import Histogram
from pipeline.report.run_data import OnceSeenBin


def as_json(figure: Any) -> Any:
    """A figure as a browser gets it: plain JSON."""
    return json.loads(figure.to_json())


def histogram(*counts: list[float], low: list[float], high: list[float]) -> Histogram:
    events = 100.0 * np.arange(1, len(counts) + 1)
    return Histogram(events, np.array(low), np.array(high), np.array(counts, np.float64))


def test_histogram_columns_are_shares() -> None:
    values = histogram([3, 1], [0, 4], low=[2, 8], high=[4, 16])
    figure = as_json(buffer_charts.histogram(values, "interval"))
    (heat,) = figure["data"]
    assert heat["x"] == [0, 100, 200]
    assert heat["y"] == [2, 4, 8, 16]
    assert heat["z"] == [[0.75, None], [None, None], [0.25, 1.0]]  # from 4 to 8 nothing ever was
    assert heat["customdata"][2] == ["8 to 16"] * 2
    axis = figure["layout"]["yaxis"]
    assert axis["type"] == "log"
    assert axis["tickvals"] == [2, 4, 8, 16]
    assert axis["title"]["text"] == "interval"


def test_histogram_of_shares_has_an_axis_from_0_to_1() -> None:
    values = histogram([1, 1], low=[0.5, 0.95], high=[0.55, 1.0])
    axis = as_json(buffer_charts.histogram(values, "retention"))["layout"]["yaxis"]
    assert axis["range"] == [0, 1]
    assert "type" not in axis


def test_histogram_column_without_values_is_empty() -> None:
    values = histogram([2], [0], low=[2], high=[4])
    (heat,) = as_json(buffer_charts.histogram(values, "interval"))["data"]
    assert heat["z"] == [[1.0, None]]
    assert buffer_charts.histogram(histogram([0], low=[2], high=[4]), "interval") is None


def test_histogram_of_many_moments_takes_an_even_choice() -> None:
    values = histogram(*[[1.0]] * 1001, low=[2], high=[4])
    (heat,) = as_json(buffer_charts.histogram(values, "interval"))["data"]
    assert len(heat["z"][0]) <= CELLS
    assert (heat["x"][1], heat["x"][-1]) == (100, 100_100)


# 0.8 right after an update, and a power law of exponent 0.2 from there.
TIMES = (1, 3, 10, 30, 100, 300, 1000)
FADES = [OnceSeenBin(t, t, float(t), 10_000, round(8000 * t**-0.2)) for t in TIMES]


def test_once_seen_draws_points_intervals_and_both_fits() -> None:
    now = OnceSeenBin(0, 0, 0.0, 50, 50)  # asked before any update: no place on a logarithmic axis
    figure = as_json(buffer_charts.once_seen([now, *FADES]))
    points, power, exponential = figure["data"]
    assert points["x"] == list(TIMES)
    assert points["y"] == [answers.right / 10_000 for answers in FADES]
    assert points["text"][0] == "8,000 of 10,000 right"
    # Wilson's interval of 8,000 in 10,000.
    assert points["y"][0] + points["error_y"]["array"][0] == pytest.approx(0.80773, abs=1e-4)
    assert points["y"][0] - points["error_y"]["arrayminus"][0] == pytest.approx(0.79205, abs=1e-4)
    assert power["name"] == "power law: 0.800 t^-0.2"
    assert (power["x"][0], power["x"][-1]) == pytest.approx((1, 1000))
    assert power["y"][-1] == pytest.approx(0.8 * 1000**-0.2, rel=0.01)
    assert exponential["name"].startswith("exponential: ")
    assert figure["layout"]["xaxis"]["type"] == "log"


def test_once_seen_of_few_times_has_no_fits() -> None:
    assert len(as_json(buffer_charts.once_seen(FADES[:3]))["data"]) == 1
    assert buffer_charts.fit_curves(FADES[:3]) is None
    assert buffer_charts.once_seen([OnceSeenBin(0, 0, 0.0, 50, 50)]) is None
    assert buffer_charts.once_seen([]) is None


def test_formula_of_each_fit() -> None:
    assert buffer_charts.formula(Fit("power", 0.5, 0.25, 0)) == "0.500 t^-0.25"
    assert buffer_charts.formula(Fit("exponential", 0.5, 0.001, 0)) == "0.500 exp(-t / 1,000)"
    assert buffer_charts.formula(Fit("exponential", 0.5, 0.0, 0)) == "0.500"
