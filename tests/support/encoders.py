"""Encoders for tests."""

from __future__ import annotations

import numpy as np

from learners.pretrained.encoders.base import Encoder
from streams.core.batch import Array, Column, Ragged
from streams.core.schema import Feature


class LengthEncoder(Encoder):
    """The length of a text, in bytes."""

    kind = "length"
    kinds = frozenset({"text"})
    dimension = 1
    unit = False
    fingerprint = "length"

    def __init__(self) -> None:
        super().__init__(None, Feature("text", "text"), 0)

    def encode(self, values: Column) -> Array:
        assert isinstance(values, Ragged)
        return np.diff(values.bounds).astype(np.float32)[:, None]
