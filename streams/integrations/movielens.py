"""The ratings of MovieLens-100K as clicks, in the order of their times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from streams.core.batch import Batch
from streams.core.schema import Feature, FeatureKind, Schema
from streams.core.stream import Cursor, JsonLayout, Stream
from streams.core.stream_config import StreamConfig
from streams.decoding.decoder import Columns, Decoder, NamedColumn
from streams.scenarios.movielens import ratings

_KINDS: dict[str, FeatureKind] = {
    "user": "categorical",
    "item": "categorical",
    "age": "numeric",
    "gender": "categorical",
    "occupation": "categorical",
    "genres": "categorical",
    "year": "numeric",
    "hour": "categorical",
    "weekday": "categorical",
}


class MovieLensConfig(StreamConfig):
    """Settings of the stream of MovieLens-100K.

    Attributes:
        folder: with the files of GroupLens or of RecBole; None: looked for
            (``streams.scenarios.movielens``). A relative one starts from the job file's folder.
    """

    folder: str | None = None


class MovieLensStream(Stream):
    """Was it liked? 100,000 ratings of 1,682 movies by 943 users (Harper and Konstan 2015).

    A rating of 4 stars or more counts as a click; 55% do. An event's id is its row in time order.
    """

    kind = "movielens-100k"
    Config = MovieLensConfig
    has_time = True
    has_segments = False
    class_count_hint = 2

    def __init__(self, config: MovieLensConfig, folder: Path) -> None:
        self.config = config
        self._table = ratings(None if config.folder is None else folder / config.folder)
        features = tuple(Feature(name, kind) for name, kind in _KINDS.items())
        self.schema = Schema(features, "classification", (False, True))
        columns = Columns(time="time", label=NamedColumn("click", "bool"))
        self._decode = Decoder(self.schema, columns)

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        for start in range(cursor.get("0", 0), len(self), block_size):
            block = self._table.slice(start, block_size)
            offset = np.arange(start, start + len(block))
            partition = np.zeros(len(block), np.int32)
            yield self._decode(block, partition, offset, offset.astype(np.float64))

    def json_layout(self) -> JsonLayout:
        return {"cells": "typed", "nested": False, "pixels": True, "id": None}

    def __len__(self) -> int:
        return len(self._table)
