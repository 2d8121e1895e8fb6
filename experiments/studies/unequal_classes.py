"""Compare what network learners do about a rare class: weights, temperature, thresholds, costs.

    python experiments/studies/unequal_classes.py [--data FOLDER] [--seeds 5]

FOLDER has elec2.csv.gz, weather.csv.gz, outdoor.data.gz and outdoor.labels.gz; by default it is
$EVERLEARN_DATA. A rare class is made by thinning: of one class only a share is kept, drawn by the
seed. All arms see the same events in the same order with the same seed of the network. Three
arms are controls: class frequencies (``prior``), a network that learns faster, and a buffer in
which classes are equal.

Prints a table for each stream: the mean over seeds, and below it the mean paired difference to
``none`` with its 95% confidence interval (t of seeds - 1 degrees of freedom).
"""

from __future__ import annotations

import argparse
import gzip
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score

from pipeline.config import job as jobs
from pipeline.training.builder import build
from streams.core.batch import Array

DELAY = 50
REPLAY = {
    "kind": "replay",
    "optimizer": {"kind": "adam", "lr": 0.001},
    "steps": 2,
    "replay_size": 32,
    "buffer": {"capacity": 2000},
}
COST = 20.0
"""Cost of a rare event that is missed; a false alarm costs 1."""
BALANCED = {"class_weight": "balanced"}
TEMPERATURE = {"calibration": "temperature"}
F1 = {"decision": {"rule": "f1"}}
LEAST_COST = {"decision": {"rule": "cost", "costs": {"rare": COST}}}
EQUAL_BUFFER = {"buffer": {"capacity": 2000, "admission": "class-balanced"}}
ARMS: dict[str, dict[str, Any]] = {
    "none": REPLAY,
    "prior": {"kind": "prior"},
    "none, three times the rate": REPLAY | {"optimizer": {"kind": "adam", "lr": 0.003}},
    "class-balanced buffer": REPLAY | EQUAL_BUFFER,
    "balanced": REPLAY | BALANCED,
    "balanced + temperature": REPLAY | BALANCED | TEMPERATURE,
    "temperature": REPLAY | TEMPERATURE,
    "f1": REPLAY | F1,
    "balanced + temperature + f1": REPLAY | BALANCED | TEMPERATURE | F1,
    "cost": REPLAY | LEAST_COST,
    "balanced + temperature + cost": REPLAY | BALANCED | TEMPERATURE | LEAST_COST,
}
COLUMNS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced acc.",
    "f1": "F1",
    "macro_f1": "macro F1",
    "average_precision": "AP",
    "brier": "Brier",
    "calibration_error": "ECE",
    "log_loss": "log-loss",
    "cost": "cost",
}
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 8: 2.36, 10: 2.26}
"""Quantiles of the t distribution for a two-sided interval of 95%, by the number of seeds."""


def weather(folder: Path, seed: int) -> tuple[Array, Array]:
    rows = np.array([line.split(",") for line in lines(folder / "weather.csv.gz")[1:]], float)
    return thin(rows[:, :-1], rows[:, -1].astype(np.int64), [1], 0.02, seed)


def elec2(folder: Path, seed: int) -> tuple[Array, Array]:
    rows = np.array([line.split(",") for line in lines(folder / "elec2.csv.gz")[1:]])
    y = (rows[:, -1] == "UP").astype(np.int64)
    x, y = thin(rows[:, :-1].astype(float), y, [1], 0.02, seed)
    return x[:15_000], y[:15_000]


def outdoor(folder: Path, seed: int) -> tuple[Array, Array]:
    """Return Outdoor with every second of its 40 classes thinned."""
    x, y = outdoor_as_it_is(folder, seed)
    return thin(x, y, list(range(1, 40, 2)), 0.1, seed)


def outdoor_as_it_is(folder: Path, seed: int) -> tuple[Array, Array]:
    x = np.array([line.split() for line in lines(folder / "outdoor.data.gz")], float)
    return x, np.array(lines(folder / "outdoor.labels.gz"), np.int64)


def lines(file: Path) -> list[str]:
    return gzip.decompress(file.read_bytes()).decode().splitlines()


STREAMS = {
    "Weather, 2% of the rainy days": weather,
    "Elec2, 2% of UP, first 15,000": elec2,
    "Outdoor, 10% of 20 of 40 classes": outdoor,
    "Outdoor as it is, 40 equal classes": outdoor_as_it_is,
}


