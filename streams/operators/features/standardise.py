"""Scale features by their running mean and standard deviation."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import accumulate

import numpy as np

from streams.core.batch import Array, Batch
from streams.core.schema import Schema
from streams.core.state_dict import State
from streams.core.statistics.running_moments import RunningMoments
from streams.core.stream_config import StandardiseConfig
from streams.operators.base import Operator


class Standardise(Operator):
    """Subtracts the running mean from numeric features and vectors, and divides by the standard
    deviation.

    A micro-batch is scaled by what was known before it, and observed afterwards: nothing looks
    ahead. An event waits for its label in its scaled form, so a learner learns, and a buffer keeps,
    exactly what was predicted from. (A learner that scales its own input sees old events under
    today's scale: right for a scale that converges, wrong for one that follows the stream.) Probes
    are scaled, never observed.
    """

    def __init__(self, config: StandardiseConfig, schema: Schema) -> None:
        if schema.matrix:
            shape = schema.row_shape
            if schema.features[0].kind == "image":
                raise ValueError("stream.standardise: images are not standardised")
        else:
            scaled = [f for f in schema.features if f.kind in ("numeric", "vector")]
            if not scaled:
                raise ValueError("stream.standardise: there is no numeric feature and no vector")
            self._widths = {f.name: math.prod(f.shape) for f in scaled}
            shape = (sum(self._widths.values()),)
        self.moments = RunningMoments(shape, config.half_life)

    def apply(self, batch: Batch) -> Batch:
        rows = self._rows(batch)
        scaled = self._scale(batch, rows)
        if batch.probe is not None and np.count_nonzero(batch.probe):
            rows = rows.take(np.flatnonzero(~batch.probe), 0)  # a mask takes twice the time
        if len(rows):
            self.moments.update(rows)
        return scaled

    def view(self, batch: Batch) -> Batch:
        return self._scale(batch, self._rows(batch))

    def _rows(self, batch: Batch) -> Array:
        """Return (n, width), or (n, *shape), the numbers of n events."""
        x = batch.x
        if isinstance(x, np.ndarray):
            return x if x.ndim > 1 else x[:, None]
        parts = {name: np.asarray(x[name]) for name in self._widths}
        return np.concatenate(
            [part.reshape(len(batch), self._widths[name]) for name, part in parts.items()], axis=1
        )

    def _scale(self, batch: Batch, rows: Array) -> Batch:
        """Return the batch with scaled features; ``rows`` are its numbers."""
        scaled, x = self.moments.scale(rows), batch.x
        if isinstance(x, np.ndarray):
            return replace(batch, x=scaled)
        bounds = list(accumulate(self._widths.values()))[:-1]
        columns = {
            name: column.reshape(np.asarray(x[name]).shape)
            for name, column in zip(self._widths, np.split(scaled, bounds, axis=1), strict=True)
        }
        return replace(batch, x={**x, **columns})

    def state(self) -> State:
        return self.moments.state()

    def load(self, state: State) -> None:
        self.moments.load(state)
