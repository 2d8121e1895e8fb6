"""Rules that choose a class: the least expected cost, and the threshold of the best F1."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from learners.base import LearnerError
from learners.checks import checks_for
from learners.checks.assertions import saved_and_read
from learners.networks.base import NetworkConfig
from learners.networks.decision import BestF1, CostDecision, F1Decision, LeastCost
from learners.rehearsal.replay import Replay
from streams.core.batch import Array
from streams.core.schema import Schema
from streams.core.state_dict import copied, digest
from tests.support.unequal_classes import SCHEMA, events, learn, make, rare

torch.set_num_threads(1)


def cost(costs: Any, classes: tuple[Any, ...] = ("ok", "fraud")) -> LeastCost:
    config = CostDecision.model_validate({"rule": "cost", "costs": costs})
    return LeastCost(config, classes)


def best_f1(**given: Any) -> BestF1:
    config = F1Decision.model_validate({"rule": "f1", **given})
    return BestF1(config, ())


def two(positive: Any) -> Array:
    p = np.asarray(positive, np.float64)
    return np.stack([1 - p, p], 1)


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0, 1))
def test_costs_of_two_classes_are_a_threshold(missed: float, alarm: float, p: float) -> None:
    """Elkan's threshold: predict the second class from p = alarm / (alarm + missed) on."""
    chosen = cost({"fraud": missed, "ok": alarm}).choose(two([p]))[0]
    threshold = alarm / (alarm + missed)
    if abs(p - threshold) > 1e-9:
        assert chosen == int(p > threshold)


def test_cost_matrix_by_hand() -> None:
    rule = cost({"c": {"a": 10.0, "c": -1.0}, "b": 2.0}, ("a", "b", "c"))
    matrix = np.array([[0, 1, 1], [2, 0, 2], [10, 1, -1]])
    proba = np.random.default_rng(0).dirichlet(np.ones(3), 200)
    assert np.array_equal(rule.choose(proba), (proba @ matrix).argmin(1))


def test_equal_costs_choose_the_likeliest() -> None:
    proba = np.random.default_rng(0).dirichlet(np.ones(4), 200)
    assert np.array_equal(cost({}, tuple("abcd")).choose(proba), proba.argmax(1))


def test_costs_reach_a_late_class() -> None:
    rule = cost({"late": 50.0}, ())
    rule.register(("a", "b"))
    assert rule.choose(np.array([[0.6, 0.4]])).tolist() == [0]
    rule.register(("a", "b", "late"))
    assert rule.choose(np.array([[0.6, 0.35, 0.05]])).tolist() == [2]


def f1(y: Array, predicted: Array) -> float:
    return float(2 * (y & predicted).sum() / (y.sum() + predicted.sum()))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_threshold_has_the_largest_f1(seed: int, first: bool) -> None:
    """No threshold has a larger F1 on the counted events, for either class as the positive one."""
    rng = np.random.default_rng(seed)
    y = (rng.random(300) < 0.3).astype(np.int64)
    odds = np.round((rng.normal(size=300) + 1.5 * y - 1) * 16) / 16 + 1 / 32  # amid a bin
    proba = two(1 / (1 + np.exp(-odds)))
    rule = best_f1(positive="ok" if first else "fraud", window=10**12)
    rule.register(("ok", "fraud"))
    rule.update(proba, y)
    code = 0 if first else 1
    score, positive = proba[:, code], y == code
    best = max(f1(positive, score >= threshold) for threshold in score)
    assert f1(positive, rule.choose(proba) == code) == pytest.approx(best, rel=1e-9)


def test_until_enough_positives_the_likeliest_is_chosen() -> None:
    rule = best_f1()
    p = np.linspace(0.01, 0.4, 40)
    rule.update(two(p), (np.arange(40) >= 31).astype(np.int64))
    assert not rule.choose(two(p)).any()
    rule.update(two(p), (np.arange(40) >= 31).astype(np.int64))
    assert rule.choose(two(p)).any()


def test_second_class_is_positive_unless_stated() -> None:
    """Class 0 is rare, and no score tells it apart: it is found only where it is positive."""
    y, p = (np.arange(100) < 80).astype(np.int64), np.full(100, 0.8)
    for positive, expected in ((None, 1), ("fraud", 1), ("ok", 0)):
        rule = best_f1(positive=positive)
        rule.register(("ok", "fraud"))
        rule.update(two(p), y)
        assert (rule.choose(two(p)) == expected).all()


def test_window_is_half_of_the_events_at_the_start() -> None:
    """After n events in all the last n / 2 weigh most: the start is soon forgotten."""
    rule = best_f1(window=10**9)
    for _ in range(100):
        rule.update(two(np.full(32, 0.3)), np.zeros(32, np.int64))
    faded = rule.state()["histogram"].sum()
    assert faded == pytest.approx(3200 / 3, rel=0.1)  # of a fading of 2 / n
    assert rule.state()["events"] == 3200


def test_threshold_follows_a_change() -> None:
    """Old events fade: the threshold moves to where the scores of late lie."""
    rule = best_f1(window=500)
    rng = np.random.default_rng(0)
    thresholds = []
    for shift in (0.0, 4.0):
        for _ in range(100):
            y = (rng.random(32) < 0.2).astype(np.int64)
            odds = rng.normal(size=32) + 3 * y - 4 + shift
            rule.update(two(1 / (1 + np.exp(-odds))), y)
        thresholds.append(rule.servable()["threshold"])
    assert thresholds[1] - thresholds[0] == pytest.approx(4, abs=1)


