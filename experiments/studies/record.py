"""The table of record: ten learners on three scenarios, online, at equal budgets.

One pass, micro-batches of 10, one gradient step for each, on the networks that ``everlearn bench``
uses. The buffer of every learner has as many bytes as 1,000 events of replay take. A step presents
as many recalled events as new ones.

    python experiments/studies/record.py                 # writes experiments/results/record.md
    python experiments/studies/record.py --tune          # chooses the settings: record.yaml
    python experiments/studies/record.py split-mnist --seeds 1

Every learner is tuned in the same way and on the same grid of learning rates, on a fifth of the
training rows that is held out (``stream.validation``). The test rows are not used for that. A run
that was stopped resumes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml
from rich.console import Console

from experiments.studies.comparison import write_section
from pipeline.bench.bench import Bench, Results, spread
from pipeline.bench.cell import Cell, build_cell, job_of
from pipeline.bench.measure import Budget

HERE = Path(__file__).parents[1]
CHOSEN = Path(__file__).with_name("record.yaml")
RESULT = HERE / "results" / "record.md"
TUNING = HERE / "results" / "record_tuning.md"
CAPACITY = 1000
"""Events of replay that the budget of bytes is made of."""


@dataclass(frozen=True)
class Setting:
    """A scenario of the table.

    Attributes:
        budget: how it is measured.
        rates: learning rates to try.
        overrides: of the jobs.
        tuning: overrides of the jobs for tuning.
        augmented: augmentations for view-batch; none where pixels are permuted.
    """

    budget: Budget
    rates: tuple[float, ...]
    overrides: tuple[str, ...]
    augmented: tuple[str, ...]
    tuning: tuple[str, ...] = ()


ALIKE = "augment=null,strong=null"  # views that do not differ
PAIR = "augment=weak,strong=strong"

SCENARIOS: Mapping[str, Setting] = {
    "split-mnist": Setting(
        Budget(every=1200), (0.03, 0.1, 0.3), (), (ALIKE, "augment=weak,strong=weak", PAIR)
    ),
    "permuted-mnist": Setting(Budget(every=2000), (0.03, 0.1, 0.3), (), (ALIKE,)),
    "split-cifar-10": Setting(
        Budget(every=1000, tests=1000),
        (0.03, 0.1),
        ("stream.events=2000",),
        (ALIKE, "augment=weak,strong=weak"),
        tuning=("stream.events=3000",),
    ),
}
LEARNERS: Mapping[str, tuple[str, Mapping[str, Sequence[str]]]] = {
    "finetune": ("finetune", {}),
    "replay": ("replay", {}),
    "replay, augmented": ("replay", {"augment": ["weak", "strong"]}),
    "forgetting-curve": (
        "replay",
        {"buffer.recall": [f"{{kind: forgetting-curve, cycles: {c}}}" for c in (0.25, 1.0, 4.0)]},
    ),
    "view-batch": ("view-batch", {"views": ["2", "4"]}),
    "der++": ("der++", {"alpha": ["0.1", "0.5"], "beta": ["0.5", "1"]}),
    "er-ace": ("er-ace", {}),
    "ewc": ("ewc", {"weight": ["1", "10", "100", "1000"]}),
    "lwf": ("lwf", {"weight": ["0.3", "1", "3"]}),
    "joint": ("joint", {}),
}
"""Name in the table, kind, and what is tuned beside the learning rate."""
AVALANCHE = (
    "avalanche:strategy=avalanche.training:Naive,args={plugins: ["
    "{'avalanche.training.plugins:ReplayPlugin': {mem_size: %d, batch_size_mem: 10}}]},"
    "train_mb_size=10,"
    "model={kind: 'avalanche.models:SimpleMLP', args: {hidden_size: 512, drop_rate: 0}},"
    "optimizer={kind: sgd, lr: %s}"
)
"""Its replay in the same setting: the rate of ours, and no choice of its own."""
METRICS = {
    "acc": "ACC",
    "aia": "AIA",
    "aaa": "AAA",
    "forgetting": "forgetting",
    "forgetting_initial": "forgetting (initial)",
    "bwt": "BWT",
    "fwt": "FWT",
    "learning_accuracy": "learning accuracy",
    "min_acc": "min-ACC",
    "wc_acc": "WC-ACC",
    "gap_depth": "stability gap, depth",
    "gap_recovery": "stability gap, recovery",
    "windowed_forgetting_10": "windowed forgetting, 10",
    "windowed_forgetting_100": "windowed forgetting, 100",
    "windowed_plasticity_10": "windowed plasticity, 10",
    "windowed_plasticity_100": "windowed plasticity, 100",
    "online_accuracy": "online accuracy",
    "online_kappa": "online kappa",
    "dormant_units": "dormant units",
    "dead_units": "dead units",
}
PLAIN = {
    "gap_recovery_events": "stability gap, events to recover",
    "online_log_loss": "online log-loss",
    "effective_rank": "effective rank",
    "stable_rank": "stable rank",
    "weight_norm": "mean of abs(w)",
}
"""What is no share of anything."""


def variants(name: str, scenario: str) -> Iterator[str]:
    """Return all settings of a learner to try, in the notation of the bench."""
    kind, grid = LEARNERS[name]
    setting = SCENARIOS[scenario]
    axes = [[f"{key}={value}" for value in values] for key, values in grid.items()]
    if name == "view-batch":
        axes.append(list(setting.augmented))
    for rate, *others in product(setting.rates, *axes):
        yield f"{kind}:" + ",".join([f"optimizer.lr={rate}", *others])


def equal_bytes(learner: str, scenario: str, overrides: Sequence[str]) -> str:
    """Return the learner with as many events in its buffer as fit into the budget of bytes."""

    def size(text: str) -> int:
        loop = (parts := build_cell(job_of(Cell(scenario, text, 0), overrides))).loop
        loop.step(next(iter(parts.reader.batches(parts.reader.blocks({}, 64)))))
        return loop.learner.buffer_bytes

    if "buffer" not in job_of(Cell(scenario, learner, 0), overrides).learner.Config.model_fields:
        return learner
    own = size(f"{learner},buffer.capacity={CAPACITY}")
    whole = size(f"replay:buffer.capacity={CAPACITY}")
    return f"{learner},buffer.capacity={CAPACITY * whole // own}"


def tune(scenarios: Sequence[str], out: Path, workers: int) -> None:
    """Choose the settings of every learner by ACC of one seed on held-out training rows."""
    chosen = yaml.safe_load(CHOSEN.read_text()) if CHOSEN.exists() else {}
    for scenario in scenarios:
        setting = SCENARIOS[scenario]
        tried = {
            name: list(variants(name, scenario))
            for name in LEARNERS
            if name != "replay, augmented" or len(setting.augmented) > 1
        }
        every = list(dict.fromkeys(text for texts in tried.values() for text in texts))
        bench = Bench(
            [scenario],
            every,
            1,
            out / f"tuning-{scenario}",
            [*setting.overrides, *setting.tuning, "stream.validation=0.2"],
            Budget(every=10**9, tests=1000),
            workers,
        )
        results = bench.run(Console(), print)
        acc = {text: score(results, text) for text in every}
        chosen[scenario] = {name: max(texts, key=acc.__getitem__) for name, texts in tried.items()}
        lines = [f"\n## {scenario}\n", "| learner | settings | ACC, % |", "|---|---|---|"]
        for name, texts in tried.items():
            for text in sorted(texts, key=acc.__getitem__, reverse=True):
                mark = "**" if text == chosen[scenario][name] else ""
                lines.append(f"| {name} | {mark}`{text}`{mark} | {100 * acc[text]:.1f} |")
        write_section(TUNING, TUNING_HEAD, scenario, lines, list(SCENARIOS))
        CHOSEN.write_text(yaml.safe_dump(chosen, sort_keys=False, width=200))


def record(scenarios: Sequence[str], seeds: int, out: Path, workers: int) -> None:
    """Run the chosen settings, and write the table."""
    chosen = yaml.safe_load(CHOSEN.read_text())
    for scenario in scenarios:
        setting = SCENARIOS[scenario]
        arms = {
            name: equal_bytes(text, scenario, setting.overrides)
            for name, text in chosen[scenario].items()
        }
        if scenario == "split-mnist":
            rate = chosen[scenario]["replay"].split("optimizer.lr=")[1].split(",")[0]
            arms["Avalanche replay"] = AVALANCHE % (CAPACITY, rate)
        bench = Bench(
            [scenario],
            list(arms.values()),
            seeds,
            out / scenario,
            setting.overrides,
            setting.budget,
            workers,
        )
        results = bench.run(Console(), print)
        lines = table(scenario, arms, results)
        write_section(RESULT, RESULT_HEAD, scenario, lines, list(SCENARIOS))
        print("\n".join(lines))


def table(scenario: str, arms: Mapping[str, str], results: Results) -> list[str]:
    """Return a row for each metric and a column for each learner, and then the cost of each."""
    own = {name: [r for r in results if r["learner"] == text] for name, text in arms.items()}
    first = next(iter(own.values()))
    lines = [
        f"\n## {scenario}\n",
        f"{first[0]['events']:,} events, {len(first)} seeds, mean ± standard deviation over seeds;"
        " in % where not said otherwise.",
        "",
        "| | " + " | ".join(arms) + " |",
        "|---" * (len(arms) + 1) + "|",
    ]
    for key, title in METRICS.items():
        cells = [spread([value(r, key) for r in found]) for found in own.values()]
        if any(cells):
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    for key, title in PLAIN.items():
        cells = [number([value(r, key) for r in found]) for found in own.values()]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    for key, title in (("gradient_steps", "gradient steps"), ("buffer_bytes", "buffer, bytes")):
        cells = [f"{found[0][key]:,}" if name in LEARNERS else "" for name, found in own.items()]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    cells = [f"{mean(r['seconds'] for r in found):.0f}" for found in own.values()]
    lines += ["| learning, s | " + " | ".join(cells) + " |", ""]
    return [*lines, *(f"* {name}: `{text}`" for name, text in arms.items())]


def number(values: Sequence[float]) -> str:
    """Return mean ± standard deviation, with three digits or in whole numbers."""
    there = [value for value in values if math.isfinite(value)]
    if not there:
        return ""
    form = ",.0f" if mean(there) >= 100 else ".3g"
    wide = f"±{stdev(there):{form}}" if len(there) > 1 else ""
    return f"{mean(there):{form}}{wide}"


def value(result: Mapping[str, Any], key: str) -> float:
    return float(result["metrics"].get(key, math.nan))


def score(results: Results, learner: str) -> float:
    """Return the mean ACC, or -1 without one."""
    found = [value(r, "acc") for r in results if r["learner"] == learner]
    return mean(found) if found else -1.0


TUNING_HEAD = """# How the settings of the table of record were chosen

By ACC at the end of one seed, on a fifth of the training rows that was held out; the learning rate
of every learner, and what it has beside. Printed by `python experiments/studies/record.py --tune`.
"""
RESULT_HEAD = """# The table of record

One pass, micro-batches of 10, one gradient step for each. Those that remember have the same bytes
of buffer, indices and all, and present 10 remembered events in a step; `joint` keeps every event
and is the reference, not a rival (and no bound where one pass is too short to learn from all of the
past alike: it meets new events less often). Settings as [tuned](record_tuning.md) on held-out
training rows; tests are of the test split. Images of CIFAR-10 are JPEG re-encoded. By `python
experiments/studies/record.py`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS), metavar="scenario")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/record"))
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    if unknown := set(given.scenarios) - set(SCENARIOS):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    if given.tune:
        tune(given.scenarios, given.out, given.workers)
    else:
        record(given.scenarios, given.seeds, given.out, given.workers)


if __name__ == "__main__":
    main()
