"""Tune the settings of experiments/jobs/elec2.yaml on the first 10,000 events.

One factor at a time changes from a common base, with three seeds each. The half-life is on a grid
of powers of ten and three times these. Prints a table and writes it to
experiments/results/elec2_tuning.md.

    python experiments/studies/elec2_tuning.py
"""

from __future__ import annotations

import statistics
from pathlib import Path

import torch

from pipeline.config import job as jobs
from pipeline.training.builder import build

HERE = Path(__file__).parents[1]
EVENTS = 10_000
SEEDS = (101, 102, 103)
TRIALS: dict[str, list[str]] = {
    "as in the job": [],
    "no standardise, the learner scales": ["stream.standardise=null", "learner.scale=true"],
    **{
        f"half-life {h}": [f"stream.standardise.half_life={h}"]
        for h in (3, 30, 100, 300, 1000, 3000, 10_000)
    },
    "steps 1": ["learner.steps=1"],
    "steps 4": ["learner.steps=4"],
    "lr 0.0003": ["learner.optimizer.lr=0.0003"],
    "lr 0.003": ["learner.optimizer.lr=0.003"],
    "hidden [64]": ["learner.model.hidden=[64]"],
    "hidden [256, 128]": ["learner.model.hidden=[256, 128]"],
    "tanh": ["learner.model.activation=tanh"],
    "reservoir": ["learner.buffer.admission=reservoir"],
    "capacity 500": ["learner.buffer.capacity=500"],
    "capacity 5000": ["learner.buffer.capacity=5000"],
    "replay size 64": ["learner.replay_size=64"],
    "batch 16": ["stream.batch_size=16"],
}


def accuracy(overrides: list[str], seed: int) -> float:
    """Return the prequential accuracy over the first 10,000 events with a label by then."""
    loaded = jobs.load(HERE / "jobs" / "elec2.yaml", [*overrides, f"seed={seed}"])
    parts = build(loaded)
    for batch in parts.reader.read({}):
        parts.loop.step(batch)
        if parts.loop.events >= EVENTS:
            break
    return parts.loop.results()["online/accuracy"]


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name, overrides in TRIALS.items():
        scores = [accuracy(overrides, seed) for seed in SEEDS]
        rows.append((name, statistics.mean(scores), statistics.stdev(scores)))
        print(f"{name:36s} {rows[-1][1]:.4f} ± {rows[-1][2]:.4f}", flush=True)
    lines = [
        "# Elec2: settings on the first 10,000 events",
        "",
        "Prequential accuracy, labels 48 events late, mean ± standard deviation over seeds "
        f"{', '.join(map(str, SEEDS))}. Printed by `python experiments/studies/elec2_tuning.py`.",
        "",
        "| change from the job | accuracy |",
        "|---|---|",
        *(f"| {name} | {mean:.4f} ± {std:.4f} |" for name, mean, std in rows),
        "",
    ]
    (HERE / "results" / "elec2_tuning.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
