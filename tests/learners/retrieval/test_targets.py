"""Learners that correct others, over targets: absurd numbers, and a base that still waits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import learners
from learners.base import Learner
from learners.checks.case import Case, LearnerRun
from learners.registry import find
from streams.core.state_dict import digest

KINDS = ["error-memory", "segment-residuals"]
RIVER = {
    "kind": "river",
    "model": ["preprocessing.StandardScaler", "linear_model.LinearRegression"],
}


def case_of(kind: str, **settings: Any) -> Case:
    cls = find(learners.KINDS, Learner, kind)  # type: ignore[type-abstract]
    config = cls.Config.model_validate({"kind": kind, **settings})
    return Case(cls, "regression", lambda schema, seed: cls(config, schema, seed))  # type: ignore[call-arg]


@pytest.mark.parametrize("base", ["no-change", {"kind": "rls", "warm_up": 50}])
@pytest.mark.parametrize("kind", KINDS)
def test_absurd_targets_do_not_decide_for_ever(kind: str, base: Any) -> None:
    """After targets of 1e300 an error is soon at most three times that of the base alone."""
    case = case_of(kind, base=base)
    stream = case.stream(600)
    y = np.array(stream.y)
    y[[100, 200]] = [-1e300, 1e300]
    run = LearnerRun(case.new()).feed(replace(stream, y=y))
    values = np.concatenate([prediction.value for prediction in run.predictions])[300:]
    settings = {"kind": base} if isinstance(base, str) else base
    cls = find(learners.KINDS, Learner, settings["kind"])  # type: ignore[type-abstract]
    alone = cls(cls.Config.model_validate(settings), case.schema(), 1)  # type: ignore[call-arg]
    plain = LearnerRun(alone).feed(replace(stream, y=y))
    others = np.concatenate([prediction.value for prediction in plain.predictions])[300:]
    assert np.abs(values - y[300:]).mean() <= 3 * np.abs(others - y[300:]).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_an_absurd_first_target_leaves_finite_numbers(kind: str) -> None:
    """It is within the scale of what is known by then, so only finiteness is promised."""
    case = case_of(kind, base="no-change")
    stream = case.stream(300)
    y = np.array(stream.y)
    y[3] = 1e300
    run = LearnerRun(case.new()).feed(replace(stream, y=y))
    assert not any(len(prediction.not_finite()) for prediction in run.predictions)
    assert run.learner.state()["mixture"]["weights"].sum() == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_wrapper_abstains_while_the_base_waits(kind: str) -> None:
    """Until the base has learned its first labels, a prediction without a value abstains."""
    case = case_of(kind, base="prior", learn_every=40)
    run = LearnerRun(case.new(), 5).feed(case.stream(120), 7)
    learned = [prediction for prediction in run.predictions if prediction.version]
    assert any(np.isnan(prediction.value).any() for prediction in learned)
    for prediction in run.predictions:
        assert not len(prediction.not_finite())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("delay", [0, 3])
def test_targets_over_river_are_exact_event_by_event(kind: str, delay: int) -> None:
    """Over a base that goes event by event, no batch size makes a difference to a bit."""
    case = case_of(kind, base=RIVER)
    stream = case.stream(300)
    runs = [LearnerRun(case.new(), delay).feed(stream, size) for size in (1, 7, 40)]
    states = [run.learner.state() for run in runs]
    for run, state in zip(runs[1:], states[1:], strict=True):
        for ours, theirs in zip(
            np.concatenate([p.value for p in run.predictions]),
            np.concatenate([p.value for p in runs[0].predictions]),
            strict=True,
        ):
            assert ours == theirs or (np.isnan(ours) and np.isnan(theirs))
        assert digest(state["mixture"]) == digest(states[0]["mixture"])
