"""The columns of a stream that frozen encoders turn into vectors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from learners.base import LearnerError
from learners.pretrained.encoders.base import Encoder
from learners.pretrained.encoders.cache import FeatureCache
from learners.pretrained.encoders.registry import encoder_class, load_encoder, located
from streams.core.batch import Array, Batch, Column
from streams.core.schema import Feature, Schema
from streams.core.settings import unknown

_Loaded = dict[tuple[Any, ...], Encoder]
"""Encoders by all that makes them."""


@dataclass(frozen=True, slots=True)
class EncodedColumn:
    """What an encoder makes of a column; JSON.

    Attributes:
        encoder: its kind and settings.
        seed: of its random weights.
        dimension: of its vectors.
        unit: whether these are about of unit scale.
        fingerprint: of the encoder.
    """

    encoder: dict[str, Any]
    seed: int
    dimension: int
    unit: bool
    fingerprint: str


class EncodedColumns:
    """What encoders make of the columns of a stream, known without their weights.

    A text or image becomes a feature of kind vector, with the same name. Where it is the only
    feature, ``Batch.x`` is then one array.

    Args:
        raw: the schema of the stream.
        columns: the encoded ones, by name.

    Attributes:
        schema: the schema after encoding.
    """

    def __init__(self, raw: Schema, columns: Mapping[str, EncodedColumn]) -> None:
        self.columns = dict(columns)
        features = (
            _vector(feature, columns[feature.name]) if feature.name in columns else feature
            for feature in raw.features
        )
        self.schema = replace(raw, features=tuple(features))

    def raw(self, batch: Batch) -> dict[str, Column]:
        """Return the columns that are to be encoded."""
        if isinstance(batch.x, np.ndarray):
            return dict.fromkeys(self.columns, batch.x)
        return {name: batch.x[name] for name in self.columns}

    def merged(self, batch: Batch, vectors: Mapping[str, Array]) -> Batch:
        """Return a batch with vectors (n, dimension) in place of the columns of these names."""
        if self.schema.matrix:
            (x,) = vectors.values()
            return replace(batch, x=x)
        assert not isinstance(batch.x, np.ndarray)
        return replace(batch, x={**batch.x, **vectors})

    def fingerprints(self) -> dict[str, str]:
        """Return the fingerprint of the encoder of each column."""
        return {name: column.fingerprint for name, column in self.columns.items()}

    def settings(self) -> dict[str, Any]:
        """Return all of it but the raw schema, as JSON."""
        return {name: asdict(column) for name, column in self.columns.items()}

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any], raw: Schema) -> EncodedColumns:
        """Return what ``settings`` was called on."""
        return cls(raw, {name: EncodedColumn(**column) for name, column in settings.items()})


class ColumnEncoders:
    """The encoders of the columns of a stream, loaded. Columns with equal settings share one.

    Args:
        columns: what they make of the columns.
        encoders: of each column, by its name.
        caches: of some of these encoders.
    """

    def __init__(
        self,
        columns: EncodedColumns,
        encoders: Mapping[str, Encoder],
        caches: Mapping[Encoder, FeatureCache] = MappingProxyType({}),
    ) -> None:
        self.columns = columns
        self._encoders = dict(encoders)
        self._caches = dict(caches)

    @classmethod
    def load(
        cls,
        stated: Mapping[str, Any],
        schema: Schema,
        seed: int,
        device: str = "cpu",
        folder: Path | None = None,
    ) -> ColumnEncoders:
        """Load the encoders that a job states.

        Args:
            stated: the settings of one encoder, for all columns that suit it; or those of each
                column, by its name.
            schema: of the stream.
            seed: of random weights.
            device: of torch.
            folder: that relative paths start from; None: the working folder.

        Raises:
            LearnerError: a column does not suit its encoder, or an encoder cannot be loaded.
        """
        features = {feature.name: feature for feature in schema.features}
        encoders: dict[str, Encoder] = {}
        shared: _Loaded = {}
        columns: dict[str, EncodedColumn] = {}
        for name, settings in _by_column(stated, features).items():
            place = "stream.encoder" if name not in stated else f"stream.encoder.{name}"
            settings = located(settings, folder or Path.cwd())
            encoder = encoders[name] = _load(shared, settings, features[name], seed, device, place)
            facts = encoder.dimension, encoder.unit, encoder.fingerprint
            columns[name] = EncodedColumn(dict(settings), seed, *facts)
        return cls(EncodedColumns(schema, columns), encoders)

    @classmethod
    def load_known(
        cls, columns: EncodedColumns, raw: Schema, device: str = "cpu"
    ) -> ColumnEncoders:
        """Load the encoders of a model.

        Args:
            columns: what they make of the columns.
            raw: the schema of the stream.
            device: of torch.

        Raises:
            LearnerError: an encoder cannot be loaded, or is not the one of the model.
        """
        features = {feature.name: feature for feature in raw.features}
        encoders: dict[str, Encoder] = {}
        shared: _Loaded = {}
        for name, column in columns.columns.items():
            place = f"encoder of {name!r}"
            about = column.encoder, features[name], column.seed, device
            encoder = encoders[name] = _load(shared, *about, place)
            if encoder.fingerprint != column.fingerprint:
                raise LearnerError(
                    f"{place}: {encoder.kind} has the fingerprint {encoder.fingerprint} here, and "
                    f"the model was trained with {column.fingerprint}: install the version of its "
                    "weights that the run had, or train a model anew"
                )
        return cls(columns, encoders)

    def cached(self, size: int, folder: Path | None) -> ColumnEncoders:
        """Return the same encoders; costly ones look up values that they have encoded before.

        Args:
            size: bytes of vectors at most, of each encoder.
            folder: of the cache on the disk; None: it is in memory.

        Raises:
            LearnerError: the folder cannot be written to, or the bytes are too few.
        """
        different = {encoder for encoder in self._encoders.values() if encoder.costly}
        caches = {encoder: FeatureCache(encoder, size, folder) for encoder in different}
        return ColumnEncoders(self.columns, self._encoders, caches)

    def encode(self, raw: Mapping[str, Column]) -> dict[str, Array]:
        """Return the vectors (n, dimension) of the columns that ``EncodedColumns.raw`` returned."""
        encoders = {name: self._encoders[name] for name in raw}
        return {
            name: self._caches.get(encoder, encoder).encode(raw[name])
            for name, encoder in encoders.items()
        }

    def cache_bytes(self) -> int:
        """Return the bytes of all cached vectors. It looks at all places of the caches."""
        return sum(cache.counts().bytes for cache in self._caches.values())

    def lookups(self) -> tuple[int, int]:
        """Return how many values were found in the caches, and how many were encoded."""
        caches = self._caches.values()
        return sum(cache.hits for cache in caches), sum(cache.misses for cache in caches)

    def apply(self, batch: Batch) -> Batch:
        """Return a batch with vectors in place of its encoded columns. Pure."""
        return self.columns.merged(batch, self.encode(self.columns.raw(batch)))


def _by_column(
    stated: Mapping[str, Any], features: Mapping[str, Feature]
) -> dict[str, Mapping[str, Any]]:
    """Return the settings of the encoder of each column, in the order of the stream."""
    kind = stated.get("kind")
    if not isinstance(kind, str):
        for name in stated:
            if name not in features:
                raise LearnerError(f"stream.encoder: there is no feature {unknown(name, features)}")
        return {name: stated[name] for name in features if name in stated}
    suited = encoder_class(kind).kinds
    suitable = {name: stated for name, feature in features.items() if feature.kind in suited}
    if not suitable:
        kinds = ", ".join(dict.fromkeys(feature.kind for feature in features.values()))
        raise LearnerError(
            f"stream.encoder: encoder {kind!r} takes columns of kind "
            f"{' or '.join(sorted(suited))}, and this stream has only {kinds}: leave it out, or "
            "name another encoder"
        )
    return suitable


def _load(
    shared: _Loaded,
    settings: Mapping[str, Any],
    feature: Feature,
    seed: int,
    device: str,
    place: str,
) -> Encoder:
    """Return an encoder: the one that was loaded for another column of the same kind and shape, if
    their settings are equal."""
    key = (json.dumps(settings, sort_keys=True), seed, feature.kind, feature.shape, feature.unit)
    if key not in shared:
        try:
            encoder = load_encoder(settings, feature, seed)
            if device != "cpu":
                encoder.move_to(device)
        except LearnerError as error:
            raise LearnerError(f"{place}: {error}") from None
        shared[key] = encoder
    return shared[key]


def _vector(feature: Feature, column: EncodedColumn) -> Feature:
    return Feature(feature.name, "vector", (column.dimension,), unit=column.unit)
