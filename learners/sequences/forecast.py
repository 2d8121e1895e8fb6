"""The predicted distribution of the next event of a key, as an array.

A *forecast* (n, cells, 2 or 2 + classes) describes the next event after each of n events by a
conditional intensity that is constant within cells of time. Row i, cell j holds

- ``[0]``: where the cell begins, in seconds after the event; 0 for the first; ascending. A cell
  ends where the next begins, the last never. A cell may be empty: then it counts for nothing.
- ``[1]``: the intensity a of any event in the cell, events per second; 0 in the last cell: with a
  positive probability there is no next event. NaN in all cells: there is no distribution, and
  the place of ``[0]`` in the first cell is the predicted time alone; NaN: none.
- ``[2:]``: the probability of each type if the next event comes in this cell, as in
  ``Prediction.proba``. Without these columns the type does not depend on the time: it is ``proba``.

So a Poisson process has one cell and is exact; any other intensity is approximated by as many cells
as its learner gives. Whatever they are, the forecast is a proper distribution: survival S(t) =
exp(-A(t)) with A the sum over cells of a times the time in the cell. It is made when the event is
predicted, waits for the label with it, and is what is served and what is scored.

The scores are proper (Gneiting and Raftery 2007, "Strictly Proper Scoring Rules, Prediction, and
Estimation"): with the resolution r of times, an event after w seconds has

    -ln((S(w) - S(w + r)) / r) nats for the time, -ln p(type | cell of w) nats for the type,

which is the density for r -> 0; where nothing came for w seconds, -ln S(w) for the time.
"""

from __future__ import annotations

import numpy as np

from streams.core.batch import Array, Floats, Ints

START, INTENSITY, TYPES = 0, 1, 2
"""The first place of each part in the last axis."""
_LEAST = 1e-15
"""The least probability of a type, as in log-loss."""
_TINY = 1e-300  # the least mass of time: scores stay finite


def constant(rates: Floats) -> Array:
    """Return the forecast (n, 1, 2) of Poisson processes with these total rates (n,)."""
    forecast = np.zeros((len(rates), 1, 2), np.float32)
    forecast[:, 0, INTENSITY] = rates
    forecast[np.isnan(rates)] = np.nan
    return forecast


def point(seconds: Floats) -> Array:
    """Return the forecast (n, 1, 2) of a time alone (n,), which has no distribution."""
    forecast = np.full((len(seconds), 1, 2), np.nan, np.float32)
    forecast[:, 0, START] = seconds
    return forecast


def has_forecast(forecast: Array) -> Array:
    """Return (n,) bool: the rows in which there is a distribution."""
    return ~np.isnan(forecast[:, 0, INTENSITY])


def time_scores(forecast: Array, wait: Floats, came: Array, resolution: float) -> Floats:
    """Return (n,) nats for the time of the next event; NaN without a forecast.

    Args:
        forecast: as above.
        wait: (n,) seconds.
        came: (n,) bool, whether an event came after ``wait``; else nothing came until then.
        resolution: r, in seconds.
    """
    until = cumulative(forecast, wait)
    within = cumulative(forecast, wait + resolution) - until
    mass = np.log(np.maximum(-np.expm1(-within), _TINY)) - np.log(resolution)
    return until - np.where(came, mass, 0.0)


def type_scores(forecast: Array | None, proba: Array, wait: Floats, y: Ints) -> Floats:
    """Return (n,) nats for the type of the next event; NaN where nothing came or is predicted.

    Args:
        forecast: as above, or None.
        proba: (n, classes) as in ``Prediction``.
        wait: (n,) seconds.
        y: (n,) its type; -1: nothing came.
    """
    p = types_at(forecast, proba, wait)
    rows, known = np.arange(len(y)), (y >= 0) & (p.sum(1) > 0)
    inside = known & (y < p.shape[1])  # a type that was not known yet has no probability
    given = np.zeros(len(y))
    given[inside] = p[rows[inside], y[inside]]
    return np.where(known, -np.log(np.maximum(given, _LEAST)), np.nan)


def types_at(forecast: Array | None, proba: Array, wait: Floats) -> Floats:
    """Return (n, classes) the probabilities of types if the next event comes after ``wait`` (n,)
    seconds."""
    if forecast is None or forecast.shape[2] == TYPES:
        return proba.astype(np.float64)
    cell = cell_at(forecast[:, :, START], wait)
    return forecast[np.arange(len(wait)), cell, TYPES:].astype(np.float64)


