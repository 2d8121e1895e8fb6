"""The figures of a report: pure functions from the data of a folder to a plotly figure.

Heat maps use viridis, which colour-blind readers and greyscale prints show alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from pipeline.report.plotting import (
    BLUE,
    DASHES,
    GREEN,
    GREY,
    ORANGE,
    PALETTE,
    PURPLE,
    VERMILLION,
    Line,
    draw_marks,
    over_events,
    side_by_side,
    style,
    thin,
)
from pipeline.report.run_data import Curve, Evaluation, Mark, Result
from streams.core.batch import Array

CELLS = 200
"""Largest number of rows of a heat map, and of columns."""


class HeatMap(NamedTuple):
    """The scores of all segments at all evaluations, on a grid.

    Attributes:
        x: (c + 1,) edges, events seen; column i ends at its evaluation.
        y: (r + 1,) edges, events of the stream.
        score: (r, c) score, NaN outside all segments.
        text: (r, c) hover text.
    """

    x: Array
    y: Array
    score: Array
    text: list[list[str]]


def paint(evaluations: Sequence[Evaluation], cells: int = CELLS) -> HeatMap:
    """Draw segments as rectangles on a grid of at most ``cells`` rows and columns.

    The rows are the segments before merges, or ``cells`` rows of equal height. Of more than
    ``cells`` evaluations an even choice is taken, with the first and the last.

    Args:
        evaluations: at least one.
        cells: largest number of rows and columns.
    """
    if len(evaluations) > cells:
        chosen = np.linspace(0, len(evaluations) - 1, cells).round().astype(int)
        evaluations = [evaluations[i] for i in chosen]
    x = np.array([0, *(evaluation.events for evaluation in evaluations)], np.float64)
    spans = np.array(
        [(s.begin, s.end) for evaluation in evaluations for s in evaluation.segments], np.float64
    ).reshape(-1, 2)
    y = np.unique(spans)
    if len(y) > cells + 1:
        y = np.linspace(y[0], y[-1], cells + 1)
    middle = (y[:-1] + y[1:]) / 2
    score = np.full((len(middle), len(evaluations)), np.nan)
    text = [[""] * len(evaluations) for _ in middle]
    for column, evaluation in enumerate(evaluations):
        for s in evaluation.segments:
            label = (
                f"events {s.begin:,} to {s.end:,}<br>after {evaluation.events:,} events<br>"
                f"{s.score:.3f} ({s.low:.3f} to {s.high:.3f})<br>{s.probes:,} probes"
            )
            for row in np.flatnonzero((middle >= s.begin) & (middle < s.end)).tolist():
                score[row, column] = s.score
                text[row][column] = label
    return HeatMap(x, y, score, text)


def online(
    curves: Mapping[str, Curve], marks: Sequence[Mark] = (), unequal: bool = False
) -> go.Figure | None:
    """Draw the online score, the no-change baseline and the served score; None without any.

    Args:
        curves: of the run.
        marks: of the run.
        unequal: whether to draw F1 and average precision beside them, for unequal classes.
    """
    measure = "accuracy" if "online/accuracy_window" in curves else "mae"
    lines = _lines(
        curves,
        (f"online/{measure}_window", "learner", BLUE, "solid"),
        (f"served/{measure}_window", "served", GREEN, "solid"),
        (f"online/no_change_{measure}_window", "no-change baseline", GREY, "solid"),
    )
    title = "accuracy" if measure == "accuracy" else "mean absolute error"
    panels = [(title, lines)]
    if unequal:
        binary = "online/f1_window" in curves
        rare = _lines(
            curves,
            ("online/f1_window", "F1", PURPLE, "solid"),
            ("online/average_precision_window", "average precision", ORANGE, "solid"),
            *([] if binary else [("online/macro_f1_window", "macro-F1", PURPLE, "solid")]),
        )
        panels.append(("score of the positive class" if binary else "macro-F1", rare))
    nats = _lines(
        curves,
        ("online/nll_time_window", "time of the next event", ORANGE, "solid"),
        ("online/nll_type_window", "its type", PURPLE, "solid"),
    )
    panels.append(("nats an event", nats))
    panels = [panel for panel in panels if panel[1]]
    return side_by_side(panels, marks, 340) if panels else None


def stability(curves: Mapping[str, Curve], marks: Sequence[Mark] = ()) -> go.Figure | None:
    """Draw forgetting with its band, and worst-case accuracies; None without any."""
    forgetting = []
    if "stability/forgetting" in curves:
        band = [curves.get(f"stability/forgetting_{side}") for side in ("low", "high")]
        forgetting = [
            Line(curves["stability/forgetting"], "forgetting", VERMILLION, "solid", *band)
        ]
    worst = _lines(
        curves,
        ("stability/acc", "ACC", BLUE, "solid"),
        ("stability/wc_acc", "WC-ACC", PURPLE, "solid"),
        ("stability/min_acc", "min-ACC", ORANGE, "dash"),
    )
    panels = [("forgetting", forgetting), ("accuracy", worst)]
    panels = [panel for panel in panels if panel[1]]
    return side_by_side(panels, marks, 340) if panels else None


def segments(
    evaluations: Sequence[Evaluation], marks: Sequence[Mark] = (), measure: str = "accuracy"
) -> go.Figure | None:
    """Draw the score on each segment of the stream (y) over the run (x); None without any."""
    scores = [s.score for evaluation in evaluations for s in evaluation.segments]
    if np.isnan(scores).all():
        return None
    x, y, score, text = paint(evaluations)
    figure = go.Figure(
        go.Heatmap(
            x=x.tolist(),
            y=y.tolist(),
            z=np.round(score, 4).tolist(),
            text=text,
            hoverinfo="text",
            hoverongaps=False,
            colorscale="Viridis",
            zmin=float(np.nanmin(scores)),
            zmax=float(np.nanmax(scores)),
            colorbar=_bar(measure),
        )
    )
    style(figure, 420)
    over_events(figure, "evaluated after (events)")
    figure.update_yaxes(title_text="segment of the stream (events)", tickformat="~s")
    draw_marks(figure, marks, 1)
    figure.update_layout(
        margin_t=60 if marks else 36,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    )
    return figure


def retention(evaluation: Evaluation, measure: str = "accuracy") -> go.Figure | None:
    """Draw the score of each segment against its age at one evaluation, with 95% intervals; None
    without any."""
    known = [s for s in evaluation.segments if not math.isnan(s.score)]
    if not known:
        return None
    points = sorted((evaluation.events - s.end, s) for s in known)
    shown = [points[i] for i in thin(np.array([s.score for _, s in points]))]
    scores = [s.score for _, s in shown]
    figure = go.Figure(
        go.Scatter(
            x=[age for age, _ in shown],
            y=scores,
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [s.high - s.score for _, s in shown],
                "arrayminus": [s.score - s.low for _, s in shown],
                "thickness": 1.2,
                "width": 4,
            },
            text=[f"events {s.begin:,} to {s.end:,}, {s.probes:,} probes" for _, s in shown],
            hovertemplate="%{y:.3f}, %{x:,} events old<br>%{text}<extra></extra>",
            mode="lines+markers",
            line={"color": BLUE, "width": 1.5},
            marker={"size": 8},
        )
    )
    style(figure, 320)
    over_events(figure, "age of the segment (events since it ended)")
    figure.update_xaxes(rangemode="normal")  # room for the error bar at age 0
    figure.update_yaxes(title_text=measure)
    return figure


def plasticity(curves: Mapping[str, Curve]) -> go.Figure | None:
    """Draw the plasticity of the network; None where it was not measured."""
    return _row(
        curves,
        ("plasticity/dormant_units", "dormant units (share)", VERMILLION),
        ("plasticity/effective_rank", "effective rank (dimensions)", BLUE),
        ("plasticity/weight_norm", "mean |weight|", GREEN),
    )


def learner(curves: Mapping[str, Curve], across: int = 3) -> list[go.Figure]:
    """Draw a panel for each number that the learner publishes, in rows of ``across``."""
    names = sorted(name for name in curves if name.startswith("learner/"))
    wanted = [
        (name, escape(name.removeprefix("learner/").replace("_", " ")), PALETTE[i % len(PALETTE)])
        for i, name in enumerate(names)
    ]
    rows = (_row(curves, *wanted[i : i + across]) for i in range(0, len(wanted), across))
    return [row for row in rows if row is not None]


def system(curves: Mapping[str, Curve]) -> go.Figure | None:
    """Draw throughput, memory and freshness; None where they were not measured."""
    return _row(
        curves,
        ("system/events_per_s", "events per second", BLUE),
        ("system/memory_mb", "memory (MB)", PURPLE),
        ("system/freshness_s", "age of the served model (s)", GREEN),
    )


def anytime(results: Sequence[Result]) -> go.Figure | None:
    """Draw mean accuracy over the evaluated tasks against events: for each learner the mean over
    seeds with a band of one standard deviation. None without evaluations."""
    lines = []
    for i, (learner, runs) in enumerate(by_learner(results).items()):
        curves = [_known(run) for run in runs]
        curves = [curve for curve in curves if len(curve.steps)]
        if not curves:
            continue
        grid = np.unique(np.concatenate([curve.steps for curve in curves]))
        values = np.stack([np.interp(grid, *curve, np.nan, np.nan) for curve in curves])
        mean, std = mean_std(values)
        low, high = (
            (Curve(grid, mean - std), Curve(grid, mean + std)) if len(runs) > 1 else (None,) * 2
        )
        dash = DASHES[i // len(PALETTE) % len(DASHES)]
        colour = PALETTE[i % len(PALETTE)]
        lines.append(Line(Curve(grid, mean), learner, colour, dash, low, high))
    height = 340 + 24 * (len(lines) // 6)  # lines of the legend
    return side_by_side([("accuracy over tasks", lines)], (), height) if lines else None


def forgetting(results: Sequence[Result]) -> go.Figure | None:
    """Draw forgetting by learner: mean and standard deviation over seeds; None without any."""
    names, means, stds = [], [], []
    for learner, runs in by_learner(results).items():
        values = np.array([[run.metrics.get("forgetting", np.nan)] for run in runs])
        mean, std = mean_std(values)
        names.append(escape(learner, quote=False))
        means.append(float(mean[0]))
        stds.append(float(std[0]))
    if np.isnan(means).all():
        return None
    figure = go.Figure(
        go.Bar(
            x=means,
            y=names,
            orientation="h",
            marker_color=[PALETTE[i % len(PALETTE)] for i in range(len(names))],
            error_x={
                "type": "data",
                "array": stds,
                "color": "#222222",
                "thickness": 1.2,
                "visible": not np.isnan(stds).all(),
            },
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        )
    )
    style(figure, 90 + 34 * len(names))
    figure.update_xaxes(title_text="forgetting (accuracy lost)")
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False, ticksuffix="  ")
    return figure


def matrices(results: Sequence[Result], across: int = 3) -> go.Figure | None:
    """Draw for each learner the accuracy on each task (x) at the end of each phase (y), mean over
    seeds; None without any."""
    groups = {
        learner: [run.matrix for run in runs if run.matrix.size]
        for learner, runs in by_learner(results).items()
    }
    groups = {learner: matrices for learner, matrices in groups.items() if matrices}
    if not groups:
        return None
    down = math.ceil(len(groups) / across)
    titles = [escape(learner, quote=False) for learner in groups]
    figure = make_subplots(
        down, across, subplot_titles=titles, horizontal_spacing=0.08, vertical_spacing=0.32 / down
    )
    for i, matrices in enumerate(groups.values()):
        shape = np.max([matrix.shape for matrix in matrices], axis=0)
        stacked = np.full((len(matrices), *shape), np.nan)
        for k, matrix in enumerate(matrices):
            stacked[k, : matrix.shape[0], : matrix.shape[1]] = matrix
        mean, _ = mean_std(stacked)
        heat = go.Heatmap(
            x=list(range(1, shape[1] + 1)),
            y=list(range(1, shape[0] + 1)),
            z=np.round(mean, 4).tolist(),
            coloraxis="coloraxis",
            texttemplate="%{z:.2f}" if shape[1] <= 6 else None,
            hovertemplate="task %{x} after phase %{y}: %{z:.3f}<extra></extra>",
            hoverongaps=False,
        )
        cell = {"row": i // across + 1, "col": i % across + 1}
        figure.add_trace(heat, **cell)
        figure.update_xaxes(title_text="task", dtick=_tick(shape[1]), showgrid=False, **cell)
        figure.update_yaxes(
            title_text="after phase", dtick=_tick(shape[0]), autorange="reversed", **cell
        )
    style(figure, 60 + 270 * down)
    figure.update_yaxes(showgrid=False)
    figure.update_annotations(font_size=13)
    bar = {**_bar("accuracy"), "lenmode": "pixels", "len": 250, "y": 1, "yanchor": "top"}
    figure.update_layout(coloraxis={"colorscale": "Viridis", "cmin": 0, "cmax": 1, "colorbar": bar})
    return figure


def by_learner(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Group results by learner, in order of first appearance."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.learner, []).append(result)
    return groups


def mean_std(values: Array) -> tuple[Array, Array]:
    """Return mean and sample standard deviation over the first axis, without NaN values.

    Both are NaN without values, and the deviation is NaN for one value.
    """
    known = ~np.isnan(values)
    count = known.sum(0)
    some = np.where(count, count, np.nan)
    mean = np.where(known, values, 0.0).sum(0) / some
    squares = np.where(known, (values - mean) ** 2, 0.0).sum(0)
    return mean, np.sqrt(squares / np.where(count > 1, count - 1, np.nan))


def _known(run: Result) -> Curve:
    """Return the mean accuracy over the evaluated tasks, as a curve over events."""
    mean, _ = mean_std(run.accuracy.T)
    known = ~np.isnan(mean) & ~np.isnan(run.events)
    order = np.argsort(run.events[known], kind="stable")
    return Curve(run.events[known][order], mean[known][order])


def _lines(curves: Mapping[str, Curve], *wanted: tuple[str, str, str, str]) -> list[Line]:
    """Return the lines of those metrics that a run has: metric, name, colour and dash."""
    return [
        Line(curves[metric], name, colour, dash)
        for metric, name, colour, dash in wanted
        if metric in curves
    ]


def _row(curves: Mapping[str, Curve], *wanted: tuple[str, str, str]) -> go.Figure | None:
    """Draw a panel for each of the metrics that a run has: metric, title and colour."""
    panels = [
        (title, [Line(curves[metric], title, colour)])
        for metric, title, colour in wanted
        if metric in curves
    ]
    return side_by_side(panels, (), 280) if panels else None


def _bar(title: str) -> dict[str, Any]:
    """Return the settings of a colour bar."""
    title_text = {"text": title, "side": "right", "font": {"size": 13}}
    return {"title": title_text, "thickness": 14, "outlinewidth": 0}


def _tick(count: int) -> int:
    return 1 if count <= 10 else math.ceil(count / 10)
