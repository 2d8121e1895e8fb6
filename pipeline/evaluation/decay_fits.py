"""Forgetting curves: a power law and an exponential, fitted to shares of right answers over time.

Human forgetting follows a power law (Wixted and Ebbesen 1991); a constant probability of loss gives
an exponential.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from streams.core.batch import Array

LEAST = 4
"""Smallest number of times for a fit: two parameters need more than two points."""
CLEAR = 2.0
"""A fit is clearly better if its ``off`` is lower by this much (Burnham and Anderson 2002: both
have the same number of parameters)."""
_RATES = 4000  # rates tried


class Fit(NamedTuple):
    """A curve through shares p(t).

    Attributes:
        kind: "power": scale * t**-rate; "exponential": scale * exp(-rate * t).
        scale: from 0 to 1.
        rate: 0 or more.
        off: sum over times of the squared distance to the share, in standard errors.
    """

    kind: Literal["power", "exponential"]
    scale: float
    rate: float
    off: float

    def at(self, t: Array) -> Array:
        """Return the curve at times (n,)."""
        curve: Array = self.scale * _shape(self.kind, t, np.array([self.rate]))[0]
        return curve


def error(right: Array, asked: Array) -> Array:
    """Return the standard error of ``right`` answers of ``asked``.

    Two right and two wrong answers are added (Agresti and Coull 1998), so that no error is 0.
    """
    share = (right + 2) / (asked + 4)
    error: Array = np.sqrt(share * (1 - share) / asked)
    return error


def fits(t: Array, share: Array, error: Array) -> tuple[Fit, Fit] | None:
    """Return the best power law and the best exponential, by weighted least squares.

    Args:
        t: (n,) times, above 0.
        share: (n,) share of right answers at each time.
        error: (n,) standard error of each share.

    Returns:
        Both fits, or None with fewer than ``LEAST`` times.
    """
    if len(t) < LEAST:
        return None
    weight = error**-2.0
    # From a share that hardly falls to one that is 0 before the second time.
    powers = np.geomspace(1e-4, 10, _RATES)
    constants = np.geomspace(1e-4 / t.max(), 10 / t.min(), _RATES)
    return (
        _best("power", t, share, weight, np.concatenate([[0.0], powers])),
        _best("exponential", t, share, weight, np.concatenate([[0.0], constants])),
    )


def better(power: Fit, exponential: Fit) -> Fit | None:
    """Return the fit that is clearly better, or None."""
    best, other = sorted((power, exponential), key=lambda fit: fit.off)
    return best if other.off - best.off > CLEAR else None


def _best(
    kind: Literal["power", "exponential"], t: Array, share: Array, weight: Array, rates: Array
) -> Fit:
    """Return the best fit over all rates, each with its best scale."""
    shape = _shape(kind, t, rates)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.clip((weight * shape * share).sum(1) / (weight * shape**2).sum(1), 0.0, 1.0)
    scale = np.nan_to_num(scale)  # where a shape is 0 everywhere
    off = (weight * (share - scale[:, None] * shape) ** 2).sum(1)
    i = int(np.argmin(off))
    return Fit(kind, float(scale[i]), float(rates[i]), float(off[i]))


def _shape(kind: str, t: Array, rates: Array) -> Array:
    """Return the curves at scale 1, (rates, n)."""
    exponent = np.log(t) if kind == "power" else t
    shape: Array = np.exp(-rates[:, None] * exponent[None])
    return shape
