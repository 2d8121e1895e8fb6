from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from buffers.buffer import Buffer
from learners.networks.base import NetworkLearner
from learners.rehearsal.der_plus_plus import DerPlusPlus
from learners.rehearsal.replay import Replay
from streams.core.batch import Batch, ClassName
from streams.core.schema import Feature, Schema
from streams.core.state_dict import copied, digest
from streams.operators.label_join import Revealed

torch.set_num_threads(1)
SCHEMA = Schema(tuple(Feature(f"x{i}", "numeric") for i in range(3)), "classification", (0, 1, 2))
SEED = 11


def stream(n: int, *classes: int, start: int = 0) -> Batch:
    rng = np.random.default_rng(start)
    x, i = rng.normal(size=(n, 3)).astype(np.float32), np.arange(start, start + n)
    y = rng.choice(classes, n)
    names: tuple[ClassName, ...] = tuple(range(max(classes) + 1))
    return Batch(i, i * 1.0, x, i.astype(np.int32), i, y, classes=names)


def make(cls: type[NetworkLearner], schema: Schema = SCHEMA, **settings: Any) -> NetworkLearner:
    given: dict[str, Any] = {
        "kind": cls.kind,
        "model": {"kind": "mlp", "hidden": [8]},
        "optimizer": {"kind": "sgd", "lr": 0.1},
        "replay_size": 8,
        "buffer": {"capacity": 20},
        "scale": False,
    }
    return cls(cls.Config.model_validate(given | settings), schema, SEED)


def learn(learner: NetworkLearner, batch: Batch) -> None:
    learner.step(replace(batch, y=None), Revealed(batch, np.arange(len(batch))))


def columns(learner: NetworkLearner) -> Any:
    return learner.state()["buffer"]["columns"]


