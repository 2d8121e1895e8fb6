"""Measure the snapshots of a model with a table, whole and as changes: their size and their cost.

    python experiments/benchmarks/snapshot_deltas.py

The model is a table of 65,536 rows of 8, 16 or 64 float32, the int64 keys of the rows, and a layer
of 64 x 128. Between two snapshots 1,000 rows change, 100 of them with their keys. Prints the bytes
of a snapshot, and milliseconds of CPU to copy the model as it is, to encode it, and to decode it.
The sizes are those of the first snapshot after a base, and the mean of 100 snapshots, bases among
them: rows are drawn anew each time, so that changes add up. Writes
experiments/results/snapshot_deltas.md.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np

from pipeline.models.delta import Base, DeltaEncoder, decoded
from streams.core.state_dict import State, copied, leaves

RESULT = Path(__file__).parents[1] / "results" / "snapshot_deltas.md"
ROWS, CHANGED, KEYS, SNAPSHOTS = 65_536, 1000, 100, 100
ABOUT = [
    "# Snapshots of a model with a table",
    "",
    f"A table of {ROWS:,} rows of float32, their keys and a layer of 64 x 128. {CHANGED:,} rows"
    f" change between two snapshots, {KEYS} of them with their keys. Printed by"
    " `python experiments/benchmarks/snapshot_deltas.py`, which says how.",
    "",
    "| floats in a row | whole, kB | changes after a base, kB | mean of 100, with bases, kB |"
    " copy, ms | encode, ms | decode, ms |",
    "|" + "---|" * 7,
]


def nbytes(state: State) -> int:
    return sum(getattr(leaf, "nbytes", 0) for _, leaf in leaves(state))


def row(width: int) -> str:
    """Return the numbers of one table, as a line."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(ROWS, width)).astype(np.float32)
    keys = rng.integers(-(2**62), 2**62, ROWS)
    layer = rng.normal(size=(64, 128)).astype(np.float32)
    state: State = {"table": table, "keys": keys, "layer": layer}
    encoder = DeltaEncoder()
    known: set[Base] = set(encoder.encode(state)[1].values())
    sizes: list[int] = []
    times: dict[str, list[float]] = {"copy": [], "encode": [], "decode": []}
    for _ in range(SNAPSHOTS):
        rows = rng.choice(ROWS, CHANGED, replace=False)
        table[rows] += 1
        keys[rows[:KEYS]] += 1
        start = time.thread_time()
        copied(state)
        times["copy"].append(time.thread_time() - start)
        start = time.thread_time()
        changes, bases = encoder.encode(state)
        times["encode"].append(time.thread_time() - start)
        start = time.thread_time()
        whole = decoded(changes, bases)
        times["decode"].append(time.thread_time() - start)
        assert all((whole[name] == state[name]).all() for name in state)
        new = set(bases.values()) - known
        known |= new
        sizes.append(nbytes(changes) + sum(base.array.nbytes for base in new))
    copy, encode, decode = (statistics.median(t) * 1e3 for t in times.values())
    return (
        f"| {width} | {nbytes(state) / 1e3:,.0f} | {sizes[0] / 1e3:,.0f} |"
        f" {statistics.mean(sizes) / 1e3:,.0f} | {copy:.2f} | {encode:.2f} | {decode:.2f} |"
    )


def main() -> None:
    lines = [row(width) for width in (8, 16, 64)]
    print("\n".join([*ABOUT[4:], *lines]))
    RESULT.write_text("\n".join([*ABOUT, *lines, ""]))


if __name__ == "__main__":
    main()
