"""The encoder that leaves numbers as they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from learners.pretrained.encoders.base import Encoder, fingerprint_of
from streams.core.batch import Array, Column
from streams.core.schema import Feature

_MAX = float(np.finfo(np.float32).max)
_WHITE = np.float32(255)


class IdentityEncoder(Encoder):
    """The numbers of a vector, or the pixels of an image from 0 to 1, as one row."""

    kind = "identity"
    kinds = frozenset({"vector", "image"})
    costly = False

    def __init__(self, config: Any, feature: Feature, seed: int) -> None:
        super().__init__(config, feature, seed)
        self.dimension = math.prod(feature.shape)
        self.unit = feature.unit or feature.kind == "image"
        self.fingerprint = fingerprint_of(self.kind, (feature.kind, feature.shape))
        self._feature = feature

    def encode(self, values: Column) -> Array:
        return flat_numbers(self._feature, values)


def flat_numbers(feature: Feature, values: Column) -> Array:
    """Return vectors, or images from 0 to 1, as rows (n, numbers) float32. Numbers beyond the range
    become the largest float32."""
    rows = np.ascontiguousarray(values).reshape(len(values), math.prod(feature.shape))
    out = np.empty(rows.shape, np.float32)
    if feature.kind == "image":
        np.divide(rows, _WHITE, out=out, dtype=np.float32)
    else:
        np.copyto(out, np.clip(rows, -_MAX, _MAX), casting="same_kind")
    return out
