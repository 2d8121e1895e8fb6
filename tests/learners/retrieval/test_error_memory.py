"""The error memory: over all kinds of bases, lambda 0, cadence, drift, guards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import learners
from learners.base import Learner
from learners.checks import Check, checks_for
from learners.checks.assertions import same_prediction
from learners.checks.case import Case, LearnerRun
from learners.registry import find
from learners.retrieval.error_memory import ErrorMemoryConfig, ErrorMemoryLearner
from streams.core.schema import Feature, Schema
from streams.core.state_dict import digest

NETWORK = {
    "kind": "replay",
    "model": {"kind": "mlp", "hidden": [16]},
    "optimizer": {"kind": "adam", "lr": 0.01},
    "buffer": {"capacity": 100},
}
RIVER = {"kind": "river", "model": ["preprocessing.StandardScaler", "naive_bayes.GaussianNB"]}
SETTINGS: dict[str, dict[str, Any]] = {
    "hidden layer": {
        "base": NETWORK,
        "keys": {"kind": "hidden", "sample": 40, "check_every": 64, "moved": 0.01},
        "memory": {"kind": "ring", "capacity": 500},
    },
    "sketch": {
        "base": {"kind": "slda", "warm_up": 50},
        "memory": {"kind": "sketch", "bits": 6},
        "half_life": 50,
        "reset": 90,
        "gamma": 0.5,
    },
    "slow base": {"base": {"kind": "slda", "warm_up": 50}, "learn_every": 40, "gamma": 0.0},
}
CHECKS = [
    "continues_from_a_state",
    "serves_as_it_predicts",
    "predict_is_pure",
    "frozen_within_a_batch",
    "ignores_probes",
    "learns_only_revealed_labels",
    "sees_no_label_early",
    "accepts_classes_at_any_time",
    "accepts_corrections",
    "memory_is_bounded",
]


def make(settings: dict[str, Any]) -> Callable[[Schema, int], Learner]:
    config = ErrorMemoryConfig.model_validate({"kind": "error-memory", **settings})
    return lambda schema, seed: ErrorMemoryLearner(config, schema, seed)


def new(schema: Schema | None = None, **settings: Any) -> ErrorMemoryLearner:
    learner = make(settings)(schema or numbers("classification"), 1)
    assert isinstance(learner, ErrorMemoryLearner)
    return learner


def numbers(task: Any, width: int = 6) -> Schema:
    return Schema(tuple(Feature(f"x{i}", "numeric") for i in range(width)), task)


def checks(names: list[str]) -> list[Check]:
    return [
        check
        for check in checks_for(ErrorMemoryLearner)
        if check.task == "classification" and check.name in names
    ]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("check", checks(CHECKS), ids=str)
def test_memory_keeps_the_contract_over_bases(check: Check, settings: str) -> None:
    """Other bases, keys, memories and cadences keep the promises of a learner."""
    check(make(SETTINGS[settings]))


def test_memory_over_river_is_exact_event_by_event() -> None:
    """Over a base that goes event by event, no batch size and no delay makes a difference."""
    settings = {"base": RIVER, "memory": {"kind": "ring", "capacity": 50, "neighbours": 5}}
    case = Case(ErrorMemoryLearner, "classification", make(settings))
    stream = case.stream(120)
    for delay in (0, 3):
        runs = [LearnerRun(case.new(), delay).feed(stream, size) for size in (1, 7, 40)]
        for run in runs[1:]:
            assert np.array_equal(run.probabilities(3), runs[0].probabilities(3))
            memories = [digest(r.learner.state()["memory"]) for r in (run, runs[0])]
            assert memories[0] == memories[1]


BASES: list[tuple[str, dict[str, Any]]] = [
    ("classification", NETWORK),
    ("classification", RIVER),
    ("regression", {"kind": "rls", "warm_up": 50}),
    ("regression", NETWORK),
]


@pytest.mark.parametrize(
    ("task", "base"), BASES, ids=lambda v: v if isinstance(v, str) else v["kind"]
)
def test_lambda_of_zero_is_the_base_bit_for_bit(task: Any, base: dict[str, Any]) -> None:
    """With lambda 0 every value and every probability is the base's own."""
    case = Case(ErrorMemoryLearner, task, make({"base": base, "lambda": 0}))
    stream, schema = case.stream(240), numbers(task)
    cls = find(learners.KINDS, Learner, base["kind"])  # type: ignore[type-abstract]
    plain = LearnerRun(cls(cls.Config.model_validate(base), schema, 1)).feed(stream)
    wrapper = LearnerRun(case.new()).feed(stream)
    for ours, theirs in zip(wrapper.predictions, plain.predictions, strict=True):
        # River counts a micro-batch as one version, others the labels between two events.
        assert same_prediction(replace(ours, version=0), replace(theirs, version=0))
