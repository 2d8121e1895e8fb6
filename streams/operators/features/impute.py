"""Replace missing numbers by their running mean, for learners that take none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from streams.core.batch import Array, Batch
from streams.core.schema import Schema
from streams.core.state_dict import State
from streams.operators.base import Operator

_HUGE = 1e100  # numbers are clipped here, so that sums stay finite


class Impute(Operator):
    """Replaces NaN in numeric features and times by the mean of all numbers of the feature before
    it; by 0 before the first.

    Means advance event by event, so they are the same at any size of micro-batches. An event waits
    for its label in its imputed form: a learner learns exactly what was predicted from. Probes are
    imputed, never observed.

    Attributes:
        imputed: how many numbers were missing so far.
    """

    def __init__(self, schema: Schema) -> None:
        self._names = [f.name for f in schema.features if f.kind in ("numeric", "time")]
        self._sum = np.zeros(len(self._names))
        self._count = np.zeros(len(self._names))
        self.imputed = 0

    def apply(self, batch: Batch) -> Batch:
        rows = self._rows(batch)
        missing = np.isnan(rows)
        observed = ~missing
        if batch.probe is not None:
            observed &= ~batch.probe[:, None]
        # Sums from row to row, in the order of the stream: of floats, no other sum is the same.
        numbers = np.where(observed, rows, 0.0).astype(np.float64).clip(-_HUGE, _HUGE)
        sums = np.cumsum(np.concatenate([self._sum[None], numbers]), axis=0)
        counts = np.cumsum(np.concatenate([self._count[None], observed]), axis=0)
        self._sum, self._count = sums[-1], counts[-1]
        if not missing.any():
            return batch
        self.imputed += int(np.count_nonzero(missing))
        return self._filled(batch, rows, missing, sums[:-1] / np.maximum(counts[:-1], 1))

    def view(self, batch: Batch) -> Batch:
        rows = self._rows(batch)
        missing = np.isnan(rows)
        if not missing.any():
            return batch
        return self._filled(batch, rows, missing, self._sum / np.maximum(self._count, 1))

    def _rows(self, batch: Batch) -> Array:
        """Return (n, numeric features) the numbers of n events."""
        x = batch.x
        if isinstance(x, np.ndarray):
            return x if x.ndim > 1 else x[:, None]
        return np.stack([np.asarray(x[name]) for name in self._names], axis=1)

    def _filled(self, batch: Batch, rows: Array, missing: Array, means: Array) -> Batch:
        filled = np.where(missing, means, rows).astype(rows.dtype)
        x = batch.x
        if isinstance(x, np.ndarray):
            return replace(batch, x=filled.reshape(x.shape))
        columns = {name: filled[:, j] for j, name in enumerate(self._names)}
        return replace(batch, x={**x, **columns})

    def state(self) -> State:
        return {"sum": self._sum, "count": self._count, "imputed": self.imputed}

    def load(self, state: State) -> None:
        self._sum, self._count = state["sum"], state["count"]
        self.imputed = state["imputed"]
