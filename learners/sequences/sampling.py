"""Draw the next event of a key from a forecast."""

from __future__ import annotations

import numpy as np

from learners.sequences.forecast import INTENSITY, START, cell_at, has_forecast, types_at
from streams.core.batch import Array, Floats, Ints


def sample(forecast: Array, proba: Array, random: np.random.Generator) -> tuple[Floats, Ints]:
    """Return the waits in seconds (n,) and types (n,) of one next event for each of n forecasts.

    By thinning (Ogata 1981, "On Lewis' Simulation Method for Point Processes"): from a time t on,
    moments are proposed at the rate of the largest intensity of any cell from that of t on, and
    each is kept with the probability intensity / rate. That bound holds, as an intensity is
    constant within a cell; it falls as t passes high intensities. Where no event ever comes, the
    wait is infinite and the type -1; without a forecast the wait is NaN.

    Args:
        forecast: (n, cells, ...) as in ``learners/sequences/forecast.py``.
        proba: (n, types) as in ``Prediction``.
        random: what draws; each call draws anew.
    """
    cells = forecast.astype(np.float64)
    starts, intensity = cells[:, :, START], cells[:, :, INTENSITY]
    bounds = np.maximum.accumulate(intensity[:, ::-1], axis=1)[:, ::-1]
    known = has_forecast(forecast)
    wait, active = np.where(known, 0.0, np.nan), np.flatnonzero(known)
    while len(active):
        rate = bounds[active, cell_at(starts[active], wait[active])]
        with np.errstate(divide="ignore"):
            wait[active] += random.standard_exponential(len(active)) / rate
        now = intensity[active, cell_at(starts[active], wait[active])]
        kept = random.random(len(active)) * rate < now
        active = active[~kept & np.isfinite(wait[active])]
    came = np.isfinite(wait)
    totals = np.cumsum(types_at(forecast, proba, np.where(came, wait, 0.0)), axis=1)
    drawn = random.random(len(wait)) * totals[:, -1]
    types = (totals <= drawn[:, None]).sum(1)
    return wait, np.where(came, np.minimum(types, totals.shape[1] - 1), -1)
