"""Rows of numbers for learners on frozen features: one vector as it is, other columns encoded."""

from __future__ import annotations

import math

import numpy as np

from learners.base import Encoding
from learners.networks.column_inputs import ColumnInputs
from learners.networks.inputs import Inputs, InputsConfig, MatrixInputs, float32
from streams.core.batch import Array, Batch
from streams.core.schema import Schema
from streams.core.state_dict import State


class FeatureRows:
    """Turn events into rows of float32 numbers, without embeddings.

    A vector of unit scale, as an encoder gives, is taken as it is. All other columns are encoded as
    for a network: numbers and vectors are scaled by their mean and deviation, categories and texts
    are hashed.

    A sum over rows is meaningful only where old and new events have one scale. So means and
    deviations are those of the first ``warm_up`` events, and are then kept: see ``fixed``.

    Args:
        schema: the features.
        scale: whether numbers and vectors are scaled.
        warm_up: events that the scale is learned from.

    Attributes:
        dimension: numbers of a row.
        needed: events whose scale is still to be learned; 0 where there is none to learn.
    """

    def __init__(self, schema: Schema, scale: bool = True, warm_up: int = 1000) -> None:
        self._inputs = _inputs(schema, scale)
        self._warm_up = warm_up if _has_scale(schema, scale) else 0
        self._seen = 0
        self._encodings = {f.name: Encoding("as it is") for f in schema.features}
        shape = schema.row_shape if self._inputs is None else self._inputs.shape
        self.dimension = math.prod(shape)
        self._settle()

    @property
    def needed(self) -> int:
        return max(self._warm_up - self._seen, 0)

    @property
    def fixed(self) -> bool:
        """Whether the numbers of an event are the same from now on."""
        return not self.needed

    def of(self, batch: Batch) -> Array:
        """Return (n, dimension) float32 rows of n events, in C order. They may be views. Pure."""
        n = len(batch)
        if self._inputs is not None:
            return self._inputs.tensor(self._inputs.rows(batch)).numpy().reshape(n, -1)
        assert isinstance(batch.x, np.ndarray)
        x = batch.x.reshape(n, self.dimension)
        return np.ascontiguousarray(x if x.dtype == np.float32 else float32(x))

    def observe(self, batch: Batch) -> None:
        """Learn the scale of n >= 1 events, as long as it is not fixed."""
        if self._inputs is None:
            return
        needed = self.needed
        if 0 < needed < len(batch):
            self._observe(self._inputs, batch[:needed])
            batch = batch[needed:]
        self._observe(self._inputs, batch)

    def _observe(self, inputs: Inputs, batch: Batch) -> None:
        inputs.observe(batch)
        self._seen = min(self._seen + len(batch), self._warm_up)
        self._settle()

    def _settle(self) -> None:
        if self._inputs is not None:
            self._inputs.fixed = self.fixed

    def encodings(self) -> dict[str, Encoding]:
        """Return how each feature is encoded, by name."""
        return self._encodings if self._inputs is None else self._inputs.encodings()

    def state(self) -> State:
        """Return what was learned; empty where nothing is."""
        return {} if self._inputs is None else {"seen": self._seen, "inputs": self._inputs.state()}

    def load(self, state: State) -> None:
        """Restore what ``state`` returned."""
        if self._inputs is not None:
            self._seen = state["seen"]
            self._inputs.load(state["inputs"])
            self._settle()


def _has_scale(schema: Schema, scale: bool) -> bool:
    """Return whether there are columns with a mean, which is needed to impute, or a deviation."""
    numbers = any(feature.kind == "numeric" for feature in schema.features)
    return numbers or (scale and any(f.kind == "vector" and not f.unit for f in schema.features))


def _inputs(schema: Schema, scale: bool) -> Inputs | None:
    """Return what encodes the columns; None for one vector that is taken as it is."""
    first = schema.features[0]
    if len(schema.features) == 1 and first.kind == "vector" and (first.unit or not scale):
        return None
    config = InputsConfig()
    if config.as_columns(schema):
        return ColumnInputs(schema, scale, config, embedded=False)
    return MatrixInputs(schema, scale)
