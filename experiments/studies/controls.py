"""Recall rules to compare with: ``recall: experiments.studies.controls:Reversed``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from buffers.recall.by_forgetting_curve import ForgettingCurve


class Reversed(ForgettingCurve):
    """The reversed forgetting curve: draw most often what is retained best."""

    name = "reversed"

    def _weight(self, retained: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.floor + retained
