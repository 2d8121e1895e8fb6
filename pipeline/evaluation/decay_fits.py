"""How knowledge decays with time: a power law and an exponential, fitted to shares of answers.

The power law is what forgetting of people follows (Wixted and Ebbesen 1991), the exponential what a
constant chance of loss would give.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from streams.core.batch import Array

LEAST = 4
"""Times that a fit needs: two parameters, and something to go by."""
CLEAR = 2.0
"""A fit whose ``off`` is lower by so much is clearly the better one (Burnham and Anderson 2002: the
two have as many parameters)."""
_TRIED = 4000  # values of the rate


class Fit(NamedTuple):
    """A curve through shares p(t).

    Attributes:
        kind: "power": scale * t**-rate; "exponential": scale * exp(-rate * t).
        scale: from 0 to 1.
        rate: 0 or more.
        off: sum over times of the squared distance to what was found, in standard errors.
    """

    kind: Literal["power", "exponential"]
    scale: float
    rate: float
    off: float

    def at(self, t: Array) -> Array:
        """The curve at times (n,)."""
        curve: Array = self.scale * _shape(self.kind, t, np.array([self.rate]))[0]
        return curve


def error(right: Array, asked: Array) -> Array:
    """The standard error of shares of right answers; for that two more are right, and two more
    wrong (Agresti and Coull 1998), so that none is certain."""
    share = (right + 2) / (asked + 4)
    found: Array = np.sqrt(share * (1 - share) / asked)
    return found


def fits(t: Array, share: Array, error: Array) -> tuple[Fit, Fit] | None:
    """The best power law and the best exponential, by weighted least squares.

    Args:
        t: (n,) times, above 0.
        share: (n,) what was found at each.
        error: (n,) its standard error.

    Returns:
        both, or None where there are fewer than ``LEAST`` times.
    """
    if len(t) < LEAST:
        return None
    weight = error**-2.0
    # From a share that hardly falls over all times to one that is gone before the second.
    powers = np.geomspace(1e-4, 10, _TRIED)
    constants = np.geomspace(1e-4 / t.max(), 10 / t.min(), _TRIED)
    return (
        _best("power", t, share, weight, np.concatenate([[0.0], powers])),
        _best("exponential", t, share, weight, np.concatenate([[0.0], constants])),
    )


def better(power: Fit, exponential: Fit) -> Fit | None:
    """The one that fits clearly better, if one does."""
    best, other = sorted((power, exponential), key=lambda fit: fit.off)
    return best if other.off - best.off > CLEAR else None


def _best(
    kind: Literal["power", "exponential"], t: Array, share: Array, weight: Array, rates: Array
) -> Fit:
    """Of all rates the best, each with the scale that suits it best."""
    shape = _shape(kind, t, rates)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.clip((weight * shape * share).sum(1) / (weight * shape**2).sum(1), 0.0, 1.0)
    scale = np.nan_to_num(scale)  # of a shape that is 0 everywhere
    off = (weight * (share - scale[:, None] * shape) ** 2).sum(1)
    i = int(np.argmin(off))
    return Fit(kind, float(scale[i]), float(rates[i]), float(off[i]))


def _shape(kind: str, t: Array, rates: Array) -> Array:
    """(rates, n): the curves at scale 1."""
    exponent = np.log(t) if kind == "power" else t
    shape: Array = np.exp(-rates[:, None] * exponent[None])
    return shape
