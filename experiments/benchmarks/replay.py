"""Measure the speed of online replay: a plain torch loop, ``everlearn bench``, and Avalanche, in
turn.

Split-MNIST, one pass, 784-512-10, plain SGD, each step on 10 new events and 10 of the 1,000 in a
reservoir. The *plain loop* is written by hand with torch: all images are float tensors in memory,
and it only predicts, keeps the prediction, takes the step and fills the reservoir. *everlearn* is
what ``everlearn bench`` runs: it reads and numbers events block by block, joins labels, scores
every prediction in all prequential metrics, keeps the ledger, and stores images as bytes. Its tests
are not timed. *Avalanche* is its own ``Naive`` with its ``ReplayPlugin`` over
``split_online_stream``, without evaluator and loggers. It predicts nothing, and its images are
float tensors in memory.

All use one thread, see the same events in the same order, and take turns of 1,000 events, so that a
change of the machine's speed affects all alike.

    python experiments/benchmarks/replay.py [--events 8000] [--rounds 3]

Prints events/s and ratios, round by round and task by task, and writes them to
experiments/results/replay_speed.md.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.bench.cell import Cell, job_of, run_cell
from pipeline.bench.measure import Budget
from streams.integrations.avalanche_library import OwnRandom, import_avalanche
from streams.scenarios.stream import ScenarioStream

RESULT = Path(__file__).parents[1] / "results" / "replay_speed.md"
SLICE = 1000
BATCH, CAPACITY, HIDDEN, RATE = 10, 1000, 512, 0.1
TASKS = 5
ABOUT = [
    "# The speed of online replay",
    "",
    "Split-MNIST, {events:,} events, 784-512-10, batch 10 + 10, buffer 1,000, plain SGD, one"
    " thread; events/s of a plain torch loop, of everlearn as `everlearn bench` runs it, and of"
    " Avalanche's `Naive` with `ReplayPlugin`. All take turns of 1,000 events; medians over turns,"
    " and of the ratios in the same turn. Printed by `python experiments/benchmarks/replay.py`,"
    " which says what each does.",
    "",
]


class Events(NamedTuple):
    """A stream in memory: ``x`` (n, 784) float32 from 0 to 1, ``y`` (n,), and the rows where tasks
    begin, with the end.
    """

    x: Tensor
    y: Tensor
    borders: list[int]


def events_of(seed: int, events: int) -> Events:
    """Return the events of the stream that the bench reads, in its order."""
    loaded = job_of(Cell("split-mnist", "replay", seed), [f"stream.events={events}"])
    stream = loaded.stream(loaded.job.stream, loaded.folder)
    assert isinstance(stream, ScenarioStream)
    whole = next(iter(stream.read({}, len(stream))))
    assert isinstance(whole.x, np.ndarray)
    assert whole.y is not None
    x = torch.from_numpy(whole.x.reshape(len(whole), -1).astype(np.float32) / 255)
    return Events(x, torch.from_numpy(whole.y), [*(row for row, _ in stream.begins), len(whole)])


def plain(events: Events, seed: int) -> Iterator[Tensor]:
    """Run the plain loop. Yield the predictions so far at each turn."""
    torch.manual_seed(seed)
    rng, draw = np.random.default_rng(seed), random.Random(seed)
    x, y = events.x, events.y
    net = nn.Sequential(nn.Linear(x.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))
    optimizer = torch.optim.SGD(net.parameters(), RATE)
    memory_x, memory_y = torch.zeros(CAPACITY, x.shape[1]), torch.zeros(CAPACITY, dtype=torch.int64)
    predicted = torch.zeros_like(y)
    seen = filled = 0
    yield predicted[:0]  # ready
    for stop in turns(events):
        for low in range(seen, stop, BATCH):
            seen = min(low + BATCH, stop)
            new_x, new_y = x[low:seen], y[low:seen]
            with torch.inference_mode():
                predicted[low:seen] = torch.softmax(net(new_x), 1).argmax(1)
            both_x, both_y = new_x, new_y
            if filled:
                slots = torch.from_numpy(rng.choice(filled, min(BATCH, filled), replace=False))
                both_x, both_y = (
                    torch.cat([new_x, memory_x[slots]]),
                    torch.cat([new_y, memory_y[slots]]),
                )
            optimizer.zero_grad()
            F.cross_entropy(net(both_x), both_y).backward()
            optimizer.step()
            for row in range(low, seen):
                slot = row if row < CAPACITY else draw.randrange(row + 1)
                if slot < CAPACITY:
                    memory_x[slot], memory_y[slot] = x[row], y[row]
            filled = min(seen, CAPACITY)
        yield predicted[:stop]


def turns(events: Events) -> list[int]:
    """Return the rows before which a turn ends: every 1,000, and where a task ends."""
    return sorted({*range(SLICE, len(events.y), SLICE), *events.borders[1:]})


class Images(torch.utils.data.Dataset[Any]):
    """Rows and labels, as an Avalanche data set."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.targets = x, y.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> Any:
        return self.x[row], self.targets[row]