def thin(x: Array, y: Array, rare: list[int], share: float, seed: int) -> tuple[Array, Array]:
    """Keep a share of the events of some classes, and all others."""
    kept = ~np.isin(y, rare) | (np.random.default_rng(seed).random(len(y)) < share)
    return x[kept], y[kept]


def write(file: Path, x: Array, y: Array) -> list[str]:
    """Write a stream as CSV. Return the names of its classes in the order of their codes."""
    k = int(y.max()) + 1
    names = ["common", "rare"] if k == 2 else [f"object {code}" for code in range(k)]
    lines = [",".join([*(f"x{i}" for i in range(x.shape[1])), "label"])]
    lines += [
        ",".join([*map(repr, row), names[code]])
        for row, code in zip(x.tolist(), y.tolist(), strict=True)
    ]
    file.write_text("\n".join(lines) + "\n")
    return names


def run(file: Path, names: list[str], learner: dict[str, Any], seed: int) -> dict[str, float]:
    """Return the metrics of one run, with the mean cost of a prediction."""
    stream = {
        "kind": "recorded",
        "path": str(file),
        "label": {"column": "label", "classes": names},
        "label_delay": {"events": DELAY},
    }
    raw = {"name": "unequal", "seed": seed, "stream": stream, "learner": learner}
    parts = build(jobs.check(raw, file, file.parent))
    scored = []
    for batch in parts.reader.read(parts.stream.origin()):
        scored += parts.loop.step(batch).scored
    scored += parts.loop.finish(32).scored
    y, value = (np.concatenate([getattr(s.outcome, n) for s in scored]) for n in ("y", "value"))
    score = np.concatenate([s.outcome.proba[:, 1] for s in scored if s.outcome.proba is not None])
    answered = value >= 0
    missed, alarms = (y == 1) & (value != 1), (y != 1) & (value == 1)
    metrics = {n.removeprefix("online/"): v for n, v in parts.loop.results().items()}
    if len(names) == 2:  # exactly: the scores of a rare class crowd in few bins of a histogram
        metrics["average_precision"] = float(average_precision_score(y, score))
    metrics["cost"] = float((COST * missed + alarms)[answered].mean())
    return {
        **metrics,
        "events": len(y),
        "rare": float((y == 1).mean()),
    }


def fits(arm: str, names: list[str]) -> bool:
    """Whether an arm is for streams of as many classes."""
    return len(names) == 2 or not ("f1" in arm or "cost" in arm)


def shown(values: Array) -> str:
    return "" if np.isnan(values).any() else f"{values.mean():.4f}"


def difference(values: Array, first: Array) -> str:
    apart = values - first
    if np.isnan(apart).any():
        return ""
    half = T_95[len(apart)] * apart.std(ddof=1) / len(apart) ** 0.5
    return f"{apart.mean():+.4f} ± {half:.4f}"


def table(runs: dict[str, list[dict[str, float]]], columns: list[str]) -> Iterator[str]:
    """Yield the lines of the table of one stream."""
    yield "| arm | " + " | ".join(COLUMNS[name] for name in columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    by_name = {
        arm: {name: np.array([m.get(name, np.nan) for m in metrics]) for name in columns}
        for arm, metrics in runs.items()
    }
    for arm, values in by_name.items():
        cells = [shown(values[name]) for name in columns]
        yield f"| **{arm}** | " + " | ".join(cells) + " |"
        if arm != "none":
            apart = [difference(values[name], by_name["none"][name]) for name in columns]
            yield "| | " + " | ".join(apart) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("EVERLEARN_DATA"))
    parser.add_argument("--seeds", type=int, default=5, choices=sorted(T_95))
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("--data: name the folder of the data, or set EVERLEARN_DATA")
    torch.set_num_threads(1)
    for title, read in STREAMS.items():
        runs: dict[str, list[dict[str, float]]] = {}
        for seed in range(arguments.seeds):
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "stream.csv"
                names = write(file, *read(arguments.data, seed))
                for arm, learner in ARMS.items():
                    if fits(arm, names):
                        runs.setdefault(arm, []).append(run(file, names, learner, seed))
        first = runs["none"][0]
        rare = f", {first['rare']:.2%} rare" if len(names) == 2 else ""
        print(f"\n### {title}: {first['events']:,.0f} events{rare} (seed 0)\n")
        unfit = set() if len(names) == 2 else {"f1", "average_precision", "cost"}
        print("\n".join(table(runs, [name for name in COLUMNS if name not in unfit])), flush=True)


if __name__ == "__main__":
    main()
