"""Keys of error memories: encoders, odd values, and settings that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from learners.base import LearnerError
from learners.checks.case import LearnerRun
from learners.retrieval.error_memory import ErrorMemoryConfig, ErrorMemoryLearner
from learners.retrieval.keys import EncoderKeys, HiddenKeys, InputKeys
from streams.core.batch import Batch, Ragged
from streams.core.schema import Feature, Schema
from streams.core.state_dict import digest

ENCODER = {"kind": "random-features", "dimension": 32}
VECTORS = Schema((Feature("v", "vector", (5,)), Feature("word", "text")), "classification")
NETWORK = {
    "kind": "finetune",
    "model": {"kind": "mlp", "hidden": [8]},
    "optimizer": {"kind": "sgd", "lr": 0.01},
}


def new(schema: Schema = VECTORS, **settings: Any) -> ErrorMemoryLearner:
    config = ErrorMemoryConfig.model_validate({"kind": "error-memory", **settings})
    return ErrorMemoryLearner(config, schema, 1)


def events(n: int = 400) -> Batch:
    """Return events whose class is the sign of the first number of a vector."""
    rng = np.random.default_rng(0)
    v = rng.normal(size=(n, 5)).astype(np.float32)
    x = {"v": v, "word": Ragged.of_text(["same"] * n)}
    place, y = np.arange(n), (v[:, 0] > 0).astype(np.int64)
    return Batch(place, place * 1.0, x, np.zeros(n, np.int32), place, y, classes=("no", "yes"))


def test_keys_of_an_encoder_resume_exactly_over_any_base() -> None:
    """They tell what the base does not see, are the encoder's, and a state continues to a bit."""
    settings = {"base": "prior", "keys": {"kind": "encoder", "encoder": ENCODER, "warm_up": 50}}
    stream, run = events(), LearnerRun(new(**settings))
    run.feed(stream[:200], 20)
    heir = new(**settings)
    heir.load(run.learner.state())
    run.feed(stream[200:], 20)
    assert isinstance(run.learner, ErrorMemoryLearner)
    assert isinstance(run.learner.keys, EncoderKeys)
    assert run.learner.keys.width == 32
    right = run.probabilities(2)[-100:].argmax(1) == np.asarray(stream.y)[-100:]
    assert right.mean() > 0.75
    served = new(**settings)
    served.load_servable(run.learner.servable())
    asked = stream[:50].to_predict(False)
    ours, theirs = run.learner.predict(asked).proba, served.predict(asked).proba
    assert ours is not None
    assert theirs is not None
    assert np.array_equal(ours, theirs)
    other = LearnerRun(heir)
    other.join = LearnerRun(new(**settings)).feed(stream[:200], 20).join
    other.feed(stream[200:], 20)
    assert digest(heir.state()) == digest(run.learner.state())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "encoder"}, "belong together"),
        ({"kind": "inputs", "encoder": "identity"}, "belong together"),
        ({"kind": "encoder", "encoder": "identitty"}, "identity"),
        ({"kind": "encoder", "encoder": ENCODER, "columns": ["w"]}, "no column 'w'"),
        ({"kind": "encoder", "encoder": ENCODER, "columns": ["v", "word"]}, "one column"),
        ({"kind": "encoder", "encoder": ENCODER, "columns": ["word"]}, "keys.encoder"),
        ({"kind": "encoder", "encoder": {**ENCODER, "dimension": 0}}, "dimension"),
        ({"kind": "hidden"}, "no hidden layer"),
        ({"kind": "hidden", "columns": ["v"]}, "a hidden layer has none"),
        ({"kind": "inputs", "columns": []}, "columns"),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys: dict[str, Any], message: str) -> None:
    """The message names what is wrong."""
    with pytest.raises((LearnerError, ValueError), match=message):
        new(base="prior", keys=keys)


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        (NETWORK, HiddenKeys),
        ({**NETWORK, "model": {"kind": "mlp", "hidden": []}}, InputKeys),
        ({"kind": "segment-residuals", "base": "prior"}, InputKeys),
        ({"kind": "segment-residuals", "base": NETWORK}, HiddenKeys),
        ("slda", InputKeys),
    ],
)
def test_keys_without_settings_suit_the_base(base: Any, kind: type) -> None:
    """They are a hidden layer where there is one, also below another wrapper."""
    schema = Schema((Feature("a", "numeric"), Feature("b", "numeric")), "classification")
    learner = new(schema, base=base, keys={"sample": 20, "warm_up": 20})
    assert type(learner.keys) is kind
    rng = np.random.default_rng(3)
    place, x, y = np.arange(60), rng.normal(size=(60, 2)), rng.integers(0, 2, 60)
    batch = Batch(place, place * 1.0, x, np.zeros(60, np.int32), place, y, classes=("a", "b"))
    run = LearnerRun(learner).feed(batch)
    assert run.learner.metrics()["memory_events"] > 0
    if kind is InputKeys:
        with pytest.raises(LearnerError, match="no hidden layer"):
            new(schema, base=base, keys="hidden")


def test_an_encoder_of_other_weights_is_refused() -> None:
    """A state made with another encoder does not load."""
    keys = {"kind": "encoder", "encoder": ENCODER}
    state = new(base="prior", keys=keys).state()
    other = new(base="prior", keys={**keys, "encoder": {**ENCODER, "dimension": 16}})
    with pytest.raises(LearnerError, match="fingerprint"):
        other.load(state)


@pytest.mark.parametrize("odd", [0.0, 1e30, np.nan])
@pytest.mark.parametrize("base", ["prior", NETWORK])
def test_odd_numbers_in_keys_give_probabilities(base: Any, odd: float) -> None:
    """All zeros, huge and missing numbers: a key is a key, and probabilities have sum 1."""
    schema = Schema((Feature("a", "numeric"), Feature("b", "numeric")), "classification")
    rng = np.random.default_rng(2)
    n = 300
    x, place = rng.normal(size=(n, 2)), np.arange(n)
    x[rng.random((n, 2)) < 0.3] = odd
    y = rng.integers(0, 3, n)
    batch = Batch(place, place * 1.0, x, np.zeros(n, np.int32), place, y, classes=("a", "b", "c"))
    keys = {"sample": 20, "check_every": 20, "moved": 1e-9}
    for metric in ("cosine", "euclidean", "dot"):
        memory = {"kind": "ring", "metric": metric, "capacity": 40}
        learner = new(schema, base=base, keys=keys, memory=memory)
        shares = LearnerRun(learner).feed(batch).probabilities(3)[100:]
        assert np.allclose(shares.sum(1), 1)
