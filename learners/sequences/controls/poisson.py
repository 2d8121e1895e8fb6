"""Poisson processes: each type at its own constant rate, the same for all keys."""

from __future__ import annotations

import numpy as np

from learners.sequences.controls.base import Overall, SequenceControl
from learners.sequences.history import EventHistory
from streams.core.batch import Floats


class Poisson(SequenceControl):
    """Predict every type at the rate at which it came so far.

    The next event of independent Poisson processes comes at the sum of their rates, and is of each
    type with its share of the sum, whenever it comes.
    """

    kind = "poisson"

    def forecast(self, history: EventHistory, overall: Overall) -> tuple[Floats, Floats]:
        n = len(history.lengths)
        return np.tile(overall.types, (n, 1)), np.full(n, overall.rate)
