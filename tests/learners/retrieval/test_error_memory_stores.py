"""What an error memory stores, and what of it travels to a server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from buffers.errors.base import LabelledKeys
from buffers.errors.ring import ErrorRing
from learners.base import Learner
from learners.checks.case import Case, LearnerRun
from learners.retrieval.error_memory import ErrorMemoryConfig, ErrorMemoryLearner
from pipeline.models.delta import DeltaEncoder, RowChanges
from streams.core.schema import Schema


def case_of(**settings: Any) -> Case:
    config = ErrorMemoryConfig.model_validate({"kind": "error-memory", **settings})

    def make(schema: Schema, seed: int) -> Learner:
        return ErrorMemoryLearner(config, schema, seed)

    return Case(ErrorMemoryLearner, "classification", make)


def test_storing_large_errors_only_is_biased_and_guarded() -> None:
    """Among large errors alone the base is always wrong; weights by share put the mean right."""
    rng = np.random.default_rng(0)
    n = 4000
    keys, y = np.ones((n, 2), np.float32), (rng.random(n) < 0.9).astype(int)
    base = np.tile([0.1, 0.9], (n, 1))
    large = y == 0  # the base is right in nine of ten events
    means = []
    for kept, weights in (
        (large, np.ones(n)),
        (large | (rng.random(n) < 0.1), np.where(large, 1.0, 10.0)),
    ):
        ring = ErrorRing(2, False, capacity=n, neighbours=n)
        ring.grow(2)
        events = LabelledKeys(np.arange(n), keys, y, base, weights)
        ring.write(events.take(kept))
        means.append(ring.read(keys[:1]).labels[0, 1])
    assert means[0] == 0.0
    assert means[1] == pytest.approx(0.9, abs=0.03)


def test_small_errors_are_stored_in_part_and_weigh_more() -> None:
    """The memory has about a tenth of what the base knows, and its support stands for all."""
    settings = {
        "small_errors": {"below": 0.5, "share": 0.1},
        "base": {"kind": "slda", "warm_up": 50},
    }
    case = case_of(**settings)
    stream = case.stream(1000)
    learner = LearnerRun(case.new()).feed(stream).learner
    state = learner.state()["memory"]
    weights = state["weights"][: state["written"]]
    assert state["written"] < 250
    assert weights.sum() == pytest.approx(800, rel=0.25)  # the scale of keys is fixed after 200
    assert set(weights.tolist()) <= {1.0, 10.0}


NETWORK = {
    "kind": "finetune",
    "model": {"kind": "mlp", "hidden": [16]},
    "optimizer": {"kind": "adam", "lr": 0.02},
}
MOVING = {"kind": "hidden", "sample": 40, "check_every": 32, "moved": 1e-6}


@pytest.mark.parametrize("memory", ["ring", "sketch"])
def test_stored_events_get_new_keys_as_the_base_moves(memory: str) -> None:
    """Their keys are those that the base gives them now; a sketch of them is cleared."""
    case = case_of(base=NETWORK, keys=MOVING, memory=memory, reset=250)
    stream, run = case.stream(640), LearnerRun(case.new(), 0)
    run.feed(stream, 32)
    learner = run.learner
    assert isinstance(learner, ErrorMemoryLearner)
    assert learner.memory is not None
    if memory == "sketch":
        assert learner.memory.events == 0
        return
    assert isinstance(learner.memory, ErrorRing)
    stored = learner.memory.stored
    assert 32 < stored < 250
    last = stream[len(stream) - stored :]
    ages = np.arange(stored)[::-1]
    slots = learner.memory.slots(ages)
    keys = learner.memory.on_grid(learner.keys.of(last.to_predict(False)))
    assert np.array_equal(learner.state()["memory"]["ids"][slots], last.ids)
    assert np.array_equal(learner.state()["memory"]["keys"][slots], keys)


def test_void_keys_can_clear_the_memory() -> None:
    """With when_void: clear no columns are kept, and nothing is left once the base has moved."""
    case = case_of(base=NETWORK, keys={**MOVING, "when_void": "clear"})
    run = LearnerRun(case.new(), 0).feed(case.stream(640), 32)
    assert "columns" not in run.learner.state()
    assert run.learner.metrics()["memory_events"] == 0


def test_new_errors_travel_and_not_a_new_model() -> None:
    """A snapshot after 16 labels carries 16 rows of the memory, and nothing of a frozen base."""
    settings = {
        "base": {"kind": "slda", "warm_up": 50},
        "keys": "inputs",
        "frozen_after": 200,
        "memory": {"kind": "ring", "capacity": 40_000},
    }
    case = case_of(**settings)
    stream, run = case.stream(600), LearnerRun(case.new())
    run.feed(stream[:400])
    encoder = DeltaEncoder()
    encoder.encode(run.learner.servable())
    run.feed(stream[400:416])
    changes, _ = encoder.encode(run.learner.servable())
    memory = changes["memory"]
    for name in ("keys", "weights", "ids"):
        assert isinstance(memory[name], RowChanges)
        assert len(memory[name].rows) == 16
