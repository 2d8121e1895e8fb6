"""The gradient that is written out, against that of autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from learners.baselines.finetune import Finetune
from learners.networks.base import NetworkConfig, NetworkLearner
from learners.networks.perceptron import layout
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema, Task

FEATURES = (Feature("x", "numeric"), Feature("z", "numeric"), Feature("kind", "categorical"))


def batch(seed: int, classes: int, n: int = 24) -> Batch:
    random = np.random.default_rng(seed)
    kind = random.integers(4, size=n)
    x = {"x": random.normal(size=n), "z": random.normal(size=n) + kind, "kind": kind}
    y: Any = random.integers(classes, size=n) if classes else random.normal(size=n)
    names = tuple("abc"[:classes])
    zeros = np.zeros(n, np.int32)
    return Batch(np.arange(n), np.arange(n) / 1.0, x, zeros, np.arange(n), y, classes=names)


def learner(classes: int, hidden: tuple[int, ...], **settings: Any) -> Finetune:
    task: Task = "classification" if classes else "regression"
    model = {"kind": "mlp", "hidden": hidden, "activation": settings.pop("activation", "relu")}
    config = NetworkConfig.model_validate({"kind": "finetune", "model": model, **settings})
    return Finetune(config, Schema(FEATURES, task), seed=3)


def learned(one: NetworkLearner, classes: int, steps: int = 4) -> NetworkLearner:
    for seed in range(steps):
        part = batch(seed, min(classes, seed + 1) if classes else 0)
        one.observe(part)
        one._learn(part)
    return one


@pytest.mark.parametrize("hidden", [(16,), (16, 8)])
@pytest.mark.parametrize(("classes", "weight"), [(3, None), (2, "balanced"), (0, None)])
def test_the_gradient_is_that_of_autograd(
    classes: int, weight: str | None, hidden: tuple[int, ...]
) -> None:
    one = learned(learner(classes, hidden, class_weight=weight), classes)
    part = batch(9, classes)
    x, y = one.tensor(one.inputs.rows(part)), one.labels(part.y)  # type: ignore[arg-type]
    table, perceptron = one.net.table, one.optimizer.written_out
    expected = one.optimizer.gradient(one.loss(x, y)).clone()
    rows, of_rows = table.take_gradients()
    with torch.no_grad():
        out, passed = perceptron.outputs(x)  # type: ignore[union-attr]
        above = one._error_gradient(out, y)
        gradient = perceptron.gradient(above, passed)  # type: ignore[union-attr]
    assert_close(out, one.net(x).detach())
    table.take_gradients()
    assert_close(gradient, expected)
    perceptron.gradient(above, passed)  # type: ignore[union-attr]
    ours = table.take_gradients()
    assert torch.equal(ours[0], rows)
    assert_close(ours[1], of_rows)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_training_is_that_with_autograd() -> None:
    ours = learned(learner(3, (16,)), 3, steps=12)
    theirs = learner(3, (16,))
    theirs._plain_error = False
    learned(theirs, 3, steps=12)
    for a, b in zip(ours.net.parameters(), theirs.net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.net.table.weight, theirs.net.table.weight, rtol=1e-3, atol=1e-4)


def test_a_state_has_each_parameter_by_its_number_in_the_network() -> None:
    one = learned(learner(2, (16,)), 2)
    moments = one.state()["optimizer"]["exp_avg"]
    assert list(moments) == [str(i) for i in range(len(list(one.net.parameters())))]
    for parameter, part in zip(one.net.parameters(), moments.values(), strict=True):
        assert parameter.shape == part.shape
    other = learner(2, (16,))
    other.load(one.state())
    part = batch(7, 2)
    one._learn(part), other._learn(part)
    assert torch.equal(one.optimizer.weights, other.optimizer.weights)


@pytest.mark.parametrize(
    "settings", [{"activation": "tanh"}, {"inputs": {"wide": False}}, {"hidden": ()}]
)
def test_other_networks_are_left_to_autograd(settings: dict[str, Any]) -> None:
    one = learner(2, settings.pop("hidden", (16,)), **settings)
    assert one.optimizer.written_out is None
    assert layout(one.net) == list(one.net.parameters())
    learned(one, 2)


class Doubled(Finetune):
    def error(self, *given: Any, **others: Any) -> Tensor:
        return 2 * super().error(*given, **others)


def test_a_subclass_may_have_an_error_of_its_own() -> None:
    descent = {"kind": "sgd", "lr": 0.02}
    halved = {"kind": "sgd", "lr": 0.01}
    ours = learned(learner(2, (16,), optimizer=descent), 2)
    theirs = learner(2, (16,), optimizer=halved)
    theirs = learned(Doubled(theirs.config, theirs.schema, seed=3), 2)
    assert_close(ours.optimizer.weights, theirs.optimizer.weights)
