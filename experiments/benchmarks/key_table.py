"""Show that a key table stays as large and as fast as it is while ids come that never come again.

    python experiments/benchmarks/key_table.py [--millions 10]

Each event has two ids: one that never comes again, and one of 5,000 that do. Events come 32 at a
time. Each micro-batch is what a learner does with a table of 65,536 rows: it looks up 64 keys, and
then observes them. After each million of events the script prints the bytes of the table, of its
state and of the process. A row of a recurring id is looked up after each micro-batch: the script
counts how often one has changed since the first 100,000 events.

The last million is timed beside the first: a new table takes its first million in turn with the
last million of the old one, 500 micro-batches each. So a change of the machine's speed affects both
alike. Writes them to experiments/results/key_table.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from streams.core.key_table import KeyTable

RESULT = Path(__file__).parents[1] / "results" / "key_table.md"
MILLION, SIZE, SLICE = 1_000_000, 32, 500
ROWS, RECURRING = 65_536, 5_000
SETTLED = 100_000  # events after which a recurring id has its row
RECURRING_KEYS = -1 - np.arange(RECURRING)


class Flood:
    """A table, and the events that come to it.

    Attributes:
        moved: how often a recurring id had another row than before, or none, once settled.
        without: the greatest number of recurring ids without a row at the end of a slice.
    """

    def __init__(self) -> None:
        self.table = KeyTable(ROWS)
        self.moved = self.without = self.events = 0
        self._rng = np.random.default_rng(7)
        self._rows = np.full(RECURRING, -1)

    def slice(self) -> float:
        """Take 500 micro-batches; return the seconds of one."""
        n = SLICE * SIZE
        once = np.arange(self.events, self.events + n)
        keys = np.stack([once, self._rng.choice(RECURRING_KEYS, n)], axis=1)
        batches = list(keys.reshape(SLICE, 2 * SIZE))
        table = self.table
        start = time.thread_time()
        for batch in batches:
            table.find(batch)
            table.observe(batch)
            table.advance(SIZE)
        took = (time.thread_time() - start) / SLICE
        self.events += n
        rows = table.find(RECURRING_KEYS)
        if self.events > SETTLED:
            self.moved += int(np.count_nonzero((rows != self._rows) & (self._rows >= 0)))
            self.without = max(self.without, int(np.count_nonzero(rows < 0)))
        self._rows = rows
        return took

    def to(self, events: int) -> Iterator[float]:
        """Take slices up to a number of events; yield their times."""
        while self.events < events:
            yield self.slice()


def resident_mb() -> float:
    """Return the memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def state_bytes(table: KeyTable) -> int:
    """Return the bytes of the arrays of a table's state."""

    def size(state: object) -> int:
        if isinstance(state, dict):
            return sum(map(size, state.values()))
        return state.nbytes if isinstance(state, np.ndarray) else 0

    return size(table.state())


def row(flood: Flood) -> str:
    table = flood.table
    return (
        f"| {flood.events / MILLION:.1f} | {len(table):,} | {table.memory_bytes() / 1e6:.2f} |"
        f" {state_bytes(table) / 1e6:.2f} | {resident_mb():.1f} | {flood.moved} | {flood.without} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=int, default=10)
    millions = parser.parse_args().millions
    old, new = Flood(), Flood()
    lines = [
        "# What a flood of ids does to a key table",
        "",
        f"{millions} million ids that never come again beside {RECURRING:,} that do, in a table of"
        f" {ROWS:,} rows (`admit_after` 2, `min_age` 10,000). Printed by"
        " `python experiments/benchmarks/key_table.py`, which says how.",
        "",
        "| million events | keys with a row | table, MB | its state, MB | process, MB |"
        " rows of recurring ids that changed | recurring ids without a row, at most |",
        "|" + "---|" * 7,
    ]
    print("\n".join(lines[4:]))
    for million in range(1, millions):
        for _ in old.to(million * MILLION):
            pass
        lines.append(row(old))
        print(lines[-1], flush=True)
    last, first = [], []
    while old.events < millions * MILLION:
        last.append(old.slice())
        first.append(new.slice())
    lines.append(row(old))
    print(lines[-1])
    ratios = [b / a for a, b in zip(first, last, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    text = (
        f"A micro-batch (64 keys) took {statistics.median(first) * 1e6:.0f} us of CPU in"
        f" the first million and {statistics.median(last) * 1e6:.0f} us in the last (medians of"
        f" {len(first)} slices in turn); the ratio of a pair was {middle:.3f} (quartiles"
        f" {low:.3f} to {high:.3f})."
    )
    print(text)
    RESULT.write_text("\n".join([*lines, "", text, ""]))


if __name__ == "__main__":
    main()
