"""The click model: settings, bounded tables, downsampling, and resume."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from learners.base import LearnerError
from learners.recommenders.click_model import ClickModel, ClickModelConfig
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema, Task
from streams.core.state_dict import State, copied, digest

CLASSES = ("no", "click")
KINDS = ("fm", "dnn", "deepfm", "dcn-v2")


def schema(task: Task = "classification", classes: tuple[str, ...] = CLASSES) -> Schema:
    columns = (Feature("user", "categorical"), Feature("item", "categorical"))
    return Schema((*columns, Feature("price", "numeric")), task, classes)


def model(task: Task = "classification", seed: int = 1, **settings: Any) -> ClickModel:
    settings = {"inputs": {"rows": 256, "min_age": 100}, "buffer": {"capacity": 100}, **settings}
    config = ClickModelConfig.model_validate({"kind": "click-model", **settings})
    return ClickModel(config, schema(task), seed)


def clicks(n: int, seed: int = 0, users: int = 20) -> Batch:
    """Return events in which a click depends on whether user and item are both odd or even."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, users, n), rng.integers(0, 10, n)
    y = ((user + item) % 2 == 0).astype(np.int64)
    x = {"user": user, "item": item, "price": rng.normal(size=n)}
    offset = np.arange(n)
    return Batch(offset, offset * 1.0, x, np.zeros(n, np.int32), offset, y, classes=CLASSES)


def fed(learner: ClickModel, batch: Batch, size: int = 32) -> ClickModel:
    for part in batch.micro_batches(size):
        learner._observe(part)
        learner._learn(part)
    return learner


@pytest.mark.parametrize("kind", KINDS)
def test_click_is_learned_from_pairs(kind: str) -> None:
    settings: dict[str, Any] = {
        "optimizer": {"kind": "adam", "lr": 0.02},
        "model": {"kind": kind},
    }
    learner = fed(model(**settings), clicks(6000))
    fresh = clicks(500, seed=9)
    assert (learner.predict(fresh).value == fresh.y).mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_resume_continues_bit_for_bit(kind: str) -> None:
    events = clicks(300)
    whole = fed(model(model={"kind": kind}, negative_downsampling=0.5), events)
    half = fed(model(model={"kind": kind}, negative_downsampling=0.5), events[:128])
    other = model(model={"kind": kind}, negative_downsampling=0.5, seed=1)
    other.load(copied(half.state()))
    assert digest(fed(other, events[128:]).state()) == digest(whole.state())


def test_memory_does_not_grow_with_ids() -> None:
    settings = {"rows": 64, "admit_after": 1, "min_age": 0}
    learner = fed(model(inputs=settings), clicks(2000, users=1_000_000))
    before = learner.memory_bytes()
    fed(learner, clicks(5000, seed=1, users=1_000_000))
    assert learner.memory_bytes() < 1.1 * before


def test_value_that_is_not_known_is_predicted_as_new() -> None:
    learner = fed(model(), clicks(300))
    new = clicks(2, seed=3)
    assert not isinstance(new.x, np.ndarray)
    x = {**new.x, "user": np.array([10**9, 2 * 10**9]), "item": np.array([1, 1])}
    x["price"] = np.zeros(2)
    batch = Batch(new.ids, new.time, x, new.partition, new.offset, classes=CLASSES)
    proba = learner.predict(batch).proba
    assert proba is not None
    assert np.array_equal(proba[0], proba[1])


def test_without_replay_nothing_is_stored() -> None:
    learner = fed(model(), clicks(200))
    assert len(learner.buffer) == 0
    assert learner.buffer_bytes == 0


def test_last_activations_are_the_hidden_state() -> None:
    for kind, width in (("fm", 8), ("dnn", 6), ("deepfm", 6), ("dcn-v2", 6)):
        settings: dict[str, Any] = {"kind": kind} | ({} if kind == "fm" else {"hidden": [6]})
        learner = fed(model(model=settings), clicks(100))
        assert learner.activations(clicks(5))[-1].shape == (5, width)


def test_downsampling_corrects_probabilities() -> None:
    """A model of half of the negative events predicts the rate of the whole stream."""
    rng = np.random.default_rng(0)
    n = 12_000
    x = {"user": rng.integers(0, 3, n), "item": np.zeros(n, np.int64), "price": np.zeros(n)}
    y = (rng.random(n) < 0.1).astype(np.int64)
    offset = np.arange(n)
    batch = Batch(offset, offset * 1.0, x, np.zeros(n, np.int32), offset, y, classes=CLASSES)
    learner = fed(model(negative_downsampling=0.2), batch, 64)
    proba = learner.predict(batch[-100:]).proba
    assert proba is not None
    assert abs(proba[:, 1].mean() - 0.1) < 0.03


@pytest.mark.parametrize(
    ("task", "classes", "settings", "place"),
    [
        ("regression", (), {}, "a number"),
        ("classification", (), {}, "stream.label.classes"),
        ("classification", CLASSES, {"class_weight": "balanced"}, "class_weight"),
    ],
)
def test_downsampling_that_does_not_suit_is_refused(
    task: Task, classes: tuple[str, ...], settings: State, place: str
) -> None:
    config = ClickModelConfig.model_validate(
        {"kind": "click-model", "negative_downsampling": 0.5, **settings}
    )
    with pytest.raises(LearnerError, match=place):
        ClickModel(config, schema(task, classes), 1)
