"""The last type again."""

from __future__ import annotations

import numpy as np
from pydantic import PositiveFloat

from learners.sequences.controls.base import CountsConfig, Overall, SequenceControl
from learners.sequences.history import EventHistory
from streams.core.batch import Floats
from streams.core.schema import Schema
from streams.core.state_dict import State


class LastTypeConfig(CountsConfig):
    """Settings of ``last-type``."""

    half_life: PositiveFloat | None = 1000.0


class LastType(SequenceControl):
    """Predict the type of the last event of the key again, as often as that has happened so far.

    With the share r of next events of the type of the last one, the last type has the probability
    r, and the others share 1 - r by how often they came.
    """

    kind = "last-type"
    Config = LastTypeConfig

    def __init__(self, config: LastTypeConfig, schema: Schema, seed: int) -> None:
        super().__init__(config, schema, seed)
        self._repeats = np.array([1.0, 2.0])  # events of the last type, and all of them

    def forecast(self, history: EventHistory, overall: Overall) -> tuple[Floats, Floats]:
        n = len(history.lengths)
        proba, rates = np.tile(overall.types, (n, 1)), np.full(n, overall.rate)
        last = history.types[np.arange(n), np.maximum(history.lengths - 1, 0)]
        rows = np.flatnonzero((last >= 0) & (last < proba.shape[1]))
        if len(rows) and proba.shape[1] > 1:
            again = float(self._repeats[0] / self._repeats[1])
            others = 1 - proba[rows, last[rows]]
            proba[rows] *= ((1 - again) / others)[:, None]
            proba[rows, last[rows]] = again
        return proba, rates

    def notice(self, history: EventHistory, y: int, wait: float) -> None:
        if y >= 0 and history.lengths[0]:
            self._repeats *= self._fade
            self._repeats += [history.types[0, history.lengths[0] - 1] == y, 1.0]

    def state(self) -> State:
        return {**super().state(), "repeats": self._repeats}

    def load(self, state: State) -> None:
        super().load(state)
        self._repeats = np.array(state["repeats"])