def cell_at(starts: Array, wait: Floats) -> Ints:
    """Return (n,) the cell of each wait (n,): the last that begins, by ``starts`` (n, cells), at or
    before it."""
    cell: Ints = np.maximum((starts <= wait[:, None]).sum(1) - 1, 0)
    return cell


def cumulative(forecast: Array, wait: Floats) -> Floats:
    """Return (n,) the integral A of the intensity over the first ``wait`` (n,) seconds."""
    cells = forecast.astype(np.float64)
    start = cells[:, :, START]
    end = np.concatenate([start[:, 1:], np.full((len(start), 1), np.inf)], axis=1)
    inside = np.maximum(np.minimum(wait[:, None], end) - start, 0.0)
    total: Floats = (inside * cells[:, :, INTENSITY]).sum(1)
    return total


def quantiles(forecast: Array, levels: Floats) -> Floats:
    """Return (n, levels) the times in seconds before which the next event comes with the
    probability of each level in (0, 1); infinite where it never does. Without a distribution they
    are the predicted time."""
    cells = forecast.astype(np.float64)
    start, intensity = cells[:, :, START], cells[:, :, INTENSITY]
    before = _cumulative_at_starts(start, intensity)  # (n, cells)
    target = -np.log1p(-np.asarray(levels, np.float64))  # A at the quantile
    reached = before[:, None, :] <= target[None, :, None]
    cell = np.maximum(reached.sum(2) - 1, 0)
    rows = np.arange(len(start))[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = (target[None] - before[rows, cell]) / intensity[rows, cell]
    rest[np.isnan(rest)] = 0.0  # 0 / 0, and without a distribution
    found: Floats = np.where(has_forecast(cells)[:, None], start[rows, cell] + rest, start[:, :1])
    return found


def mean(forecast: Array) -> Floats:
    """Return (n,) the expected time of the next event in seconds, the integral of S; without a
    distribution the predicted time."""
    cells = forecast.astype(np.float64)
    start, intensity = cells[:, :, START], cells[:, :, INTENSITY]
    survival = np.exp(-_cumulative_at_starts(start, intensity))
    length = np.diff(start, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.where(
            intensity[:, :-1] * length > 1e-12,
            -np.expm1(-intensity[:, :-1] * length) / intensity[:, :-1],
            length,
        )
        last = survival[:, -1] / intensity[:, -1]
    last[survival[:, -1] == 0] = 0.0
    total = (survival[:, :-1] * inside).sum(1) + last
    expected: Floats = np.where(has_forecast(cells), total, start[:, 0])
    return expected


def types_of(forecast: Array) -> Floats:
    """Return (n, classes) the probabilities of the types of the next event at any time, where there
    is one: those of the cells, each by the probability that the next event comes in it."""
    cells = forecast.astype(np.float64)
    survival = np.exp(-_cumulative_at_starts(cells[:, :, START], cells[:, :, INTENSITY]))
    ends = np.concatenate([survival[:, 1:], np.zeros((len(cells), 1))], axis=1)
    ends[:, -1] = np.where(cells[:, -1, INTENSITY] > 0, 0.0, survival[:, -1])
    p: Floats = np.einsum("ng,ngk->nk", survival - ends, cells[:, :, TYPES:])
    total = p.sum(1, keepdims=True)
    shares: Floats = np.divide(p, total, out=np.zeros_like(p), where=total > 0)
    return shares


def after(forecast: Array, elapsed: Floats) -> Array:
    """Return the forecast as of ``elapsed`` (n,) seconds later, where nothing has come until then.

    Cells that are over are empty. A time without distribution comes so much sooner, or now.
    """
    later = forecast.copy()
    later[:, :, START] = np.maximum(forecast[:, :, START] - elapsed[:, None], 0.0)
    return later


def _cumulative_at_starts(start: Floats, intensity: Floats) -> Floats:
    """Return (n, cells) the integral A of the intensity up to the beginning of each cell."""
    steps = intensity[:, :-1] * np.diff(start, axis=1)
    return np.concatenate([np.zeros((len(start), 1)), np.cumsum(steps, axis=1)], axis=1)
