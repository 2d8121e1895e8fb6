"""The figures of a report on classes: the right numbers in the right place, worked out by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.retention import wilson
from pipeline.report import class_charts
from pipeline.report.run_data import Calibration, ConfusionMatrix


def as_json(figure: Any) -> Any:
    """A figure as a browser gets it: plain JSON."""
    return json.loads(figure.to_json())


def test_matrix_shows_counts_and_shares_of_labels() -> None:
    confusion = ConfusionMatrix(
        ("a<b", "c" * 30, "never"), np.array([[3, 1, 0], [0, 5, 0], [0] * 3])
    )
    figure = as_json(class_charts.matrix(confusion))
    (heat,) = figure["data"]
    assert heat["z"] == [[0.75, 0.25, 0], [0, 1, 0], [None] * 3]
    assert heat["text"] == [["3", "1", "0"], ["0", "5", "0"], ["0"] * 3]
    short = "c" * 23 + "…"
    assert heat["customdata"][0][1] == (
        f"a&lt;b predicted as {short}:<br>1 events, 25.0% of those with this label"
    )
    assert heat["customdata"][2][0] == "never predicted as a&lt;b:<br>0 events"
    assert figure["layout"]["xaxis"]["ticktext"] == ["a&lt;b", short, "never"]


def test_matrix_of_many_classes_is_cut_to_the_most_frequent() -> None:
    """Of 50 classes, class i has i labels, of which half are predicted as class 0."""
    names = tuple(f"class {i}" for i in range(50))
    counts = np.diag(np.arange(50) - np.arange(50) // 2)
    counts[:, 0] += np.arange(50) // 2
    confusion = ConfusionMatrix(names, counts)
    short = class_charts.shorten(confusion)
    assert short.classes == (*names[30:], "30 other classes")
    assert short.matrix.sum() == counts.sum() == 49 * 25
    assert (short.matrix[:20].sum(1) == np.arange(30, 50)).all()
    assert short.matrix[0].tolist() == [15, *[0] * 19, 15]
    assert short.matrix[20, 20] == sum(range(30))
    assert class_charts.shorten(confusion, 50) is confusion
    (heat,) = as_json(class_charts.matrix(confusion))["data"]
    assert "texttemplate" not in heat


def test_rows_by_class_begin_with_the_most_frequent() -> None:
    confusion = ConfusionMatrix(("a", "b" * 80, "c"), np.array([[1, 1, 0], [1, 5, 0], [0, 0, 0]]))
    names, cells = zip(*class_charts.rows(confusion), strict=True)
    assert names == ("b" * 59 + "…", "a", "c")
    assert [[value for value, _ in row] for row in cells] == [
        ["0.833", "0.833", "0.833", "6"],
        ["0.500", "0.500", "0.500", "2"],
        ["-", "-", "-", "0"],
    ]


@pytest.mark.parametrize("name", ["<yes>", None])
def test_calibration_shows_the_curve_and_the_numbers(name: str | None) -> None:
    curve = Calibration(name, (0.1, 0.9), (0.2, 1.0), (50, 5))
    figure = as_json(class_charts.calibration(curve))
    diagonal, model, bars = figure["data"]
    assert (diagonal["x"], diagonal["y"]) == ([0, 1], [0, 1])
    assert (model["x"], model["y"]) == ([0.1, 0.9], [0.2, 1])
    low, high = wilson(0.2, 50)
    assert model["error_y"]["array"] == pytest.approx([high - 0.2, 0])
    assert model["error_y"]["arrayminus"] == pytest.approx([0.2 - low, 1 - wilson(1, 5)[0]])
    assert bars["y"] == [50, 5]
    title = "confidence" if name is None else "predicted probability of &lt;yes&gt;"
    assert figure["layout"]["xaxis"]["title"]["text"] == title
