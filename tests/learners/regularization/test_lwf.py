from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from learners.base import LearnerError
from learners.baselines.finetune import Finetune
from learners.networks.base import NetworkLearner
from learners.regularization.lwf import Lwf
from streams.core.state_dict import copied, digest
from tests.support import segments
from tests.support.segments import SEED, learn, stream, weights

torch.set_num_threads(1)


def make(cls: type[NetworkLearner] = Lwf, **settings: Any) -> Any:
    return segments.make(cls, **settings)


def test_lwf_loss_equals_paper() -> None:
    """Two tasks, the first of them 22 events long: the third micro-batch of 10 is cut in two."""
    ours = make(steps=2, weight=1.5, temperature=2.0)
    torch.manual_seed(SEED)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    optimizer = torch.optim.SGD(net.parameters(), 0.2)
    events = stream()
    for batch in events.micro_batches(10):
        learn(ours, batch)
    teacher = None
    for rows in (slice(0, 10), slice(10, 20), slice(20, 22), slice(22, 30), slice(30, 36)):
        x, y = torch.from_numpy(events.x[rows]), torch.from_numpy(events.y[rows])
        if rows.start == 22:
            teacher = torch.nn.Sequential(
                torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)
            )
            teacher.load_state_dict(net.state_dict())
        for _ in range(2):
            out = net(x)
            loss = F.cross_entropy(out, y)
            if teacher is not None:  # the paper's equations 2 to 4, over classes 0 and 1 alone
                with torch.no_grad():
                    then = teacher(x).softmax(1)[:, :2] ** 0.5
                now = out.softmax(1)[:, :2] ** 0.5
                then, now = (p / p.sum(1, keepdim=True) for p in (then, now))
                loss = loss - 1.5 * (then * now.log()).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert torch.allclose(ours.net.body[0].weight, net[0].weight, atol=1e-6)
    assert torch.allclose(ours.net.head.weight, net[2].weight, atol=1e-6)
    assert ours.gradient_steps == 10
    assert ours.version == 4


def test_lwf_before_first_boundary_is_fine_tuning() -> None:
    ours, plain = make(steps=2), make(Finetune, steps=2)
    for batch in stream(first=36).micro_batches(9):
        learn(ours, batch)
        learn(plain, batch)
    assert torch.equal(weights(ours), weights(plain))


def test_lwf_teacher_is_fixed_until_next_boundary() -> None:
    ours, events = make(every=12), stream(48, 24)
    taught = []
    for batch in events.micro_batches(4):
        learn(ours, batch)
        state = copied(ours.state())["teacher"]
        taught.append((digest(state), state.get("known", np.empty(0)).tolist()))
    tasks = [taught[i : i + 3] for i in range(0, 12, 3)]
    assert all(len({what for what, _ in task}) == 1 for task in tasks), "it moves within a task"
    assert len({task[0][0] for task in tasks}) == 4
    assert [task[0][1] for task in tasks] == [[], [0, 1], [0, 1], [0, 1, 2, 3]]


def test_lwf_every_n_events_equals_segments() -> None:
    one, other = make(), make(every=18)
    events = stream(36, 18)
    for batch in events.micro_batches(10):
        learn(one, batch)
        learn(other, replace(batch, segment=batch.offset))
    assert torch.equal(weights(one), weights(other))


def test_lwf_leaves_later_outputs_free() -> None:
    """A linear model and inputs of 0: the outputs are the bias. The teacher has two of them, the
    network three; worked out by hand for two steps on one event of the third class."""
    ours = make(
        classes=(), model={"kind": "mlp", "hidden": []}, weight=3.0, temperature=2.0, steps=2
    )
    events = stream(21, 20)
    learn(ours, replace(events[:20], classes=(0, 1)))
    teacher = ours.net.head.bias.detach().numpy().astype(np.float64)
    ours._register_classes(events.y, events.classes)
    bias = ours.net.head.bias.detach().numpy().astype(np.float64)
    assert bias.shape == (3,)
    learn(ours, replace(events[20:], x=np.zeros((1, 3), np.float32)))
    for _ in range(2):
        gradient = np.exp(bias) / np.exp(bias).sum() - [0, 0, 1]
        now, then = np.exp(bias[:2] / 2), np.exp(teacher / 2)
        gradient[:2] += 3 * (now / now.sum() - then / then.sum()) / 2
        bias = bias - 0.2 * gradient
    assert np.allclose(ours.net.head.bias.detach().numpy(), bias, atol=1e-6)


@pytest.mark.parametrize("stop", [12, 24, 32])
def test_lwf_load_teacher_with_fewer_outputs_continues(stop: int) -> None:
    whole, heir = make(classes=()), make(classes=())
    events = stream(48, 20)
    events.y[20:28] = 2  # the fourth class comes later than the teacher
    for i, batch in enumerate(events.micro_batches(4)):
        batch = batch if i >= 5 else replace(batch, classes=(0, 1))
        if 4 * i == stop:
            heir.load(copied(whole.state()))
        learn(whole, batch)
        if 4 * i >= stop:
            learn(heir, batch)
    teacher = whole.state()["teacher"]
    assert teacher["known"].tolist() == [0, 1]
    assert len(teacher["net"]["head.bias"]) == 3
    assert whole.net.head.out_features == 4
    assert digest(heir.state()) == digest(whole.state())


def test_lwf_load_state_without_teacher_removes_it() -> None:
    ours = make()
    fresh = copied(ours.state())
    learn(ours, stream())
    assert ours.state()["teacher"]
    ours.load(fresh)
    assert not ours.state()["teacher"]


def test_lwf_stream_without_segments_needs_every() -> None:
    with pytest.raises(LearnerError, match=r"learner\.every"):
        learn(make(), replace(stream(), segment=None))
    learn(make(every=10), replace(stream(), segment=None))
