"""Weights of classes: their values, the weighted loss, and the probabilities of the stream."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.utils.class_weight import compute_class_weight

from learners.base import LearnerError
from learners.checks.assertions import saved_and_read
from learners.networks.base import NetworkConfig
from learners.networks.class_weights import CAP, EXTRA, ClassWeights
from learners.rehearsal.er_ace import ErAce
from streams.core.schema import Schema
from streams.core.state_dict import copied, digest
from tests.support.unequal_classes import SCHEMA, events, learn, make, rare

torch.set_num_threads(1)


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=50), min_size=1, max_size=6))
def test_mean_weight_of_labels_is_one(batches: list[list[int]]) -> None:
    names = tuple("abcde")
    for config in ("balanced", {"b": 7.0, "e": 0.01}):
        weights = ClassWeights(config, names)  # type: ignore[arg-type]
        for labels in batches:
            weights.update(np.array(labels))
        labels = [code for batch in batches for code in batch]
        assert weights.values[labels].mean() == pytest.approx(1)
        assert (weights.values > 0).all()


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    y = np.repeat([0, 1, 2], [70, 25, 5])
    weights = ClassWeights("balanced", ("a", "b", "c"))
    weights.update(y)
    more = np.concatenate([y, np.repeat([0, 1, 2], EXTRA)])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=more)
    np.testing.assert_allclose(weights.values, expected / expected[y].mean(), rtol=1e-12)


def test_balanced_weights_start_at_one_and_are_capped() -> None:
    weights = ClassWeights("balanced", ())
    weights.register(("a", "b"))
    assert weights.values.tolist() == [1, 1]
    weights.update(np.zeros(1, np.int64))
    assert weights.values[1] / weights.values[0] == 1.1  # after one label: no harm
    weights.update(np.repeat([0, 1], [10**6, 1]))
    assert weights.values[1] / weights.values[0] == pytest.approx(2 * CAP, rel=1e-4)


def test_stated_weights_go_by_name_also_of_late_classes() -> None:
    weights = ClassWeights({"3": 6.0, "true": 2.0}, ())
    weights.register((7, 3))
    assert weights.values.tolist() == [1, 6]
    weights.register((7, 3, True))
    assert weights.values.tolist() == [1, 6, 2]


def test_step_follows_the_weighted_loss_by_hand() -> None:
    """Balanced weights, counts included: the sum of w * loss over the number of events."""
    batch = events(np.array([0, 0, 0, 1, 0, 0, 0, 0]))[:8]
    learner = make(replace(SCHEMA, classes=("no", "yes")), class_weight="balanced")
    torch.manual_seed(4)
    head = torch.nn.Linear(2, 2)
    learn(learner, batch, 4)
    counts = np.zeros(2)
    for part in batch.micro_batches(4):
        counts += np.bincount(part.y, minlength=2)
        w = (counts.sum() + 20) / (2 * (counts + 10))
        w /= (w @ counts) / counts.sum()
        head.zero_grad()
        out = head(torch.from_numpy(np.asarray(part.x, np.float32)))
        y = torch.from_numpy(part.y)
        losses = F.cross_entropy(out, y, reduction="none")
        (torch.from_numpy(w[part.y]).float() * losses).mean().backward()
        with torch.no_grad():
            for parameter in head.parameters():
                parameter -= 0.1 * parameter.grad
    torch.testing.assert_close(learner.net.head.weight, head.weight)


def test_er_ace_weighs_the_classes_of_a_micro_batch() -> None:
    table = {"yes": 5.0, "late": 0.5}
    learner = make(kind="er-ace", class_weight=table)
    assert isinstance(learner, ErAce)
    learn(learner, events(np.array([0, 1, 2])))
    out = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    y, present = torch.tensor([0, 1, 1, 0]), torch.tensor([1, 2])
    w = torch.tensor([5.0, 0.5]) / (6.5 / 3)
    expected = (w[y] * F.cross_entropy(out, y, reduction="none")).mean()
    torch.testing.assert_close(learner.error(out, y, codes=present), expected)
    alone = F.cross_entropy(out, y, reduction="none")  # what a recall rule compares
    assert torch.equal(learner.error(out, y, "none", present), alone)


def test_probabilities_are_those_of_the_stream() -> None:
    """proba * w is the softmax; the value is its largest, and may not be the likeliest class."""
    batch, learner = rare(), make(class_weight="balanced")
    learn(learner, batch)
    prediction = learner.predict(batch)
    weights = learner.class_outputs._weights
    assert weights is not None
    with torch.no_grad():
        softmax = torch.softmax(learner.net(learner.tensor(learner.inputs.rows(batch))), 1)
    weighted = prediction.proba * weights.values
    np.testing.assert_allclose(weighted / weighted.sum(1, keepdims=True), softmax, atol=1e-6)
    assert np.array_equal(prediction.value, weighted.argmax(1))
    assert (prediction.value != prediction.proba.argmax(1)).any()


def test_without_information_the_share_is_predicted() -> None:
    """A network that sees a constant learns equal outputs: what is left is the share of a class."""
    batch = rare(4000)
    batch = replace(batch, x=np.zeros((4000, 2)))
    learner = make(class_weight="balanced")
    learn(learner, batch, 32)
    proba = learner.predict(batch[:1]).proba
    assert proba[0, 1] == pytest.approx(batch.y.mean(), rel=0.2)
    assert proba[0, 1] < 0.1


def test_equal_weights_change_nothing() -> None:
    batch = rare()
    plain, equal = make(), make(class_weight={"no": 3.0, "yes": 3.0})
    for learner in (plain, equal):
        learn(learner, batch)
    np.testing.assert_allclose(equal.predict(batch).proba, plain.predict(batch).proba, atol=1e-5)


def test_balanced_weights_raise_the_recall_of_a_rare_class() -> None:
    batch = rare(3000)
    recalls = []
    for setting in (None, "balanced"):
        learner = make(class_weight=setting)
        learn(learner, batch)
        value = learner.predict(batch).value
        recalls.append(float(value[batch.y == 1].mean()))
    assert recalls[1] > recalls[0] + 0.3


@pytest.mark.parametrize(
    ("schema", "setting", "says"),
    [
        (replace(SCHEMA, task="regression"), "balanced", "learner.class_weight: .*regression"),
        (
            replace(SCHEMA, classes=("no", "yes")),
            {"yse": 3.0},
            r"learner.class_weight: there is no class 'yse': did you mean 'yes'\?",
        ),
    ],
)
def test_unfit_setting_raises(schema: Schema, setting: Any, says: str) -> None:
    with pytest.raises(LearnerError, match=says) as error:
        make(schema, class_weight=setting)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("setting", ["balance", {"a": 0}, {"a": -1}, {"a": True}, 3])
def test_settings_out_of_range_are_refused(setting: Any) -> None:
    with pytest.raises(ValidationError):
        NetworkConfig.model_validate({"kind": "finetune", "class_weight": setting})


def test_settings_survive_json() -> None:
    given = {"kind": "finetune", "class_weight": {3: 2, True: 5, "x": 1}}
    config = NetworkConfig.model_validate(given)
    assert config.class_weight == {"3": 2, "true": 5, "x": 1}
    assert NetworkConfig.model_validate(config.model_dump(mode="json")) == config


def test_state_has_counts_only_where_they_are_used() -> None:
    batch = rare(64)
    plain, weighted = make(), make(class_weight="balanced")
    for learner in (plain, weighted):
        learn(learner, batch)
    assert "class_outputs" not in plain.state()
    counts = weighted.servable()["class_outputs"]["weights"]["counts"]
    assert counts.tolist() == np.bincount(batch.y).tolist()
    older = copied(plain.state())  # of a learner without weights: they start anew
    weighted.load(weighted.migrate(saved_and_read(older)))
    assert weighted.state()["class_outputs"]["weights"]["counts"].tolist() == [0, 0]
    learn(weighted, batch)


def test_late_class_continues_from_a_state() -> None:
    y = np.concatenate([np.arange(64) % 2, np.arange(64) % 3])
    batch = events(y)
    for setting in ("balanced", {"late": 4.0}):
        whole, donor, heir = (make(class_weight=setting) for _ in range(3))
        learn(whole, batch)
        learn(donor, batch[:64])
        heir.load(saved_and_read(copied(donor.state())))
        learn(heir, batch[64:])
        assert digest(whole.state()) == digest(heir.state())
        assert len(whole.predict(batch).proba[0]) == 3
