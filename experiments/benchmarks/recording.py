"""Measure what recording costs a run: the same job with and without it, in turn.

The stream is a live one that serves events of 20 float32 from memory, 4,096 at a time, as fast as
they are taken. So only the recording differs. Two learners are used: that of the Elec2 job, and
``prior``, which does almost nothing, to measure the pipeline itself. The run has one process and
one thread of torch. The recorder has its own thread, as always.

    python experiments/benchmarks/recording.py [--rounds 7]

Prints events/s and CPU times of each, round by round, and writes the medians to
experiments/results/recording.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.config import job as jobs
from pipeline.training.run import Run
from streams.core.batch import Batch
from streams.core.live_stream import LiveStream, Ranges
from streams.core.schema import Feature, Schema
from streams.core.stream import Cursor
from streams.core.stream_config import StreamConfig
from streams.recordings.stream import RecordingConfig, RecordingStream

RESULT = Path(__file__).parents[1] / "results" / "recording.md"
BLOCK, FEATURES = 4096, 20
EVENTS = 1 << 16
LEARNERS: dict[str, dict[str, Any]] = {
    "prior": {"kind": "prior"},
    "replay": {
        "kind": "replay",
        "model": {"kind": "mlp", "hidden": [128, 128]},
        "steps": 2,
        "replay_size": 32,
        "buffer": {"capacity": 2000, "admission": "ring", "recall": "uniform"},
    },
}


class Memory(LiveStream):
    """Noise from memory. The label is the sign of the first number."""

    kind = "memory"

    def __init__(self, config: StreamConfig, folder: Path) -> None:
        features = tuple(Feature(f"x{i}", "numeric") for i in range(FEATURES))
        self.schema = Schema(features, "classification", (0, 1))
        self.dtype = "float32"
        self._x = np.random.default_rng(1).normal(size=(EVENTS, FEATURES)).astype(np.float32)

    def start(self) -> Cursor:
        return {"0": 0}

    def end(self) -> Cursor:
        return {"0": 1 << 40}

    def read_ranges(self, ranges: Ranges) -> Batch:
        return self._block(*ranges["0"])

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        at = cursor["0"]
        while True:
            yield self._block(at, at + BLOCK)
            at += BLOCK

    def _block(self, start: int, stop: int) -> Batch:
        offset = np.arange(start, stop)
        x = self._x[start % EVENTS :][:BLOCK]
        y = (x[:, 0] > 0).astype(np.int64)
        partition = np.zeros(len(offset), np.int32)
        time = offset / 1000
        return Batch(offset, time, x, partition, offset, y=y, classes=(0, 1))


class Cost(NamedTuple):
    """Cost of a run: events/s, CPU time per event of the training thread and of all threads in us,
    and bytes of the recording per event.
    """

    speed: float
    trainer: float
    all: float
    bytes: float


def once(learner: str, folder: Path, record: bool) -> Cost:
    raw = {
        "name": "recording",
        "stream": {"kind": "recording:Memory", "batch_size": 32},
        "learner": LEARNERS[learner],
        "checkpoint": {"every_events": 50_000},
    }
    here = Path(__file__)
    loaded = jobs.check(raw, here, here.parent)
    run = Run(loaded, folder / "run", print, record=folder / "rec" if record else None)
    thread, process = time.thread_time(), time.process_time()
    summary = run.run(max_events=EVENTS)
    thread, process = time.thread_time() - thread, time.process_time() - process
    size = 0.0
    if record:
        read = RecordingStream(RecordingConfig(kind="recording", path=str(folder / "rec")), folder)
        assert len(read) >= EVENTS
        size = sum(part.path.stat().st_size for part in read.parts) / len(read)
    return Cost(summary["events_per_s"], thread / EVENTS * 1e6, process / EVENTS * 1e6, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    jobs.add_import_path(Path(__file__).parent)
    rows = []
    for learner in LEARNERS:
        costs: dict[bool, list[Cost]] = {False: [], True: []}
        for i in range(rounds + 1):
            for record in (False, True) if i % 2 else (True, False):
                with tempfile.TemporaryDirectory() as folder:
                    cost = once(learner, Path(folder), record)
                if i:  # the first warms up
                    costs[record].append(cost)
            if i:
                print(learner, *(costs[record][-1] for record in (False, True)))
        pairs = list(zip(costs[False], costs[True], strict=True))
        ratio = statistics.median(b.speed / a.speed for a, b in pairs)
        a, b = (Cost(*map(statistics.median, zip(*found, strict=True))) for found in costs.values())
        rows.append(
            f"| {learner} | {a.speed:,.0f} | {b.speed:,.0f} | {ratio:.3f} | {a.trainer:.1f} | "
            f"{b.trainer:.1f} | {b.all - a.all:.1f} | {b.bytes:.0f} |"
        )
    RESULT.write_text(
        "# What recording costs\n\n"
        f"A run of {EVENTS:,} events (20 float32, micro-batches of 32, one thread; "
        f"{os.cpu_count()} cores) with and without recording, in turn. Printed by "
        "`python experiments/benchmarks/recording.py`, which says what each does.\n\n"
        "| learner | events/s | recorded | ratio | training thread, us CPU an event | recorded | "
        "more of all threads | bytes an event |\n|---|---|---|---|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\nMedians of {rounds} rounds; the ratio is that of each round. The features are "
        "noise, which cannot be made any smaller.\n"
    )
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
