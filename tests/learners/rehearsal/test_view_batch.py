"""View-batch replay against sums written out by hand, and against plain replay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from learners.base import LearnerError
from learners.rehearsal.base import Rehearsal
from learners.rehearsal.replay import Replay
from learners.rehearsal.view_batch import ViewBatch
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema
from streams.core.state_dict import copied, digest
from streams.operators.label_join import Revealed

torch.set_num_threads(1)
TABLE = Schema(tuple(Feature(f"x{i}", "numeric") for i in range(6)), "classification", (0, 1, 2))
IMAGES = Schema((Feature("i", "image", (3, 8, 8)),), "classification", (0, 1, 2))
TARGET = replace(TABLE, task="regression", classes=())
SEED = 11
FAR = 1000.0


def stream(n: int, schema: Schema = TABLE) -> Batch:
    rng = np.random.default_rng(0)
    i = np.arange(n)
    x: Any = rng.normal(size=(n, 6))
    if schema is IMAGES:
        x = rng.integers(0, 256, (n, 3, 8, 8)).astype(np.uint8)
    y: Any = rng.integers(0, 3, n)
    if schema is TARGET:
        y = y * 2.5
    return Batch(i, i * 1.0, x, i.astype(np.int32), i, y, classes=schema.classes)


def learner(kind: Any = ViewBatch, schema: Schema = TABLE, **settings: Any) -> Any:
    given: dict[str, Any] = {
        "kind": kind.kind,
        "model": {"kind": "mlp", "hidden": [16]},
        "optimizer": {"kind": "sgd", "lr": 0.05},
        "steps": 2,
        "replay_size": 8,
        "scale": False,
        "buffer": {"capacity": 40, "recall": "uniform"},
    }
    return kind(kind.Config.model_validate(given | settings), schema, SEED)


def step(learner: Rehearsal, batch: Batch) -> Any:
    """Predicts a batch and is told its labels at once."""
    return learner.step(replace(batch, y=None), Revealed(batch, np.arange(len(batch))))


def watched(learner: Rehearsal) -> list[Tensor]:
    """The inputs of every forward pass that is trained on, as they come."""
    seen: list[Tensor] = []

    def keep(_module: Any, inputs: Any) -> None:
        if torch.is_grad_enabled():
            seen.append(inputs[0].clone())

    learner.net.register_forward_pre_hook(keep)
    return seen


def marked(view_batch: ViewBatch) -> ViewBatch:
    """First views stay as they are, and the others are known by their last number."""

    def strong(x: Tensor, _rng: np.random.Generator) -> Tensor:
        x = x.clone()
        x[:, 5] = FAR
        return x

    view_batch.augment, view_batch.strong = None, strong
    return view_batch


def groups(seen: Tensor) -> list[tuple[float, list[bool]]]:
    """By hand, from what the network was given: each event by its first number, and which of its
    views are strong, in their order."""
    found: list[tuple[float, list[bool]]] = []
    for row in seen:
        event, strong = float(row[0]), bool(row[5] == FAR)
        if not found or found[-1][0] != event:
            found.append((event, []))
        found[-1][1].append(strong)
    return found


def test_views_of_event_are_adjacent_weak_first() -> None:
    view_batch = marked(learner(replay_size=8, steps=4, views=4))
    batches = list(stream(32).micro_batches(8))
    step(view_batch, batches[0])
    seen = watched(view_batch)
    step(view_batch, batches[1])
    assert len(seen) == 4
    new, old = [], []
    for rows in seen:
        found = groups(rows)
        assert [views for _, views in found] == [[False, True, True, True]] * 4
        new += [event for event, _ in found[:2]]
        old += [event for event, _ in found[2:]]
    first = batches[1].x[:, 0].astype(np.float32)  # type: ignore[call-overload]
    assert new == first.tolist(), "each new event once, in the order of the stream"
    assert set(old) <= set(batches[0].x[:, 0].astype(np.float32).tolist())  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("n", "views", "steps", "sizes"),
    [
        (8, 4, 1, [[4, 4]]),  # a quarter of the events
        (8, 4, 4, [[4, 4]] * 4),  # all of them
        (10, 4, 1, [[5, 5]]),  # room for one view more of each
        (7, 4, 4, [[4, 3], [4, 3], [4, 3], [7]]),  # seven turns for seven events
        (3, 4, 2, [[3], [3]]),  # fewer slots than views
        (1, 4, 2, [[1], [1]]),
        (4, 2, 6, [[2, 2]] * 6),  # twelve turns: each event three times
        (5, 1, 2, [[1] * 5] * 2),  # as replay
        (6, 16, 2, [[6], [6]]),
    ],
)
def test_new_events_share_presentations_of_replay(
    n: int, views: int, steps: int, sizes: list[list[int]]
) -> None:
    view_batch = marked(learner(views=views, steps=steps))
    seen = watched(view_batch)
    batch = stream(n)
    step(view_batch, batch)
    found = [groups(rows) for rows in seen]
    assert [[len(views) for _, views in rows] for rows in found] == sizes
    order = [batch.x[:, 0].astype(np.float32).tolist().index(e) for rows in found for e, _ in rows]  # type: ignore[call-overload]
    turns = np.bincount(order, minlength=n)
    assert turns.sum() == max(steps * n // views, steps)
    assert turns.max() - turns.min() <= 1, "no event has two turns more than another"
    assert order[: n if steps >= views else None] == sorted(order[: n if steps >= views else None])


def test_new_events_with_extra_turn_are_drawn() -> None:
    view_batch = marked(learner(views=4, steps=1))
    seen = watched(view_batch)
    batch = stream(8)
    taken = np.zeros(8)
    for _ in range(200):
        view_batch.buffer.delete(batch.ids)
        seen.clear()
        view_batch.learn(batch)
        taken += np.isin(batch.x[:, 0].astype(np.float32), seen[0][:, 0].numpy())  # type: ignore[call-overload]
    assert taken.sum() == 400
    assert (np.abs(taken - 50) < 25).all(), "each with the same chance"


@pytest.mark.parametrize(
    ("n", "replay_size", "views", "steps", "capacity"),
    [
        (8, 8, 4, 4, 40),
        (10, 10, 4, 1, 40),
        (7, 5, 3, 2, 40),
        (3, 3, 4, 2, 40),  # more views than slots
        (10, 32, 4, 2, 20),  # a buffer smaller than what is recalled
        (4, 32, 4, 2, 5),  # and than the events that would be
        (1, 10, 4, 3, 40),
        (6, 6, 16, 3, 40),
    ],
)
def test_step_presents_as_many_as_replay(
    n: int, replay_size: int, views: int, steps: int, capacity: int
) -> None:
    settings = {
        "steps": steps,
        "replay_size": replay_size,
        "buffer": {"capacity": capacity, "recall": "uniform"},
    }
    ours, theirs = learner(views=views, **settings), learner(Replay, **settings)
    seen, expected = watched(ours), watched(theirs)
    for batch in stream(12 * n).micro_batches(n):
        step(ours, batch)
        step(theirs, batch)
    assert len(expected) == 12 * steps
    assert [len(rows) for rows in seen] == [len(rows) for rows in expected]
    full = n + min(replay_size, capacity, 11 * n)
    assert len(seen[-1]) == full


def test_one_view_equals_replay_bit_for_bit() -> None:
    for augment in (None, "weak", "strong"):
        for schema in (TABLE, IMAGES, TARGET):
            for recall in ("uniform", "view-batch", "forgetting-curve", "maximal-interference"):
                settings = {
                    "augment": augment,
                    "buffer": {"capacity": 40, "recall": recall},
                    "optimizer": {"kind": "adam"},
                }
                ours = learner(schema=schema, views=1, **settings)
                theirs = learner(Replay, schema, **settings)
                for batch in stream(100, schema).micro_batches(9):
                    step(ours, batch)
                    step(theirs, batch)
                assert digest(ours.state()) == digest(theirs.state())


def by_hand(
    net: Any, slots: list[list[Tensor]], y: list[int], ssl: float, through: bool = False
) -> Tensor:
    """The loss of Lee et al. 2025, equations 3 and 4, one event and one view at a time."""
    wrong, far, count, pairs = torch.zeros(()), torch.zeros(()), 0, 0
    for views, label in zip(slots, y, strict=True):
        p = [torch.softmax(net(view[None])[0], 0) for view in views]
        wrong = wrong - sum(torch.log(each[label]) for each in p)
        teacher = p[0] if through else p[0].detach()
        for pupil in p[1:]:
            far = far + (teacher * (torch.log(teacher) - torch.log(pupil))).sum()
        count, pairs = count + len(views), pairs + len(views) - 1
    return wrong / count + ssl * far / pairs


@pytest.mark.parametrize("through", [False, True])
def test_view_batch_step_worked_by_hand(through: bool) -> None:
    """The gradient is that of the loss written out; and not that of a teacher who learns too."""
    view_batch = learner(views=3, steps=1, replay_size=6, ssl=2.0)

    def strong(x: Tensor, _rng: np.random.Generator) -> Tensor:
        # Not alike: each slot in another way.
        return x + torch.linspace(-1, 1, len(x))[:, None]

    batches = list(stream(12).micro_batches(6))
    step(view_batch, batches[0])
    view_batch.augment = lambda x, _rng: 2 * x
    view_batch.strong = strong
    twin = learner(views=3, steps=1, replay_size=6)
    twin.load(copied(view_batch.state()))
    turn = twin._turns(6)[0].tolist()
    old = twin.buffer.sample(2).columns
    x = [torch.from_numpy(batches[1].x[i]).float() for i in turn]  # type: ignore[index]
    x += [torch.from_numpy(row).float() for row in old["x"]]
    y = [int(batches[1].y[i]) for i in turn] + old["y"].tolist()  # type: ignore[index]
    assert len(x) == 4, "two new events and two old ones, three views of each"
    moved = strong(torch.stack([row for row in x for _ in range(2)]), np.random.default_rng())
    slots = [[2 * row, moved[2 * i], moved[2 * i + 1]] for i, row in enumerate(x)]
    loss = by_hand(twin.net, slots, y, 2.0, through)
    twin.optimizer.step(loss)

    view_batch.learn(batches[1])
    same = torch.allclose(view_batch.optimizer.weights, twin.optimizer.weights, rtol=0, atol=1e-6)
    assert same is not through


def test_view_batch_regression_step_worked_by_hand() -> None:
    view_batch = learner(schema=TARGET, views=2, steps=1, replay_size=2, ssl=3.0)
    batch = stream(2, TARGET)
    view_batch.augment, view_batch.strong = None, lambda x, _rng: x + 1
    view_batch._register_classes(batch.y, ())
    view_batch.targets.update(batch.y)
    twin = learner(schema=TARGET, views=2, steps=1, replay_size=2)
    twin.load(copied(view_batch.state()))
    i = int(twin._turns(2)[0][0])
    x, y = torch.from_numpy(batch.x[i : i + 1]).float(), twin.labels(batch.y)[i]  # type: ignore[index]
    first, other = twin.net(x)[0, 0], twin.net(x + 1)[0, 0]
    loss = ((first - y) ** 2 + (other - y) ** 2) / 4 + 3 * 0.5 * (other - first.detach()) ** 2
    twin.optimizer.step(loss)
    view_batch.learn(batch)
    assert torch.allclose(view_batch.optimizer.weights, twin.optimizer.weights, rtol=0, atol=1e-6)


def test_distance_is_zero_for_equal_views_else_positive() -> None:
    view_batch = learner(views=3)
    event, first = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 3])
    one, two = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    equal = torch.stack([one, one, one, two, two])
    assert float(view_batch._distance(equal, event, first)) == 0
    for seed in range(50):
        out = 10 * torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        assert float(view_batch._distance(out, event, first)) > 0
    p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.5, 0.25])
    out = torch.stack([p, q, p, q, p]).log()
    # KL(p||q) = 0.5 log 2 - 0.25 log 2, KL(p||p) = 0 and KL(q||p) as the first.
    expected = (0.25 * np.log(2) + 0 + 0.25 * np.log(2)) / 3
    assert float(view_batch._distance(out, event, first)) == pytest.approx(expected, rel=1e-6)


def test_teacher_view_gets_no_gradient() -> None:
    view_batch = learner(views=3)
    event, first = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 3])
    out = torch.randn(5, 3, generator=torch.Generator().manual_seed(3), requires_grad=True)
    view_batch._distance(out, event, first).backward()
    assert out.grad is not None
    assert out.grad[first].abs().max() == 0
    assert (out.grad[[1, 2, 4]].abs().sum(1) > 0).all()


def test_recall_rule_gets_outcome_of_first_views() -> None:
    buffer = {"capacity": 40, "recall": "forgetting-curve"}
    view_batch = marked(learner(views=2, steps=1, replay_size=6, buffer=buffer))
    batches = list(stream(16).micro_batches(8))
    step(view_batch, batches[0])
    heard: list[Any] = []
    view_batch.buffer.update = lambda slots, outcome: heard.append((slots, outcome))
    rows = {slot: row.copy() for slot, row in enumerate(view_batch.buffer.state()["columns"]["x"])}
    labels = view_batch.buffer.state()["columns"]["y"].copy()
    before = learner(views=2)
    before.load({**copied(view_batch.state()), "buffer": before.buffer.state()})
    view_batch.learn(batches[1])
    ((slots, outcome),) = heard
    assert len(slots) == 3
    x = torch.from_numpy(np.stack([rows[slot] for slot in slots.tolist()])).float()
    out = before.net(x).detach()
    loss = -torch.log_softmax(out, 1)[torch.arange(3), torch.from_numpy(labels[slots])]
    assert np.allclose(outcome.loss, loss, atol=1e-6)
    assert np.array_equal(outcome.correct, out.argmax(1).numpy() == labels[slots])


@pytest.mark.parametrize("views", [1, 2, 4])
def test_recall_interval_is_views_epochs(views: int) -> None:
    """Lee et al. 2025, equation 2: with u of N rows in each step, V views each, the interval from
    one training on a row to the next is V * N presentations."""
    capacity, replay_size = 24, 8
    buffer = {"capacity": capacity, "admission": "ring", "recall": "view-batch"}
    view_batch = marked(learner(views=views, replay_size=replay_size, buffer=buffer))
    batches = list(stream(24 + 4 * 200).micro_batches(4))
    for batch in batches[:6]:
        step(view_batch, batch)
    assert len(view_batch.buffer) == capacity
    view_batch.never_buffer = lambda ids: np.ones(len(ids), bool)  # from now on nothing comes in
    kept = view_batch.buffer.state()["columns"]["x"][:, 0].astype(np.float32)
    seen = watched(view_batch)
    for batch in batches[6:]:
        step(view_batch, batch)
    old = np.concatenate([rows[4:, 0].numpy() for rows in seen if len(rows) > 4])
    assert np.isin(old, kept).all()
    old = old[len(old) // 2 :]  # by then rows come up as evenly as they ever will
    for row in kept:
        starts = np.flatnonzero((old == row) & (np.roll(old, 1) != row))
        assert len(starts) >= 4
        assert (np.diff(starts) == views * capacity).all()


@pytest.mark.parametrize("schema", [TABLE, IMAGES, TARGET], ids=["table", "images", "target"])
def test_load_continues_exactly(schema: Schema) -> None:
    """Also what is drawn: views, and which new events have a turn."""
    unbroken, donor = learner(schema=schema, steps=1), learner(schema=schema, steps=1)
    batches = list(stream(130, schema).micro_batches(10))
    for batch in batches:
        step(unbroken, batch)
    for batch in batches[:7]:
        step(donor, batch)
    heir = learner(schema=schema, steps=1)
    heir.load(copied(donor.state()))
    for batch in batches[7:]:
        step(heir, batch)
    assert digest(heir.state()) == digest(unbroken.state())


def test_predict_uses_no_views() -> None:
    view_batch = learner(schema=IMAGES)
    for batch in stream(64, IMAGES).micro_batches(16):
        step(view_batch, batch)
    question = replace(stream(20, IMAGES), y=None)
    before = digest(view_batch.state())
    said = view_batch.predict(question).proba
    pixels = torch.from_numpy(question.x.astype(np.float32) / 255)  # type: ignore[union-attr]
    expected = torch.softmax(view_batch.net(pixels), 1).detach().numpy()
    assert np.array_equal(said, expected)
    assert digest(view_batch.state()) == before


def test_buffer_stores_originals() -> None:
    view_batch = learner(schema=IMAGES)
    batch = stream(16, IMAGES)
    step(view_batch, batch)
    kept = view_batch.buffer.state()["columns"]
    assert np.array_equal(kept["x"], batch.x[kept["ids"]])  # type: ignore[index]
    assert sorted(kept["ids"].tolist()) == list(range(16)), "events that had no turn are kept too"


def test_view_batch_recalls_due_rows_by_default() -> None:
    config = ViewBatch.Config.model_validate({"kind": "view-batch", "buffer": {"capacity": 9}})
    rule = ViewBatch(config, TABLE, 0).buffer.recall  # type: ignore[arg-type]
    assert (rule.name, rule.views, rule.capacity) == ("view-batch", 4, 9)
    uniform = learner(buffer={"recall": "uniform"}, views=3).buffer.recall
    assert (uniform.name, uniform.views) == ("uniform", 3)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"views": 0}, "greater than 0"),
        ({"ssl": -1}, "greater than or equal to 0"),
        ({"strnog": "weak"}, "did you mean 'strong'"),
        ({"strong": "strnog"}, "'weak', 'strong'"),
        ({"buffer": {"recall": "unifrom"}}, "did you mean 'uniform'"),
    ],
)
def test_wrong_settings_raise_with_name(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        learner(**settings)


@pytest.mark.parametrize("setting", ["augment", "strong"])
def test_views_unfit_for_stream_raise(setting: str) -> None:
    with pytest.raises(LearnerError, match=rf"^learner.{setting}: kind 'image' is for images"):
        learner(**{setting: {"kind": "image", "flip": True}})
