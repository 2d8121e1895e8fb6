"""The figures of a report on classes: confusion matrix, scores by class, calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from pipeline.evaluation.online.class_metrics import by_class
from pipeline.evaluation.retention import wilson
from pipeline.report.plotting import BLUE, GREY, SKY, style
from pipeline.report.run_data import Calibration, ConfusionMatrix

CLASSES = 20
"""Largest number of classes with a row of their own in the figure of a confusion matrix."""
_COUNTS = 12  # largest number of classes whose cells show numbers
_NAME, _LONG_NAME = 24, 60  # characters of a class name, in a figure and in a table


def shorten(confusion: ConfusionMatrix, most: int = CLASSES) -> ConfusionMatrix:
    """Return the matrix of the ``most`` classes with most labels, in the order of their codes, and
    of all others together as one more class."""
    k = len(confusion.classes)
    if k <= most:
        return confusion
    chosen = np.sort(np.argsort(-confusion.matrix.sum(1), kind="stable")[:most])
    place = np.full(k, most)
    place[chosen] = np.arange(most)
    matrix = np.zeros((most + 1, most + 1), np.int64)
    np.add.at(matrix, (place[:, None], place[None, :]), confusion.matrix)
    names = (*(confusion.classes[i] for i in chosen.tolist()), f"{k - most} other classes")
    return ConfusionMatrix(names, matrix)


def matrix(confusion: ConfusionMatrix) -> go.Figure:
    """Draw a confusion matrix: labels (y), predictions (x), and colours by the share of the events
    with that label."""
    names, counts = shorten(confusion)
    k, labels = len(names), counts.sum(1, keepdims=True)
    share = np.divide(counts, labels, out=np.full(counts.shape, np.nan), where=labels > 0)
    shown = [_shown(name) for name in names]
    about = [
        [
            f"{a} predicted as {b}:<br>{count:,} events"
            + ("" if math.isnan(part) else f", {part:.1%} of those with this label")
            for b, count, part in zip(shown, row, parts, strict=True)
        ]
        for a, row, parts in zip(shown, counts.tolist(), share.tolist(), strict=True)
    ]
    width = min(1.0, 0.2 + 0.06 * k)  # cells that are about as high as wide
    places = list(range(k))
    figure = go.Figure(
        go.Heatmap(
            x=places,
            y=places,
            z=np.round(share, 4).tolist(),
            customdata=about,
            hovertemplate="%{customdata}<extra></extra>",
            hoverongaps=False,
            text=[[f"{count:,}" for count in row] for row in counts.tolist()],
            texttemplate="%{text}" if k <= _COUNTS else None,
            colorscale="Blues",
            zmin=0,
            zmax=1,
            xgap=1,
            ygap=1,
            colorbar={
                "title": {"text": "share of the label", "side": "right", "font": {"size": 13}},
                "tickformat": ".0%",
                "thickness": 14,
                "outlinewidth": 0,
                "x": width,
                "xpad": 12,
            },
        )
    )
    style(figure, 150 + 28 * max(k, 4))
    ticks = {"tickvals": places, "ticktext": shown, "showgrid": False}
    figure.update_xaxes(title_text="prediction", domain=[0, width], **ticks)
    figure.update_yaxes(title_text="label", autorange="reversed", ticksuffix=" ", **ticks)
    return figure


def rows(confusion: ConfusionMatrix) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the rows of a table: each class with precision, recall, F1 and number of labels, the
    most frequent first; a dash where undefined."""
    scores = by_class(confusion.matrix)
    order = np.argsort(-scores[3], kind="stable").tolist()
    return [
        (
            _cut(confusion.classes[i], _LONG_NAME),
            [
                *(("-" if math.isnan(s) else f"{s:.3f}", "") for s in scores[:3, i].tolist()),
                (f"{scores[3, i]:,.0f}", ""),
            ],
        )
        for i in order
    ]


def calibration(curve: Calibration) -> go.Figure:
    """Draw observed against predicted frequencies with 95% intervals, and beside them the number
    of predictions."""
    figure = make_subplots(1, 2, horizontal_spacing=0.1)
    diagonal = go.Scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        line={"color": GREY, "dash": "dot", "width": 1.5},
        name="perfect calibration",
        hoverinfo="skip",
    )
    bars = go.Bar(
        x=list(curve.predicted),
        y=list(curve.events),
        width=0.04,
        marker_color=SKY,
        hovertemplate="%{y:,} predictions around %{x:.3f}<extra></extra>",
        showlegend=False,
    )
    for trace, column in ((diagonal, 1), (_points(curve), 1), (bars, 2)):
        figure.add_trace(trace, 1, column)
    style(figure, 360)
    of = "confidence" if curve.name is None else f"predicted probability of {_shown(curve.name)}"
    figure.update_xaxes(title_text=of, range=[-0.02, 1.02])
    figure.update_yaxes(title_text="observed share", range=[-0.02, 1.02], col=1)
    figure.update_yaxes(title_text="predictions", type="log", tickformat="~s", dtick=1, col=2)
    above = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
    figure.update_layout(showlegend=True, legend=above, margin_t=60)
    return figure


def _points(curve: Calibration) -> go.Scatter:
    """Return the points of a calibration curve with their intervals."""
    around = [wilson(*pair) for pair in zip(curve.observed, curve.events, strict=True)]
    return go.Scatter(
        x=list(curve.predicted),
        y=list(curve.observed),
        error_y={
            "type": "data",
            "symmetric": False,
            "array": _apart([high for _, high in around], curve.observed),
            "arrayminus": _apart(curve.observed, [low for low, _ in around]),
            "thickness": 1.2,
            "width": 4,
        },
        text=[f"{events:,} predictions" for events in curve.events],
        hovertemplate="predicted %{x:.3f}, observed %{y:.3f}<br>%{text}<extra></extra>",
        mode="lines+markers",
        line={"color": BLUE, "width": 1.5},
        marker={"size": 7},
        name="model",
    )


def _apart(high: Sequence[float], low: Sequence[float]) -> list[float]:
    return [max(0.0, a - b) for a, b in zip(high, low, strict=True)]


def _shown(name: str) -> str:
    """Return the name of a class for a figure: plotly reads it as a kind of HTML."""
    return escape(_cut(name, _NAME), quote=False)


def _cut(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
