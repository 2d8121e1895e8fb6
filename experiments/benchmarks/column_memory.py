"""Show that a job without settings takes no more memory while ids come that never come again.

    python experiments/benchmarks/column_memory.py [--thousands 50 200 800]

Each event has two categories and a number: the name of a user who comes once, the name of one of
5,000 that come often, and a price. The label depends on the second. Each length of the stream is a
job of its own in a process of its own, which names a file, a label and nothing else. The script
prints the largest memory of the process and the bytes of its last checkpoint, and writes them to
experiments/results/column_memory.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "experiments" / "results" / "column_memory.md"
THOUSAND, RECURRING, BLOCK = 1000, 5_000, 10_000
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


class Size(NamedTuple):
    """What a run took.

    Attributes:
        events: of the stream.
        users: different ones that came once.
        memory_mb: the largest resident memory of the process.
        checkpoint_mb: bytes of the last checkpoint.
        events_per_s: of the run.
    """

    events: int
    users: int
    memory_mb: float
    checkpoint_mb: float
    events_per_s: float


def blocks(events: int) -> Iterator[pa.Table]:
    """Yield the events, some thousands at a time."""
    rng = np.random.default_rng(5)
    tastes = rng.normal(size=RECURRING)
    for start in range(0, events, BLOCK):
        n = min(BLOCK, events - start)
        often = rng.integers(RECURRING, size=n)
        price = rng.lognormal(3, 1, n)
        label = tastes[often] + rng.normal(0, 0.5, n) > 0
        yield pa.table(
            {
                "once": [f"u{i}" for i in range(start, start + n)],
                "often": [f"s{i}" for i in often],
                "price": price,
                "label": np.where(label, "yes", "no"),
            }
        )


def measure(events: int, folder: Path) -> Size:
    """Run a job on a number of events, in a process of its own."""
    first = next(blocks(1))
    with pq.ParquetWriter(folder / "events.parquet", first.schema) as file:
        for block in blocks(events):
            file.write_table(block)
    (folder / "job.yaml").write_text("stream: {path: events.parquet, label: label}\n")
    command = [sys.executable, str(ROOT / "everlearn.py"), "run", "job.yaml", "--run-dir", "run"]
    process = subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the run of {events:,} events failed with status {status}")
    summary = json.loads((folder / "run" / "summary.json").read_text())
    last = max((folder / "run" / "checkpoints").iterdir())
    size = sum(file.stat().st_size for file in last.rglob("*") if file.is_file())
    return Size(events, events, usage.ru_maxrss / 1024, size / 1e6, summary["events_per_s"])


def report(sizes: list[Size]) -> str:
    """Return the page of results."""
    rows = [
        f"| {s.events:,} | {s.users:,} | {s.memory_mb:.0f} | {s.checkpoint_mb:.1f} |" for s in sizes
    ]
    return "\n".join(
        [
            "# Memory of a job while ids come that never come again",
            "",
            f"Each event has a user who comes once, and one of {RECURRING:,} shops. The job names "
            "a file and a label. Printed by `python experiments/benchmarks/column_memory.py`, "
            "which says how.",
            "",
            "| events | users who come once | process, MB | checkpoint, MB |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--thousands", type=int, nargs="+", default=[50, 200, 800])
    sizes = []
    for thousands in parser.parse_args().thousands:
        with tempfile.TemporaryDirectory() as folder:
            sizes.append(measure(thousands * THOUSAND, Path(folder)))
        print(sizes[-1], flush=True)
    text = report(sizes)
    print(text)
    RESULT.write_text(text)


if __name__ == "__main__":
    main()
