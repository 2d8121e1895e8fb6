from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from buffers.buffer import Buffer
from learners.networks.base import NetworkLearner
from learners.rehearsal.joint import Joint
from learners.rehearsal.replay import Replay
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema
from streams.core.state_dict import copied, digest
from streams.core.statistics.running_moments import RunningMoments
from streams.operators.label_join import Revealed

torch.set_num_threads(1)
SCHEMA = Schema(tuple(Feature(f"x{i}", "numeric") for i in range(3)), "classification", (0, 1, 2))
SEED = 4


def stream(n: int) -> Batch:
    rng = np.random.default_rng(2)
    x, i = rng.normal(size=(n, 3)), np.arange(n)
    return Batch(i, i * 1.0, x, i.astype(np.int32), i, rng.integers(0, 3, n), classes=(0, 1, 2))


def make(cls: type[NetworkLearner] = Joint, schema: Schema = SCHEMA, **settings: Any) -> Any:
    given: dict[str, Any] = {
        "kind": cls.kind,
        "model": {"kind": "mlp", "hidden": [8]},
        "optimizer": {"kind": "sgd", "lr": 0.1},
        "replay_size": 6,
    }
    return cls(cls.Config.model_validate(given | settings), schema, SEED)


def learn(learner: NetworkLearner, batch: Batch) -> None:
    learner.step(replace(batch, y=None), Revealed(batch, np.arange(len(batch))))


def test_joint_steps_on_sample_of_all_events() -> None:
    ours = make(steps=2)
    torch.manual_seed(SEED)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    moments, buffer = RunningMoments((3,)), Buffer(1_000_000, seed=SEED)
    for batch in stream(60).micro_batches(5):
        learn(ours, batch)
        moments.update(batch.x)
        buffer.add(batch.ids, x=batch.x, y=batch.y)
        for _ in range(2):
            drawn = buffer.sample(5 + 6).columns
            x = torch.from_numpy(moments.scale(drawn["x"]))
            optimizer.zero_grad()
            F.cross_entropy(net(x), torch.from_numpy(drawn["y"])).backward()
            optimizer.step()
    for a, b in zip(ours.net.parameters(), net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_joint_keeps_every_event_and_counts_bytes() -> None:
    ours, sizes = make(), []
    for batch in stream(200).micro_batches(50):
        learn(ours, batch)
        sizes.append(ours.buffer_bytes)
    assert sorted(ours.state()["buffer"]["columns"]["ids"].tolist()) == list(range(200))
    assert np.allclose(np.diff(sizes), sizes[0], atol=1)
    assert 50 * (3 + 2) * 8 <= sizes[0] < 50 * 100


def test_joint_beyond_capacity_keeps_sample_of_past() -> None:
    ours = make(capacity=100)
    for batch in stream(2000).micro_batches(50):
        learn(ours, batch)
    ids = ours.state()["buffer"]["columns"]["ids"]
    assert len(ids) == 100
    assert 25 < (ids < 1000).sum() < 75  # 50, give or take five standard deviations


def test_step_sees_as_many_events_as_replay() -> None:
    rows: dict[str, list[int]] = {}
    for cls in (Replay, Joint):
        learner, seen = make(cls, steps=2), rows.setdefault(cls.kind, [])
        learner.net.register_forward_hook(
            lambda _net, given, _out, seen=seen: (
                seen.append(len(given[0])) if torch.is_grad_enabled() else None
            )
        )
        for batch in stream(20).micro_batches(4):
            learn(learner, batch)
    assert rows["joint"] == rows["replay"] == [4, 4, 8, 8, 10, 10, 10, 10, 10, 10]


def test_joint_learns_never_buffer_events_on_arrival() -> None:
    ours = make(scale=False, replay_size=2)
    ours.never_buffer = lambda ids: ids % 2 == 1
    rows: list[torch.Tensor] = []
    ours.net.register_forward_hook(
        lambda _net, given, _out: rows.append(given[0]) if torch.is_grad_enabled() else None
    )
    events = stream(16)
    for batch in events.micro_batches(4):
        learn(ours, batch)
    assert (ours.state()["buffer"]["columns"]["ids"] % 2 == 0).all()
    assert [len(x) for x in rows] == [4, 6, 6, 6]
    for step, x in enumerate(rows):
        odd = torch.from_numpy(events.x[4 * step + 1 : 4 * step + 4 : 2]).float()
        assert torch.equal(x[:2], odd)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_load_continues_exactly(task: Any) -> None:
    schema = replace(SCHEMA, task=task, classes=())
    whole, heir = make(schema=schema), make(schema=schema)
    events = stream(60)
    if task == "regression":
        events = replace(events, y=events.x[:, 0] * 7 + 3)
    for i, batch in enumerate(events.micro_batches(5)):
        if i == 5:
            heir.load(copied(whole.state()))
        learn(whole, batch)
        if i >= 5:
            learn(heir, batch)
    assert digest(heir.state()) == digest(whole.state())


def test_joint_learns_views_and_stores_originals() -> None:
    ours, plain = make(augment={"kind": "jitter", "noise": 0.5}), make()
    for batch in stream(30).micro_batches(5):
        learn(ours, batch)
        learn(plain, batch)
    assert not torch.equal(ours.optimizer.weights, plain.optimizer.weights)
    kept = [learner.state()["buffer"]["columns"]["x"] for learner in (ours, plain)]
    assert np.array_equal(*kept)


def test_joint_corrects_and_forgets() -> None:
    ours = make()
    learn(ours, stream(20))
    ours.correct(np.array([3]), np.array([2]))
    kept = ours.state()["buffer"]["columns"]
    assert kept["y"][kept["ids"] == 3].tolist() == [2]
    assert ours.forget(np.array([3, 4, 99])) == 2
