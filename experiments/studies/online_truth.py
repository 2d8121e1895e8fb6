"""Compare forgetting that is measured online, on probes and without tasks, with the true one.

A stream is made of half of MNIST, in tasks that the job does not know. At each evaluation the
metrics from probes are compared with the same metrics from their population. For every event of the
stream, the population has three images of the other half, of the same class and under the same
permutation. (The test images of MNIST are by other writers, so they are not used.) The same code
folds both over the same segments, so that they differ in the sample alone.

``2,000`` and ``4,000``: segments as long as tasks, with at least that number of probes each. How
far is forgetting by probes from the true one, at any evaluation?

``default``: the defaults, with 2% of events held out. How often does the logged 95% interval
contain the true value?

    python experiments/studies/online_truth.py --seeds 10
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from pipeline.config.job import load
from pipeline.evaluation.probes import Segment
from pipeline.evaluation.retention import Retention
from pipeline.training.builder import Parts, build
from streams.scenarios.stream import ScenarioStream

DRAWS = 3
SETTINGS: dict[str, dict[str, Any]] = {
    f"{what} {scenario}": {"stream": {"name": scenario, **tasks}, "probes": probes}
    for what, probes in (
        # 36% of 6,000 events are 2,000 probes and more.
        ("2,000", {"share": 0.36, "cut": {"events": 6000}, "capacity": 50_000}),
        ("4,000", {"share": 0.69, "cut": {"events": 6000}, "capacity": 50_000}),
        ("default", {"share": 0.02}),
    )
    for scenario, tasks in (
        ("split-mnist", {"events": 6000}),
        ("permuted-mnist", {"events": 6000, "tasks": {"tasks": 5}}),
    )
}
RESULT = Path(__file__).parents[1] / "results" / "online_truth.md"
ABOUT = [
    "# Forgetting online, on probes, and the truth",
    "",
    "Streams of 30,000 events of MNIST in five tasks of which the job is not told; replay with 500"
    " events, and finetuning. *off*: points between forgetting (maximum-based) by probes and in the"
    " population, at every evaluation of 10 seeds. *holds*: how often the logged 95% interval holds"
    " the true value (with the defaults: with as many probes as in the other settings they are no"
    " worse known than the population is by the other half of MNIST). Printed by"
    " `python experiments/studies/online_truth.py`, which says how.",
    "",
]
HEAD = [
    "| setting | learner | fewest probes of a segment | evaluations | forgetting at the end, % |"
    " off, mean | within 2 | off, worst | initial: within 2 | worst |"
    " holds forgetting | initial | ACC |",
    "|" + "---|" * 13,
]
NAMES = ("forgetting", "forgetting_initial", "acc")


@dataclass(frozen=True)
class Point:
    """One evaluation: metrics from probes and from the population, by name."""

    events: int
    probes: int
    found: dict[str, float]
    truth: dict[str, float]

    def held(self, name: str) -> bool:
        low, high = (self.found[f"stability/{name}_{end}"] for end in ("low", "high"))
        return low <= self.truth[f"stability/{name}"] <= high

    def off(self, name: str) -> float:
        return abs(self.found[f"stability/{name}"] - self.truth[f"stability/{name}"])


class Population:
    """For every event of a scenario, similar events that are not in the stream."""

    def __init__(self, stream: ScenarioStream, seed: int) -> None:
        rng = np.random.default_rng(seed)
        plan, data = stream.plan, stream.data
        self.index = np.arange(DRAWS * len(plan))
        code = np.repeat(data.train_y[plan.index], DRAWS)
        unused = np.setdiff1d(np.arange(len(data.train_y)), plan.index)
        drawn = np.empty(len(code), np.int64)
        for one in np.unique(code):
            mine = code == one
            like = unused[data.train_y[unused] == one]
            drawn[mine] = rng.choice(like, np.count_nonzero(mine))
        whole = stream.task_test(0)
        x = data.train_x[drawn]
        self.rows = type(whole)(
            -1 - np.arange(len(drawn)),
            self.index.astype(float),
            x if plan.transform is None else plan.transform(x, np.repeat(plan.concept, DRAWS)),
            np.full(len(drawn), -1, np.int32),
            self.index,
            code,
            classes=whole.classes,
        )

    def of(self, segment: Segment) -> Segment:
        """Return the segment with its whole population as probes."""
        begin, end = DRAWS * segment.begin, DRAWS * segment.end
        mine = slice(begin, end)
        return Segment(begin, end, segment.ended, self.rows[mine], self.index[mine])


def points(setting: str, learner: str, seed: int, folder: Path) -> Iterator[Point]:
    """Yield the evaluations of one run."""
    parts = made(setting, learner, seed, folder)
    loop, stream = parts.loop, parts.stream
    assert isinstance(stream, ScenarioStream)
    assert loop.probes is not None
    population = Population(stream, seed)
    probes, truth = Retention("classification"), Retention("classification")
    every = 2000
    due, cuts = every, 0
    for batch in parts.reader.read({}):
        loop.step(batch)
        if loop.events < due and loop.probes.cuts == cuts:
            continue
        due, cuts = (loop.events // every + 1) * every, loop.probes.cuts
        segments = loop.segments()
        told, _ = probes.evaluate(loop.learner, segments, loop.events)
        known, _ = truth.evaluate(
            loop.learner, [population.of(s) for s in segments if len(s)], loop.events
        )
        if "stability/forgetting" in told:
            least = min(len(s) for s in segments if s.ended)
            yield Point(loop.events, least, told, known)


def made(setting: str, learner: str, seed: int, folder: Path) -> Parts:
    told = SETTINGS[setting]
    job: dict[str, Any] = {
        "name": "truth",
        "seed": seed,
        "stream": {"kind": "scenario", "batch_size": 10, "seed": seed, **told["stream"]},
        "learner": {
            "kind": learner,
            "model": {"kind": "mlp", "hidden": [100]},
            "optimizer": {"kind": "sgd", "lr": 0.1},
            "steps": 1,
        },
        "evaluate": {"probes": told["probes"]},
    }
    if learner == "replay":
        job["learner"] |= {"replay_size": 10, "buffer": {"capacity": 500}}
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    return build(load(file))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    print(
        "| setting | learner | evaluations | forgetting at the end | off, mean | off, worst |",
        end="",
    )
    print(" interval holds: forgetting | initial | ACC |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for setting in SETTINGS:
            for learner in ("finetune", "replay"):
                runs = [
                    list(points(setting, learner, seed, Path(folder))) for seed in range(args.seeds)
                ]
                every = [point for run in runs for point in run]
                off = np.array([point.off("forgetting") for point in every])
                off_initial = np.array([point.off("forgetting_initial") for point in every])
                held = {name: np.mean([point.held(name) for point in every]) for name in NAMES}
                ends = [run[-1].truth["stability/forgetting"] for run in runs]
                shares = " | ".join(
                    f"{100 * held[name]:.1f}%" if setting.startswith("default") else ""
                    for name in NAMES
                )
                lines.append(
                    f"| {setting} | {learner} | {min(point.probes for point in every):,} |"
                    f" {len(every)} | {100 * np.mean(ends):.1f} | {100 * np.mean(off):.2f} |"
                    f" {100 * np.mean(off < 0.02):.1f}% | {100 * np.max(off):.2f} |"
                    f" {100 * np.mean(off_initial < 0.02):.1f}% | {100 * np.max(off_initial):.2f} |"
                    f" {shares} |"
                )
                print(lines[-1], flush=True)
    RESULT.write_text("\n".join([*ABOUT, *HEAD, *lines, ""]))


if __name__ == "__main__":
    main()
