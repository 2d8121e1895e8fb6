"""Learners compared on the same streams, seed by seed: tables and verdicts for the results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from rich.console import Console
from scipy.stats import t as student

from pipeline.bench.bench import Bench, spread
from pipeline.bench.measure import Budget


class Difference(NamedTuple):
    """The mean of n paired differences, its 95% interval (Student's t), and how many of them are
    above 0."""

    mean: float
    low: float
    high: float
    above: int
    n: int

    @classmethod
    def of(cls, values: Sequence[float], others: Sequence[float]) -> Difference:
        """Of ``values`` from ``others``, pair by pair."""
        each = [a - b for a, b in zip(values, others, strict=True)]
        middle, n = mean(each), len(each)
        half = math.inf
        if n > 1:
            half = float(student.ppf(0.975, n - 1)) * stdev(each) / math.sqrt(n)
        return cls(middle, middle - half, middle + half, sum(d > 0 for d in each), n)

    @property
    def said(self) -> str:
        """In points: the mean and the interval."""
        low, high = (f"{100 * end:+.1f}" for end in (self.low, self.high))
        return f"{100 * self.mean:+.1f} [{low}, {high}]"

    @property
    def verdict(self) -> str:
        """What follows of the one and the other, in three words."""
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "no difference shown"


@dataclass(frozen=True)
class Comparison:
    """Arms of one experiment.

    Attributes:
        scenario: as ``everlearn bench`` takes it.
        arms: by the name of each arm the learner, as ``everlearn bench`` takes it.
        overrides: ``key=value`` for the jobs of all.
        budget: how each is measured.
    """

    scenario: str
    arms: Mapping[str, str]
    overrides: Sequence[str]
    budget: Budget

    def run(self, seeds: int, out: Path) -> dict[str, list[dict[str, Any]]]:
        """The results of each arm by seed; what is in the folder already is not run again."""
        bench = Bench(
            [self.scenario], list(self.arms.values()), seeds, out, self.overrides, self.budget
        )
        results = bench.run(Console(stderr=True), print)
        return {
            arm: [r for r in results if r["learner"] == learner]
            for arm, learner in self.arms.items()
        }


def metric(results: Sequence[dict[str, Any]], name: str) -> list[float]:
    """One metric of each result."""
    return [float(result["metrics"][name]) for result in results]


def table(
    found: Mapping[str, list[dict[str, Any]]], metrics: Mapping[str, str], base: str, of: str
) -> list[str]:
    """Lines of Markdown: for each arm all ``metrics`` (titles by their names in the results), as
    mean and standard deviation over seeds, and by how much ``of`` differs from that of ``base``."""
    lines = [
        f"| arm | {' | '.join(metrics.values())} | {metrics[of]} less that of {base} | higher in |",
        "|---" * (len(metrics) + 3) + "|",
    ]
    reference = metric(found[base], of)
    for arm, results in found.items():
        numbers = " | ".join(spread(metric(results, name)) for name in metrics)
        difference = Difference.of(metric(results, of), reference)
        paired = f"{difference.said} | {difference.above} of {difference.n}"
        lines.append(f"| {arm} | {numbers} | {' | ' if arm == base else paired} |")
    return lines
