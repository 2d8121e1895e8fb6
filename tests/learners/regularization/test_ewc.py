from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from learners.baselines.finetune import Finetune
from learners.networks.base import NetworkLearner
from learners.regularization.ewc import Ewc
from streams.core.schema import Schema
from streams.core.state_dict import copied, digest
from tests.support import segments
from tests.support.segments import FEATURES, SEED, learn, stream, weights

torch.set_num_threads(1)


def make(cls: type[NetworkLearner] = Ewc, **settings: Any) -> Any:
    return segments.make(cls, **settings)


def test_ewc_penalty_equals_paper_as_implicit_step() -> None:
    """Three tasks of 12, 12 and 6 events; micro-batches of 8 are cut where a task ends."""
    ours, events = make(every=12, steps=2, weight=30.0, decay=0.5), stream(30, 14)
    for batch in events.micro_batches(8):
        learn(ours, batch)
    torch.manual_seed(SEED)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    w = list(net.parameters())
    importance, anchor = [torch.zeros_like(p) for p in w], [p.detach().clone() for p in w]
    squares: list[list[torch.Tensor]] = []
    parts = [(0, 8), (8, 12), (12, 16), (16, 24), (24, 30)]
    for start, stop in parts:
        if start in (12, 24):
            of_task = [torch.stack(each).mean(0) for each in zip(*squares, strict=True)]
            importance = [0.5 * old + new for old, new in zip(importance, of_task, strict=True)]
            anchor, squares = [p.detach().clone() for p in w], []
        x, y = torch.from_numpy(events.x[start:stop]), torch.from_numpy(events.y[start:stop])
        for _ in range(2):
            gradients = torch.autograd.grad(F.cross_entropy(net(x), y), w)
            squares.append([(stop - start) * g**2 for g in gradients])
            with torch.no_grad():
                for p, g, f, to in zip(w, gradients, importance, anchor, strict=True):
                    r = 0.2 * 30.0 * f
                    p.copy_((p - 0.2 * g + r * to) / (1 + r))
    theirs = torch.cat([p.detach().flatten() for p in w])
    assert torch.allclose(weights(ours), theirs, atol=1e-6)
    assert ours.gradient_steps == 10


def test_ewc_small_rate_gives_gradient_of_penalty() -> None:
    """To first order in the rate a step is one down loss + weight / 2 * sum F (w - w*)**2."""
    ours = make(weight=5.0, optimizer={"kind": "sgd", "lr": 1e-4}, every=10)
    events = stream(20, 20)
    learn(ours, events[:10])
    ours.consolidate()
    kept = ours.optimizer.per_weight_state
    with torch.no_grad():
        ours.optimizer.weights.add_(0.1)
    before = weights(ours)
    x, y = torch.from_numpy(events.x[10:]), torch.from_numpy(events.y[10:])
    loss = F.cross_entropy(ours.net(x), y)
    gradient = torch.autograd.grad(loss, list(ours.net.parameters()))
    wanted = torch.cat([g.flatten() for g in gradient])
    wanted = wanted + 5.0 * kept["fisher"] * (before - kept["anchor"])
    ours.learn_part(events[10:])
    assert torch.allclose((before - weights(ours)) / 1e-4, wanted, rtol=0.01, atol=2e-3)


@pytest.mark.parametrize("optimizer", [{"kind": "sgd", "lr": 0.1, "momentum": 0.9}, {"lr": 0.01}])
def test_ewc_of_weight_zero_is_fine_tuning(optimizer: dict[str, Any]) -> None:
    settings = {"optimizer": optimizer, "steps": 2}
    ours, plain = make(weight=0.0, every=9, **settings), make(Finetune, **settings)
    for batch in stream().micro_batches(9):
        learn(ours, batch)
        learn(plain, batch)
    assert torch.equal(weights(ours), weights(plain))


def test_ewc_huge_weight_fixes_important_weights_only() -> None:
    """The third input is always 0 in the first task: its weights matter to nothing there."""
    ours, events = make(weight=1e9), stream(40, 20)
    events.x[:20, 2] = 0
    learn(ours, events[:20])
    before = ours.net.body[0].weight.detach().clone()
    used = before[:, 0] != 0
    for batch in events[20:].micro_batches(4):
        learn(ours, batch)
    ours.verify()
    fisher = ours.optimizer.per_weight_state["fisher"][: before.numel()].view_as(before)
    moved = (ours.net.body[0].weight.detach() - before).abs()
    matters = fisher > 1e-4
    assert matters.any()
    assert (fisher[:, 2] == 0).all()
    assert moved[matters].max() < 1e-4
    assert moved[used, 2].max() > 1e-2


def test_ewc_leaves_later_outputs_free() -> None:
    ours, events = make(classes=(), weight=1e9), stream(40, 20)
    learn(ours, replace(events[:20], classes=(0, 1)))
    ours.consolidate()
    fisher = ours.state()["optimizer"]["fisher"]
    old = ours.net.head.bias.detach().clone()
    assert (fisher["3"] > 0).all(), "both outputs were learned"
    ours._register_classes(events.y, events.classes)
    grown = ours.state()["optimizer"]
    for name in ("fisher", "anchor", "pull"):
        assert grown[name]["3"].shape == (4,)
        assert (grown[name]["3"][2:] == 0).all()
    assert np.array_equal(grown["fisher"]["3"][:2], fisher["3"])
    drawn = ours.net.head.bias.detach().clone()
    ours.learn_part(events[20:])
    assert torch.allclose(ours.net.head.bias[:2], old, atol=1e-6)
    assert ((ours.net.head.bias - drawn)[2:].abs() > 1e-3).all()


def test_ewc_importance_of_one_event_is_squared_gradient() -> None:
    """A linear model at bias b and an input of 0: the gradient of the bias is softmax(b) - 1[y]."""
    ours = make(model={"kind": "mlp", "hidden": []}, every=1, decay=0.25)
    events = replace(stream(3), x=np.zeros((3, 3), np.float32))
    squares = []
    for i in range(2):
        bias = ours.net.head.bias.detach().numpy().astype(np.float64)
        squares.append((np.exp(bias) / np.exp(bias).sum() - np.eye(4)[events.y[i]]) ** 2)
        learn(ours, events[i : i + 1])
    learn(ours, events[2:])
    fisher = ours.state()["optimizer"]["fisher"]
    assert np.allclose(fisher["1"], 0.25 * squares[0] + squares[1], atol=1e-6)
    assert (fisher["0"] == 0).all()


@pytest.mark.parametrize("stop", [12, 24, 32])
def test_load_continues_exactly(stop: int) -> None:
    whole, heir = make(classes=()), make(classes=())
    for i, batch in enumerate(stream(48, 22).micro_batches(4)):
        batch = batch if i >= 5 else replace(batch, classes=(0, 1))
        if 4 * i == stop:
            heir.load(copied(whole.state()))
        learn(whole, batch)
        if 4 * i >= stop:
            learn(heir, batch)
    assert digest(heir.state()) == digest(whole.state())


def test_ewc_learns_regression() -> None:
    schema = Schema(FEATURES, "regression")
    settings = {"kind": "ewc", "every": 10, "optimizer": {"kind": "sgd", "lr": 0.05}}
    ours = Ewc(Ewc.Config.model_validate(settings), schema, SEED)
    events = stream(60)
    for batch in replace(events, y=100 * events.x[:, 0].astype(np.float64)).micro_batches(7):
        learn(ours, batch)
    ours.verify()
    assert ours.optimizer.per_weight_state["fisher"].max() > 0
