"""Measure what probes cost the training: jobs with and without them, in turn.

Both are whole runs of the local runner without tracking. One holds out 2% of events, keeps them by
segment, takes snapshots and scores them in a thread beside the training, as jobs do. The other does
none of that. They take turns of 8,192 events, and the scoring thread rests while it is not its
run's turn. So a change of the machine's speed affects both alike.

    python experiments/benchmarks/probes.py [--rounds 5]

It takes the Elec2 job at three lengths, one of them with 2, 10 and 40 segments, and the network of
split-mnist in ``everlearn bench`` (784-512-10, micro-batches of 10) if MNIST is available. Prints
seconds of training for each, the cost of probes in percent, and the time of one evaluation. Writes
them to experiments/results/probes.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.callbacks.probe_evaluator import BackgroundEvaluator
from pipeline.config import job as jobs
from pipeline.config.errors import JobError
from pipeline.models.snapshot import Snapshot
from pipeline.training.callback import Callback
from pipeline.training.loop import Loop, StepResult
from pipeline.training.run import Run

ROOT = Path(__file__).parents[2]
JOB = ROOT / "experiments" / "jobs" / "elec2.yaml"
RESULT = ROOT / "experiments" / "results" / "probes.md"
SLICE = 8192
MNIST = """
name: mnist
seed: 7
stream: {kind: scenario, name: split-mnist, batch_size: 10}
learner:
  kind: replay
  model: {kind: mlp, hidden: [512]}
  optimizer: {kind: sgd, lr: 0.1}
  replay_size: 10
  buffer: {capacity: 1000}
"""
ABOUT = [
    "# What probes cost",
    "",
    "The Elec2 job (45,312 events, again and again, 32 at a time) and split-mnist (10 at a time)"
    " with 2% of events as probes and without, in turn every 8,192 events; seconds of training, and"
    " of one evaluation. Printed by `python experiments/benchmarks/probes.py`, which says how.",
    "",
    "| job | events | segments | without, s | with, s | cost, median | rounds | evaluations |"
    " one of them, ms |",
    "|" + "---|" * 9,
]


class Gated(BackgroundEvaluator):
    """Score only while its run has its turn."""

    def __init__(self, turn: threading.Event) -> None:
        super().__init__(2000, print, share=0.0025)  # half the time is not its run's
        asked = self._queue.next

        def fetch(timeout: float) -> Snapshot | None:
            turn.wait()
            return asked(timeout)

        self._queue.next = fetch  # type: ignore[method-assign]


class Turns(Callback):
    """Run two runs in two threads, one at a time, and record the time of each."""

    def __init__(self, mine: threading.Event, other: threading.Event) -> None:
        self.mine, self.other = mine, other
        self.seconds = 0.0
        self._next = SLICE
        self._since = 0.0

    def on_start(self, *_: object) -> None:
        self.mine.wait()
        self._since = time.perf_counter()

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        if loop.events >= self._next:
            self._next += SLICE
            self.seconds += time.perf_counter() - self._since
            self.mine.clear()
            self.other.set()
            self.mine.wait()
            self._since = time.perf_counter()

    def on_end(self, loop: Loop, result: StepResult) -> None:
        self.seconds += time.perf_counter() - self._since
        self.other.set()
        self.mine.set()


def pair(job: Path, settings: Sequence[str], folder: Path) -> Iterator[float]:
    """Return the seconds of training without and with probes, the evaluations, and the seconds of
    one.
    """
    with_turn, without_turn = threading.Event(), threading.Event()
    watching = {
        "with": Turns(with_turn, without_turn),
        "without": Turns(without_turn, with_turn),
    }
    beside = Gated(with_turn)
    held = {"with": "0.02", "without": "0"}

    def run(name: str) -> None:
        loaded = jobs.load(job, [*settings, f"evaluate.probes.share={held[name]}"])
        callbacks: list[Callback] = [watching[name]]
        if name == "with":
            callbacks.append(beside)
        Run(loaded, folder / name, print).run(callbacks=callbacks)

    threads = [threading.Thread(target=run, args=(name,)) for name in watching]
    for thread in threads:
        thread.start()
    with_turn.set()
    for thread in threads:
        thread.join()
    with_turn.set()
    beside.close()
    rows = [
        json.loads(row)["metrics"]
        for row in (folder / "with" / "stability.jsonl").read_text().splitlines()
    ]
    yield from (watching["without"].seconds, watching["with"].seconds, len(rows))
    yield statistics.median(row["system/evaluation_s"] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    table = pq.read_table(ROOT / "streams" / "data" / "elec2.parquet")
    lines = []
    for line in ABOUT[4:]:
        print(line)
    with tempfile.TemporaryDirectory() as place:
        mnist = Path(place) / "mnist.yaml"
        mnist.write_text(MNIST)
        for times, segments in ((1, 10), (4, 10), (16, 10), (4, 2), (4, 40), (0, 10)):
            settings = [f"evaluate.probes.segments={segments}"]
            job, name, events = mnist, "split-mnist", 60_000
            if times:
                data = Path(place) / f"elec2-{times}.parquet"
                pq.write_table(pa.concat_tables([table] * times), data)
                job, name, events = JOB, "Elec2", times * len(table)
                settings.append(f"stream.path={data}")
            try:
                found = [
                    [*pair(job, settings, Path(place) / f"{times}-{segments}-{i}")]
                    for i in range(rounds)
                ]
            except JobError as error:
                print(error)
                continue
            without, with_, evaluations, one = (
                statistics.median(c) for c in zip(*found, strict=True)
            )
            costs = [100 * (b / a - 1) for a, b, *_ in found]
            lines.append(
                f"| {name} | {events:,} | {segments} | {without:.2f} | {with_:.2f} |"
                f" {statistics.median(costs):.1f}% | {', '.join(f'{c:.1f}' for c in costs)} |"
                f" {evaluations:.0f} | {1000 * one:.1f} |"
            )
            print(lines[-1], flush=True)
    RESULT.write_text("\n".join([*ABOUT, *lines, ""]))


if __name__ == "__main__":
    main()
