"""A temperature that is fitted online, so that probabilities can be trusted."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator

from streams.core.batch import Array, Ints
from streams.core.state_dict import State

_WINDOW = 2000  # events; older ones fade
_PRIOR = 30.0  # precision of log T around 0: a standard deviation of about 0.18
_STEP = 0.3  # largest change of log T by a micro-batch
REACH = 10.0
"""The largest T, and the inverse of the smallest."""


def _none(setting: Any) -> Any:
    return None if setting == "none" else setting


CalibrationConfig = Annotated[Literal["temperature"] | None, BeforeValidator(_none)]
"""``temperature``; or ``none``, as null: probabilities are those of the network."""


class Temperature:
    """Divide outputs by one number T > 0 (Guo et al. 2017, "On Calibration of Modern Networks").

    T is above 1 for a network that is too sure of itself, and below 1 for one that is not sure
    enough. It changes no order of the outputs of an event. It is fitted on events that have just
    been revealed, *before* the network learns them: no other outputs are as good as those for new
    events.

    The fit is a Newton step in log T for each micro-batch, on the log-loss with a normal prior
    around T = 1. Let b = 1 / T, and p the probabilities softmax(b * out - logs), where ``logs``
    are the logarithms of the weights of classes, if there are any. Then

        gradient  = sum over events of b * (out_y - sum_c p_c * out_c)
        curvature = sum over events of b**2 * (sum_c p_c * out_c**2 - (sum_c p_c * out_c)**2)

    The curvature is a fading sum over about 2,000 events. A step is bounded, and T lies between
    1 / reach and reach.

    Args:
        reach: how far T goes either way.

    Attributes:
        log_inverse: log b.
    """

    def __init__(self, reach: float = REACH) -> None:
        self._range = math.log(reach)
        self.log_inverse = 0.0
        self._precision = _PRIOR

    @property
    def inverse(self) -> float:
        """1 / T."""
        return math.exp(self.log_inverse)

    def update(self, out: Array, y: Ints, proba: Array) -> None:
        """Fit the temperature to n >= 1 events.

        Args:
            out: (n, k) outputs, before they are divided.
            y: (n,) indices of outputs.
            proba: (n, k) the probabilities that are given by the present temperature.
        """
        out, proba = out.astype(np.float64), proba.astype(np.float64)
        b = self.inverse
        mean = (proba * out).sum(1)
        gradient = b * float((out[np.arange(len(y)), y] - mean).sum())
        spread = (proba * out * out).sum(1) - mean * mean
        curvature = b * b * float(np.maximum(spread, 0).sum())
        kept = (1 - 1 / _WINDOW) ** len(y)
        self._precision = kept * self._precision + (1 - kept) * _PRIOR + curvature
        step = (gradient - (1 - kept) * _PRIOR * self.log_inverse) / self._precision
        if math.isfinite(step):  # not after outputs beyond all squares: `verify` reports those
            step = min(max(step, -_STEP), _STEP)
            self.log_inverse = min(max(self.log_inverse + step, -self._range), self._range)

    def servable(self) -> State:
        return {"log_inverse": self.log_inverse}

    def state(self) -> State:
        return {**self.servable(), "precision": self._precision}

    def load(self, state: State) -> None:
        """Load a ``state``, or start anew from an empty one."""
        self.log_inverse = state.get("log_inverse", 0.0)
        self._precision = state.get("precision", _PRIOR)