def test_extreme_probabilities_have_bins() -> None:
    rule = best_f1()
    y = np.tile([0, 1], 20)
    rule.update(two(y.astype(float)), y)
    assert np.array_equal(rule.choose(two(y.astype(float))), y)
    useless = best_f1()  # no score says anything: all are positive, also beyond the bins
    useless.update(two(np.full(40, 0.5)), y)
    assert useless.choose(two([0.5, 0.6])).tolist() == [1, 1]


@pytest.mark.parametrize("rule", [{"rule": "f1"}, {"rule": "cost", "costs": {"yes": 9}}])
def test_decision_leaves_training_and_probabilities(rule: dict[str, Any]) -> None:
    batch = rare(1600)
    plain, ruled = make(), make(decision=rule)
    for learner in (plain, ruled):
        learn(learner, batch)
    assert np.array_equal(plain.predict(batch).proba, ruled.predict(batch).proba)
    assert np.array_equal(plain.weight_vector(), ruled.weight_vector())
    predicted = [learner.predict(batch).value.sum() for learner in (plain, ruled)]
    assert predicted[1] > predicted[0]


def test_outputs_that_are_not_finite_are_left_out() -> None:
    learner = make(replace(SCHEMA, classes=("no", "yes")), decision={"rule": "f1"})
    before = copied(learner.class_outputs.state())
    learner.class_outputs.evaluate(torch.full((3, 2), torch.nan), np.array([0, 1, 0]))
    assert digest(learner.class_outputs.state()) == digest(before)


def test_threshold_continues_from_a_state() -> None:
    batch = rare(1200)
    whole, donor, heir = (make(decision={"rule": "f1"}) for _ in range(3))
    learn(whole, batch)
    learn(donor, batch[:800])
    heir.load(saved_and_read(copied(donor.state())))
    learn(heir, batch[800:])
    assert digest(whole.state()) == digest(heir.state())
    served = whole.servable()["class_outputs"]["decision"]
    assert list(served) == ["threshold"]
    assert served["threshold"] is not None


@pytest.mark.parametrize(
    "name",
    [
        "predictions_fit",
        "predict_is_pure",
        "accepts_no_rows_and_one",
        "accepts_stated_classes",
        "continues_from_a_state",
        "serves_as_it_predicts",
        "ignores_probes",
        "sees_no_label_early",
        "shows_that_it_is_not_finite",
    ],
)
def test_f1_passes_check(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two classes: the checks make streams of two for a learner that handles no more."""

    class Binary(Replay):
        handles = frozenset({"binary"})

    def make_binary(schema: Schema, seed: int) -> Binary:
        given = Binary.example("classification") | {
            "decision": {"rule": "f1"},
            "calibration": "temperature",
            "class_weight": {"b": 3.0},
        }
        return Binary(Binary.Config.model_validate(given), schema, seed)

    (check,) = [check for check in checks_for(Binary) if check.name == name]
    check(make_binary)


@pytest.mark.parametrize(
    ("schema", "decision", "says"),
    [
        (replace(SCHEMA, task="regression"), {"rule": "f1"}, "learner.decision: .*regression"),
        (
            replace(SCHEMA, classes=("no", "yes")),
            {"rule": "cost", "costs": {"no": {"yse": 2}}},
            r"learner.decision.costs: there is no class 'yse': did you mean 'yes'\?",
        ),
        (
            replace(SCHEMA, classes=("no", "yes")),
            {"rule": "f1", "positive": "nope"},
            "learner.decision.positive: there is no class 'nope'",
        ),
        (
            replace(SCHEMA, classes=("a", "b", "c")),
            {"rule": "f1"},
            "learner.decision.rule: 'f1' is for two classes.*use 'cost'",
        ),
    ],
)
def test_unfit_decision_raises(schema: Schema, decision: Any, says: str) -> None:
    with pytest.raises(LearnerError, match=says) as error:
        make(schema, decision=decision)
    assert "\n" not in str(error.value)


def test_third_class_on_the_way_raises() -> None:
    learner = make(decision={"rule": "f1"})
    with pytest.raises(LearnerError, match="'f1' is for two classes"):
        learn(learner, events(np.arange(32) % 3))


@pytest.mark.parametrize(
    "decision",
    [
        {"rule": "best"},
        {"costs": {"a": 1}},
        {"rule": "cost"},
        {"rule": "cost", "costs": {"a": -1}},
        {"rule": "f1", "window": 0},
        "cost",
    ],
)
def test_settings_out_of_range_are_refused(decision: Any) -> None:
    with pytest.raises(ValidationError):
        NetworkConfig.model_validate({"kind": "finetune", "decision": decision})


def test_settings_survive_json() -> None:
    costs = {3: {2: 3.5}, True: 4}
    given = {"kind": "finetune", "decision": {"rule": "cost", "costs": costs}}
    config = NetworkConfig.model_validate(given)
    assert NetworkConfig.model_validate(config.model_dump(mode="json")) == config
    assert config.decision.costs == {"3": {"2": 3.5}, "true": 4}  # type: ignore[union-attr]
