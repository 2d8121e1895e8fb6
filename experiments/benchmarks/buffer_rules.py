"""Measure what a buffer costs beyond moving its rows, for every rule at three capacities.

Sampling: ``Buffer.sample(k)`` against ``numpy.take`` of as many rows, drawn before by the same
rule, out of the same columns (x, y, ids). Adding: ``Buffer.add`` of 256 rows against assigning 256
rows to random slots of the same columns. Both take turns, some draws each. The ratio is the median
over the turns, so that a change of the machine's speed affects both alike. Times are processor
times.

Before that, each recall rule has gone 10 times through a buffer that was filled in ten lots, with
95% of recalls correct. Each admission rule has seen twice as many rows as the buffer holds.

    python experiments/benchmarks/buffer_rules.py [--turns 9] [--capacities 1000 100000 1000000]

Prints the tables and writes them to experiments/results/buffers.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from buffers.admission.base import Admission
from buffers.buffer import Array, Buffer
from buffers.recall.base import Ints, Recall, RecallOutcome
from buffers.registry import ADMISSIONS, RECALLS, find_admission, find_recall

RESULT = Path(__file__).parents[1] / "results" / "buffers.md"
WIDTHS = {"MNIST": 784, "CIFAR": 3072}
SIZES = (10, 256)
GOAL = 1.3
MOVED = 20_000  # rows in one turn, or 50 draws where that is more
ABOUT = """# What a buffer costs