def test_der_loss_equals_paper() -> None:
    ours = make(DerPlusPlus, steps=2, alpha=0.3, beta=0.7)
    torch.manual_seed(SEED)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    optimizer, buffer = torch.optim.SGD(net.parameters(), 0.1), Buffer(20, seed=SEED)
    given: dict[int, torch.Tensor] = {}
    for batch in stream(60, 0, 1, 2).micro_batches(6):
        learn(ours, batch)
        x, y = torch.from_numpy(batch.x), torch.from_numpy(batch.y)
        with torch.no_grad():
            given.update(zip(batch.ids.tolist(), net(x), strict=True))
        recalled = buffer.sample(4, draws=4).columns
        size = len(recalled["ids"]) // 4 if recalled else 0
        draws = [slice(i * size, i * size + size) for i in range(4)]
        for dark, old in (draws[:2], draws[2:]):
            loss = F.cross_entropy(net(x), y)
            if size:
                then = torch.stack([given[i] for i in recalled["ids"][dark].tolist()])
                now = net(torch.from_numpy(recalled["x"][dark]))
                loss = loss + 0.3 * ((now - then) ** 2).sum() / (3 * size)
                labels = torch.from_numpy(recalled["y"][old])
                again = F.cross_entropy(net(torch.from_numpy(recalled["x"][old])), labels)
                loss = loss + 0.7 * again
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        buffer.add(batch.ids, x=batch.x, y=batch.y)
    for a, b in zip(ours.net.parameters(), net.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    kept = columns(ours)
    for row, id_ in enumerate(kept["ids"].tolist()):
        assert np.allclose(kept["logits"][row, :3], given[id_].numpy(), atol=1e-6)
    with torch.no_grad():
        now = net(torch.from_numpy(kept["x"])).numpy()
    assert np.abs(kept["logits"][:, :3] - now).max() > 0.1, "the outputs of today are others"


def test_der_leaves_out_outputs_added_later() -> None:
    """One row came when there was 1 output, the other when there were 2; now there are 3. Without
    labels recalled and with the distance alone: gradient alpha * 2 (out - z) / 3 in each output
    that was there, and 0 in the third."""
    ours = make(DerPlusPlus, alpha=1.5, beta=0, replay_size=4, model={"kind": "mlp", "hidden": []})
    x = np.zeros((2, 3), np.float32)  # the outputs are the bias
    logits = np.array([[1, np.nan, np.nan, np.nan], [2, -1, np.nan, np.nan]], np.float32)
    ours.buffer.add(np.arange(2), x=x, y=np.array([0, 1]), logits=logits)  # type: ignore[attr-defined]
    bias = ours.net.head.bias.detach().clone().numpy()
    batch = replace(stream(1, 2, start=5), x=np.zeros((1, 3), np.float32))
    learn(ours, batch)
    gradient = np.exp(bias) / np.exp(bias).sum() - [0, 0, 1]
    gradient += 1.5 * np.array([2 * (2 * bias[0] - 3), 2 * (bias[1] + 1), 0]) / 3
    assert np.allclose(ours.net.head.bias.detach().numpy(), bias - 0.1 * gradient, atol=1e-6)


def test_der_late_class_widens_stored_outputs() -> None:
    ours = make(DerPlusPlus, replace(SCHEMA, classes=()), buffer={"capacity": 50})
    for batch in stream(20, 0, 1).micro_batches(5):
        learn(ours, batch)
    assert columns(ours)["logits"].shape == (20, 2)
    before = columns(ours)["logits"]
    late = stream(20, 0, 1, 2, start=20)
    late.y[0] = 2
    for batch in late.micro_batches(5):
        learn(ours, batch)
    kept = columns(ours)
    assert kept["logits"].shape == (40, 4)
    assert np.array_equal(kept["logits"][:20, :2], before)
    assert np.isnan(kept["logits"][:20, 2:]).all()
    assert np.isfinite(kept["logits"][20:, :3]).all()
    assert np.isnan(kept["logits"][:, 3]).all()
    ours.verify()


@pytest.mark.parametrize("stop", [15, 25])
def test_load_continues_before_and_after_new_class(stop: int) -> None:
    schema = replace(SCHEMA, classes=())
    batches = [stream(5, *((0, 1) if s < 20 else (0, 1, 2)), start=s) for s in range(0, 60, 5)]
    whole = make(DerPlusPlus, schema)
    heir = make(DerPlusPlus, schema)
    for i, batch in enumerate(batches):
        if 5 * i == stop:
            heir.load(copied(whole.state()))
        learn(whole, batch)
        if 5 * i >= stop:
            learn(heir, batch)
    assert digest(heir.state()) == digest(whole.state())


def test_der_class_of_correction_had_no_output() -> None:
    ours = make(DerPlusPlus, replace(SCHEMA, classes=()))
    batch = replace(stream(10, 0, 1), classes=(0, 1, 2))
    learn(ours, batch[:5])
    corrected = batch.ids[:2], np.full(2, 2)
    ours.step(replace(batch[:0], y=None), Revealed(batch[:0], batch.ids[:0], corrected))
    assert ours.net.head.out_features == 3
    learn(ours, batch[5:])
    ours.verify()
    assert np.isnan(columns(ours)["logits"][:5, 2]).all()


def test_step_sees_as_many_events_as_replay() -> None:
    rows: dict[str, list[int]] = {}
    for cls in (Replay, DerPlusPlus):
        learner, seen = make(cls, steps=3), rows.setdefault(cls.kind, [])
        learner.net.register_forward_hook(
            lambda _net, given, _out, seen=seen: (
                seen.append(len(given[0])) if torch.is_grad_enabled() else None
            )
        )
        for batch in stream(50, 0, 1, 2).micro_batches(10):
            learn(learner, batch)
    assert rows["der++"] == rows["replay"] == [10] * 3 + [18] * 12


def test_der_updates_recall_once_per_event() -> None:
    """Of four rows each draw takes all: a success makes each as strong as one does."""
    buffer = {"capacity": 4, "recall": {"kind": "forgetting-curve", "growth": 3.0}}
    ours = make(DerPlusPlus, buffer=buffer)
    for batch in stream(60, 0, start=5).micro_batches(5):
        learn(ours, batch)
        strength = ours.state()["buffer"]["recall"]["strength"]
        assert set(strength.tolist()) <= {1, 3, 9, 16}
        if batch.ids[0] == 10:  # new rows were put after the first step with recalls
            assert strength.max() <= 3


def test_der_draws_at_least_one_event() -> None:
    ours = make(DerPlusPlus, replay_size=1)
    assert ours.replay_size == 1  # type: ignore[attr-defined]
    for batch in stream(20, 0, 1, 2).micro_batches(5):
        learn(ours, batch)
    assert ours.gradient_steps == 4
