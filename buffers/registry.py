"""Find the class of an admission or recall rule by the name that a job uses."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from buffers.admission.base import Admission
from buffers.recall.base import Recall

ADMISSIONS: dict[str, str] = {
    "reservoir": "buffers.admission.reservoir:Reservoir",
    "ring": "buffers.admission.ring:Ring",
    "random-insert": "buffers.admission.ring:RandomInsert",
    "class-balanced": "buffers.admission.class_balanced:ClassBalanced",
    "herding": "buffers.admission.herding:Herding",
}
"""The import path of each admission rule that a job may name."""

RECALLS: dict[str, str] = {
    "uniform": "buffers.recall.base:Uniform",
    "forgetting-curve": "buffers.recall.by_forgetting_curve:ForgettingCurve",
    "view-batch": "buffers.recall.when_due:WhenDue",
    "power-law": "buffers.recall.by_age:PowerLaw",
    "exponential": "buffers.recall.by_age:Exponential",
    "highest-loss": "buffers.recall.by_loss:HighestLoss",
    "maximal-interference": "buffers.recall.by_loss:MaximalInterference",
    "repeated-random": "buffers.recall.repeated_random:RepeatedRandom",
}
"""The import path of each recall rule that a job may name."""


def find_admission(name: str) -> type[Admission]:
    """Return the admission rule called ``name``. Raises ValueError, with the nearest name."""
    rule: type[Admission] = _load("admission", name, ADMISSIONS)
    return rule


def find_recall(name: str) -> type[Recall]:
    """Return the recall rule called ``name``. Raises ValueError, with the nearest name."""
    rule: type[Recall] = _load("recall", name, RECALLS)
    return rule


def _load(policy: str, name: str, rules: Mapping[str, str]) -> Any:
    if name not in rules:
        nearest = get_close_matches(name, rules, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"unknown {policy} {name!r}: did you mean {nearest!r}? Known are {', '.join(rules)}"
        )
    module, _, attribute = rules[name].partition(":")
    return getattr(import_module(module), attribute)
