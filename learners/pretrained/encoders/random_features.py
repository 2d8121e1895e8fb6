"""Random features of the numbers of a vector or of the pixels of an image."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from learners.pretrained.encoders.base import Encoder, EncoderConfig, fingerprint_of
from learners.pretrained.encoders.identity import flat_numbers
from learners.pretrained.feature_maps import RandomFeatures, RandomFeaturesConfig
from streams.core.batch import Array, Column
from streams.core.schema import Feature


class RandomFeatureConfig(EncoderConfig):
    """Settings of random features.

    Attributes:
        features: ``relu``, or ``fourier``.
        dimension: how many features.
        bandwidth: of Fourier features: values much closer than this are alike. None: the typical
            distance of two rows of as many independent numbers of variance 1.
        seed: of the weights. None: the seed of the job.
    """

    features: Literal["relu", "fourier"] = "relu"
    dimension: PositiveInt = Field(2000, le=1 << 16)
    bandwidth: PositiveFloat | None = None
    seed: int | None = None


class RandomFeatureEncoder(Encoder):
    """A fixed random map of the numbers of a value (``RandomFeatures``)."""

    kind = "random-features"
    kinds = frozenset({"vector", "image"})
    costly = False
    Config = RandomFeatureConfig

    def __init__(self, config: RandomFeatureConfig, feature: Feature, seed: int) -> None:
        super().__init__(config, feature, seed)
        settings = RandomFeaturesConfig(
            kind=config.features, dimension=config.dimension, bandwidth=config.bandwidth
        )
        seed = seed if config.seed is None else config.seed
        self._map = RandomFeatures(settings, math.prod(feature.shape), seed)
        self.dimension = self._map.dimension
        made_of = (config.features, config.dimension, self._map.bandwidth, seed)
        self.fingerprint = fingerprint_of(self.kind, (*made_of, feature.kind, feature.shape))
        self.unit = config.features == "fourier" or feature.unit or feature.kind == "image"
        self._feature = feature

    def encode(self, values: Column) -> Array:
        return self._map(flat_numbers(self._feature, values))
