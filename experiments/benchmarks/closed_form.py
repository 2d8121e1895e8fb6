"""Time predict and learn of the learners in closed form on vectors of 384 numbers.

    OMP_NUM_THREADS=1 python experiments/benchmarks/closed_form.py

The vectors are of 150 classes, as an encoder gives them, and lie in memory. A step predicts a
micro-batch of 64 events and learns their labels. Each learner first takes 10,000 events. Then all
learners take slices of 2,048 events in turn, so that a change of the machine's speed affects all
alike. The solves of weights that fall due are within the slices; the last columns say what one
costs. Seconds are those of the process, with one thread. Writes the table to
experiments/results/closed_form.md.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import learners
from learners.base import Learner
from learners.pretrained.closed_form import ClosedFormLearner
from learners.registry import find
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema
from streams.operators.label_join import Revealed

RESULT = Path(__file__).parents[1] / "results" / "closed_form.md"
WIDTH, CLASSES, SIZE = 384, 150, 64
FIRST, SLICE, TURNS = 10_000, 2048, 5

RELU = {"kind": "relu", "dimension": 2000}
LEARNERS: dict[str, dict[str, Any]] = {
    "prototype": {"kind": "prototype"},
    "slda": {"kind": "slda"},
    "fecam": {"kind": "fecam"},
    "ranpac, no projection": {"kind": "ranpac", "features": None},
    "ranpac, M = 2,000": {"kind": "ranpac"},
    "rls": {"kind": "rls"},
    "rls, half-life 5,000": {"kind": "rls", "half_life": 5000},
    "rls, M = 2,000": {"kind": "rls", "features": RELU, "ridge": 100},
    "knn, 10,000 events": {"kind": "knn"},
    "linear-probe": {"kind": "linear-probe"},
}


class Stream:
    """Events without end, of classes around random centres."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._centres = 0.2 * rng.normal(size=(CLASSES, WIDTH))
        self._names = tuple(f"class {i}" for i in range(CLASSES))

    def batch(self, number: int) -> Batch:
        """Return micro-batch ``number``."""
        rng = np.random.default_rng(number)
        y = rng.integers(0, CLASSES, SIZE)
        x = (self._centres[y] + 0.2 * rng.normal(size=(SIZE, WIDTH))).astype(np.float32)
        ids = np.arange(number * SIZE, (number + 1) * SIZE)
        return Batch(ids, ids * 1.0, x, np.zeros(SIZE, np.int32), ids, y, classes=self._names)


def learner_of(settings: dict[str, Any]) -> Learner:
    """Return a learner with these settings."""
    cls = find(learners.KINDS, Learner, settings["kind"])
    feature = Feature("text", "vector", (WIDTH,), unit=True)
    names = tuple(f"class {i}" for i in range(CLASSES))
    schema = Schema((feature,), "classification", names)
    return cls(cls.Config.model_validate(settings), schema, 0)


def seconds(learner: Learner, batches: list[Batch]) -> float:
    """Step through micro-batches. Return the seconds of the process."""
    steps = [(replace(b, y=None), Revealed(b, np.full(SIZE, SIZE))) for b in batches]
    start = time.process_time()
    for unlabelled, revealed in steps:
        learner.step(unlabelled, revealed)
    return time.process_time() - start


def solve_seconds(learner: Learner) -> float | None:
    """Return the seconds of one solve; None where nothing is solved."""
    if not isinstance(learner, ClosedFormLearner) or not learner.lazy:
        return None
    start = time.process_time()
    learner.fit()
    return time.process_time() - start


def solves(learner: Learner) -> float:
    """Return how many times weights were solved."""
    return learner.metrics().get("solves", 0.0)


def table() -> str:
    """Measure all learners. Return the table."""
    torch.set_num_threads(1)
    stream = Stream()
    known = {n: s for n, s in LEARNERS.items() if s["kind"] in learners.KINDS}
    models = {name: learner_of(settings) for name, settings in known.items()}
    warm = [stream.batch(i) for i in range(FIRST // SIZE)]
    for model in models.values():
        seconds(model, warm)
    before = {name: solves(model) for name, model in models.items()}
    rates: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(TURNS):
        first = len(warm) + turn * (SLICE // SIZE)
        batches = [stream.batch(first + i) for i in range(SLICE // SIZE)]
        for name, model in models.items():
            rates[name].append(SLICE / seconds(model, batches))
    lines = [
        "| learner | events/s: median (least to most) | state, MB | solves in 10,240 events | "
        "ms of a solve |",
        "|---|---|---|---|---|",
    ]
    for name, model in models.items():
        took, lazy = solve_seconds(model), solves(model) - before[name]
        rate = sorted(rates[name])
        cells = [
            name,
            f"{statistics.median(rate):,.0f} ({rate[0]:,.0f} to {rate[-1]:,.0f})",
            f"{model.memory_bytes() / 1e6:,.1f}",
            "" if took is None else f"{lazy:.0f}",
            "" if took is None else f"{1000 * took:,.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    measured = table()
    print(measured)
    RESULT.write_text(
        "# Speed of learners in closed form\n\n"
        "Vectors of 384 numbers, 150 classes, micro-batches of 64, one thread: predict and learn. "
        "Printed by `python experiments/benchmarks/closed_form.py`.\n\n"
        f"{measured}\n"
    )


if __name__ == "__main__":
    main()
