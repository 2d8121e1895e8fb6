"""Measure resident memory and speed over ten million events, million by million.

    python experiments/benchmarks/long_run.py [--events 10000000]

Prints resident memory at the end of each tenth and its events/s, and the ratio of the last tenth to
the second for both; the first one warms up. Writes them to experiments/results/long_run.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from pipeline.config import job as jobs
from pipeline.training.callback import Callback
from pipeline.training.loop import Loop, StepResult
from pipeline.training.run import Run

RESULT = Path(__file__).parents[1] / "results" / "long_run.md"
HEAD = [
    "# Ten million events",
    "",
    "A synthetic stream with labels 1,000 events late, replay with a buffer of 10,000, checkpoints"
    " every 100,000 events. Printed by `python experiments/benchmarks/long_run.py`.",
    "",
    "| events | resident memory, MB | events/s |",
    "|---|---|---|",
]
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> float:
    """Return the resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6


class Tenths(Callback):
    """Record memory and time at each tenth of the stream."""

    def __init__(self, events: int) -> None:
        self.step = events // 10
        self.marks: list[tuple[float, float]] = []
        self.then = time.perf_counter()
        self.lines: list[str] = []

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        if loop.events >= self.step * (len(self.marks) + 1):
            now = time.perf_counter()
            self.marks.append((resident(), self.step / (now - self.then)))
            self.then = now
            memory, speed = self.marks[-1]
            self.lines.append(f"| {loop.events:,} | {memory:.1f} | {speed:,.0f} |")
            print(self.lines[-1], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=10_000_000)
    events = parser.parse_args().events
    loaded = jobs.load(Path(__file__).with_name("long_run.yaml"), [f"stream.events={events}"])
    with tempfile.TemporaryDirectory() as folder:
        tenths = Tenths(events)
        summary = Run(loaded, Path(folder) / "run", print).run(callbacks=[tenths])
    (memory2, speed2), (memory10, speed10) = tenths.marks[1], tenths.marks[-1]
    lines = [
        "",
        f"Last tenth to second: memory {memory10 / memory2:.4f}, speed {speed10 / speed2:.4f}."
        f" Accuracy {summary['metrics']['online/accuracy']:.4f}; fates {summary['fates']}.",
        "",
    ]
    print("\n".join(lines))
    RESULT.write_text("\n".join([*HEAD, *tenths.lines, *lines]))


if __name__ == "__main__":
    main()