`sample` against `numpy.take`, `add` against assignment, of the same rows (uint8 `x`, int64 `y` and
`ids`), in turn, on one thread; medians over the turns. Ratio, and in brackets µs of the one and of
the other. Printed by `python experiments/benchmarks/buffer_rules.py`, which says how.
`highest-loss` and `maximal-interference` take five times k rows, as candidates.
"""
OUTCOMES = (
    "`update` with the outcomes of {k} recalls takes `forgetting-curve` {seconds:.1f} µs more."
)


def rows(start: int, n: int, width: int) -> dict[str, Array]:
    ids = np.arange(start, start + n)
    x = np.random.default_rng(start).integers(0, 256, (n, width), np.uint8)
    return {"ids": ids, "x": x, "y": ids % 10}


def seconds(work: Callable[[Ints], object], lots: list[Ints]) -> float:
    """Return the seconds for one of ``lots``."""
    start = time.thread_time()
    for slots in lots:
        work(slots)
    return (time.thread_time() - start) / len(lots)


def rehearse(rule: Recall, filled: int, k: int, draws: int) -> Iterator[Ints]:
    """Yield draws as a learner makes them that is correct on 95% of them."""
    rng = np.random.default_rng(k)
    for _ in range(draws):
        slots = rule.draw(k, filled, rng)
        yield slots
        slots = slots[:k]  # of candidates, as if chosen
        rule.present(slots, k * rule.views)
        m = len(slots)
        rule.update(slots, RecallOutcome(np.zeros(m, np.float32), rng.random(m) < 0.95))


def sampled(buffer: Buffer, rule: Recall, k: int, turns: int) -> tuple[float, float, float]:
    """Return the ratio of ``sample`` to raw takes, and the seconds of each."""
    draws = max(MOVED // k // rule.pool, 50)
    columns = buffer.sample(0).columns.keys()
    held = [buffer._store.columns[name] for name in columns]
    drawn = [slots for slots in rehearse(rule, len(buffer), k, draws) if len(slots)]
    ratios = []
    for turn in range(turns):
        ours = seconds(lambda _: buffer.sample(k), drawn)
        # Other rows each time: those of the last turn may still be in a cache.
        shifted = [
            (slots + (turn + 1) * len(buffer) // (turns + 1)) % len(buffer) for slots in drawn
        ]
        raw = seconds(lambda slots: [column.take(slots, axis=0) for column in held], shifted)
        ratios.append((ours / raw, ours, raw))
    return (*map(statistics.median, zip(*ratios, strict=True)),)  # type: ignore[return-value]


def added(buffer: Buffer, rule: Admission, width: int, turns: int) -> tuple[float, float, float]:
    """Return the ratio of ``add`` to raw assignment, and the seconds of each."""
    lot, rng = 256, np.random.default_rng(0)
    lots = MOVED // lot
    new = [rows(i * lot, lot, width) for i in range(4)]
    held = buffer._store.columns
    slots = [rng.permutation(buffer.capacity)[:lot] for _ in range(lots)]

    def assign(where: Ints) -> None:
        for name, column in new[where[0] % 4].items():
            held[name][where] = column

    ratios = []
    for _ in range(turns):
        ours = seconds(lambda where: buffer.add(**new[where[0] % 4]), slots)
        raw = seconds(assign, slots)
        ratios.append((ours / raw, ours, raw))
    return (*map(statistics.median, zip(*ratios, strict=True)),)  # type: ignore[return-value]


def cell(measured: tuple[float, float, float]) -> str:
    ratio, ours, raw = measured
    return f"{ratio:.2f} ({1e6 * ours:,.0f} / {1e6 * raw:,.0f})"


def verdict(k: int, cells: list[tuple[float, float, float]]) -> str:
    within = sum(ratio <= GOAL for ratio, _, _ in cells)
    more = sorted(1e6 * (ours - raw) for _, ours, raw in cells)
    return (
        f"sample({k}) keeps within {GOAL} times the take in {within} of {len(cells)} cells. What it"
        f" takes beyond the take is {more[0]:.0f} to {more[-1]:.0f} µs,"
        f" {statistics.median(more):.0f} µs in the median."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--capacities", type=int, nargs="+", default=[10**3, 10**5, 10**6])
    parser.add_argument("--rules", nargs="+", default=[*RECALLS])
    parser.add_argument("--rows", nargs="+", default=[*WIDTHS])
    arguments = parser.parse_args()

    heads = [(kind, n) for kind in arguments.rows for n in arguments.capacities]
    names = [f"{kind}, {n:,}" for kind, n in heads]
    sampling = {(name, k): [] for k in SIZES for name in arguments.rules}
    adding = {name: [] for name in ADMISSIONS}
    for kind, capacity in heads:
        buffer = Buffer(capacity, "ring")
        few = rows(0, min(capacity, 10_000), WIDTHS[kind])
        for _ in range(0, capacity, 10_000):
            buffer.add(**few)
        for name in arguments.rules:
            buffer.recall = rule = find_recall(name)(capacity)
            for lot in range(10):
                rule.put(np.arange(lot, capacity, 10), (lot + 1) * capacity // 10)
            for _ in rehearse(rule, capacity, capacity // 100, 1000):
                pass
            for k in SIZES:
                measured = sampled(buffer, rule, k, arguments.turns)
                sampling[name, k].append(measured)
                print(f"{kind} {capacity:>9,} {name:22} k={k:<4} {cell(measured)}", flush=True)
        if kind != "MNIST":
            continue
        buffer.recall = find_recall("uniform")(capacity)
        for name in ADMISSIONS:
            buffer.admission = find_admission(name)(capacity)
            few = rows(0, min(capacity, 10_000), 16)
            for start in range(0, 2 * capacity, len(few["ids"])):
                buffer.admission.place(few, len(few["ids"]), np.random.default_rng(start))
            measured = added(buffer, buffer.admission, WIDTHS[kind], arguments.turns)
            adding[name].append(cell(measured))
            print(f"{kind} {capacity:>9,} {name:22} add    {cell(measured)}", flush=True)

    def table(first: list[str], lines: list[list[str]]) -> list[str]:
        body = [f"| {' | '.join(line)} |" for line in [first, ["---"] * len(first), *lines]]
        return [*body, ""]

    curve, slots = find_recall("forgetting-curve")(10**5), [np.arange(0, 10**5, 391)]
    outcome = RecallOutcome(np.zeros(256, np.float32), np.arange(256) % 20 > 0)
    took = [seconds(lambda lot: curve.update(lot, outcome), 100 * slots) for _ in range(9)]
    text = [ABOUT, OUTCOMES.format(k=256, seconds=1e6 * statistics.median(took)), ""]
    for k in SIZES:
        text += [verdict(k, [each for name in arguments.rules for each in sampling[name, k]]), ""]
    for k in SIZES:
        lines = [[name, *map(cell, sampling[name, k])] for name in arguments.rules]
        text += [f"## sample({k})", "", *table(["recall", *names], lines)]
    lines = [[name, *cells] for name, cells in adding.items()]
    text += ["## add of 256 rows", "", *table(["admission", *names[: len(lines[0]) - 1]], lines)]
    RESULT.write_text("\n".join(text))
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
