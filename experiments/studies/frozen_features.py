"""Compare learners on frozen features: closed forms beside replay and joint training.

One pass in micro-batches of 10. Learners in closed form have no settings that were chosen: each has
its defaults. Those with gradients have the best of ``RATES`` and ``STEPS`` on validation rows, by
replay. Learners with a buffer have as many bytes of state, all in all, as a learner in closed form.

    python experiments/studies/frozen_features.py                  # all scenarios
    python experiments/studies/frozen_features.py clinc150 --seeds 1

Writes experiments/results/frozen_features.md. Encoders run once; later runs read their vectors from
the folder of --out. A run that was stopped continues; --finished prints what it has so far.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import mean
from typing import cast

import numpy as np
from rich.console import Console
from sklearn.linear_model import LogisticRegression

from experiments.studies.comparison import cost_table, write_section
from pipeline.bench.bench import Bench, Results
from pipeline.bench.cell import Cell, build_cell, job_of
from pipeline.bench.measure import Budget, TaskStream
from streams.core.batch import Batch

RESULT = Path(__file__).parents[1] / "results" / "frozen_features.md"
RATES = (0.001, 0.003, 0.01)
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
"""C of logistic regression, to try."""
STEPS = (1, 4)
"""Learning rates of Adam, and gradient steps for a micro-batch, to try."""
CLOSED = ("prototype", "slda", "fecam", "ranpac", "rls", "knn", "dkvb", "linear-probe")
"""Learners at their defaults; the random features of some have 2,000 dimensions."""
REHEARSAL = ("replay", "er-ace", "der++")
BASE = "joint"


@dataclass(frozen=True)
class Setting:
    """A scenario of the tables.

    Attributes:
        scenario: of ``everlearn bench``.
        title: what stands above the table.
        note: what else is to be said.
        overrides: of all jobs.
        budget: how it is measured.
        closed: learners in closed form, and settings of theirs.
        sizes: the learners whose bytes of state those with a buffer get.
        validation: ``stream.validation`` for the learning rate.
        offline: whether logistic regression on all rows at once is measured too.
    """

    scenario: str
    title: str
    note: str
    overrides: tuple[str, ...]
    budget: Budget
    closed: tuple[str, ...] = CLOSED
    sizes: tuple[str, ...] = ("slda", "ranpac")
    validation: str = "0.2"
    offline: bool = False


FEATURES = "features={kind: relu, dimension: 2000}"
MANY_CLASSES = "ranpac:refit_growth=3"
"""With many classes, weights are solved less often than after half as many events of a class."""
WIDE = f"{MANY_CLASSES},features={{kind: relu, dimension: 5000}}"
SCENARIOS: Mapping[str, Setting] = {
    "clinc150": Setting(
        "clinc150",
        "CLINC150, 150 intents in 10 tasks, the last layer of all-MiniLM-L6-v2",
        "Official split: 15,000 training and 4,500 test rows; 3,000 validation rows.",
        ("stream.encoder={kind: minilm, layers: 1}",),
        Budget(every=750, tests=None),
        closed=(
            "prototype",
            "slda",
            "fecam",
            MANY_CLASSES,
            WIDE,
            "rls",
            "knn",
            "dkvb",
            "linear-probe",
        ),
        sizes=("slda",),
        validation="published",
        offline=True,
    ),
    "clinc150-layers": Setting(
        "clinc150",
        "CLINC150, the last three layers of all-MiniLM-L6-v2",
        "As above, with `stream.encoder=minilm`: vectors of 1,152 numbers.",
        ("stream.encoder=minilm",),
        Budget(every=750, tests=None),
        closed=("prototype", "slda:refit_growth=3", MANY_CLASSES, WIDE, "rls", "knn", "dkvb"),
        sizes=("slda:refit_growth=3",),
        validation="published",
        offline=True,
    ),
    "split-cifar-10": Setting(
        "split-cifar-10",
        "Split-CIFAR-10, 5 tasks, EfficientNet-Lite0 at 128 pixels",
        "Images of CIFAR-10 are JPEG re-encoded.",
        ("stream.encoder={kind: efficientnet-lite0, size: 128}",),
        Budget(every=5000, tests=1000),
        sizes=("slda",),
    ),
    "split-mnist": Setting(
        "split-mnist",
        "Split-MNIST, 5 tasks, pixels",
        "",
        ("stream.encoder=identity",),
        Budget(every=6000, tests=1000),
        closed=(*CLOSED, f"slda:{FEATURES}"),
    ),
    "permuted-mnist": Setting(
        "permuted-mnist",
        "Permuted MNIST, 10 tasks of the same classes, pixels",
        "",
        ("stream.encoder=identity",),
        Budget(every=6000, tests=500),
        closed=(*CLOSED, f"slda:{FEATURES}"),
    ),
    "outdoor": Setting(
        "outdoor",
        "Outdoor objects, 40 classes in 10 tasks, histograms of 21 numbers",
        "Whole approaches to an object are held out.",
        ("stream.encoder=identity",),
        Budget(),
        closed=(*CLOSED, f"slda:{FEATURES}"),
    ),
    "split-digits": Setting(
        "split-digits",
        "Split-digits, 5 tasks, 64 pixels",
        "",
        ("stream.encoder=identity",),
        Budget(),
        closed=(*CLOSED, f"slda:{FEATURES}"),
    ),
}
PERCENT = {"acc": "ACC", "forgetting": "forgetting", "aaa": "AAA"}
SHARED = "optimizer={kind: adam, lr: %s},steps=%s,model={kind: mlp, hidden: [128]}"


def shared_settings(name: str, setting: Setting, out: Path, workers: int) -> str:
    """Return the settings with which replay has the best ACC on validation rows."""
    tried = [SHARED % pair for pair in product(RATES, STEPS)]
    learners = [f"replay:{settings}" for settings in tried]
    overrides = [*setting.overrides, f"stream.validation={setting.validation}"]
    budget = Budget(every=10**9, tests=500)
    bench = Bench(
        [setting.scenario], learners, 1, out / f"{name}-rates", overrides, budget, workers
    )
    results = bench.run(Console(stderr=True), print)
    best = max(results, key=lambda result: float(result["metrics"]["acc"]))
    return tried[learners.index(best["learner"])]


def with_bytes(size: int, learner: str, scenario: str, overrides: Sequence[str]) -> str:
    """Return a learner with a buffer that makes its whole state as large as ``size``."""

    def state_bytes(capacity: int) -> int:
        text = f"{learner},buffer.capacity={capacity}"
        parts = build_cell(job_of(Cell(scenario, text, 0), overrides))
        batches = parts.reader.batches(parts.reader.blocks({}, 64))
        for _ in range(4):
            parts.loop.step(next(batches))
        learned = parts.loop.learner
        return learned.memory_bytes() - len(learned.buffer) * row + capacity * row

    row = 0
    one, two = state_bytes(20), state_bytes(10)
    row = (one - two) // 10
    fixed = one - 20 * row
    return f"{learner},buffer.capacity={max((size - fixed) // row, 1)}"


def rehearsal(setting: Setting, closed: Results, shared: str) -> list[str]:
    """Return the learners beside those in closed form, with as many bytes of state."""
    learners = [f"joint:{shared}"]
    for kind in setting.sizes:
        size = max(result["state_bytes"] for result in closed if result["learner"] == kind)
        learners += [
            with_bytes(size, f"{learner}:{shared}", setting.scenario, setting.overrides)
            for learner in REHEARSAL
        ]
    return learners


def with_cache(setting: Setting, out: Path) -> Setting:
    """Return a setting whose encoders keep their vectors in a folder."""
    cache = f"encoders.cache.folder={(out / 'cache').resolve()}"
    return replace(setting, overrides=(*setting.overrides, cache))


def offline_head(setting: Setting, file: Path) -> dict[str, float]:
    """Return C, ACC and CPU seconds of logistic regression on all training rows at once.

    C is the best on validation rows. The result is kept in a file.
    """
    if not file.exists():
        validation = f"stream.validation={setting.validation}"
        tried = {c: _logistic(setting, (validation,), c)[0] for c in PENALTIES}
        best = max(tried, key=lambda c: tried[c])
        acc, cpu = _logistic(setting, (), best)
        file.write_text(json.dumps({"c": best, "acc": acc, "cpu_seconds": cpu}))
    found: dict[str, float] = json.loads(file.read_text())
    return found


def _logistic(setting: Setting, overrides: Sequence[str], c: float) -> tuple[float, float]:
    """Return the mean accuracy over tasks, and the CPU seconds of the fit."""
    cell = Cell(setting.scenario, "prototype", 0)
    parts = build_cell(job_of(cell, [*setting.overrides, *overrides]))
    batch = Batch.concat(list(parts.reader.batches(parts.reader.blocks({}))))
    began = time.process_time()
    head = LogisticRegression(C=c, max_iter=1000).fit(batch.x, batch.y)
    cpu = time.process_time() - began
    stream, encode = cast(TaskStream, parts.stream), parts.reader.encode
    assert encode is not None
    tests = [stream.task_test(task) for task in range(stream.tasks)]
    encoded = [Batch.concat(list(encode([test]))) for test in tests]
    codes = {name: code for code, name in enumerate(batch.classes)}
    labels = [np.array([codes[name] for name in test.classes])[test.y] for test in encoded]
    right = [head.predict(test.x) == y for test, y in zip(encoded, labels, strict=True)]
    return mean(float(each.mean()) for each in right), cpu


def run(
    name: str, setting: Setting, seeds: int, out: Path, workers: int, only: Sequence[str] = ()
) -> Results:
    """Run the learners of a scenario; return their results.

    Args:
        name: of the scenario.
        setting: of the scenario.
        seeds: how many, counted from 0.
        out: the folder of the study.
        workers: processes.
        only: the learners in closed form to run, and no others; empty: all learners.
    """

    def bench(learners: Sequence[str]) -> Results:
        bench = Bench(
            [setting.scenario],
            learners,
            seeds,
            out / name,
            setting.overrides,
            setting.budget,
            workers,
        )
        return bench.run(Console(stderr=True), print)

    setting = with_cache(setting, out)
    bench(["no-change"])  # fills the cache: else the first learners would have that in their time
    closed = bench([each for each in setting.closed if not only or name_of(each) in only])
    if only:
        return closed
    shared = shared_settings(name, setting, out, workers)
    return [*closed, *bench(rehearsal(setting, closed, shared))]


def finished(folder: Path) -> Results:
    """Return the results of the cells in a folder that have finished, by learner and seed."""
    files = folder.glob("*/*/result.json")
    results = [json.loads(file.read_text())["result"] for file in files]
    results = [result for result in results if result["learner"] != "no-change"]
    return sorted(results, key=lambda result: (result["learner"], result["seed"]))


def section(setting: Setting, results: Results, out: Path) -> list[str]:
    """Return the lines of a scenario. ``out`` is the folder of its cells."""
    lines = [f"\n## {setting.title}\n", f"{setting.note} {results[0]['events']:,} events.".strip()]
    if setting.offline:
        head = offline_head(with_cache(setting, out.parent), out / "offline.json")
        lines[-1] += (
            f"\nLogistic regression on all training rows at once, with C = {head['c']:g} by the "
            f"validation rows:\nACC {100 * head['acc']:.1f}, {head['cpu_seconds']:.0f} CPU s."
        )
    stated = {r["learner"]: None for r in results if ":" in r["learner"]}
    return [*lines, "", *table(results), "", *(f"* `{learner}`" for learner in stated)]


def table(results: Results) -> list[str]:
    """Return a row for each learner, the best ACC first."""
    found: dict[str, Results] = {}
    for result in results:
        found.setdefault(name_of(result["learner"]), []).append(result)
    return cost_table(found, PERCENT, BASE)


def name_of(learner: str) -> str:
    """Return a short name: the kind, with the settings that the rows of a table differ in."""
    kind, _, settings = learner.partition(":")
    if capacity := re.search(r"buffer\.capacity=(\d+)", settings):
        return f"{kind}, {int(capacity[1]):,} events"
    if features := re.search(r"features={kind: \w+, dimension: (\d+)}", settings):
        return f"{kind}, {int(features[1]):,} random features"
    return kind


HEAD = """# Learners on frozen features

One pass, micro-batches of 10, no boundaries between tasks for the learners; ACC, forgetting and AAA
in %, mean ± standard deviation over seeds. Differences are paired by seed, with 95% intervals where
there are several. *state* is all that a checkpoint has of the learner; *CPU s* is learning and
prediction of the stream, where vectors of encoders come from the cache. `joint` keeps every event;
it is trained online like the others, and is no bound. Names with a number of events have a buffer
of that size. Learners have their defaults, or the settings below the table. By
`python experiments/studies/frozen_features.py`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS), metavar="scenario")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/frozen_features"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], help="learners in closed form to run")
    parser.add_argument("--finished", action="store_true", help="run nothing")
    given = parser.parse_args()
    if unknown := set(given.scenarios) - set(SCENARIOS):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    order = [setting.title for setting in SCENARIOS.values()]
    for name in given.scenarios:
        setting = SCENARIOS[name]
        if given.finished:
            results = finished(given.out / name)
        else:
            results = run(name, setting, given.seeds, given.out, given.workers, given.only)
        lines = section(setting, results, given.out / name)
        write_section(RESULT, HEAD, setting.title, lines, order)
        print("\n".join(lines))


if __name__ == "__main__":
    main()
