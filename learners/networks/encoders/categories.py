"""Categories: embeddings of bounded memory, or indicators."""

from __future__ import annotations

import numpy as np

from learners.base import Encoding
from learners.networks.encoders.base import ColumnEncoder, NewValues, Rows
from streams.core.batch import Array, Batch, Ints
from streams.core.hashing import category_keys, mix
from streams.core.key_table import KeyTable
from streams.core.schema import Feature
from streams.core.state_dict import State


class Categories(ColumnEncoder):
    """The embedding of each value, in a table of bounded memory.

    All columns share one table of ``rows``. A value gets a row of its own once it has been seen
    ``admit_after`` times. Until then it has the *prior row* of its column, which learns what a
    value that is not known yet means; a new row starts as a copy of it. In a full table a new value
    takes the row of the one not seen for longest, but of none seen within the last ``min_age``
    events (Liu et al. 2022, "Monolith: Real Time Recommendation System With Collisionless Embedding
    Table"). The events of a value that has lost its row have the prior row again.

    A cross is a column that is made of several: one value for each combination.

    Args:
        features: of kind categorical.
        crosses: the names of the columns of each cross.
        rows: of the table.
        admit_after: how often a value is seen before it has a row.
        min_age: events since a value was seen last, before another may take its row.
    """

    name = "keys"

    def __init__(
        self,
        features: tuple[Feature, ...],
        crosses: tuple[tuple[str, ...], ...],
        rows: int,
        admit_after: int,
        min_age: int,
    ) -> None:
        super().__init__(features)
        names = [feature.name for feature in features]
        self._crosses = [[names.index(name) for name in cross] for cross in crosses]
        self.places = len(names) + len(crosses)
        self.table = KeyTable(rows, admit_after, min_age)
        self.table_rows = self.places + self.table.rows
        self._salts = mix(np.arange(self.places), 0x63).view(np.int64)
        self._prior = np.arange(self.places)

    def rows(self, batch: Batch) -> dict[str, Array]:
        return {self.name: self._keys(batch)}

    def _keys(self, batch: Batch) -> Ints:
        """Return the keys of values and crosses: (n, places); those of columns differ."""
        assert not isinstance(batch.x, np.ndarray)
        keys = np.empty((len(batch), self.places), np.int64)
        own = len(self.features)
        for j, feature in enumerate(self.features):
            keys[:, j] = category_keys(batch.x[feature.name])
        for j, cross in enumerate(self._crosses, own):
            keys[:, j] = keys[:, cross[0]]
            for other in cross[1:]:
                keys[:, j] = mix(keys[:, j], 0x78).view(np.int64) ^ keys[:, other]
        return mix(keys ^ self._salts, 0x6B).view(np.int64)

    def observe(self, batch: Batch) -> NewValues | None:
        keys = self._keys(batch).ravel()
        admitted = self.table.observe(keys)
        self.table.advance(len(batch))
        if not len(admitted.rows):
            return None
        order = np.argsort(keys, kind="stable")
        first = order[np.searchsorted(keys[order], admitted.keys)]  # where each key stands
        return NewValues(admitted.rows + self.places, first % self.places)

    def codes(self, rows: Rows) -> Array:
        found = self.table.find(rows[self.name])
        return np.where(found < 0, self._prior, found + self.places)

    def encoding(self, feature: Feature) -> Encoding:
        return Encoding(
            f"an embedding for each value, in a table of {self.table.rows:,} rows", self.table.rows
        )

    def state(self) -> State:
        return self.table.state()

    def load(self, state: State) -> None:
        self.table.load(state)


class Indicators(ColumnEncoder):
    """One of ``buckets`` indicators for each value, by its hash.

    Values that share a bucket cannot be told apart (Weinberger et al. 2009, "Feature Hashing for
    Large Scale Multitask Learning"). It suits columns of a few values.
    """

    name = "buckets"

    def __init__(self, features: tuple[Feature, ...], buckets: int) -> None:
        super().__init__(features)
        self.buckets = buckets
        self.width = len(features) * buckets
        self._first = np.arange(len(features)) * buckets

    def rows(self, batch: Batch) -> dict[str, Array]:
        assert not isinstance(batch.x, np.ndarray)
        keys = [category_keys(batch.x[feature.name]) for feature in self.features]
        buckets = mix(np.stack(keys, 1), 0x62) % np.uint64(self.buckets)
        return {self.name: buckets.astype(np.int16)}

    def dense(self, rows: Rows, out: Array) -> None:
        out[:] = 0
        out[np.arange(len(out))[:, None], rows[self.name] + self._first] = 1

    def encoding(self, feature: Feature) -> Encoding:
        return Encoding(f"1 of {self.buckets} hashed places", self.buckets)
