"""A stream of your own, learned by replay.

    python experiments/examples/own_stream.py

A job names it by its import path: ``stream: {kind: "own_stream:Circle", events: 10000}``.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.config import job as jobs
from pipeline.training.builder import build
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema
from streams.core.stream import Cursor, Stream
from streams.core.stream_config import StreamConfig


class CircleConfig(StreamConfig):
    """Settings under ``stream:`` in a job."""

    events: int


class Circle(Stream):
    """Points of a square. The label tells whether a point is inside a circle."""

    kind = "own_stream:Circle"
    Config = CircleConfig

    def __init__(self, config: CircleConfig, folder: Path) -> None:
        self.events = config.events
        self.schema = Schema(
            (Feature("x", "numeric"), Feature("y", "numeric")), "classification", (0, 1)
        )

    def __len__(self) -> int:
        return self.events

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        """Yield blocks from the cursor on. Row i is the same however it is reached."""
        for start in range(cursor.get("0", 0), self.events, block_size):
            offset = np.arange(start, min(start + block_size, self.events))
            x = np.stack([np.random.default_rng(i).uniform(-1, 1, 2) for i in offset])
            y = (np.square(x).sum(1) < 0.6).astype(np.int64)
            partition = np.zeros(len(offset), np.int32)
            yield Batch(offset, offset.astype(float), x, partition, offset, y, classes=(0, 1))


if __name__ == "__main__":
    stream = {"kind": Circle.kind, "events": 5000, "label_delay": {"events": 10}}
    job = {"name": "circle", "stream": stream, "learner": {"kind": "replay"}}
    parts = build(jobs.check(job, Path(__file__), Path(__file__).parent))
    for block in parts.reader.read({}):
        parts.loop.step(block)
    print(f"online accuracy {parts.loop.results()['online/accuracy']:.3f}")
