"""Drawing of figures: the palette, curves with bands in panels, marks, and one common style.

The colours are those of Okabe and Ito (2008), for colour-blind readers. Text from files is escaped:
plotly reads its texts as a kind of HTML.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from pipeline.report.run_data import Curve, Mark
from streams.core.batch import Array, Ints

POINTS = 2000
"""Largest number of points of a curve."""
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY = PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#767676",
)
DASHES = ("solid", "dash", "dot", "dashdot")
_MARKS = {"drift": ("#222222", "dash"), "alert": ("#882255", "dot")}
_MAX_MARKS = 100  # lines of each kind: more cannot be distinguished
_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


class Line(NamedTuple):
    """A curve with its style, and a band between the curves ``low`` and ``high``."""

    curve: Curve
    name: str
    colour: str
    dash: str = "solid"
    low: Curve | None = None
    high: Curve | None = None


def thin(values: Array, limit: int = POINTS) -> Ints:
    """Return the indices of at most ``limit`` points of a curve (n,) to draw: the first, the last,
    and the smallest and largest of each of several parts of equal length."""
    n = len(values)
    if n <= limit:
        return np.arange(n)
    size = math.ceil(n / (limit // 2 - 1))
    rows = math.ceil(n / size)
    padded = np.full(rows * size, np.nan)
    padded[:n] = values
    parts = padded.reshape(rows, size)
    starts = np.arange(rows) * size
    smallest = np.where(np.isnan(parts), np.inf, parts).argmin(1)
    largest = np.where(np.isnan(parts), -np.inf, parts).argmax(1)
    return np.unique(np.concatenate([[0, n - 1], starts + smallest, starts + largest]))


def side_by_side(
    panels: Sequence[tuple[str, Sequence[Line]]], marks: Sequence[Mark], height: int
) -> go.Figure:
    """Draw panels side by side over events seen, each with a title of its y axis."""
    figure = make_subplots(1, len(panels), horizontal_spacing=0.1)
    for column, (title, lines) in enumerate(panels, 1):
        legend = "legend" if column == 1 else f"legend{column}"
        for line in lines:
            for trace in _traces(line):
                trace.legend = legend
                figure.add_trace(trace, 1, column)
        left = figure.layout["xaxis" if column == 1 else f"xaxis{column}"].domain[0]
        figure.layout[legend] = {"orientation": "h", "x": left, "y": 1.02, "yanchor": "bottom"}
        figure.update_yaxes(title_text=title, col=column)
        draw_marks(figure, marks, column)
    style(figure, height)
    over_events(figure, "events seen")
    with_legend = any(len(lines) > 1 for _, lines in panels) or bool(marks)
    figure.update_layout(showlegend=with_legend, margin_t=60 if with_legend else 36)
    return figure


def _traces(line: Line) -> list[go.Scatter]:
    """Return the traces of a curve and of its band."""
    traces = []
    name = escape(line.name, quote=False)
    if line.low is not None and line.high is not None:
        r, g, b = (int(line.colour[i : i + 2], 16) for i in (1, 3, 5))
        for curve, fill in ((line.low, None), (line.high, "tonexty")):
            keep = thin(curve.values)
            traces.append(
                go.Scatter(
                    x=curve.steps[keep].tolist(),
                    y=curve.values[keep].tolist(),
                    mode="lines",
                    line={"width": 0, "color": line.colour},
                    fill=fill,
                    fillcolor=f"rgba({r},{g},{b},0.18)",
                    name=f"{name}, band",
                    legendgroup=name,
                    showlegend=False,
                    hoverinfo="skip",
                )
            )
    keep = thin(line.curve.values)
    traces.append(
        go.Scatter(
            x=line.curve.steps[keep].tolist(),
            y=line.curve.values[keep].tolist(),
            mode="lines" if len(keep) > 1 else "markers",  # a line of one point is invisible
            name=name,
            legendgroup=name,
            line={"color": line.colour, "dash": line.dash, "width": 2},
            hovertemplate="%{y:.4~g} at %{x:,}",
        )
    )
    return traces


def draw_marks(figure: go.Figure, marks: Sequence[Mark], column: int) -> None:
    """Draw a vertical line for each mark, and for each kind a legend entry in the first panel."""
    axis = "" if column == 1 else str(column)
    for kind, (colour, dash) in _MARKS.items():
        positions = [mark.at for mark in marks if mark.kind == kind]
        if not positions:
            continue
        for i in thin(np.array(positions, np.float64), _MAX_MARKS).tolist():
            figure.add_shape(
                type="line",
                xref=f"x{axis}",
                yref=f"y{axis} domain",
                x0=positions[i],
                x1=positions[i],
                y0=0,
                y1=1,
                line={"color": colour, "dash": dash, "width": 1.2},
            )
        if column == 1:
            line = {"color": colour, "dash": dash}
            figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", name=kind, line=line))


def over_events(figure: go.Figure, title: str) -> None:
    """Style an x axis of events."""
    figure.update_xaxes(title_text=title, tickformat="~s", rangemode="tozero")


def style(figure: go.Figure, height: int) -> None:
    """Apply the common style."""
    figure.update_layout(
        template="none",
        height=height,
        autosize=True,
        margin={"l": 64, "r": 16, "t": 36, "b": 52},
        font={"family": _FONT, "size": 13, "color": "#222222"},
        hovermode="closest",
        hoverlabel={"bgcolor": "white", "font": {"color": "#222222"}},
    )
    axis = {"gridcolor": "#e6e6e6", "linecolor": "#999999", "zeroline": False, "showline": True}
    figure.update_xaxes(**axis, title_standoff=8, title_font_size=13, automargin=True)
    figure.update_yaxes(**axis, title_standoff=8, title_font_size=13, automargin=True)
