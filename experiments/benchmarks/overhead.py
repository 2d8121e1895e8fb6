"""Measure the cost of the pipeline: the Elec2 learner in a plain torch loop and in a run, in turn.

The *plain loop* is written by hand with torch and NumPy. It holds the data in memory and does only
what the learner needs: standardise, predict, keep the prediction until the label arrives 48 events
later, replay, two Adam steps. The *learner alone* does the same with the learner of the job and
nothing around it. The *pipeline* reads the same events from Parquet, checks them, joins labels,
scores every prediction in all prequential metrics, keeps the ledger, and writes a checkpoint every
5,000 events.

All use one thread, and take turns of 8,192 events, so that a change of the machine's speed affects
all alike.

    python experiments/benchmarks/overhead.py [--events 500000] [--rounds 3]

Prints events/s of each and their ratio, round by round, and writes both to
experiments/results/overhead.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config import job as jobs
from pipeline.training.builder import build
from pipeline.training.callback import Callback
from pipeline.training.loop import Loop, StepResult
from pipeline.training.run import Run
from streams.core.batch import Batch
from streams.operators.label_join import Revealed

JOB = Path(__file__).parents[1] / "jobs" / "elec2.yaml"
RESULT = Path(__file__).parents[1] / "results" / "overhead.md"
SLICE = 8192
ELEC2 = Path(__file__).parents[2] / "streams" / "data" / "elec2.parquet"


def plain(x: np.ndarray, y: np.ndarray, seed: int = 7) -> Iterator[np.ndarray]:
    """Run the plain loop. Yield the predictions so far every 8,192 events, and at the end."""
    batch, delay, steps, recalled, capacity, half_life = 32, 48, 2, 32, 2000, 10.0
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = nn.Sequential(
        nn.Linear(6, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2)
    )
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.0, fused=True)
    n = len(x)
    predicted = np.empty(n, np.int64)
    seen = np.empty((n, 6), np.float32)
    count, mean, m2, std = 0.0, np.zeros(6), np.zeros(6), np.ones(6)
    memory_x, memory_y = np.empty((capacity, 6), np.float32), np.empty(capacity, np.int64)
    filled = place = 0
    for low in range(0, n, batch):
        if low and not low % SLICE:
            yield predicted[:low]
        rows = x[low : low + batch]
        scaled = ((rows - mean) / std).astype(np.float32)
        seen[low : low + batch] = scaled
        with torch.inference_mode():
            proba = torch.softmax(net(torch.from_numpy(scaled)), 1).numpy()
        predicted[low : low + batch] = proba.argmax(1)

        k = len(rows)
        kept = 0.5 ** (k / half_life)
        now = rows.mean(0)
        difference = now - mean
        count, m2 = count * kept, m2 * kept + ((rows - now) ** 2).sum(0)
        m2 += difference**2 * count * k / (count + k)
        mean = mean + difference * k / (count + k)
        count += k
        std = np.sqrt(m2 / count)
        std[std <= 1e-6 * np.abs(mean)] = 1.0

        known = slice(max(low - delay, 0), max(low + k - delay, 0))
        new_x, new_y = seen[known], y[known]
        if not len(new_y):
            continue
        for _ in range(steps):
            if filled:
                slots = rng.choice(filled, min(recalled, filled), replace=False)
                both_x = np.concatenate([new_x, memory_x[slots]])
                both_y = np.concatenate([new_y, memory_y[slots]])
            else:
                both_x, both_y = new_x, new_y
            optimizer.zero_grad()
            loss = F.cross_entropy(net(torch.from_numpy(both_x)), torch.from_numpy(both_y))
            loss.backward()
            optimizer.step()
        slots = np.arange(place, place + len(new_y)) % capacity
        memory_x[slots], memory_y[slots] = new_x, new_y
        place = (place + len(new_y)) % capacity
        filled = min(filled + len(new_y), capacity)
    yield predicted


def alone(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Run the learner of the job alone. Yield what ``plain`` yields."""
    batch, delay = 32, 48
    parts = build(jobs.load(JOB))
    learner, (standardise,) = parts.loop.learner, parts.loop.operators
    n = len(x)
    predicted = np.empty(n, np.int64)
    seen = np.empty((n, 6), np.float32)
    ids, time, partition = np.arange(n), np.arange(n, dtype=float), np.zeros(n, np.int32)
    before = np.arange(batch)
    for low in range(0, n, batch):
        if low and not low % SLICE:
            yield predicted[:low]
        rows = slice(low, low + batch)
        question = Batch(ids[rows], time[rows], x[rows], partition[rows], ids[rows])
        question = standardise.apply(question)
        seen[rows] = question.x
        known = slice(max(low - delay, 0), max(low + len(question) - delay, 0))
        revealed = Batch(
            ids[known], time[known], seen[known], partition[known], ids[known], y[known],
            classes=("DOWN", "UP"),
        )  # fmt: skip
        answer = learner.step(question, Revealed(revealed, before[: len(revealed)]))
        predicted[rows] = answer.value
    yield predicted


