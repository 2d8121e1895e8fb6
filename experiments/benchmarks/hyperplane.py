"""A synthetic stream of any length: on which side of a slowly turning hyperplane a point lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from streams.core.batch import Batch
from streams.core.schema import Feature, Schema
from streams.core.stream import Cursor, Stream
from streams.core.stream_config import StreamConfig

CHUNK = 4096  # events drawn from one seed, so that any position can be reached at once


class HyperplaneConfig(StreamConfig):
    """Settings: ``events`` in all, of ``features`` numbers each, and the ``seed``."""

    events: int
    features: int = 20
    seed: int = 0


class Hyperplane(Stream):
    """Points in a cube, labelled by a hyperplane whose weights turn once in a million events."""

    kind = "hyperplane"
    Config = HyperplaneConfig

    def __init__(self, config: HyperplaneConfig, folder: Path) -> None:
        self.config = config
        features = tuple(Feature(f"x{i}", "numeric") for i in range(config.features))
        self.schema = Schema(features, "classification", (0, 1))

    def __len__(self) -> int:
        return self.config.events

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        start = cursor.get("0", 0)
        while start < self.config.events:
            chunk = start // CHUNK
            block = self._chunk(chunk)
            low = start - chunk * CHUNK
            high = min(CHUNK, self.config.events - chunk * CHUNK)
            yield block[low:high]
            start = chunk * CHUNK + high

    def _chunk(self, chunk: int) -> Batch:
        rng = np.random.default_rng([self.config.seed, chunk])
        offset = np.arange(chunk * CHUNK, (chunk + 1) * CHUNK)
        x = rng.random((CHUNK, self.config.features), np.float32)
        turn = 2 * np.pi * (offset / 1e6)[:, None] + np.arange(self.config.features)
        y = (((x - 0.5) * np.sin(turn)).sum(1) > 0).astype(np.int64)
        return Batch(
            offset, offset.astype(np.float64), x, np.zeros(CHUNK, np.int32), offset, y,
            classes=(0, 1),
        )  # fmt: skip
