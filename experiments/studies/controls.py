"""Rules to compare those of the buffer with: ``recall: experiments.studies.controls:Reversed``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from buffers.recall.by_forgetting_curve import ForgettingCurve


class Reversed(ForgettingCurve):
    """The forgetting curve the wrong way round: what is retained best comes up most."""

    name = "reversed"

    def _weight(self, retained: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.floor + retained
