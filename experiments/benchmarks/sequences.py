"""Time the learning of event sequences: a run beside a plain torch loop, and their speed by age.

    python experiments/benchmarks/sequences.py [--events 20000] [--rounds 3]

The events are of the generator of Hawkes processes (200 users, 5 types), the networks those of the
defaults: 2 layers, 2 heads, hidden 32, histories of 32 events. Micro-batches have 32 events. Both
programs use one thread and take turns of 2,048 events, so that a change of the machine's speed
affects both alike.

The plain loop has all histories in memory as tensors on a fixed scale of times. It does only what
the method needs: predict the next event of each event, and take a step of torch's Adam on those
whose next one has come. The run reads the events, keeps the histories of users, joins labels,
follows the scale of times, scores every prediction, and writes checkpoints. Times are of the
processor, all threads together. Prints events a second of each, their ratio, and the ratio of the
last quarter of the run to its second (age), round by round, and writes them to
experiments/results/sequence_speed.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import yaml

from learners.sequences.history import history_of
from learners.sequences.networks.base import Cells, HistoryTensors, Next
from learners.sequences.networks.prompted import Prompted
from learners.sequences.prompt_tpp import PromptTpp
from learners.sequences.time_scale import TimeScale
from learners.sequences.tpp import Tpp
from pipeline.config import job as jobs
from pipeline.training.builder import build
from pipeline.training.callback import Callback
from pipeline.training.loop import Loop, StepResult
from pipeline.training.run import Run
from streams.core.batch import Batch

RESULT = Path(__file__).parents[1] / "results" / "sequence_speed.md"
TURN, BATCH = 2048, 32
KINDS = {"tpp": Tpp, "prompt-tpp": PromptTpp}


def job_file(kind: str, events: int, folder: Path) -> Path:
    """Write the job of a run; return its path."""
    job = {
        "name": kind,
        "stream": {"kind": "hawkes", "events": events, "batch_size": BATCH},
        "learner": kind,
        "checkpoint": {"every_events": 10_000},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def histories(path: Path) -> Batch:
    """Return all events of a job with their histories, and the types as ``y``."""
    parts = build(jobs.load(path))
    batches = list(parts.reader.read({}))
    for operator in parts.loop.operators:
        batches = [operator.apply(batch) for batch in batches]
    return Batch.concat(batches)


def plain(kind: str, events: Batch) -> Iterator[int]:
    """Run the plain loop. Yield the events done every 2,048 events, and at the end."""
    config = KINDS[kind].Config(kind=kind)
    assert events.y is not None
    assert events.key is not None
    history = history_of(events)
    n = len(events)
    before = np.full(n, -1)
    last: dict[int, int] = {}
    for i, key in enumerate(events.key.tolist()):
        before[i] = last.get(key, -1)
        last[key] = i
    follows = before >= 0
    wait = np.where(follows, events.time - events.time[before], 0.0)
    scale = TimeScale(1e-6, config.cells)
    scale.observe(wait[follows], np.ones(int(follows.sum()), bool))
    held = history.types >= 0
    seconds = np.where(held, history.gaps, 0.0)
    ages = np.cumsum(seconds[:, ::-1], 1)[:, ::-1] - seconds
    everything = HistoryTensors(
        torch.from_numpy(np.where(held, history.types + 1, 0).astype(np.int64)),
        torch.from_numpy(scale.to_units(seconds).astype(np.float32)),
        torch.from_numpy(scale.to_units(ages).astype(np.float32)),
        torch.from_numpy(history.lengths),
    )
    came = Next(
        torch.from_numpy(scale.to_units(wait).astype(np.float32)),
        torch.from_numpy(scale.steps(wait).astype(np.float32)),
        torch.from_numpy(events.y),
    )
    cells = Cells.of(torch.from_numpy(scale.units.astype(np.float32)))
    torch.manual_seed(0)
    types = len(events.classes)
    net = KINDS[kind]._network(_Settings(config), types)  # type: ignore[arg-type]
    slow = [p for name, p in net.named_parameters() if not name.startswith("pools.")]
    optimizer = torch.optim.Adam(slow, 1e-3, fused=True)
    pools = [p for name, p in net.named_parameters() if name.startswith("pools.")]
    of_pools = torch.optim.Adam(pools, 1e-3, fused=True) if pools else None
    step = 0
    for low in range(0, n, BATCH):
        if not low % TURN:
            yield low
        rows = np.arange(low, min(low + BATCH, n))
        net.eval()
        with torch.inference_mode():
            net.intensities(net.encode(_rows(everything, rows)), cells)
        known = rows[follows[rows]]
        if not len(known):
            continue
        net.train()
        encoded = net.encode(_rows(everything, before[known]))
        index = torch.from_numpy(known)
        found = net.log_likelihood(encoded, Next(*(x[index] for x in came)), cells)
        loss = -(found.time + found.types).mean()
        if isinstance(net, Prompted):
            net.count_uses(encoded.chosen)
            loss = loss + encoded.pull
        net.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if of_pools is not None and step % 2 == 0:
            of_pools.step()
        step += 1
    yield n


class _Settings:
    """What makes a network of the settings of a learner."""

    def __init__(self, config: object) -> None:
        self.config, self.seed = config, 0


def _rows(histories: HistoryTensors, rows: np.ndarray) -> HistoryTensors:
    """Return some histories, without columns behind all events."""
    lengths = histories.lengths[rows]
    longest = max(int(lengths.max()), 1)
    index = torch.from_numpy(rows)
    return HistoryTensors(*(x[index, :longest] for x in histories[:3]), lengths)


class InTurn(Callback):
    """Let the plain loop continue whenever the run has done as much, and time both.

    Attributes:
        ours: seconds of the run, by turns.
        theirs: seconds of the plain loop.
    """

    def __init__(self, other: Iterator[int]) -> None:
        self._other, self._next, self._since = other, TURN, 0.0
        self.ours: list[float] = []
        self.theirs: list[float] = []

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        if not self._since:  # set up, and the first micro-batch done
            self._since = time.process_time()
        if loop.events >= self._next:
            self._next += TURN
            start = time.process_time()
            self.ours.append(start - self._since)
            next(self._other)
            self._since = time.process_time()
            self.theirs.append(self._since - start)


def beside(kind: str, count: int) -> tuple[float, float, float]:
    """Return events a second of a run and of the plain loop, and how much slower the last quarter
    of the run is than the second."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = job_file(kind, count, folder)
        other = plain(kind, histories(path))
        next(other)  # set up
        turns = InTurn(other)
        Run(jobs.load(path), folder / "run", print).run(callbacks=[turns])
    ours, theirs = turns.ours[1:], turns.theirs[1:]
    quarter = len(ours) // 4
    aged = sum(ours[-quarter:]) / sum(ours[quarter : 2 * quarter])
    return TURN * len(ours) / sum(ours), TURN * len(theirs) / sum(theirs), aged


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# Speed of learning event sequences",
        "",
        f"{arguments.events:,} events, micro-batches of {BATCH}, histories of 32 events, one "
        "thread, seconds of the processor. Printed by "
        "`python experiments/benchmarks/sequences.py`.",
        "",
        "| learner | round | run, events/s | plain loop, events/s | ratio | age |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    for kind in KINDS:
        ratios = []
        for number in range(1, arguments.rounds + 1):
            ours, theirs, aged = beside(kind, arguments.events)
            ratios.append(ours / theirs)
            cells = f"{number} | {ours:,.0f} | {theirs:,.0f} | {ratios[-1]:.3f} | {aged:.3f}"
            lines.append(f"| {kind} | {cells} |")
            print(lines[-1], flush=True)
        lines.append(f"| {kind} | median | | | {statistics.median(ratios):.3f} | |")
        print(lines[-1], flush=True)
    RESULT.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
