"""Show that a job stays as large and as fast as it is while ids come that never come again.

    python experiments/benchmarks/endless_ids.py [--millions 10] [--learner click-model]

A job without settings, or with the learner of that kind, learns a table with an id that never comes
again, a shop of 5,000 that do, and a number. The label depends on the shop. After each million of
events the script prints the memory of the process and of the learner's state, and the accuracy in
that million.

The last million is timed beside the first: a new job takes its first million in turn with the last
million of the old one, 250 micro-batches each. So a change of the machine's speed affects both
alike. Writes the table to experiments/results/endless_ids.md, or to endless_ids_click_model.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from pipeline.config.job import load
from pipeline.training.builder import build
from streams.core.batch import Batch
from streams.core.hashing import mix

RESULTS = Path(__file__).parents[1] / "results"
COMMAND = "python experiments/benchmarks/endless_ids.py"
MILLION, SIZE, SLICE, SHOPS = 1_000_000, 128, 250, 5_000
SAMPLE = 1_000  # rows of the file that tells the job what its columns are
FIRST_MILLION = -(-MILLION // (SIZE * SLICE))  # slices


class Flood:
    """A job, and the events that come to it.

    Args:
        folder: for the file of the job.
        learner: its kind; None: that of a job without settings.

    Attributes:
        events: learned so far.
        right: predictions that were right since it was last set to 0.
    """

    def __init__(self, folder: Path, learner: str | None) -> None:
        rng = np.random.default_rng(0)
        shop = rng.integers(SHOPS, size=SAMPLE)
        rows = [f"u{i},s{s},{i / 7:.3f},{'ab'[s % 2]}" for i, s in enumerate(shop)]
        (folder / "sample.csv").write_text("\n".join(["id,shop,number,label", *rows, ""]))
        stream = {
            "path": str(folder / "sample.csv"),
            "label": {"column": "label", "classes": ["a", "b"]},
            "features": {"categorical": ["id", "shop"], "numeric": ["number"]},
            "label_delay": {"events": SIZE},
        }
        job = {"stream": stream, **({"learner": {"kind": learner}} if learner else {})}
        (folder / "flood.yaml").write_text(yaml.safe_dump(job))
        self.parts = build(load(folder / "flood.yaml"))
        self.events = self.right = 0
        self._rng = np.random.default_rng(7)

    def batch(self) -> Batch:
        """Return the next micro-batch."""
        ids = np.arange(self.events, self.events + SIZE)
        shop = self._rng.integers(SHOPS, size=SIZE)
        x = {"id": mix(ids, 3).view(np.int64), "shop": mix(shop, 4).view(np.int64)}
        columns = {**x, "number": self._rng.normal(size=SIZE)}
        self.events += SIZE
        part = np.zeros(SIZE, np.int32)
        return Batch(ids, ids * 1.0, columns, part, ids, shop % 2, classes=("a", "b"))

    def slice(self) -> float:
        """Learn 250 micro-batches; return the CPU seconds of one."""
        batches = [self.batch() for _ in range(SLICE)]
        start = time.process_time()
        for batch in batches:
            prediction = self.parts.loop.step(batch).prediction
            assert prediction is not None
            assert batch.y is not None
            self.right += int((prediction.value == batch.y).sum())
        return (time.process_time() - start) / SLICE

    def state_mb(self) -> float:
        """Return the megabytes of the learner's state and of the aggregates."""
        loop = self.parts.loop
        aggregates = sum(getattr(part, "memory_bytes", int)() for part in loop.operators)
        return float(loop.learner.memory_bytes() + aggregates) / 1e6


def process_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=int, default=10)
    parser.add_argument("--learner", choices=["click-model"])
    given = parser.parse_args()
    millions, learner = given.millions, given.learner
    lines = ["| million events | accuracy | state, MB | process, MB |", "|---|---|---|---|"]
    pairs: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        flood, fresh = Flood(Path(first), learner), None
        for million in range(1, millions + 1):
            flood.right, begin = 0, flood.events
            for _ in range(FIRST_MILLION):
                old = flood.slice()
                if million == millions:
                    fresh = fresh or Flood(Path(second), learner)
                    pairs.append((fresh.slice(), old))
            accuracy = flood.right / (flood.events - begin)
            line = f"| {flood.events / MILLION:.1f} | {accuracy:.3f} | {flood.state_mb():.1f} |"
            lines.append(f"{line} {process_mb():.0f} |")
            print(lines[-1], flush=True)
    ratios = [late / early for early, late in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    early, late = (statistics.median(side) * 1e6 for side in zip(*pairs, strict=True))
    lines += [
        "",
        f"A micro-batch of {SIZE} events took {early:,.0f} us of CPU in the first million and "
        f"{late:,.0f} us in the last (medians of {len(pairs)} slices in turn); the ratio of a pair "
        f"was {middle:.3f} (quartiles {low:.3f} to {high:.3f}).",
    ]
    print(lines[-1])
    command = f"{COMMAND} --learner {learner}" if learner else COMMAND
    about = f"Printed by `{command}`, which says how."
    result = RESULTS / ("endless_ids_click_model.md" if learner else "endless_ids.md")
    result.write_text("\n".join(["# A job in a flood of ids", "", about, "", *lines, ""]))


if __name__ == "__main__":
    main()
