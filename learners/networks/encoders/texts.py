"""Free text: bags of words and of character n-grams."""

from __future__ import annotations

import numpy as np

from learners.networks.encoders.base import ColumnEncoder, Rows
from learners.networks.encoders.text_bags import bag, scaled
from learners.results import Encoding
from streams.core.batch import Array, Batch, Ragged
from streams.core.schema import Feature


class Texts(ColumnEncoder):
    """Hashed counts of the words and character n-grams of each text.

    Args:
        features: of kind text.
        places: hashed places of one column.
    """

    name = "bags"

    def __init__(self, features: tuple[Feature, ...], places: int) -> None:
        super().__init__(features)
        self._hashed = places
        self.width = len(features) * places

    def rows(self, batch: Batch) -> dict[str, Array]:
        assert not isinstance(batch.x, np.ndarray)
        bags = [bag(_ragged(batch.x[f.name]), self._hashed) for f in self.features]
        return {self.name: bags[0] if len(bags) == 1 else np.concatenate(bags, 1)}

    def dense(self, rows: Rows, out: Array) -> None:
        counts, places = rows[self.name], self._hashed
        for start in range(0, self.width, places):
            out[:, start : start + places] = scaled(counts[:, start : start + places])

    def encoding(self, feature: Feature) -> Encoding:
        return Encoding(f"words, n-grams: {self._hashed:,} places")


def _ragged(column: Array | Ragged) -> Ragged:
    if isinstance(column, Ragged):
        return column
    return Ragged.of_text(str(value) for value in column.tolist())
