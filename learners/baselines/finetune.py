"""Sequential fine-tuning: train on new events alone. The control of every other method."""

from __future__ import annotations

from learners.networks.base import NetworkLearner
from streams.core.batch import Batch


class Finetune(NetworkLearner):
    """Take each gradient step on the newly revealed events alone."""

    kind = "finetune"

    def learn(self, batch: Batch) -> None:
        rows, y = self.inputs.rows(batch), batch.y
        assert y is not None
        x, labels = self.tensor(rows), self.labels(y)
        for _ in range(self.config.steps):
            self.descend(x, labels)
