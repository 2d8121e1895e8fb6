"""The online temperature: where it settles, and that it never sees a learned event."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.base import LearnerError
from learners.checks.assertions import saved_and_read
from learners.networks.base import NetworkConfig
from learners.networks.calibration import Temperature
from streams.core.batch import Array
from streams.core.state_dict import copied, digest
from tests.support.unequal_classes import SCHEMA, learn, make, rare

torch.set_num_threads(1)


def softmax(out: Array) -> Array:
    return torch.softmax(torch.from_numpy(out), 1).numpy()


def fit(true: float, classes: int = 3, events: int = 4000, scale: float = 1.0) -> Temperature:
    """Feed labels drawn from softmax(out / true)."""
    rng = np.random.default_rng(2)
    temperature = Temperature()
    for _ in range(events // 32):
        out = scale * rng.normal(size=(32, classes))
        proba = softmax(out / true)
        y = (proba.cumsum(1) < rng.random((32, 1))).sum(1).clip(max=classes - 1)
        temperature.update(out, y, softmax(out * temperature.inverse))
    return temperature


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_temperature_finds_the_true_one(true: float, classes: int) -> None:
    found = 1 / fit(true, classes, scale=3.0).inverse
    assert found == pytest.approx(true, rel=0.15)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.sampled_from([1e-3, 1.0, 1e3, 1e30, 1e200]), st.booleans())
def test_temperature_is_bounded(seed: int, scale: float, wrong: bool) -> None:
    """Whatever the outputs, also where every confident one is wrong."""
    rng = np.random.default_rng(seed)
    temperature = Temperature()
    for _ in range(60):
        out = scale * rng.normal(size=(8, 3))
        y = out.argmin(1) if wrong else rng.integers(0, 3, 8)
        with np.errstate(over="ignore", invalid="ignore"):
            temperature.update(out, y, softmax(out * temperature.inverse))
        assert 0.0999 < temperature.inverse < 10.001


def test_step_is_newton_by_hand() -> None:
    """One event with outputs 2 and 0 and label 1, at T = 1."""
    temperature = Temperature()
    out, y = np.array([[2.0, 0.0]]), np.array([1])
    p = 1 / (1 + np.exp(-2.0))
    temperature.update(out, y, softmax(out))
    gradient, curvature = 0 - 2 * p, 4 * p * (1 - p)
    assert temperature.log_inverse == pytest.approx(gradient / (30 + curvature))


def test_without_evidence_it_returns_to_one() -> None:
    temperature = fit(3.0, scale=3.0)
    assert temperature.inverse < 0.5
    equal = np.zeros((32, 3))
    for _ in range(2000):
        temperature.update(equal, np.zeros(32, np.int64), softmax(equal))
    assert temperature.inverse == pytest.approx(1, abs=0.02)


def test_temperature_is_fitted_before_learning() -> None:
    """It sees the outputs of the network as it was before the revealed events."""
    batch, learner = rare(), make(calibration="temperature")
    learn(learner, batch[:160])
    temperature = learner.class_outputs._temperature
    assert temperature is not None
    expected = Temperature()
    expected.load(copied(temperature.state()))
    out = learner._output(batch[160:176]).numpy()
    expected.update(out, batch.y[160:176], softmax(out * expected.inverse))
    learn(learner, batch[160:176])
    assert temperature.state() == expected.state()


def test_probabilities_are_divided_and_the_class_stays() -> None:
    """The prior is corrected after the division, as the class weights are not of the network."""
    batch = rare()
    learner = make(calibration="temperature", class_weight="balanced")
    learn(learner, batch)
    parts = learner.class_outputs
    assert parts._temperature is not None
    assert parts._weights is not None
    out = learner._output(batch).numpy()
    scaled = out * parts._temperature.inverse - np.log(parts._weights.values)
    prediction = learner.predict(batch)
    np.testing.assert_allclose(prediction.proba, softmax(scaled), atol=1e-6)
    assert np.array_equal(prediction.value, out.argmax(1))


def test_training_is_the_same_with_and_without() -> None:
    batch = rare()
    plain, fitted = make(), make(calibration="temperature")
    for learner in (plain, fitted):
        learn(learner, batch)
    without = {k: v for k, v in fitted.state().items() if k != "class_outputs"}
    assert digest(without) == digest(plain.state())


def test_servable_has_the_temperature_alone() -> None:
    batch, learner = rare(), make(calibration="temperature")
    learn(learner, batch)
    served = learner.servable()["class_outputs"]["temperature"]
    assert list(served) == ["log_inverse"]
    server = make(calibration="temperature")
    server.load_servable(saved_and_read(copied(learner.servable())))
    assert np.array_equal(server.predict(batch).proba, learner.predict(batch).proba)


def test_none_is_no_setting_and_regression_refuses() -> None:
    given = {"kind": "finetune", "calibration": "none"}
    assert NetworkConfig.model_validate(given).calibration is None
    with pytest.raises(LearnerError, match=r"learner.calibration: .*regression"):
        make(replace(SCHEMA, task="regression"), calibration="temperature")
