"""The recent history of the key itself."""

from __future__ import annotations

import numpy as np
from pydantic import PositiveFloat

from learners.sequences.controls.base import CountsConfig, Overall, SequenceControl
from learners.sequences.history import EventHistory
from streams.core.batch import Floats
from streams.core.schema import Schema


class RecentHistoryConfig(CountsConfig):
    """Settings of ``recent-history``.

    Attributes:
        prior: how many events of the history what all keys do counts as.
    """

    half_life: PositiveFloat | None = 1000.0
    prior: PositiveFloat = 2.0


class RecentHistory(SequenceControl):
    """Predict that a key goes on as in its last events: types by their frequency among them, and
    events at the rate at which they came.

    With c_k of the m last events of type k, g gaps of s seconds in all, and the prior a with the
    shares q_k and the rate l of all keys,

        p_k = (c_k + a q_k) / (m + a),  rate = (g + a) / (s + a / l):

    the means under a Dirichlet and a gamma prior.
    """

    kind = "recent-history"
    Config = RecentHistoryConfig

    def __init__(self, config: RecentHistoryConfig, schema: Schema, seed: int) -> None:
        super().__init__(config, schema, seed)
        self._prior = config.prior

    def forecast(self, history: EventHistory, overall: Overall) -> tuple[Floats, Floats]:
        n, classes, prior = len(history.lengths), len(overall.types), self._prior
        rows, places = np.nonzero((history.types >= 0) & (history.types < classes))
        types = np.tile(prior * overall.types, (n, 1))
        np.add.at(types, (rows, history.types[rows, places]), 1.0)
        gaps = np.maximum(history.lengths - 1, 0)
        seconds = history.gaps[:, 1:].sum(1, dtype=np.float64)
        rates = (gaps + prior) / (seconds + prior / overall.rate)
        return types / types.sum(1, keepdims=True), rates
