"""The scenarios by their names in a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCENARIOS: Mapping[str, Mapping[str, Any]] = {
    "split-mnist": {"dataset": "mnist", "tasks": {"kind": "split", "tasks": 5}},
    "permuted-mnist": {
        "dataset": "mnist",
        "tasks": {"kind": "permuted", "tasks": 10},
        "events": 6000,
    },
    "rotated-mnist": {
        "dataset": "mnist",
        "tasks": {"kind": "rotated", "tasks": 10},
        "events": 6000,
    },
    "split-fashion-mnist": {"dataset": "fashion-mnist", "tasks": {"kind": "split", "tasks": 5}},
    "permuted-fashion-mnist": {
        "dataset": "fashion-mnist",
        "tasks": {"kind": "permuted", "tasks": 10},
        "events": 6000,
    },
    "rotated-fashion-mnist": {
        "dataset": "fashion-mnist",
        "tasks": {"kind": "rotated", "tasks": 10},
        "events": 6000,
    },
    "split-cifar-10": {"dataset": "cifar-10", "tasks": {"kind": "split", "tasks": 5}},
    "split-digits": {"dataset": "digits", "tasks": {"kind": "split", "tasks": 5}},
    "permuted-digits": {"dataset": "digits", "tasks": {"kind": "permuted", "tasks": 5}},
    "digits-label-flips": {
        "dataset": "digits",
        "tasks": {"kind": "label-flips", "flipped": [2, 7], "before": 2000, "after": 6000},
    },
    "outdoor": {"dataset": "outdoor", "tasks": {"kind": "split", "tasks": 10}},
    "clinc150": {"dataset": "clinc150", "tasks": {"kind": "split", "tasks": 10}},
    "clinc150-contexts": {
        "dataset": "clinc150",
        "tasks": {"kind": "contexts", "tasks": 10, "labels": 5, "rounds": 2},
    },
    "blurry-mnist": {
        "dataset": "mnist",
        "tasks": {"kind": "blurry", "tasks": 5, "disjoint": 0.5, "blur": 0.1},
    },
    "power-law-mnist": {
        "dataset": "mnist",
        "tasks": {"kind": "power-law", "tasks": 5, "phases": 30, "exponent": 1.0},
        "events": 2000,
    },
    "sudden-drift-mnist": {
        "dataset": "mnist",
        "tasks": {"kind": "drift", "shape": "sudden", "concepts": 4},
        "events": 5000,
    },
    "gradual-drift-mnist": {
        "dataset": "mnist",
        "tasks": {"kind": "drift", "shape": "gradual", "concepts": 4, "width": 2000},
        "events": 5000,
    },
    "recurring-drift-mnist": {
        "dataset": "mnist",
        "tasks": {"kind": "drift", "shape": "recurring", "concepts": 3, "phases": 9},
        "events": 3000,
    },
    "noisy-mnist": {
        "dataset": "mnist",
        "tasks": {"kind": "split", "tasks": 5},
        "label_noise": 0.2,
    },
    "iid-mnist": {"dataset": "mnist", "tasks": {"kind": "iid"}},
}
"""The settings of each named scenario."""
