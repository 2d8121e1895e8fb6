"""Scores of predicted clicks, and tables of them: by learner, paired by seed, and by slot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from experiments.studies.comparison import Difference, common
from pipeline.bench.bench import Results
from pipeline.evaluation.online.grouped_auc import GroupedAuc

SLOTS = 10
FLOOR = 1e-7
METRICS = {"auc": "AUC", "gauc": "gAUC", "log_loss": "log-loss", "calibration": "calibration"}

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Predicted(NamedTuple):
    """What was predicted of n events, before their labels were known.

    Attributes:
        proba: (n,) the probability of class 1.
        y: (n,) 0 or 1.
        group: (n,) int64, of the gAUC; all 0 where there are none.
    """

    proba: Floats
    y: Ints
    group: Ints

    def part(self, begin: int, stop: int) -> Predicted:
        """Return events ``begin`` to ``stop``."""
        return Predicted(*(column[begin:stop] for column in self))


def scores(predicted: Predicted) -> dict[str, float]:
    """Return the metrics of ``METRICS``; gAUC only where there are groups."""
    proba, y, group = predicted
    right = np.clip(np.where(y == 1, proba, 1 - proba), FLOOR, 1)
    found = {
        "auc": auc(predicted),
        "log_loss": float(-np.log(right).mean()),
        "calibration": float(proba.sum() / max(y.sum(), 1)),
    }
    if group.any():
        grouped = GroupedAuc(len(y))
        grouped.add(group, y, proba)
        found["gauc"] = grouped.results().get("gauc_window", np.nan)
    return found


def auc(predicted: Predicted) -> float:
    """Return the AUC; NaN where all labels are the same."""
    both = 0 < predicted.y.sum() < len(predicted.y)
    return float(roc_auc_score(predicted.y, predicted.proba)) if both else np.nan


def scored(predicted: Predicted, begin: int) -> dict[str, Any]:
    """Return the scores from event ``begin`` on, of the whole stream, and the AUC by slot."""
    n = len(predicted.y)
    cuts = np.linspace(begin, n, SLOTS + 1).astype(int).tolist()
    return {
        "metrics": scores(predicted.part(begin, n)),
        "whole": {"auc": auc(predicted)},
        "slots": [auc(predicted.part(a, b)) for a, b in pairwise(cuts)],
    }


def score_table(found: Mapping[str, Results], staleness: Callable[[str], float]) -> list[str]:
    """Return lines of Markdown: scores and costs of each learner, the best AUC first.

    Args:
        found: the results of each, by the name of its row.
        staleness: returns the age of the newest label, in events, by the name of a row.
    """
    known = {key for runs in found.values() for run in runs for key in run["metrics"]}
    keys = [key for key in METRICS if key in known]
    titles = [METRICS[key] for key in keys]
    columns = [*titles, "AUC, whole stream", "staleness", "CPU s", "state, kB", "seeds"]
    lines = [f"| learner | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in sorted(found, key=lambda name: -mean(run["metrics"]["auc"] for run in found[name])):
        runs = found[name]
        cells = [spread([run["metrics"][key] for run in runs]) for key in keys]
        cells.append(f"{mean(run['whole']['auc'] for run in runs):.4f}")
        cells.append(f"{staleness(name):,.0f}")
        cells.append(f"{mean(run['cpu_seconds'] for run in runs):.1f}")
        cells.append(f"{max(run['state_bytes'] for run in runs) / 1e3:,.0f}")
        lines.append(f"| {name} | {' | '.join(cells)} | {len(runs)} |")
    return lines


def difference_table(
    found: Mapping[str, Results], pairs: Mapping[str, tuple[str, str]]
) -> list[str]:
    """Return lines of Markdown: for each pair of rows that have results of one seed, the difference
    of the first from the second."""
    lines = ["| difference | AUC | log-loss | seeds |", "|---|---|---|---|"]
    for what, (name, other) in pairs.items():
        if both := common(found.get(name, []), found.get(other, [])):
            cells = [points(both, metric) for metric in ("auc", "log_loss")]
            lines.append(f"| {what} | {' | '.join(cells)} | {len(both)} |")
    return lines


def slot_table(found: Mapping[str, Results]) -> list[str]:
    """Return lines of Markdown: the AUC of each learner in each slot, the mean over seeds."""
    head = " | ".join(str(slot + 1) for slot in range(SLOTS))
    lines = [f"| AUC in slot | {head} |", "|---" * (SLOTS + 1) + "|"]
    for name, runs in found.items():
        means = np.mean([run["slots"] for run in runs], axis=0)
        lines.append(f"| {name} | {' | '.join(f'{value:.3f}' for value in means)} |")
    return lines


def points(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], metric: str) -> str:
    """Return the mean of paired differences, with its 95% interval of several pairs."""
    own, others = zip(*pairs, strict=True)
    values = [[float(run["metrics"][metric]) for run in runs] for runs in (own, others)]
    one = Difference.of(*values)
    if one.n < 2:
        return f"{one.mean:+.4f}"
    return f"{one.mean:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"


def spread(values: Sequence[float]) -> str:
    """Return the mean, and the standard deviation of several values."""
    if len(values) < 2:
        return f"{values[0]:.4f}"
    return f"{mean(values):.4f} ± {stdev(values):.4f}"
