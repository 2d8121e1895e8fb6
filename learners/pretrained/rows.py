"""Rows of numbers for learners on frozen features: one vector as it is, other columns encoded."""

from __future__ import annotations

import math

import numpy as np

from learners.networks.column_inputs import ColumnInputs
from learners.networks.encoders import Rows
from learners.networks.inputs import Inputs, InputsConfig, MatrixInputs, float32
from learners.results import Encoding
from streams.core.batch import Array, Batch
from streams.core.schema import Schema
from streams.core.state_dict import State, copied, digest

MOST = np.float32(1e15)
"""The largest number of a row."""


class FeatureRows:
    """Turn events into rows of float32 numbers, without embeddings.

    A vector of unit scale, as an encoder gives, is taken as it is. All other columns are encoded as
    for a network: numbers and vectors are scaled by their mean and deviation, categories and texts
    are hashed. The numbers of a vector may have one unit (``VectorMoments``): a pixel that has
    not varied in the first classes must not outweigh all others once it does.

    A sum over rows is meaningful only where old and new events have one scale. So means and
    deviations are those of the first ``warm_up`` events, and are then kept: see ``fixed``. Before
    that, the scale changes only when twice as many events have been seen as at its last change.
    ``observe`` says when it does: rows that were encoded before are void then, and sums of them
    too. In a table of numbers, columns of which a number was missing by then
    have an indicator at the end of a row. Numbers beyond 1e15 count as 1e15, so that squares and
    sums of them are finite in float32.

    Args:
        schema: the features.
        scale: whether numbers and vectors are scaled.
        warm_up: events that the scale is learned from.

    Attributes:
        needed: events whose scale is still to be learned; 0 where there is none to learn.
    """

    def __init__(self, schema: Schema, scale: bool = True, warm_up: int = 1000) -> None:
        self._running = _inputs(schema, scale)  # its scale follows all events until it is fixed
        self._used = _inputs(schema, scale)  # its scale is that of the last change
        self._warm_up = warm_up if _has_scale(schema, scale) else 0
        self._seen = 0
        self._change_at = 1
        self._dates = schema.has_times
        self._encodings = {f.name: Encoding("as it is") for f in schema.features}
        self._width = math.prod(schema.row_shape) if schema.matrix else 0
        self._settle()

    @property
    def dimension(self) -> int:
        """Numbers of a row, as of now."""
        if self._used is None:
            return self._width
        return math.prod(self._used.shape) + len(self._used.marked)

    @property
    def needed(self) -> int:
        return max(self._warm_up - self._seen, 0)

    @property
    def fixed(self) -> bool:
        """Whether the numbers of an event are the same from now on."""
        return not self.needed

    @property
    def observes(self) -> bool:
        """Whether ``observe`` has an effect."""
        return not self.fixed or self._dates

    def of(self, batch: Batch) -> Array:
        """Return (n, dimension) float32 rows of n events, in C order. They may be views. Pure."""
        return self.encode(self.raw(batch))

    def raw(self, batch: Batch) -> Rows:
        """Return n events with the precision of the stream, by name: (n, ...) each. Pure."""
        if self._running is not None:
            return self._running.rows(batch)
        assert isinstance(batch.x, np.ndarray)
        return {"x": batch.x.reshape(len(batch), self._width)}

    def encode(self, raw: Rows) -> Array:
        """Return (n, dimension) float32 rows of what ``raw`` returned, at the present scale."""
        if self._used is not None:
            encoded: Array = self._used.tensor(raw).numpy()
            return bounded(encoded.reshape(len(encoded), -1))
        x = raw["x"]
        return bounded(np.ascontiguousarray(x if x.dtype == np.float32 else float32(x)))

    def observe(self, batch: Batch) -> bool:
        """Learn the scale of n >= 1 events, as long as it is not fixed.

        Returns:
            Whether the scale of all rows has changed.
        """
        if self._running is None:
            return False
        needed, changed = self.needed, False
        if 0 < needed < len(batch):
            changed = self._observe(self._running, batch[:needed])
            batch = batch[needed:]
        return self._observe(self._running, batch) or changed

    def _observe(self, running: Inputs, batch: Batch) -> bool:
        running.marked = [*running.marked, *running.observe(batch).missing]
        if self.fixed:
            return False
        self._seen += len(batch)
        if self._seen < min(self._change_at, self._warm_up):
            return False
        self._change()
        return True

    def fix(self) -> None:
        """Let the scale be that of the events seen so far, from now on."""
        self._seen = self._warm_up
        self._change()

    def _change(self) -> None:
        if self._running is not None and self._used is not None:
            self._used.load(copied(self._running.state()))
            self._change_at = 2 * self._seen
            self._settle()

    def _settle(self) -> None:
        if self._running is not None:
            self._running.fixed = self.fixed

    def same_scale(self, other: FeatureRows) -> bool:
        """Return whether both turn all events into the same rows, from now on."""
        if self._used is None or other._used is None:
            return self._used is other._used
        both = digest(self._used.state()) == digest(other._used.state())
        return both and self.fixed and other.fixed

    def encodings(self) -> dict[str, Encoding]:
        """Return how each feature is encoded, by name."""
        return self._encodings if self._used is None else self._used.encodings()

    def state(self) -> State:
        """Return what was learned; empty where nothing is."""
        if self._running is None or self._used is None:
            return {}
        state = {"seen": self._seen, "inputs": self._running.state()}
        if self.fixed:
            return state
        return {**state, "used": self._used.state(), "change_at": self._change_at}

    def load(self, state: State) -> None:
        """Restore what ``state`` returned."""
        if self._running is None or self._used is None:
            return
        self._seen = state["seen"]
        self._change_at = state.get("change_at", 1)
        self._running.load(copied(state["inputs"]))
        self._used.load(copied(state["used" if "used" in state else "inputs"]))
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
        return ColumnInputs(schema, scale, config, embedded=False, one_unit=True)
    return MatrixInputs(schema, scale, one_unit=True)


def bounded(rows: Array) -> Array:
    """Return rows of float32 numbers with those beyond 1e15 at this bound; a copy if there are."""
    if not rows.size or (rows.max() <= MOST and rows.min() >= -MOST):
        return rows
    return np.clip(rows, -MOST, MOST)
