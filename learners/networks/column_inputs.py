"""Inputs of several kinds of columns: one encoder for each kind, concatenated."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from learners.base import LearnerError
from learners.networks.compressed_tables import SharedRows, values_of
from learners.networks.encoders import (
    Categories,
    ColumnEncoder,
    Images,
    Indicators,
    Numbers,
    Rows,
    Texts,
    Times,
    UnitVectors,
    Vectors,
)
from learners.networks.inputs import Inputs, InputsConfig, NewValues, Observed
from learners.results import Encoding
from streams.core.batch import Array, Batch, Ints
from streams.core.hashing import mix
from streams.core.key_table import KeyTable
from streams.core.schema import Feature, FeatureKind, Schema
from streams.core.settings import unknown
from streams.core.state_dict import State
from streams.operators.features.histories import NAME as HISTORY
from streams.operators.features.histories import NO_VALUE

BINS = 16
"""Quantile bins of a number, unless a job states another number."""
INDICATORS = 32
"""Hashed places of a categorical column for networks without embeddings."""

_NO_KEYS = np.empty((0, 0), np.int64)


class Coded(NamedTuple):
    """The codes of n events.

    Attributes:
        codes: (codes, n) int64.
        prior: (k, n) int64, the codes of the places that have keys, where a key has no embedding.
        keys: (k, n) int64; those of different places differ.
        found: (k, n) int64, the rows of the keys in the table; -1 where a key has none.
    """

    codes: Ints
    prior: Ints
    keys: Ints
    found: Ints


class HistoryLayout(NamedTuple):
    """Where the codes of a history are in a row: they are the last.

    Attributes:
        length: how many there are.
        place: among the codes, that of the column whose values they are.
        none: the code where there is no value.
        prior: the code of a value without an embedding of its own.
    """

    length: int
    place: int
    none: int
    prior: int


class ColumnInputs(Inputs):
    """Encode numbers, categories, texts, times, vectors and images beside each other.

    A row of a tensor holds the numbers of all encoders, and then the codes of embeddings, which all
    lie in one table. Codes are whole numbers below 2**24, which float32 holds exactly; so one
    tensor is all that learners move, join and store.

    The embeddings of values without end are in the last ``rows`` of that table. A value gets one
    once it has been seen ``admit_after`` times. It starts as a copy of the prior one, by which the
    value went until then. Where there is no room, a new value takes the embedding of the one not
    seen for longest, but of none seen within the last ``min_age`` events (Liu et al. 2022,
    "Monolith: Real Time Recommendation System With Collisionless Embedding Table").

    Args:
        schema: the features.
        scale: whether numbers and vectors are scaled by their running mean and deviation.
        config: settings.
        embedded: whether the network has embeddings. Without them, categories become hashed
            indicators, and numbers have no bins.
        one_unit: whether the numbers of a vector may have one unit (``VectorMoments``).

    Raises:
        ValueError: a cross names a column that is not categorical.

    Attributes:
        dense: how many numbers a row has before its codes.
        embeddings: how many embeddings codes name.
        embeddings_drawn: how many of them belong to codes, and not to keys.
        history: where the codes of a history are; None: there is none.
    """

    observes = True

    def __init__(
        self,
        schema: Schema,
        scale: bool,
        config: InputsConfig,
        embedded: bool = True,
        one_unit: bool = False,
    ) -> None:
        self.marked = []
        self._encoders = _encoders(schema, scale, config, embedded, one_unit)
        self.dense = sum(encoder.width for encoder in self._encoders)
        self._own_codes = sum(encoder.places for encoder in self._encoders)
        self.embeddings_drawn = sum(encoder.embeddings for encoder in self._encoders)
        self.history = _history(schema, self._encoders)
        self.codes = self._own_codes
        if self.history is not None:
            self.codes += self.history.length
            self.embeddings_drawn += 1
        self.shape = (self.dense + self.codes,)
        self._table = _table(config) if self.codes else None
        rows = 0 if self._table is None else self._table.rows
        self.embeddings = self.embeddings_drawn + rows
        self._dates = schema.has_times
        self._now = np.nan  # the latest event time, where columns of times need it
        # Events are observed just after they are predicted, and encoded once for both.
        self._last: tuple[Batch, Rows] | None = None
        self._last_coded: tuple[Rows, Coded] | None = None
        self._salts = mix(np.arange(self.codes), 0x63).view(np.int64)

    def rows(self, batch: Batch) -> Rows:
        if self._last is None or self._last[0] is not batch:
            rows: dict[str, Array] = {}
            dated = self._dated(batch) if self._dates else batch
            for encoder in self._encoders:
                rows |= encoder.rows(dated)
            if self.history is not None:
                assert not isinstance(batch.x, np.ndarray)
                rows["history"] = np.asarray(batch.x[HISTORY])
            self._last = batch, rows
        return self._last[1]

    def _dated(self, batch: Batch) -> Batch:
        """Return the events, those without a time as of the latest event time: those of requests
        may have none."""
        missing = np.isnan(batch.time)
        if not missing.any():
            return batch
        return replace(batch, time=np.where(missing, self._now, batch.time))

    def tensor(self, rows: Rows) -> Tensor:
        n = len(next(iter(rows.values())))
        out = np.empty((n, self.dense + self.codes), np.float32)
        column = 0
        for encoder in self._encoders:
            if encoder.width:
                encoder.dense(rows, out[:, column : column + encoder.width])
                column += encoder.width
        if self._table is not None:
            last = self.dense + self._own_codes
            out[:, self.dense : last] = self._coded(self._table, rows, n).codes.T
            if self.history is not None:
                out[:, last:] = self._history_codes(self._table, self.history, rows["history"])
        return torch.from_numpy(out)

    def _coded(self, table: KeyTable | SharedRows, rows: Rows, n: int) -> Coded:
        """Return the codes and keys of n events."""
        if self._last_coded is not None and self._last_coded[0] is rows:
            return self._last_coded[1]
        codes = np.empty((self._own_codes, n), np.int64)
        keyed: list[Ints] = []
        keys: list[Ints] = []
        place, first = 0, 0
        for encoder in self._encoders:
            if encoder.places:
                codes[place : place + encoder.places] = encoder.codes(rows).T + first
                if len(own := encoder.keyed()):
                    keyed.append(own + place)
                    keys.append(encoder.keys(rows).T)
            place += encoder.places
            first += encoder.embeddings
        coded = Coded(codes, _NO_KEYS, _NO_KEYS, _NO_KEYS)
        if keyed:
            places = np.concatenate(keyed)
            salted = np.concatenate(keys) ^ self._salts[places][:, None]
            mixed = mix(salted, 0x6B).view(np.int64)
            prior, found = codes.take(places, 0), table.find(mixed)
            codes[places] = np.where(found < 0, prior, found + self.embeddings_drawn)
            coded = Coded(codes, prior, mixed, found)
        if self._last is not None and self._last[1] is rows:
            self._last_coded = rows, coded
        return coded

    def _history_codes(
        self, table: KeyTable | SharedRows, layout: HistoryLayout, keys: Ints
    ) -> Ints:
        """Return the codes of a history, from its keys (n, length): those of the column's values.
        The history admits none."""
        found = table.find(mix(keys ^ self._salts[layout.place], 0x6B).view(np.int64))
        codes = np.where(found < 0, layout.prior, found + self.embeddings_drawn)
        return np.where(keys == NO_VALUE, layout.none, codes)

    def observe(self, batch: Batch) -> Observed:
        if self.fixed:
            self._note_time(batch)
            return Observed([])
        rows = self.rows(batch)
        new = None
        if self._table is not None:
            _, prior, keys, found = self._coded(self._table, rows, len(batch))
            flat = keys.ravel()
            admitted = self._table.observe(flat, found.ravel())
            self._table.advance(len(batch))
            if len(admitted.rows):
                absent = (found.ravel() < 0).nonzero()[0]
                order = absent[np.argsort(flat[absent], kind="stable")]
                first = order[np.searchsorted(flat[order], admitted.keys)]  # where each key stands
                new = NewValues(admitted.rows + self.embeddings_drawn, prior.ravel()[first])
        for encoder in self._encoders:
            encoder.observe(rows)
        self._note_time(batch)
        self._last = self._last_coded = None
        return Observed([], new)

    def _note_time(self, batch: Batch) -> None:
        if self._dates:
            self._now = float(np.fmax(self._now, batch.time.max()))

    def encodings(self) -> dict[str, Encoding]:
        return {
            feature.name: encoder.encoding(feature)
            for encoder in self._encoders
            for feature in encoder.features
        }

    def state(self) -> State:
        table = {} if self._table is None else {"table": self._table.state()}
        return table | self._state_of_encoders()

    def servable(self) -> State:
        table = {} if self._table is None else {"table": self._table.servable()}
        return table | self._state_of_encoders()

    def _state_of_encoders(self) -> State:
        now = {"now": np.array(self._now)} if self._dates else {}
        return now | {encoder.name: encoder.state() for encoder in self._encoders}

    def load(self, state: State) -> None:
        self._last = self._last_coded = None
        for encoder in self._encoders:
            if encoder.name not in state:
                raise LearnerError(
                    "the state is of an everlearn in which columns had no encoders of their own: "
                    "learn anew, or resume with the everlearn that wrote it"
                )
            encoder.load(state[encoder.name])
        if self._table is not None:
            self._table.load(state["table"])
        if self._dates:
            self._now = float(state["now"])


def _history(schema: Schema, encoders: list[ColumnEncoder]) -> HistoryLayout | None:
    """Return where the codes of the history of a schema are, if it has one.

    Raises:
        ValueError: the column whose values it holds has no embeddings.
    """
    histories = [feature for feature in schema.features if feature.kind == "history"]
    if not histories:
        return None
    (feature,) = histories
    place = first = 0
    for encoder in encoders:
        if isinstance(encoder, Categories):
            column = [f.name for f in encoder.features].index(str(feature.of))
            none = sum(each.embeddings for each in encoders)
            return HistoryLayout(feature.shape[0], place + column, none, first + column)
        place, first = place + encoder.places, first + encoder.embeddings
    raise ValueError("inputs.categories: a history needs embeddings: leave it out")


def _table(config: InputsConfig) -> KeyTable | SharedRows:
    """Return what gives keys their rows."""
    if config.compression == "hashed":
        return SharedRows(config.rows)
    if config.compression == "quotient-remainder":
        return SharedRows(values_of(config.rows))
    return KeyTable(config.rows, config.admit_after, config.min_age)


def _encoders(
    schema: Schema, scale: bool, config: InputsConfig, embedded: bool, one_unit: bool
) -> list[ColumnEncoder]:
    """Return the encoders of all kinds of columns that the schema has."""
    kinds: dict[FeatureKind, tuple[Feature, ...]] = {}
    for feature in schema.features:
        kinds[feature.kind] = (*kinds.get(feature.kind, ()), feature)
    encoders: list[ColumnEncoder] = []
    if numeric := kinds.get("numeric"):
        bins = BINS if config.bins is None else config.bins
        encoders.append(Numbers(numeric, scale, bins if embedded else 0))
    vectors = kinds.get("vector", ())
    if scaled := tuple(f for f in vectors if not f.unit):
        encoders.append(Vectors(scaled, scale, one_unit))
    if unit := tuple(f for f in vectors if f.unit):
        encoders.append(UnitVectors(unit))
    if images := kinds.get("image"):
        encoders.append(Images(images))
    if texts := kinds.get("text"):
        encoders.append(Texts(texts, config.text_places))
    if times := kinds.get("time"):
        encoders.append(Times(times, embedded))
    categories = kinds.get("categorical", ())
    crosses = _crosses(config, categories)
    if categories and embedded and config.categories != "indicators":
        encoders.append(Categories(categories, crosses, config.rows))
    elif crosses:
        raise ValueError("inputs.crosses: indicators have none: let categories have embeddings")
    elif categories:
        encoders.append(Indicators(categories, INDICATORS))
    return encoders


def _crosses(config: InputsConfig, categories: tuple[Feature, ...]) -> tuple[tuple[str, ...], ...]:
    """Return the crosses of a job. Raise ``ValueError`` where one cannot be made."""
    names = [feature.name for feature in categories]
    for i, cross in enumerate(config.crosses):
        if len(set(cross)) < 2:
            raise ValueError(f"inputs.crosses.{i}: state two or more different columns")
        for name in cross:
            if name not in names:
                raise ValueError(
                    f"inputs.crosses.{i}: there is no categorical column {unknown(name, names)}; "
                    "state a column as categorical under stream.features to cross it"
                )
    return config.crosses
