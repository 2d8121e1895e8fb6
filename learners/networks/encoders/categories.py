"""Categories: keys of embeddings, or indicators."""

from __future__ import annotations

import numpy as np

from learners.networks.encoders.base import ColumnEncoder, Rows
from learners.results import Encoding
from streams.core.batch import Array, Batch, Ints
from streams.core.hashing import category_keys, mix
from streams.core.schema import Feature


class Categories(ColumnEncoder):
    """A key for each value, and as its code the *prior* embedding of the column.

    A value that has no embedding of its own has the prior one, which so learns what a value that is
    not known means. A cross is a column that is made of several: one value for each combination.

    Args:
        features: of kind categorical.
        crosses: the names of the columns of each cross.
    """

    name = "keys"

    def __init__(
        self, features: tuple[Feature, ...], crosses: tuple[tuple[str, ...], ...], rows: int
    ) -> None:
        super().__init__(features)
        self._most = rows
        names = [feature.name for feature in features]
        self._crosses = [[names.index(name) for name in cross] for cross in crosses]
        self.places = self.embeddings = len(names) + len(crosses)
        self._all = np.arange(self.places)

    def rows(self, batch: Batch) -> dict[str, Array]:
        assert not isinstance(batch.x, np.ndarray)
        keys = np.empty((len(batch), self.places), np.int64)
        for j, feature in enumerate(self.features):
            keys[:, j] = category_keys(batch.x[feature.name])
        for j, cross in enumerate(self._crosses, len(self.features)):
            keys[:, j] = keys[:, cross[0]]
            for other in cross[1:]:
                keys[:, j] = mix(keys[:, j], 0).view(np.int64) ^ keys[:, other]
        return {self.name: keys}

    def codes(self, rows: Rows) -> Array:
        return self._all[None]

    def keyed(self) -> Ints:
        return self._all

    def keys(self, rows: Rows) -> Ints:
        return rows[self.name]

    def encoding(self, feature: Feature) -> Encoding:
        return Encoding("an embedding for each value", self._most)


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
