"""The scale of targets, within which errors are learned."""

from __future__ import annotations

import numpy as np

from streams.core.batch import Array
from streams.core.statistics.running_moments import RunningMoments

_MOST = 1e30


class TargetScale(RunningMoments):
    """Moments of targets, and a bound for targets and predictions: 100 deviations, and 1e30.

    One absurd number must not decide for ever how far a memory is followed. Within the bound, sums
    of errors fit into float32, and squares of them are finite.
    """

    def __init__(self) -> None:
        super().__init__(())

    def clip(self, rows: Array) -> Array:
        return np.clip(super().clip(rows), -_MOST, _MOST)
