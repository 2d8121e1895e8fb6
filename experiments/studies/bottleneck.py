"""Measure the discrete key-value bottleneck: what it keeps, and what its keys need.

``toy``: 8 Gaussian classes in a square, in 4 stages of 2 classes, 1,000 steps on 100 events each
(the example of Träuble et al., ICML 2023). ``digits``: scikit-learn's digits, 5 tasks of 2 classes,
one pass. ``clinc``: CLINC150, 150 intents in 10 tasks, one pass over vectors of MiniLM; it needs
``clinc150_full.json.gz`` in the folder ``EVERLEARN_DATA``.

    python experiments/studies/bottleneck.py --seeds 5 [--vectors FILE]

``--vectors`` keeps the vectors of CLINC150 in a file between calls.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import learners
from learners.base import Learner
from learners.pretrained.encoders.registry import load_encoder
from learners.registry import find
from pipeline.bench.cell import Cell, job_of, run_cell
from pipeline.bench.measure import Budget
from pipeline.training.builder import build
from streams.core.batch import Array, Batch, Ints, Ragged
from streams.core.schema import Feature, Schema
from streams.operators.label_join import Revealed

RESULT = Path(__file__).parents[1] / "results" / "bottleneck.md"
CLINC = "clinc150_full.json.gz"
CODEBOOKS = {"one of 400 keys": {"count": 1, "keys": 400, "projection": "chunk"}}
CODEBOOKS["20 of 20 keys"] = {"count": 20, "keys": 20, "dimension": 2}
_ADAM = {"kind": "adam", "lr": 0.01}
_LINEAR = {"kind": "finetune", "model": {"kind": "mlp", "hidden": []}}
TOY: dict[str, dict[str, Any]] = {
    "linear probe": {**_LINEAR, "optimizer": _ADAM, "scale": False},
    "MLP of 32": {
        "kind": "finetune",
        "model": {"kind": "mlp", "hidden": [32]},
        "optimizer": {"kind": "adam", "lr": 0.001},
        "scale": False,
    },
    **{f"dkvb, {name}": {"kind": "dkvb", "codebooks": c} for name, c in CODEBOOKS.items()},
}
DIGITS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear probe": ("finetune", {"model": {"kind": "mlp", "hidden": []}}),
    "dkvb, keys of a sample": ("dkvb", {"keys": "sample"}),
    "dkvb, keys of a Gaussian (default)": ("dkvb", {}),
    "dkvb, keys of the first task": ("dkvb", {"keys": {"kind": "first", "events": 250}}),
    "prototype": ("prototype", {}),
    "slda": ("slda", {}),
}
RATES = (0.3, 1, 3, 10, 30, 100)
CLINC_LEARNERS: dict[str, dict[str, Any]] = {
    "dkvb (default)": {"kind": "dkvb"},
    "dkvb, keys of the first 1,000": {"kind": "dkvb", "keys": {"kind": "first"}},
    "linear probe": {**_LINEAR, "optimizer": {"kind": "adam", "lr": 0.003}},
    "prototype": {"kind": "prototype"},
    "slda": {"kind": "slda"},
}


class Tasks(NamedTuple):
    """Training and test events by task: vectors (n, d) and class codes (n,)."""

    train: list[tuple[Array, Ints]]
    test: list[tuple[Array, Ints]]


def make(settings: dict[str, Any], width: int, seed: int) -> Learner:
    """Return a learner over one vector of unit scale, whose classes are not known."""
    cls = find(learners.KINDS, Learner, settings["kind"])  # type: ignore[type-abstract]
    schema = Schema((Feature("v", "vector", (width,), unit=True),), "classification")
    return cls(cls.Config.model_validate(settings), schema, seed)


def step(learner: Learner, x: Array, y: Ints) -> None:
    """Predict and learn n events. The class of code c is named c."""
    at = np.arange(len(y), dtype=np.int64)
    zeros = np.zeros(len(y), np.int32)
    batch = Batch(at, at * 1.0, x, zeros, at, y, classes=tuple(range(int(y.max()) + 1)))
    learner.step(batch.to_predict(False), Revealed(batch, np.full(len(y), len(y))))


def accuracy(learner: Learner, x: Array, y: Ints) -> float:
    at = np.arange(len(y), dtype=np.int64)
    batch = Batch(at, at * 1.0, x, np.zeros(len(y), np.int32), at)
    return float((learner.predict(batch).value == y).mean())


def after_each(learner: Learner, tasks: Tasks, learn: Callable[[Array, Ints], None]) -> Array:
    """Return (tasks, tasks): the accuracy on each after each."""
    rows = []
    for x, y in tasks.train:
        learn(x, y)
        rows.append([accuracy(learner, *test) for test in tasks.test])
    return np.array(rows)


def forgetting(matrix: Array) -> float:
    """Return the mean over past tasks of the best accuracy before the last task less the last."""
    past = len(matrix) - 1
    return float(np.mean([matrix[j:past, j].max() - matrix[-1, j] for j in range(past)]))


def toy(name: str, seed: int, steps: int = 1000) -> Array:
    """Return the accuracy on all 8 classes after each of the 4 stages."""
    rng = np.random.default_rng(seed)
    angles = 2 * np.pi * np.arange(8) / 8
    centres = 0.5 + 0.4 * np.stack([np.cos(angles), np.sin(angles)], 1)

    def draw(n: int, first: int) -> tuple[Array, Ints]:
        y = rng.integers(first, first + 2, n)
        y[:2] = first, first + 1  # classes come in the order of their codes
        return (centres[y] + 0.035 * rng.normal(size=(n, 2))).astype(np.float32), y

    tasks = Tasks([draw(100, 2 * i) for i in range(4)], [draw(500, 2 * i) for i in range(4)])
    settings = TOY[name]
    with tempfile.TemporaryDirectory() as folder:
        if settings["kind"] == "dkvb":
            sample = Path(folder) / "sample.npz"
            np.savez(sample, v=rng.uniform(size=(10_000, 2)).astype(np.float32))
            settings = {**settings, "keys": {"kind": "file", "path": str(sample)}}
        learner = make(settings, 2, seed)

        def learn(x: Array, y: Ints) -> None:
            for _ in range(steps):
                step(learner, x, y)

        return after_each(learner, tasks, learn).mean(1)


def digits(name: str, seed: int, **settings: Any) -> dict[str, float]:
    """Return the metrics of one pass over split-digits, among them ``acc`` and ``forgetting``."""
    kind, own = DIGITS[name]
    settings = own | settings
    with tempfile.TemporaryDirectory() as folder:
        cell = Cell("split-digits", kind, seed)
        if settings.get("keys") == "sample":
            sample = Path(folder) / "sample.npz"
            parts = build(job_of(cell))
            x = np.concatenate([np.asarray(batch.x) for batch in parts.reader.read({})])
            np.savez(sample, pixels=x[np.random.default_rng(seed).permutation(len(x))])
            settings["keys"] = {"kind": "file", "path": str(sample)}
        overrides = [f"learner.{key}={json.dumps(value)}" for key, value in settings.items()]
        job = job_of(cell, overrides)
        metrics: dict[str, float] = run_cell(cell, job, Budget(10**9), Path(folder))["metrics"]
        return metrics


def clinc_vectors(keep: Path | None) -> dict[str, Array]:
    """Return vectors and names of the intents of the parts of CLINC150."""
    if keep is not None and keep.exists():
        with np.load(keep) as arrays:
            return dict(arrays)
    data = Path(os.environ.get("EVERLEARN_DATA", "../shared/data"))
    parts = json.loads(gzip.decompress((data / CLINC).read_bytes()))
    encoder = load_encoder({"kind": "minilm", "layers": 1}, Feature("text", "text"), 0)
    found: dict[str, Array] = {}
    for part in ("train", "val", "test"):
        texts = Ragged.of_text(text for text, _ in parts[part])
        found[f"{part}_x"] = encoder.encode(texts)
        found[f"{part}_y"] = np.array([intent for _, intent in parts[part]])
    if keep is not None:
        np.savez(keep, **found)  # type: ignore[arg-type]
    return found


def clinc_tasks(vectors: dict[str, Array], part: str, seed: int) -> Tasks:
    """Return 10 tasks of 15 intents in a random order; ``part`` is tested on."""
    rng = np.random.default_rng(seed)
    intents = rng.permutation(np.unique(vectors["train_y"]))
    code = {intent: i for i, intent in enumerate(intents)}
    tasks = Tasks([], [])
    for name, into in (("train", tasks.train), (part, tasks.test)):
        x, y = vectors[f"{name}_x"], np.array([code[intent] for intent in vectors[f"{name}_y"]])
        for first in range(0, len(intents), 15):
            rows = rng.permutation(np.flatnonzero((y >= first) & (y < first + 15)))
            into.append((x[rows], y[rows]))
    return tasks


def clinc(name: str, vectors: dict[str, Array], part: str, seed: int) -> dict[str, float]:
    """Return accuracy, forgetting, CPU seconds and MB of state of one pass over CLINC150."""
    tasks = clinc_tasks(vectors, part, seed)
    learner = make(CLINC_LEARNERS[name], tasks.train[0][0].shape[1], seed)
    seconds = 0.0

    def learn(x: Array, y: Ints) -> None:
        nonlocal seconds
        start = time.process_time()
        for first in range(0, len(y), 32):
            step(learner, x[first : first + 32], _by_appearance(y[first : first + 32]))
        seconds += time.process_time() - start

    codes: dict[int, int] = {}

    def _by_appearance(y: Ints) -> Ints:
        return np.array([codes.setdefault(each, len(codes)) for each in y.tolist()])

    matrix = []
    for x, y in tasks.train:
        learn(x, y)
        tests = [(test, np.array([codes.get(c, -2) for c in z.tolist()])) for test, z in tasks.test]
        matrix.append([accuracy(learner, *test) for test in tests])
    array = np.array(matrix)
    return {
        "accuracy": float(array[-1].mean()),
        "forgetting": forgetting(array),
        "cpu_seconds": seconds,
        "state_mb": learner.memory_bytes() / 1e6,
        **{
            name: learner.metrics()[name]
            for name in ("key_error_ratio",)
            if name in learner.metrics()
        },
    }


def cell(values: Array | list[float], digits: int = 3) -> str:
    """Return mean and standard deviation over seeds."""
    array = np.array(values)
    return f"{array.mean():.{digits}f} ± {array.std(ddof=1) if len(array) > 1 else 0:.{digits}f}"


def table(head: list[str], rows: Iterator[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        lines.append("| " + " | ".join(row) + " |")
        print(lines[-1], flush=True)
    return [*lines, ""]


def toy_rows(seeds: int) -> Iterator[list[str]]:
    for name in TOY:
        found = np.array([toy(name, seed) for seed in range(seeds)])
        yield [name, *(cell(column) for column in found.T)]


def digits_rows(seeds: int) -> Iterator[list[str]]:
    for name in DIGITS:
        found = [digits(name, seed) for seed in range(seeds)]
        ratio = [metrics.get("learner_key_error_ratio", np.nan) for metrics in found]
        columns = [[metrics[key] for metrics in found] for key in ("acc", "forgetting")]
        yield [name, *map(cell, columns), "-" if np.isnan(ratio).any() else cell(ratio, 1)]


def rate_rows(seeds: int) -> Iterator[list[str]]:
    for rate in RATES:
        found = [digits("dkvb, keys of a sample", seed, lr=rate) for seed in range(seeds)]
        columns = [[m[key] for m in found] for key in ("acc", "forgetting", "test_log_loss")]
        yield [f"{rate:g}", *map(cell, columns)]


def clinc_rows(vectors: dict[str, Array], part: str, seeds: int) -> Iterator[list[str]]:
    for name in CLINC_LEARNERS:
        found = [clinc(name, vectors, part, seed) for seed in range(seeds)]
        keys = ("accuracy", "forgetting", "cpu_seconds", "state_mb")
        columns = [[metrics[key] for metrics in found] for key in keys]
        yield [name, *map(cell, columns[:2]), cell(columns[2], 1), f"{columns[3][0]:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--part", choices=["val", "test"], default="test")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = arguments.seeds
    head = ["", "accuracy", "forgetting"]
    lines = ["# The discrete key-value bottleneck", "", *ABOUT.format(seeds=seeds).splitlines(), ""]
    lines += ["## 8 Gaussian classes in 4 stages", ""]
    lines += ["Accuracy on all 8 classes after each stage.", ""]
    lines += table(["", "1", "2", "3", "4"], toy_rows(seeds))
    lines += ["## Split-digits, one pass", ""]
    lines += table([*head, "distance to keys"], digits_rows(seeds))
    lines += ["Learning rates, with keys of a sample:", ""]
    lines += table(["lr", "accuracy", "forgetting", "test log-loss"], rate_rows(seeds))
    lines += [f"## CLINC150 over MiniLM (`layers: 1`), 10 tasks, one pass ({arguments.part})", ""]
    vectors = clinc_vectors(arguments.vectors)
    rows = clinc_rows(vectors, arguments.part, seeds)
    lines += table([*head, "CPU seconds", "MB of state"], rows)
    RESULT.write_text("\n".join(lines))


ABOUT = """\
Printed by `python experiments/studies/bottleneck.py --seeds {seeds}`, which says how. Mean and
standard deviation over {seeds} seeds. *Distance to keys* is `learner/key_error_ratio`: how far
events of late are from their keys, by how far the sample is. Settings of the bottleneck are its
defaults unless stated; they were chosen on split-digits and on the validation part of CLINC150."""


if __name__ == "__main__":
    main()
