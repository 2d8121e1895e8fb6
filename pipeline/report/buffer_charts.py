"""The figures of a report on the replay buffer and on once-seen events."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go

from pipeline.evaluation.decay_fits import Fit, error, fits
from pipeline.evaluation.retention import wilson
from pipeline.report.charts import CELLS
from pipeline.report.histograms import Histogram
from pipeline.report.plotting import BLUE, GREEN, VERMILLION, over_events, style
from pipeline.report.run_data import OnceSeenBin
from streams.core.batch import Array

_FITS = {
    "power": ("power law", VERMILLION, "solid"),
    "exponential": ("exponential", GREEN, "dash"),
}


def histogram(values: Histogram, title: str) -> go.Figure | None:
    """Draw a histogram (y) over the run (x); a darker cell is a larger share of its column.

    The y axis is logarithmic unless all values are between 0 and 1. Returns None for no values.
    """
    chosen = np.arange(len(values.events))
    if len(chosen) > CELLS:
        chosen = np.unique(np.linspace(0, len(chosen) - 1, CELLS).round().astype(int))
    events, counts = values.events[chosen], values.counts[chosen]
    whole = counts.sum(1, keepdims=True)
    if not whole.any():
        return None
    share = np.divide(counts, whole, out=np.full_like(counts, np.nan), where=whole > 0)
    edges, share = _fill_gaps(values, share)
    figure = go.Figure(
        go.Heatmap(
            x=[0.0, *events.tolist()],
            y=edges.tolist(),
            z=np.round(np.where(share > 0, share, np.nan), 5).T.tolist(),
            customdata=[
                [f"{low:,g} to {high:,g}"] * len(events) for low, high in pairwise(edges.tolist())
            ],
            hovertemplate="%{customdata}<br>%{z:.1%}, until %{x:,} events<extra></extra>",
            hoverongaps=False,
            colorscale="Blues",
            zmin=0,
            colorbar={
                "title": {"text": "share", "side": "right", "font": {"size": 13}},
                "tickformat": ".0%",
                "thickness": 14,
                "outlinewidth": 0,
            },
        )
    )
    style(figure, 300)
    over_events(figure, "events seen")
    scale: dict[str, Any] = {"range": [0, 1]}
    if edges[-1] > 1:
        ticks = edges[:: math.ceil(len(edges) / 8)].tolist()
        scale = {"type": "log", "tickvals": ticks, "tickformat": ","}
    figure.update_yaxes(title_text=title, showgrid=False, **scale)
    return figure


def _fill_gaps(values: Histogram, share: Array) -> tuple[Array, Array]:
    """Return edges (k + 1,) without gaps, and shares (n, k), NaN in the bins that were missing."""
    edges = np.unique(np.concatenate([values.low, values.high]))
    column = np.searchsorted(edges, values.low)
    filled = np.full((len(share), len(edges) - 1), np.nan)
    filled[:, column] = share
    return edges, filled


def once_seen(bins: Sequence[OnceSeenBin]) -> go.Figure | None:
    """Draw accuracy on once-seen events against the updates since (logarithmic), with 95%
    intervals and fitted curves; return None without answers after at least one update."""
    later = [answers for answers in bins if answers.first and answers.asked]
    if not later:
        return None
    x = [answers.since for answers in later]
    share = [answers.right / answers.asked for answers in later]
    around = [wilson(each, answers.asked) for each, answers in zip(share, later, strict=True)]
    figure = go.Figure(
        go.Scatter(
            x=x,
            y=share,
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [high - each for each, (_, high) in zip(share, around, strict=True)],
                "arrayminus": [each - low for each, (low, _) in zip(share, around, strict=True)],
                "thickness": 1.2,
                "width": 4,
            },
            text=[f"{answers.right:,} of {answers.asked:,} right" for answers in later],
            hovertemplate="%{y:.3f} after %{x:,.0f} updates<br>%{text}<extra></extra>",
            mode="markers",
            marker={"size": 8, "color": BLUE},
            name="once-seen events",
        )
    )
    for fit in fit_curves(bins) or ():
        name, colour, dash = _FITS[fit.kind]
        grid = np.geomspace(min(x), max(x), 200)
        line = {"color": colour, "dash": dash, "width": 1.5}
        trace = {"x": grid.tolist(), "y": fit.at(grid).tolist(), "line": line, "mode": "lines"}
        figure.add_trace(go.Scatter(**trace, name=f"{name}: {formula(fit)}", hoverinfo="skip"))
    style(figure, 360)
    figure.update_xaxes(
        title_text="updates of the model since it was learned",
        type="log",
        tickformat="~s",
        dtick=1,
    )
    figure.update_yaxes(title_text="accuracy")
    above = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
    figure.update_layout(showlegend=True, legend=above, margin_t=60)
    return figure


def fit_curves(bins: Sequence[OnceSeenBin]) -> tuple[Fit, Fit] | None:
    """Return the best power law and the best exponential, without the bin of 0 updates."""
    later = [answers for answers in bins if answers.first and answers.asked]
    t, right, asked = np.array([(a.since, a.right, a.asked) for a in later]).reshape(-1, 3).T
    return fits(t, right / asked, error(right, asked))


def formula(fit: Fit) -> str:
    """Return the formula of a fit."""
    if fit.kind == "power":
        return f"{fit.scale:.3f} t^-{fit.rate:.3g}"
    if not fit.rate:
        return f"{fit.scale:.3f}"
    return f"{fit.scale:.3f} exp(-t / {1 / fit.rate:,.4g})"
