"""A learner of your own: check it, then let it learn Elec2.

A job names it by its import path: ``learner: {kind: "own_learner:NearestMean"}``.
"""

from pathlib import Path

import numpy as np

from learners import Learner, LearnerError, Prediction, check_learner
from pipeline.config import job as jobs
from pipeline.training.builder import build
from streams.core.batch import Batch


class NearestMean(Learner):
    """Predict the class whose mean is nearest."""

    kind = "own_learner:NearestMean"
    handles = frozenset({"classification", "binary"})

    def __init__(self, config, schema, seed: int) -> None:
        super().__init__(config, schema, seed)
        if not schema.matrix or len(schema.row_shape) != 1:
            raise LearnerError("NearestMean takes numeric columns or one vector")
        self.sums = np.zeros((len(self.classes), *schema.row_shape))
        self.counts = np.ones(len(self.classes))

    def predict(self, batch: Batch) -> Prediction:
        value = np.full(len(batch), -1)  # no prediction before the first class
        if len(self.sums):
            means = self.sums / self.counts[:, None]
            value = np.square(batch.x[:, None, :] - means).sum(2).argmin(1)
        return Prediction(batch.ids, "classification", value, None, self.classes, self.version)

    def learn(self, batch: Batch) -> None:
        new = len(self.classes) - len(self.sums)  # classes may appear at any time
        self.sums = np.pad(self.sums, ((0, new), (0, 0)))
        self.counts = np.pad(self.counts, (0, new), constant_values=1)
        np.add.at(self.sums, batch.y, batch.x)
        np.add.at(self.counts, batch.y, 1)

    def state(self) -> dict:
        return {**self.common_state(), "sums": self.sums, "counts": self.counts}

    def load(self, state: dict) -> None:
        self.load_common(state)
        self.sums, self.counts = state["sums"].copy(), state["counts"].copy()


if __name__ == "__main__":
    check_learner(NearestMean)
    stream = {"kind": "recorded", "path": "streams/data/elec2.parquet", "label": "class"}
    stream |= {"label_delay": {"events": 48}, "standardise": {"half_life": 10}}
    job = {"name": "own", "stream": stream, "learner": {"kind": NearestMean.kind}}
    parts = build(jobs.check(job, Path(__file__), Path(__file__).parent))
    for block in parts.reader.read({}):
        parts.loop.step(block)
    print(f"online accuracy {parts.loop.results()['online/accuracy']:.3f}")
