"""The no-change baseline (Bifet et al. 2013, "Pitfalls in Benchmarking Data Stream
Classification")."""

from __future__ import annotations

import numpy as np

from learners.base import Learner
from learners.results import Prediction
from streams.core.batch import Batch
from streams.core.state_dict import State


class NoChange(Learner):
    """Predict the label that was revealed last."""

    kind = "no-change"
    per_event = True
    handles_missing = True
    baseline = True
    _last: float | None = None

    def predict(self, batch: Batch) -> Prediction:
        n = len(batch)
        if self.schema.task == "regression":
            target = np.full(n, np.nan if self._last is None else self._last)
            return Prediction(batch.ids, "regression", target, None, (), self.version)
        code = np.full(n, -1 if self._last is None else int(self._last))
        return Prediction(batch.ids, "classification", code, None, self.classes, self.version)

    def learn(self, batch: Batch) -> None:
        assert batch.y is not None
        self._last = batch.y[-1].item()

    def state(self) -> State:
        return {**self.common_state(), "last": self._last}

    def load(self, state: State) -> None:
        self.load_common(state)
        self._last = state["last"]
