"""Features relative to the recent past."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import accumulate

import numpy as np

from streams.core.batch import Array, Batch
from streams.core.running_moments import RunningMoments
from streams.core.schema import Schema
from streams.core.state_dict import State
from streams.core.stream_config import StandardiseConfig
from streams.operators.base import Operator


class Standardise(Operator):
    """Numeric features and vectors, less their mean and divided by their standard deviation.

    A micro-batch is scaled by what was known before it, and observed afterwards: nothing looks
    ahead. An event waits for its label *as it was seen*, so a learner learns, and a buffer keeps,
    just what was predicted from. (A learner that scales its own input sees old events anew, under
    the scale of today: right for a scale that settles, wrong for one that follows the stream.)
    Probes are scaled, never observed.
    """

    def __init__(self, config: StandardiseConfig, schema: Schema) -> None:
        if schema.matrix:
            shape = schema.row_shape
            if schema.features[0].kind == "image":
                raise ValueError("stream.standardise: images are not standardised")
        else:
            wanted = [f for f in schema.features if f.kind in ("numeric", "vector")]
            if not wanted:
                raise ValueError("stream.standardise: there is no numeric feature and no vector")
            self._widths = {f.name: math.prod(f.shape) for f in wanted}
            shape = (sum(self._widths.values()),)
        self.moments = RunningMoments(shape, config.half_life)

    def apply(self, batch: Batch) -> Batch:
        rows = self._rows(batch)
        seen = self._seen(batch, rows)
        if batch.probe is not None and np.count_nonzero(batch.probe):
            rows = rows.take(np.flatnonzero(~batch.probe), 0)  # a mask takes twice the time
        if len(rows):
            self.moments.update(rows)
        return seen

    def view(self, batch: Batch) -> Batch:
        return self._seen(batch, self._rows(batch))

    def _rows(self, batch: Batch) -> Array:
        """(n, width), or (n, *shape): the numbers of n events."""
        x = batch.x
        if isinstance(x, np.ndarray):
            return x if x.ndim > 1 else x[:, None]
        parts = {name: np.asarray(x[name]) for name in self._widths}
        return np.concatenate(
            [part.reshape(len(batch), self._widths[name]) for name, part in parts.items()], axis=1
        )

    def _seen(self, batch: Batch, rows: Array) -> Batch:
        scaled, x = self.moments.scale(rows), batch.x
        if isinstance(x, np.ndarray):
            return replace(batch, x=scaled)
        cuts = list(accumulate(self._widths.values()))[:-1]
        columns = {
            name: column.reshape(np.asarray(x[name]).shape)
            for name, column in zip(self._widths, np.split(scaled, cuts, axis=1), strict=True)
        }
        return replace(batch, x={**x, **columns})

    def state(self) -> State:
        return self.moments.state()

    def load(self, state: State) -> None:
        self.moments.load(state)
