from dataclasses import replace
from typing import Any

import numpy as np
import torch

from buffers.buffer import Buffer
from learners.baselines.finetune import Finetune
from learners.networks.base import NetworkLearner
from learners.rehearsal.er_ace import ErAce
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema
from streams.operators.label_join import Revealed

torch.set_num_threads(1)
SCHEMA = Schema((Feature("a", "numeric"), Feature("b", "numeric")), "classification", (0, 1, 2))
SETTINGS: dict[str, Any] = {
    "model": {"kind": "mlp", "hidden": [4]},
    "optimizer": {"kind": "sgd", "lr": 0.1},
    "scale": False,
}


def stream(n: int, *classes: int) -> Batch:
    rng = np.random.default_rng(3)
    x, i = rng.normal(size=(n, 2)).astype(np.float32), np.arange(n)
    y = rng.choice(classes, n)
    return Batch(i, i * 1.0, x, i.astype(np.int32), i, y, classes=(0, 1, 2))


def learn(learner: NetworkLearner, batch: Batch) -> None:
    learner.step(replace(batch, y=None), Revealed(batch, np.arange(len(batch))))


def learner(**settings: Any) -> ErAce:
    given = {"kind": "er-ace", **SETTINGS, "replay_size": 4, "buffer": {"capacity": 30}}
    return ErAce(ErAce.Config.model_validate(given | settings), SCHEMA, 5)


def test_er_ace_loss_equals_paper() -> None:
    """Written out with exponentials: new events are normalised over the classes among them, those
    recalled over all."""
    ours = learner(steps=2)
    torch.manual_seed(5)
    net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    buffer = Buffer(30, "reservoir", "uniform", 5)
    first, second = stream(20, 0, 1), stream(20, 1, 2)
    batches = [*first.micro_batches(5), *replace(second, ids=second.ids + 20).micro_batches(5)]
    for batch in batches:
        learn(ours, batch)
        new = list(zip(torch.from_numpy(batch.x), batch.y.tolist(), strict=True))
        present = sorted(set(batch.y.tolist()))
        recalled = buffer.sample(4, draws=2).columns
        for draw in range(2):
            loss = torch.zeros(())
            for x, y in new:
                out = net(x).exp()
                loss = loss - (out[y] / sum(out[c] for c in present)).log() / len(new)
            if recalled:
                rows = slice(4 * draw, 4 * draw + 4)
                for row, y in zip(recalled["x"][rows], recalled["y"][rows].tolist(), strict=True):
                    out = net(torch.from_numpy(row)).exp()
                    loss = loss - (out[y] / out.sum()).log() / 4
            net.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter -= 0.1 * parameter.grad
        buffer.add(batch.ids, x=batch.x, y=batch.y)
    for a, b in zip(ours.net.parameters(), net.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_er_ace_new_events_leave_absent_classes() -> None:
    ours, batch = learner(), stream(8, 0, 2)
    before = ours.net.head.weight.detach().clone(), ours.net.head.bias.detach().clone()
    learn(ours, batch)
    assert torch.equal(ours.net.head.weight[1], before[0][1])
    assert torch.equal(ours.net.head.bias[1], before[1][1])
    assert not torch.equal(ours.net.head.bias[[0, 2]], before[1][[0, 2]])
    plain = Finetune(Finetune.Config.model_validate({"kind": "finetune", **SETTINGS}), SCHEMA, 5)
    learn(plain, batch)
    assert not torch.equal(plain.net.head.bias[1], before[1][1]), "cross-entropy over all does"


def test_er_ace_recalled_events_move_all_outputs() -> None:
    ours = learner()
    learn(ours, stream(8, 0, 1))
    before = ours.net.head.bias.detach().clone()
    learn(ours, stream(8, 2))
    moved = ours.net.head.bias - before
    assert (moved[:2] != 0).all()
    assert moved[2] < 0, "new events of one class have no loss, those recalled are of the others"
