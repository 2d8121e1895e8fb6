"""Vectors and images beside other columns."""

from __future__ import annotations

import math

import numpy as np

from learners.networks.encoders.base import ColumnEncoder, Rows
from learners.results import Encoding
from streams.core.batch import Array, Batch
from streams.core.schema import Feature
from streams.core.state_dict import State
from streams.core.statistics.running_moments import RunningMoments, VectorMoments

_WHITE = np.float32(255)


class Vectors(ColumnEncoder):
    """Each number of a vector, scaled by its running mean and deviation.

    Args:
        features: of kind vector.
        scale: whether they are scaled; else they are clipped to the range of float32.
        one_unit: whether the numbers of a vector may have one unit (``VectorMoments``).
    """

    name = "vectors"

    def __init__(self, features: tuple[Feature, ...], scale: bool, one_unit: bool = False) -> None:
        super().__init__(features)
        widths = [math.prod(feature.shape) for feature in features]
        self.width = sum(widths)
        self.moments: RunningMoments | None = None
        if scale:
            self.moments = VectorMoments(widths) if one_unit else RunningMoments((self.width,))

    def rows(self, batch: Batch) -> dict[str, Array]:
        columns = [_flat(batch, feature) for feature in self.features]
        return {self.name: columns[0] if len(columns) == 1 else np.concatenate(columns, 1)}

    def observe(self, rows: Rows) -> None:
        if self.moments is not None:
            self.moments.update(rows[self.name])

    def dense(self, rows: Rows, out: Array) -> None:
        numbers = rows[self.name]
        out[:] = _clipped(numbers) if self.moments is None else self.moments.scale(numbers)

    def encoding(self, feature: Feature) -> Encoding:
        how = "as it is" if self.moments is None else "scaled by its running mean and deviation"
        return Encoding(f"each number {how}")

    def state(self) -> State:
        return {} if self.moments is None else self.moments.state()

    def load(self, state: State) -> None:
        if self.moments is not None:
            self.moments.load(state)


class UnitVectors(Vectors):
    """Vectors that are about of unit scale already, as aggregates are."""

    name = "unit_vectors"

    def __init__(self, features: tuple[Feature, ...]) -> None:
        super().__init__(features, scale=False)


class Images(ColumnEncoder):
    """The pixels of images as one row of numbers from 0 to 1."""

    name = "pixels"

    def __init__(self, features: tuple[Feature, ...]) -> None:
        super().__init__(features)
        self.width = sum(math.prod(feature.shape) for feature in features)

    def rows(self, batch: Batch) -> dict[str, Array]:
        columns = [_flat(batch, feature) for feature in self.features]
        return {self.name: columns[0] if len(columns) == 1 else np.concatenate(columns, 1)}

    def dense(self, rows: Rows, out: Array) -> None:
        np.divide(rows[self.name], _WHITE, out=out, dtype=np.float32)

    def encoding(self, feature: Feature) -> Encoding:
        return Encoding("pixels from 0 to 1")


def _flat(batch: Batch, feature: Feature) -> Array:
    """Return a column (n, *shape) as (n, numbers), in C order. It may be all that events have."""
    x = batch.x
    column = np.asarray(x if isinstance(x, np.ndarray) else x[feature.name])
    return np.ascontiguousarray(column).reshape(len(batch), -1)


_MAX = float(np.finfo(np.float32).max)


def _clipped(numbers: Array) -> Array:
    return np.minimum(np.maximum(numbers, -_MAX), _MAX) if numbers.itemsize > 4 else numbers