def avalanche(events: Events, seed: int) -> Iterator[None]:
    """Run Avalanche's own loop."""
    library = import_avalanche()
    benchmarks, training = library.benchmarks, library.training
    own = OwnRandom(seed)
    tasks = [
        benchmarks.utils.as_classification_dataset(
            Images(events.x[start:stop], events.y[start:stop])
        )
        for start, stop in pairwise(events.borders)
    ]
    with own.within(), warnings.catch_warnings(record=True):
        benchmark = benchmarks.benchmark_from_datasets(train=tasks)
        model = library.models.SimpleMLP(10, events.x.shape[1], hidden_size=HIDDEN, drop_rate=0)
        memory = training.ReservoirSamplingBuffer(max_size=CAPACITY)
        strategy = training.Naive(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), RATE),
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=BATCH,
            plugins=[
                training.plugins.ReplayPlugin(
                    CAPACITY, BATCH, batch_size_mem=BATCH, storage_policy=memory
                )
            ],
            evaluator=None,
        )
        parts = iter(benchmarks.split_online_stream(benchmark.streams["train"], BATCH, False))
    seen = 0
    yield None  # ready
    for stop in turns(events):
        # Avalanche sees to it that its warnings cannot be ignored; printed, they would cost time.
        with own.within(), warnings.catch_warnings(record=True):
            while seen < stop:
                part = next(parts)
                strategy.train(part, eval_streams=[])
                seen += len(part.dataset)
        yield None


class Times(NamedTuple):
    """One round: the task of each turn, the events/s by everlearn, the plain loop and Avalanche,
    and the prequential accuracy of everlearn and of the plain loop.
    """

    task: np.ndarray
    ours: np.ndarray
    plain: np.ndarray
    avalanche: np.ndarray
    accuracy: float
    by_hand: float


def once(seed: int, events: int) -> Times:
    """Run one round."""
    stream = events_of(seed, events)
    stops = turns(stream)
    others = plain(stream, seed), avalanche(stream, seed)
    for other in others:
        next(other)
    taken: list[list[float]] = []
    predicted = torch.zeros(0)

    def turn(done: int, _total: int) -> None:  # our clock stands still meanwhile
        nonlocal predicted
        assert done == stops[len(taken)]
        taken.append([])
        for other in others:
            start = time.perf_counter()
            found = next(other)
            taken[-1].append(time.perf_counter() - start)
            predicted = predicted if found is None else found

    with tempfile.TemporaryDirectory() as folder:
        cell = Cell("split-mnist", "replay", seed)
        loaded = job_of(cell, [f"stream.events={events}"])
        result = run_cell(cell, loaded, Budget(every=SLICE, tests=1), Path(folder), turn)
        curve = (Path(folder) / cell.folder / "metrics.jsonl").read_text().splitlines()
    rows = {row["step"]: row["metrics"] for row in map(json.loads, curve)}
    clock = [stop / rows[stop]["system/events_per_s"] for stop in stops]
    done = np.diff([0, *stops])
    return Times(
        np.searchsorted(stream.borders, stops) - 1,
        done / np.diff([0.0, *clock]),
        *(done / np.array(taken).T),
        result["metrics"]["online_accuracy"],
        float((predicted == stream.y).float().mean()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=8000, help="of each task")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    once(0, 200)  # whatever is slow the first time
    rounds = []
    lines = [line.format(events=TASKS * given.events) for line in ABOUT]
    lines.append(
        "| round | everlearn | plain loop | Avalanche | everlearn / plain |"
        " everlearn / Avalanche | accuracy | of the plain loop |"
    )
    lines.append("|---" * 8 + "|")
    print("\n".join(lines[-2:]))
    for seed in range(given.rounds):
        rounds.append(found := once(seed, given.events))
        accuracies = f"{found.accuracy:.3f} | {found.by_hand:.3f}"
        lines.append(f"| {seed + 1} | {speeds([found])} | {accuracies} |")
        print(lines[-1], flush=True)
    lines.append(f"| all | {speeds(rounds)} | | |")
    lines += [
        "",
        "| task | everlearn | plain loop | Avalanche | everlearn / plain |",
        "|---" * 5 + "|",
    ]
    for task in range(TASKS):
        of_task = speeds(rounds, task).rsplit(" | ", 1)[0]
        lines.append(f"| {task + 1} | {of_task} |")
    print("\n".join(lines[5 + given.rounds + 1 :]))
    RESULT.write_text("\n".join([*lines, ""]))


def speeds(rounds: list[Times], task: int | None = None) -> str:
    """Return medians over the turns of some rounds, or over those of one task: events/s of each,
    and the ratios of everlearn to the others in the same turn.
    """
    mine = np.concatenate([r.task == task if task is not None else r.task >= 0 for r in rounds])
    ours, by_hand, peer = (
        np.concatenate([r[column] for r in rounds])[mine] for column in (1, 2, 3)
    )
    each = " | ".join(f"{np.median(speed):,.0f}" for speed in (ours, by_hand, peer))
    return f"{each} | {np.median(ours / by_hand):.3f} | {np.median(ours / peer):.1f}"


if __name__ == "__main__":
    main()
