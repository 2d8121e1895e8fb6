"""Inputs of several kinds of columns: one encoder for each kind, concatenated."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from learners.base import Encoding, LearnerError
from learners.networks.encoders import (
    Categories,
    ColumnEncoder,
    Images,
    Indicators,
    Numbers,
    Rows,
    Texts,
    UnitVectors,
    Vectors,
)
from learners.networks.inputs import Inputs, InputsConfig, Observed
from streams.core.batch import Array, Batch
from streams.core.schema import Feature, FeatureKind, Schema
from streams.core.settings import unknown
from streams.core.state_dict import State

BINS = 16
"""Quantile bins of a number, unless a job states another number."""
INDICATORS = 32
"""Hashed places of a categorical column for networks without embeddings."""


class ColumnInputs(Inputs):
    """Encode numbers, categories, texts, times, vectors and images beside each other.

    A row of a tensor holds the numbers of all encoders, and then the codes of values that have an
    embedding: rows of one table that all encoders share. Codes are whole numbers below 2**24, which
    float32 holds exactly; so one tensor is all that learners move, join and store.

    Args:
        schema: the features.
        scale: whether numbers and vectors are scaled by their running mean and deviation.
        config: settings.
        embeddings: whether the network has a table of embeddings. Without one, categories become
            hashed indicators, and numbers have no bins.

    Raises:
        ValueError: a cross names a column that is not categorical.

    Attributes:
        dense: how many numbers a row has before its codes.
        table_rows: the rows of the embedding table that codes name.
        table_drawn: how many of them are drawn at random at the start.
    """

    observes = True

    def __init__(
        self, schema: Schema, scale: bool, config: InputsConfig, embeddings: bool = True
    ) -> None:
        self.marked = []
        self._encoders = list(_encoders(schema, scale, config, embeddings))
        self.dense = sum(encoder.width for encoder in self._encoders)
        self.codes = sum(encoder.places for encoder in self._encoders)
        self.shape = (self.dense + self.codes,)
        self.table_rows = sum(encoder.table_rows for encoder in self._encoders)
        self.table_drawn = self.table_rows - sum(
            encoder.table.rows for encoder in self._encoders if isinstance(encoder, Categories)
        )

    def rows(self, batch: Batch) -> Rows:
        rows: dict[str, Array] = {}
        for encoder in self._encoders:
            rows |= encoder.rows(batch)
        return rows

    def tensor(self, rows: Rows) -> Tensor:
        n = len(next(iter(rows.values())))
        out = np.empty((n, self.dense + self.codes), np.float32)
        column, place, first = 0, self.dense, 0
        for encoder in self._encoders:
            if encoder.width:
                encoder.dense(rows, out[:, column : column + encoder.width])
                column += encoder.width
            if encoder.places:
                out[:, place : place + encoder.places] = encoder.codes(rows) + first
                place += encoder.places
                first += encoder.table_rows
        return torch.from_numpy(out)

    def observe(self, batch: Batch) -> Observed:
        new, first = None, 0
        for encoder in self._encoders:
            values = encoder.observe(batch)
            if values is not None:
                assert new is None, "one encoder alone has values without end"
                new = values._replace(rows=values.rows + first, prior=values.prior + first)
            first += encoder.table_rows
        return Observed([], new)

    def encodings(self) -> dict[str, Encoding]:
        return {
            feature.name: encoder.encoding(feature)
            for encoder in self._encoders
            for feature in encoder.features
        }

    def state(self) -> State:
        return {encoder.name: encoder.state() for encoder in self._encoders}

    def load(self, state: State) -> None:
        for encoder in self._encoders:
            if encoder.name not in state:
                raise LearnerError(
                    "the state is of an everlearn in which columns had no encoders of their own: "
                    "learn anew, or resume with the everlearn that wrote it"
                )
            encoder.load(state[encoder.name])


def _encoders(
    schema: Schema, scale: bool, config: InputsConfig, embeddings: bool
) -> list[ColumnEncoder]:
    """Return the encoders of all kinds of columns that the schema has."""
    kinds: dict[FeatureKind, tuple[Feature, ...]] = {}
    for feature in schema.features:
        kinds[feature.kind] = (*kinds.get(feature.kind, ()), feature)
    encoders: list[ColumnEncoder] = []
    if numeric := kinds.get("numeric"):
        bins = BINS if config.bins is None else config.bins
        encoders.append(Numbers(numeric, scale, bins if embeddings else 0))
    vectors = kinds.get("vector", ())
    if scaled := tuple(f for f in vectors if not f.unit):
        encoders.append(Vectors(scaled, scale))
    if unit := tuple(f for f in vectors if f.unit):
        encoders.append(UnitVectors(unit))
    if images := kinds.get("image"):
        encoders.append(Images(images))
    if texts := kinds.get("text"):
        encoders.append(Texts(texts, config.text_places))
    categories = kinds.get("categorical", ())
    crosses = _crosses(config, categories)
    if categories and embeddings:
        memory = (config.rows, config.admit_after, config.min_age)
        encoders.append(Categories(categories, crosses, *memory))
    elif categories:
        encoders.append(Indicators(categories, INDICATORS))
    return encoders


def _crosses(config: InputsConfig, categories: tuple[Feature, ...]) -> tuple[tuple[str, ...], ...]:
    """Return the crosses of a job. Raise ``ValueError`` where one cannot be made."""
    names = [feature.name for feature in categories]
    for i, cross in enumerate(config.crosses):
        if len(set(cross)) < 2:
            raise ValueError(f"inputs.crosses.{i}: two or more columns are wanted")
        for name in cross:
            if name not in names:
                raise ValueError(
                    f"inputs.crosses.{i}: there is no categorical column {unknown(name, names)}"
                )
    return config.crosses
