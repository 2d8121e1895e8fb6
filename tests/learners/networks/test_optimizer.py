from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learners.networks.modules import Mlp, Net, build
from learners.networks.optimizer import Adam, FlatOptimizer, Sgd

SMALL, LARGE = (16,), (300, 250)
"""Hidden layers of networks on either side of the size from which tensors are moved one by one."""
OPTIMIZERS: list[tuple[Adam | Sgd, type[torch.optim.Optimizer], dict[str, Any]]] = [
    (Sgd(kind="sgd", lr=0.05), torch.optim.SGD, {"lr": 0.05}),
    (
        Sgd(kind="sgd", lr=0.05, momentum=0.9, weight_decay=0.01),
        torch.optim.SGD,
        {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
    ),
    (
        Adam(lr=0.01, weight_decay=0.1),
        torch.optim.AdamW,
        {"lr": 0.01, "weight_decay": 0.1, "fused": True},
    ),
]


def net(hidden: tuple[int, ...]) -> Net:
    torch.manual_seed(0)
    return build(Mlp(hidden=hidden), (20,), 3, "cpu")


def data(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 20, generator=generator), torch.arange(8) % 3


def loss(module: nn.Module, seed: int) -> Tensor:
    x, y = data(seed)
    return F.cross_entropy(module(x), y)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_network_sizes_are_on_both_sides_of_limit() -> None:
    small, large = (sum(math.prod(p.shape) for p in net(h).parameters()) for h in (SMALL, LARGE))
    assert small < 1 << 16 < large


@pytest.mark.parametrize("hidden", [SMALL, LARGE])
@pytest.mark.parametrize(("config", "optimizer", "settings"), OPTIMIZERS)
def test_weights_equal_torch_bit_for_bit(
    hidden: tuple[int, ...],
    config: Adam | Sgd,
    optimizer: type[torch.optim.Optimizer],
    settings: dict[str, Any],
) -> None:
    ours, whole, theirs = net(hidden), net(hidden), net(hidden)
    stepped, moved = FlatOptimizer(config, ours), FlatOptimizer(config, whole)
    torchs = optimizer(theirs.parameters(), **settings)
    for seed in range(5):
        stepped.step(loss(ours, seed))
        moved.move(moved.gradient(loss(whole, seed)))
        torchs.zero_grad()
        loss(theirs, seed).backward()  # type: ignore[no-untyped-call]
        torchs.step()
    assert same(ours, theirs)
    assert same(whole, theirs)
    assert torch.equal(stepped.weights, torch.cat([p.flatten() for p in theirs.parameters()]))


@pytest.mark.parametrize("hidden", [SMALL, LARGE])
def test_gradient_is_of_this_loss_alone(hidden: tuple[int, ...]) -> None:
    ours, theirs = net(hidden), net(hidden)
    descent = FlatOptimizer(Sgd(kind="sgd"), ours)
    descent.gradient(loss(ours, 0))
    found = descent.gradient(loss(ours, 1))
    loss(theirs, 1).backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in theirs.parameters() if p.grad is not None]
    assert torch.equal(found, torch.cat([g.flatten() for g in gradients]))


@pytest.mark.parametrize("hidden", [SMALL, LARGE])
def test_parameter_without_gradient_still_decays(
    hidden: tuple[int, ...],
) -> None:
    ours = net(hidden)
    head = ours.head.weight.detach().clone()
    descent = FlatOptimizer(Sgd(kind="sgd", lr=0.5, weight_decay=0.1), ours)
    descent.step(ours.body(data(0)[0]).sum())
    assert torch.allclose(ours.head.weight, 0.95 * head)


@pytest.mark.parametrize("hidden", [SMALL, LARGE])
def test_lookahead_restores_weights_and_optimizer(hidden: tuple[int, ...]) -> None:
    ours = net(hidden)
    descent = FlatOptimizer(Sgd(kind="sgd", lr=0.5, momentum=0.9), ours)
    with descent.lookahead(loss(ours, 0)):
        assert not same(ours, net(hidden))
    assert same(ours, net(hidden))
    descent.step(loss(ours, 1))
    untried = net(hidden)
    FlatOptimizer(Sgd(kind="sgd", lr=0.5, momentum=0.9), untried).step(loss(untried, 1))
    assert same(ours, untried)


@pytest.mark.parametrize("hidden", [SMALL, LARGE])
def test_per_weight_state_grows_and_is_saved(hidden: tuple[int, ...]) -> None:
    ours = net(hidden)
    descent = FlatOptimizer(Adam(), ours)
    descent.keep("mine")
    descent.step(loss(ours, 0))
    descent.per_weight_state["mine"].fill_(2.0)
    before = len(descent.weights)
    descent.grow(4)
    width = hidden[-1]
    assert len(descent.weights) == len(descent.per_weight_state["mine"]) == before + width + 1
    assert descent.per_weight_state["mine"].sum() == 2.0 * before  # and 0 where it grew
    other = net(hidden)
    heir = FlatOptimizer(Adam(), other)
    heir.keep("mine")
    heir.grow(4)
    heir.load(descent.state())
    assert torch.equal(heir.per_weight_state["mine"], descent.per_weight_state["mine"])


def test_rate_falls_from_its_start_by_inverse_time() -> None:
    """With a constant gradient each step of Adam is the rate itself."""
    network = net(SMALL)
    optimizer = FlatOptimizer(Adam(lr=0.001, lr_start=0.009, lr_steps=10), network)
    steps = []
    for _ in range(31):
        before = optimizer.weights.clone()
        optimizer.move(torch.ones_like(optimizer.weights))
        steps.append(float((before - optimizer.weights).mean()))
    assert steps[0] == pytest.approx(0.009, rel=1e-3)
    assert steps[10] == pytest.approx(0.005, rel=1e-3)
    assert steps[30] == pytest.approx(0.003, rel=1e-3)


def test_rows_that_are_not_moved_keep_their_bits() -> None:
    """The others move as by torch's SparseAdam, with small and with large networks."""
    for dimension in (4, 10_000):
        table = 1 + torch.rand(10, dimension, generator=torch.Generator().manual_seed(0))
        net = nn.ParameterList([nn.Parameter(table.clone()), nn.Parameter(torch.zeros(2))])
        ours = FlatOptimizer(Adam(lr=0.1), net)
        theirs = nn.Embedding.from_pretrained(table.clone(), freeze=False, sparse=True)
        sparse = torch.optim.SparseAdam(theirs.parameters(), lr=0.1)
        for chosen in ([1, 2], [2, 5], [2], [1]):
            moved = torch.zeros(10, dtype=torch.bool)
            moved[chosen] = True
            before = net[0].detach().clone()
            loss = net[0][chosen].square().sum() + (net[1] - 1).square().sum()
            ours.step(loss, {net[0]: moved})
            assert torch.equal(before[~moved], net[0][~moved])
            sparse.zero_grad()
            theirs(torch.tensor(chosen)).square().sum().backward()
            sparse.step()
        torch.testing.assert_close(net[0], theirs.weight, rtol=0, atol=1e-5)
        torch.testing.assert_close(net[1], torch.full((2,), 0.4), rtol=0, atol=0.05)
