"""Inputs: turn the columns of events into the float32 tensor that a network takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator
from torch import Tensor

from learners.networks.compressed_tables import Compression
from learners.networks.encoders import Rows
from learners.results import Encoding
from streams.core.batch import Array, Batch, Ints
from streams.core.schema import Schema
from streams.core.settings import Settings
from streams.core.state_dict import State
from streams.core.statistics.running_moments import RunningMoments, VectorMoments

_MAX = float(np.finfo(np.float32).max)
_WHITE = np.float32(255)
_MAX_ROWS = 1 << 23  # float32 holds every code up to 2**24


class InputsConfig(Settings):
    """How columns reach a network.

    Attributes:
        bins: quantile bins of each number, whose embeddings stand beside the scaled number; 0:
            none. None: 16 beside other kinds of columns, none in a table of numbers alone.
        wide: whether a linear model of all inputs is added to the outputs of the network. None: it
            is beside other kinds of columns, and not in a table of numbers alone.
        categories: how a network gets the values of categorical columns: as ``embeddings``, or as
            32 hashed ``indicators`` for each column, which suit columns of a few values. None: as
            embeddings.
        rows: embeddings for the values of all columns together. It bounds the memory.
        dimension: of an embedding.
        admit_after: how often a value is seen before it has an embedding of its own.
        min_age: where there is no room, a value gives up its embedding to a new one only after this
            many events without it.
        compression: how the embeddings of values share memory. ``hashed``: values of one hash share
            one. ``quotient-remainder``: an embedding is the product of two, which values share
            otherwise. ``int8``: each number is one byte. None: a value has its own, in float32.
        crosses: lists of categorical columns whose combinations are values too.
        text_places: hashed places of a text column.
    """

    bins: NonNegativeInt | None = Field(None, le=255)
    wide: bool | None = None
    categories: Literal["embeddings", "indicators"] | None = None
    rows: PositiveInt = Field(65_536, le=_MAX_ROWS)
    dimension: PositiveInt = Field(8, le=1024)
    admit_after: PositiveInt = Field(2, le=255)
    min_age: NonNegativeInt = 10_000
    compression: Compression | None = None
    crosses: tuple[tuple[str, ...], ...] = ()
    text_places: PositiveInt = Field(1024, le=1 << 16, multiple_of=2)

    @field_validator("bins")
    @classmethod
    def _several(cls, bins: int | None) -> int | None:
        if bins == 1:
            raise ValueError("one bin tells nothing apart: 0, or 2 to 255")
        return bins

    def as_columns(self, schema: Schema) -> bool:
        """Return whether each kind of column has an encoder of its own.

        A single vector and a single image are one array; so is a table of numbers alone, unless
        bins or a linear part are asked for. Crosses are of columns, and refused where there are
        none.
        """
        numbers = schema.features[0].kind == "numeric"
        asked = numbers and bool(self.bins or self.wide)
        return not schema.matrix or asked or bool(self.crosses)


class NewValues(NamedTuple):
    """Values that have got an embedding of their own.

    Attributes:
        codes: (m,) int64, their codes.
        prior: (m,) int64, the codes that they had before: their embeddings start as copies.
    """

    codes: Ints
    prior: Ints


class Observed(NamedTuple):
    """What events have shown for the first time.

    Attributes:
        missing: the columns of a row with missing numbers that have no indicator yet.
        new: values that have got an embedding.
    """

    missing: list[int]
    new: NewValues | None = None


class Inputs(ABC):
    """Encode events in two steps: rows to store, and tensors to learn from.

    ``rows`` returns what a buffer stores of n events, with the precision of the stream, so that a
    pixel stays one byte. ``tensor`` encodes rows by what is known *at the time of the call*, so
    that old and new events are encoded alike.

    Attributes:
        shape: of one encoded row.
        image: whether rows are images.
        codes: how many numbers at the end of a row are codes of embeddings.
        marked: the columns that have an indicator of missing numbers behind the row.
        observes: whether ``observe`` has an effect.
        fixed: whether scales and values stay as they are; ``observe`` then learns none.
    """

    shape: tuple[int, ...]
    image: bool = False
    codes: int = 0
    marked: list[int]
    observes: bool
    fixed: bool = False

    @abstractmethod
    def rows(self, batch: Batch) -> Rows:
        """Return what a buffer stores of n events, by name: (n, ...) each."""

    @abstractmethod
    def tensor(self, rows: Rows) -> Tensor:
        """Return the rows encoded as of now: (n, *shape) float32, and the indicators."""

    @abstractmethod
    def observe(self, batch: Batch) -> Observed:
        """Learn scales and values from n >= 1 events. Return what is new."""

    @abstractmethod
    def encodings(self) -> dict[str, Encoding]:
        """Return how each feature is encoded, by name."""

    @abstractmethod
    def state(self) -> State:
        """Return what it has learned."""

    def servable(self) -> State:
        """Return what a server needs to encode as of now. By default that is the state."""
        return self.state()

    @abstractmethod
    def load(self, state: State) -> None:
        """Restore what ``state`` or ``servable`` returned."""


class MatrixInputs(Inputs):
    """Encode rows that are one array: numbers alone, one vector, or one image.

    Numbers and vectors are scaled by the running mean and variance; without ``scale`` they are only
    clipped to the range of float32. Pixels are scaled from 0..255 to 0..1: a background of -1 would
    starve hidden units of a perceptron.

    A missing number is NaN in a row, and the running mean in a tensor. Each of ``marked`` has an
    indicator at the end of a tensor's rows: 1 where the number is missing, else 0. A column is
    marked once a number of it was missing, so that nothing is added to streams without gaps.

    Args:
        schema: the features.
        scale: whether numbers and vectors are scaled.
        one_unit: whether the numbers of a vector may have one unit (``VectorMoments``).

    Attributes:
        moments: the running mean and variance.
    """

    def __init__(self, schema: Schema, scale: bool = True, one_unit: bool = False) -> None:
        self.scale = scale
        self._features = schema.features
        self.image = schema.features[0].kind == "image"
        self.shape = schema.row_shape
        if one_unit and schema.features[0].kind == "vector":
            self.moments: RunningMoments = VectorMoments(self.shape)
        else:
            self.moments = RunningMoments(() if self.image else self.shape)
        self.marked: list[int] = []
        self._gaps = schema.may_miss_numbers
        self.observes = (scale or self._gaps) and not self.image

    def rows(self, batch: Batch) -> Rows:
        """Return the array (n, *shape) as "x", in C order: sums in another order are rounded
        differently."""
        x = batch.x
        assert isinstance(x, np.ndarray)
        return {"x": np.ascontiguousarray(x.reshape(len(x), 1) if x.ndim == 1 else x)}

    def encodings(self) -> dict[str, Encoding]:
        scaled = "scaled by its running mean and deviation" if self.scale else "as it is"
        by_kind = {
            "numeric": Encoding(scaled),
            "vector": Encoding(f"each number {scaled}"),
            "image": Encoding("pixels from 0 to 1"),
        }
        return {feature.name: by_kind[feature.kind] for feature in self._features}

    def observe(self, batch: Batch) -> Observed:
        """Update the running mean and variance with n >= 1 events.

        Without ``scale`` they are needed, and kept, from the first missing number on.
        """
        if self.fixed:
            return Observed([])
        numbers = self.rows(batch)["x"]
        missing: list[int] = []
        if self._gaps and (gaps := np.isnan(numbers)).any():
            missing = np.flatnonzero(gaps.any(axis=0)).tolist()
        if self.scale or missing or np.any(self.moments.count):
            self.moments.update(numbers)
        return Observed([column for column in missing if column not in self.marked])

    def tensor(self, rows: Rows) -> Tensor:
        x = rows["x"]
        if self.image:
            return torch.from_numpy(np.divide(x, _WHITE, dtype=np.float32))
        scaled = self.moments.scale(x) if self.scale else float32(x)
        return torch.from_numpy(self._imputed(scaled) if self._gaps else scaled)

    def _imputed(self, x: Array) -> Array:
        """Replace NaN by the mean in float32 rows, in place. Return them with the indicators."""
        missing = np.isnan(x)
        if not self.marked and not missing.any():
            return x
        np.copyto(x, 0 if self.scale else float32(self.moments.mean), where=missing)
        if not self.marked:
            return x
        return np.concatenate([x, missing[:, self.marked]], axis=1, dtype=np.float32)

    def state(self) -> State:
        marked = {"marked": list(self.marked)} if self.marked else {}
        return {**self.moments.state(), **marked}

    def load(self, state: State) -> None:
        self.moments.load(state)
        self.marked = list(state.get("marked", ()))


def float32(rows: Array) -> Array:
    """Return a float32 copy. Numbers beyond the range become the largest float32."""
    if rows.dtype.kind == "f" and rows.itemsize > 4:
        rows = np.minimum(np.maximum(rows, -_MAX), _MAX)
    return np.array(rows, np.float32)
