"""Measure how fast error memories write and read.

A ring of 100,000 keys of 64 numbers: exact search and the index, which is also compared with the
exact one (recall of the 50 nearest). A sketch of 16 tables, writes and reads in turn. All in
batches of 256, on one thread, by processor time; medians over the turns. Keys lie around 500
centres, as those of a hidden layer lie around what it tells apart.

    OMP_NUM_THREADS=1 python experiments/benchmarks/error_memory.py [--turns 9]

Prints the tables and writes them to experiments/results/error_memory_speed.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from buffers.errors.base import ErrorMemory, LabelledKeys
from buffers.errors.index import IndexedErrorRing
from buffers.errors.ring import ErrorRing
from buffers.errors.sketch import ErrorSketch

RESULT = Path(__file__).parents[1] / "results" / "error_memory_speed.md"
CAPACITY, WIDTH, BATCH, NEIGHBOURS = 100_000, 64, 256, 50
ABOUT = (
    f"# How fast an error memory writes and reads\n\n"
    f"{CAPACITY:,} stored keys of {WIDTH} numbers in the rings, {NEIGHBOURS} neighbours, "
    f"batches of {BATCH}, on one\n"
    "thread; medians over the turns. Printed by `python experiments/benchmarks/error_memory.py`, "
    "which\nsays how.\n"
)

Keys = NDArray[np.float32]


def keys(n: int, rng: np.random.Generator) -> Keys:
    """Return n keys around the same 500 centres."""
    centres = np.random.default_rng(0).standard_normal((500, WIDTH))
    spread = 0.6 * rng.standard_normal((n, WIDTH))
    return (centres[rng.integers(0, 500, n)] + spread).astype(np.float32)


def events(rows: Keys) -> LabelledKeys:
    m = len(rows)
    labels = np.arange(m) % 2
    return LabelledKeys(np.arange(m), rows, labels, np.full((m, 2), 0.5), np.ones(m))


def per_second(work: Callable[[], object], rows: int, turns: int) -> float:
    """Return the median of rows per second of processor time."""
    rates = []
    for _ in range(turns):
        start = time.process_time()
        work()
        rates.append(rows / (time.process_time() - start))
    return statistics.median(rates)


def filled(memory: ErrorMemory) -> ErrorMemory:
    memory.grow(2)
    rows = keys(CAPACITY, np.random.default_rng(1))
    for start in range(0, CAPACITY, BATCH):
        memory.write(events(rows[start : start + BATCH]))
    return memory


def recall(index: ErrorRing, exact: ErrorRing, queries: Keys) -> float:
    """Return the share of the nearest keys that the index finds."""
    pairs = zip(
        index.nearest(queries, NEIGHBOURS).places.tolist(),
        exact.nearest(queries, NEIGHBOURS).places.tolist(),
        strict=True,
    )
    return statistics.mean(len({*a} & {*b}) / NEIGHBOURS for a, b in pairs)


def rings(turns: int) -> str:
    settings = {"capacity": CAPACITY, "neighbours": NEIGHBOURS}
    queries = keys(BATCH, np.random.default_rng(2))
    exact = ErrorRing(WIDTH, False, **settings)
    filled(exact)
    lines = ["| ring | reads/s | recall@50 |", "|---|---|---|"]
    rate = per_second(lambda: exact.read(queries), BATCH, turns)
    lines.append(f"| exact | {rate:,.0f} | 1 |")
    for probes in (4, 8, 16, 32):
        index = IndexedErrorRing(WIDTH, False, probes=probes, **settings)
        filled(index)
        rate = per_second(lambda index=index: index.read(queries), BATCH, turns)  # type: ignore[misc]
        lines.append(
            f"| index, {probes} probes | {rate:,.0f} | {recall(index, exact, queries):.4f} |"
        )
    return "\n".join(lines)


def sketches(turns: int) -> str:
    lines = ["| sketch | write and read, events/s | bytes |", "|---|---|---|"]
    rows = keys(BATCH, np.random.default_rng(3))
    for bits in (8, 12, 16):
        memory = filled(ErrorSketch(WIDTH, False, tables=16, bits=bits))

        def work(memory: ErrorMemory = memory) -> None:
            for _ in range(20):
                memory.read(rows)
                memory.write(events(rows))

        rate = per_second(work, 20 * BATCH, turns)
        lines.append(f"| 16 tables, {bits} bits | {rate:,.0f} | {memory.memory_bytes():,} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=9)
    turns = parser.parse_args().turns
    text = f"{ABOUT}\n{rings(turns)}\n\n{sketches(turns)}\n"
    print(text)
    RESULT.write_text(text)


if __name__ == "__main__":
    main()
