"""Compare learners on the same streams, seed by seed: tables and verdicts for the results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from rich.console import Console
from scipy.stats import t as student

from pipeline.bench.bench import Bench, Results, spread
from pipeline.bench.measure import Budget


class Difference(NamedTuple):
    """The mean of n paired differences, its 95% interval (Student's t), and the count above 0."""

    mean: float
    low: float
    high: float
    above: int
    n: int

    @classmethod
    def of(cls, values: Sequence[float], others: Sequence[float]) -> Difference:
        """Return the difference of ``values`` from ``others``, pair by pair."""
        each = [a - b for a, b in zip(values, others, strict=True)]
        middle, n = mean(each), len(each)
        half = math.inf
        if n > 1:
            half = float(student.ppf(0.975, n - 1)) * stdev(each) / math.sqrt(n)
        return cls(middle, middle - half, middle + half, sum(d > 0 for d in each), n)

    @property
    def points(self) -> str:
        """The mean and the interval, in points."""
        low, high = (f"{100 * end:+.1f}" for end in (self.low, self.high))
        return f"{100 * self.mean:+.1f} [{low}, {high}]"

    @property
    def verdict(self) -> str:
        """Whether the first are higher or lower, in at most three words."""
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "no difference shown"


@dataclass(frozen=True)
class Comparison:
    """The arms of one experiment.

    Attributes:
        scenario: a scenario of ``everlearn bench``.
        arms: the learner of each arm, in the notation of ``everlearn bench``.
        overrides: ``key=value`` for all jobs.
        budget: how each arm is measured.
    """

    scenario: str
    arms: Mapping[str, str]
    overrides: Sequence[str]
    budget: Budget

    def run(self, seeds: int, out: Path) -> dict[str, list[dict[str, Any]]]:
        """Return the results of each arm by seed. Cells that the folder has are not run again."""
        bench = Bench(
            [self.scenario], list(self.arms.values()), seeds, out, self.overrides, self.budget
        )
        results = bench.run(Console(stderr=True), print)
        return {
            arm: [r for r in results if r["learner"] == learner]
            for arm, learner in self.arms.items()
        }


def metric(results: Sequence[dict[str, Any]], name: str) -> list[float]:
    """Return one metric of each result."""
    return [float(result["metrics"][name]) for result in results]


def table(
    found: Mapping[str, list[dict[str, Any]]], metrics: Mapping[str, str], base: str, of: str
) -> list[str]:
    """Return lines of Markdown: all ``metrics`` of each arm, and its difference in ``of`` from
    ``base``.

    Metrics are mean and standard deviation over seeds; ``metrics`` maps their names to titles.
    """
    lines = [
        f"| arm | {' | '.join(metrics.values())} | {metrics[of]} less that of {base} | higher in |",
        "|---" * (len(metrics) + 3) + "|",
    ]
    reference = metric(found[base], of)
    for arm, results in found.items():
        numbers = " | ".join(spread(metric(results, name)) for name in metrics)
        difference = Difference.of(metric(results, of), reference)
        paired = f"{difference.points} | {difference.above} of {difference.n}"
        lines.append(f"| {arm} | {numbers} | {' | ' if arm == base else paired} |")
    return lines


def cost_table(found: Mapping[str, Results], metrics: Mapping[str, str], base: str) -> list[str]:
    """Return lines of Markdown: ``metrics`` and costs of each arm, the best ACC first.

    Args:
        found: the results of each arm.
        metrics: the titles of metrics in %, by name.
        base: the arm whose ACC others are compared with, over common seeds.
    """
    lines = [
        f"| learner | {' | '.join(metrics.values())} | ACC less that of {base} | log-loss "
        "| CPU s | state | seeds |",
        "|---" * (len(metrics) + 6) + "|",
    ]
    for name in sorted(found, key=lambda name: -mean(metric(found[name], "acc"))):
        runs = found[name]
        numbers = " | ".join(spread(metric(runs, key)) for key in metrics)
        less = "" if name == base else difference(runs, found.get(base, []))
        losses = [run["metrics"].get("test_log_loss") for run in runs]
        loss = "" if None in losses else f"{mean(losses):.3f}"
        cpu = mean(run["cpu_seconds"] for run in runs)
        size = max(run["state_bytes"] for run in runs) / 1e6
        costs = f"{loss} | {cpu:,.1f} | {size:,.2f} MB | {len(runs)}"
        lines.append(f"| {name} | {numbers} | {less} | {costs} |")
    return lines


def common(runs: Results, others: Results) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the pairs of runs that have one seed."""
    of_seed = {run["seed"]: run for run in others}
    return [(run, of_seed[run["seed"]]) for run in runs if run["seed"] in of_seed]


def difference(runs: Results, others: Results) -> str:
    """Return the difference in ACC from the runs of the same seeds, in points."""
    both = common(runs, others)
    if not both:
        return ""
    own, theirs = (metric(each, "acc") for each in zip(*both, strict=True))
    found = Difference.of(own, theirs)
    return found.points if len(both) > 1 else f"{100 * found.mean:+.1f}"


def write_section(
    file: Path, head: str, title: str, lines: Sequence[str], order: Sequence[str]
) -> None:
    """Replace a section of a file by the lines, or add it; sections are in this order.

    Args:
        file: it has ``head``, and sections that begin with "## " and a title.
        head: what stands above the sections.
        title: of the section.
        lines: of the section, with its title.
        order: the titles of all sections.
    """
    old = file.read_text() if file.exists() else head
    parts = old.split("\n## ")
    there = {part.split("\n", 1)[0]: part for part in parts[1:]}
    there[title] = "\n".join(lines).removeprefix("\n## ")
    sections = (there[name].rstrip("\n") + "\n" for name in order if name in there)
    file.write_text("\n## ".join([head, *sections]))