class InTurn(Callback):
    """Let the other programs continue whenever the pipeline has done as much, and time each."""

    def __init__(self, *others: Iterator[np.ndarray]) -> None:
        self.others = others
        self.ours = 0.0
        self.theirs = [0.0] * len(others)
        self.next = SLICE
        self.since = 0.0

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        if not self.since:  # set up, and the first micro-batch done
            self.since = time.perf_counter()
        if loop.events >= self.next:
            self.next += SLICE
            self.turn()

    def turn(self) -> list[np.ndarray]:
        """End the time of the pipeline, and let the others take their turns."""
        self.ours += time.perf_counter() - self.since
        predicted = []
        for i, other in enumerate(self.others):
            start = time.perf_counter()
            predicted.append(next(other))
            self.theirs[i] += time.perf_counter() - start
        self.since = time.perf_counter()
        return predicted


def once(data: Path, folder: Path, x: np.ndarray, y: np.ndarray) -> tuple[float, str]:
    run = Run(jobs.load(JOB, [f"stream.path={data}"]), folder, print)
    turns = InTurn(plain(x, y), alone(x, y))
    accuracy = run.run(callbacks=[turns])["metrics"]["online/accuracy"]
    by_hand, by_learner = turns.turn()
    ours = len(x) / turns.ours
    loop, learner = (len(x) / seconds for seconds in turns.theirs)
    assert accuracy == (by_learner == y).mean(), "the learner alone must predict the same"
    return ours / loop, (
        f"| {ours:,.0f} | {loop:,.0f} | {learner:,.0f} | {ours / loop:.3f} | {ours / learner:.3f} |"
        f" {accuracy:.4f} | {(by_hand == y).mean():.4f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = pq.read_table(ELEC2)
    times = -(-given.events // len(table))
    table = pa.concat_tables([table] * times).slice(0, given.events)
    x = np.stack([table[name].to_numpy() for name in table.column_names[:6]], 1)
    y = (table["class"].to_numpy(zero_copy_only=False) == "UP").astype(np.int64)
    lines = [
        "# What the pipeline costs",
        "",
        f"The Elec2 learner over {given.events:,} events, batch 32, one thread, events/s: through"
        " the pipeline, in a plain torch loop, and our learner alone, all in turn. Printed by"
        " `python experiments/benchmarks/overhead.py`, which says what each does. (The learner is"
        " faster than the plain loop because it moves all weights as one vector, with the kernel of"
        " torch's fused Adam and not the Python around it: the same weights, bit for bit.)",
        "",
        "| pipeline | plain loop | learner alone | pipeline / plain | pipeline / alone | accuracy |"
        " of the plain loop |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines[4:]))
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "elec2.parquet"
        pq.write_table(table, data)
        for i in range(given.rounds):
            ratio, line = once(data, Path(folder) / f"run{i}", x, y)
            ratios.append(ratio)
            lines.append(line)
            print(line, flush=True)
    lines += ["", f"Median ratio {statistics.median(ratios):.3f} over {given.rounds} rounds."]
    print("\n".join(lines[-2:]))
    RESULT.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
