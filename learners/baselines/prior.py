"""The prior baseline: class frequencies, or the mean, of all labels revealed so far."""

from __future__ import annotations

import numpy as np

from learners.base import Learner, LearnerConfig
from learners.results import Prediction
from streams.core.batch import Batch
from streams.core.schema import Schema
from streams.core.state_dict import State


class Prior(Learner):
    """Predict class frequencies, or the mean. The lower class code wins ties."""

    kind = "prior"
    per_event = True
    handles_missing = True
    baseline = True

    def __init__(self, config: LearnerConfig, schema: Schema, seed: int) -> None:
        super().__init__(config, schema, seed)
        self._counts = np.zeros(len(self.classes), np.int64)
        self._targets = 0
        self._mean = 0.0

    def predict(self, batch: Batch) -> Prediction:
        n = len(batch)
        if self.schema.task == "regression":
            mean = np.full(n, self._mean if self._targets else np.nan)
            return Prediction(batch.ids, "regression", mean, None, (), self.version)
        total = self._counts.sum()
        share = np.zeros(len(self.classes))
        share[: len(self._counts)] = self._counts / max(total, 1)
        code = np.full(n, share.argmax() if total else -1)
        proba = np.tile(share, (n, 1))
        return Prediction(batch.ids, "classification", code, proba, self.classes, self.version)

    def learn(self, batch: Batch) -> None:
        assert batch.y is not None
        if self.schema.task == "classification":
            counts = np.bincount(batch.y, minlength=len(self.classes))
            counts[: len(self._counts)] += self._counts
            self._counts = counts
            return
        for y in batch.y.tolist():  # one by one: rounding must not depend on batch cuts
            self._targets += 1
            self._mean += (y - self._mean) / self._targets

    def state(self) -> State:
        return {
            **self.common_state(),
            "counts": self._counts,
            "targets": self._targets,
            "mean": self._mean,
        }

    def load(self, state: State) -> None:
        self.load_common(state)
        self._counts, self._targets, self._mean = state["counts"], state["targets"], state["mean"]
