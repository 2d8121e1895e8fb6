"""The figures of a report: the right numbers in the right place, worked out by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from pipeline.report import charts
from pipeline.report.plotting import POINTS, thin
from pipeline.report.run_data import Curve, Evaluation, Mark, Result, SegmentCurve
from streams.core.batch import Array


def as_json(figure: Any) -> Any:
    """A figure as a browser gets it: plain JSON."""
    return json.loads(figure.to_json())


def curve(*values: float, every: int = 100) -> Curve:
    return Curve(np.arange(1.0, len(values) + 1) * every, np.array(values))


def segment(begin: int, end: int, score: float, spread: float = 0.1) -> SegmentCurve:
    return SegmentCurve(begin, end, score, score - spread, score + spread / 2, 9)


def result(learner: str = "replay", seed: int = 0, **more: Any) -> Result:
    fields: dict[str, Any] = {
        "metrics": {},
        "matrix": np.empty((0, 0)),
        "events": np.empty(0),
        "accuracy": np.empty((0, 0)),
    }
    return Result("split", learner, seed, **(fields | more))


# Thinning


@pytest.mark.parametrize("n", [POINTS + 1, 2 * POINTS, 123_457])
def test_thin_keeps_first_last_smallest_and_largest(n: int) -> None:
    rng = np.random.default_rng(n)
    values = rng.normal(size=n)
    values[n // 3], values[n // 2] = 99, -99
    values[rng.random(n) < 0.1] = np.nan
    values[n // 3], values[n // 2] = 99, -99
    kept = thin(values)
    assert len(kept) <= POINTS
    assert (np.diff(kept) > 0).all()
    assert {0, n // 3, n // 2, n - 1} <= set(kept.tolist())


def test_thin_keeps_a_short_curve() -> None:
    assert thin(np.full(POINTS, np.nan)).tolist() == list(range(POINTS))
    assert thin(np.array([1.0, 5, 2, 3, 0, 4]), 4).tolist() == [0, 1, 4, 5]


def test_online_thins_a_long_curve_and_keeps_its_peak() -> None:
    values = np.zeros(50_000)
    values[12_345] = 7
    (trace,) = as_json(charts.online({"online/mae_window": Curve(np.arange(50_000.0), values)}))[
        "data"
    ]
    assert len(trace["x"]) <= POINTS
    assert (trace["x"][0], trace["x"][-1]) == (0, 49_999)
    assert trace["y"][trace["x"].index(12_345)] == 7


# Segments


MERGED = [
    Evaluation(10, (segment(0, 10, 0.9),)),
    Evaluation(20, (segment(0, 10, 0.8), segment(10, 20, 0.95))),
    Evaluation(30, (segment(0, 20, 0.7), segment(20, 30, 0.85))),  # the first two became one
]


def test_paint_merged_segments_cover_the_rows_of_both() -> None:
    x, y, score, text = charts.paint(MERGED)
    assert x.tolist() == [0, 10, 20, 30]
    assert y.tolist() == [0, 10, 20, 30]
    nan = np.nan
    np.testing.assert_array_equal(score, [[0.9, 0.8, 0.7], [nan, 0.95, 0.7], [nan, nan, 0.85]])
    assert text[1][0] == ""
    assert text[1][2] == "events 0 to 20<br>after 30 events<br>0.700 (0.600 to 0.750)<br>9 probes"


def test_paint_of_many_segments_has_rows_of_equal_height() -> None:
    evaluations = [
        Evaluation(10 * k, tuple(segment(10 * i, 10 * i + 10, i / 1000) for i in range(k)))
        for k in range(1, 401)
    ]
    x, y, score, _ = charts.paint(evaluations, cells=100)
    assert score.shape == (100, 100)
    assert (x[0], x[1], x[-1]) == (0, 10, 4000)
    np.testing.assert_allclose(np.diff(y), 40)
    # Row 7 is events 280 to 320, whose middle lies in segment 30.
    assert score[7, -1] == 0.03
    assert np.isnan(score[1:, 0]).all()


def test_segments_draws_the_painted_grid() -> None:
    (heat,) = as_json(charts.segments(MERGED))["data"]
    assert heat["z"] == [[0.9, 0.8, 0.7], [None, 0.95, 0.7], [None, None, 0.85]]
    assert (heat["x"], heat["y"]) == ([0, 10, 20, 30], [0, 10, 20, 30])
    assert (heat["zmin"], heat["zmax"]) == (0.7, 0.95)
    unknown = SegmentCurve(0, 10, np.nan, np.nan, np.nan, 0)
    assert charts.segments([]) is None
    assert charts.segments([Evaluation(10, (unknown,))]) is None
    assert charts.retention(Evaluation(10, (unknown,))) is None


def test_retention_is_by_age_with_intervals() -> None:
    figure = as_json(charts.retention(MERGED[-1]))
    (trace,) = figure["data"]
    assert trace["x"] == [0, 10]  # the one that runs, and the one that ended at 20
    assert trace["y"] == [0.85, 0.7]
    assert trace["error_y"]["array"] == pytest.approx([0.05, 0.05])
    assert trace["error_y"]["arrayminus"] == pytest.approx([0.1, 0.1])
    assert "events" in figure["layout"]["xaxis"]["title"]["text"]


# Curves of a run


def test_online_draws_learner_served_and_baseline() -> None:
    curves = {
        "online/accuracy_window": curve(0.5, 0.75),
        "online/no_change_accuracy_window": curve(0.25, 0.3),
        "served/accuracy_window": curve(0.4),
    }
    learner, served, baseline = as_json(charts.online(curves))["data"]
    assert (learner["name"], learner["x"], learner["y"]) == ("learner", [100, 200], [0.5, 0.75])
    assert (served["name"], served["y"], served["mode"]) == ("served", [0.4], "markers")
    assert (baseline["name"], baseline["y"]) == ("no-change baseline", [0.25, 0.3])
    assert len({line["line"]["color"] for line in (learner, served, baseline)}) == 3
    assert charts.online({}) is None


def test_stability_draws_the_band_of_forgetting() -> None:
    curves = {
        "stability/forgetting": curve(0.1, 0.2),
        "stability/forgetting_low": curve(0.05, 0.1),
        "stability/forgetting_high": curve(0.15, 0.3),
        "stability/wc_acc": curve(0.8, 0.7),
    }
    low, high, forgetting, worst = as_json(charts.stability(curves))["data"]
    assert (low["y"], high["y"]) == ([0.05, 0.1], [0.15, 0.3])
    assert high["fill"] == "tonexty"
    assert forgetting["y"] == [0.1, 0.2]
    assert (worst["y"], worst["xaxis"], worst["name"]) == ([0.8, 0.7], "x2", "WC-ACC")
    del curves["stability/forgetting_low"]
    assert len(as_json(charts.stability(curves))["data"]) == 2
    assert charts.stability({}) is None


def test_marks_are_vertical_lines_in_every_panel() -> None:
    curves = {"stability/forgetting": curve(0.1, 0.2), "stability/acc": curve(0.9, 0.8)}
    marks = [Mark(120, "drift", "drift"), Mark(150, "alert", "a"), Mark(160, "alert", "a")]
    figure = as_json(charts.stability(curves, marks))
    lines = [(shape["xref"], shape["x0"], shape["x1"]) for shape in figure["layout"]["shapes"]]
    assert sorted(lines) == [(axis, at, at) for axis in ("x", "x2") for at in (120, 150, 160)]
    assert [t["name"] for t in figure["data"]].count("alert") == 1  # an entry in the legend


def test_many_marks_are_thinned() -> None:
    marks = [Mark(at, "alert", "a") for at in range(10_000)]
    figure = as_json(charts.online({"online/accuracy_window": curve(0.5)}, marks))
    places = [shape["x0"] for shape in figure["layout"]["shapes"]]
    assert len(places) <= 100
    assert (places[0], places[-1]) == (0, 9999)


@pytest.mark.parametrize(
    ("draw", "names"),
    [
        (charts.plasticity, ("dormant_units", "effective_rank", "weight_norm")),
        (charts.system, ("events_per_s", "memory_mb", "freshness_s")),
    ],
)
def test_plasticity_and_system_have_a_panel_per_metric(draw: Any, names: tuple[str, ...]) -> None:
    curves = {f"{draw.__name__}/{name}": curve(i, i + 1) for i, name in enumerate(names)}
    figure = as_json(draw(curves))
    assert [trace["y"] for trace in figure["data"]] == [[0, 1], [1, 2], [2, 3]]
    assert [trace["xaxis"] for trace in figure["data"]] == ["x", "x2", "x3"]
    assert all(figure["layout"][f"yaxis{i}"]["title"]["text"] for i in ("", 2, 3))
    assert draw({}) is None


def test_each_number_of_a_learner_has_a_panel() -> None:
    """Three in a row, by name; numbers of others are not drawn."""
    names = ("used_prompts", "a", "routing_entropy", "<b>")
    curves = {f"learner/{name}": curve(i, i + 1) for i, name in enumerate(names)}
    first, second = map(as_json, charts.learner(curves | {"system/memory_mb": curve(9)}))
    titles = [first["layout"][f"yaxis{i}"]["title"]["text"] for i in ("", 2, 3)]
    assert titles == ["&lt;b&gt;", "a", "routing entropy"]
    assert [trace["y"] for trace in first["data"]] == [[3, 4], [1, 2], [2, 3]]
    assert [trace["y"] for trace in second["data"]] == [[0, 1]]
    assert charts.learner({"system/memory_mb": curve(9)}) == []


# A bench


def test_anytime_is_a_mean_over_tasks_then_seeds() -> None:
    nan = np.nan

    def runs(seed: int, accuracy: Array) -> Result:
        return result(seed=seed, events=np.array([10.0, 20, 30]), accuracy=accuracy)

    figure = as_json(
        charts.anytime(
            [
                runs(0, np.array([[0.2, nan], [0.4, 0.6], [nan, nan]])),  # 0.2, 0.5
                runs(1, np.array([[0.4, nan], [0.9, 0.7], [nan, nan]])),  # 0.4, 0.8
                result("<i>x", events=np.array([10.0]), accuracy=np.array([[0.1]])),
            ]
        )
    )
    low, high, mean, other = figure["data"]
    assert mean["x"] == [10, 20]
    assert mean["y"] == pytest.approx([0.3, 0.65])
    # Of 0.2 and 0.4: 0.1 sqrt 2; of 0.5 and 0.8: 0.15 sqrt 2.
    assert low["y"] == pytest.approx([0.3 - 0.1414214, 0.65 - 0.2121320])
    assert high["y"] == pytest.approx([0.3 + 0.1414214, 0.65 + 0.2121320])
    assert (other["name"], other["y"]) == ("&lt;i&gt;x", [0.1])
    assert charts.anytime([result()]) is None


def test_anytime_interpolates_between_evaluations() -> None:
    figure = as_json(
        charts.anytime(
            [
                result(events=np.array([0.0, 20]), accuracy=np.array([[0.0], [1.0]])),
                result(seed=1, events=np.array([10.0, 20]), accuracy=np.array([[0.1], [0.8]])),
            ]
        )
    )
    mean = figure["data"][-1]
    assert mean["x"] == [0, 10, 20]
    assert mean["y"] == pytest.approx([0.0, 0.3, 0.9])  # alone; of 0.5 and 0.1; of 1.0 and 0.8


def test_forgetting_draws_a_bar_per_learner() -> None:
    runs = [
        result("<b>a</b>", metrics={"forgetting": 0.1}),
        result("b", metrics={}),
        result("<b>a</b>", 1, metrics={"forgetting": 0.3}),
    ]
    (bars,) = as_json(charts.forgetting(runs))["data"]
    assert bars["y"] == ["&lt;b&gt;a&lt;/b&gt;", "b"]
    assert bars["x"][0] == pytest.approx(0.2)
    assert bars["x"][1] is None
    assert bars["error_x"]["array"][0] == pytest.approx(0.1414214)
    assert charts.forgetting([result()]) is None


def test_matrices_are_means_over_seeds() -> None:
    nan = np.nan
    runs = [
        result(matrix=np.array([[0.9, nan], [0.5, 0.8]])),
        result(seed=1, matrix=np.array([[0.7, nan], [0.3, 0.6]])),
        result("<i>x", matrix=np.array([[0.25]])),
        result("none"),
    ]
    figure = as_json(charts.matrices(runs))
    first, second = figure["data"]
    assert first["z"] == [[0.8, None], [0.4, 0.7]]
    assert second["z"] == [[0.25]]
    assert [a["text"] for a in figure["layout"]["annotations"]] == ["replay", "&lt;i&gt;x"]
    assert charts.matrices([result()]) is None
