from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from buffers.buffer import Buffer
from learners.base import LearnerError
from learners.rehearsal.base import RehearsalConfig
from learners.rehearsal.replay import Replay
from streams.core.batch import Batch, ClassName
from streams.core.schema import Feature, Schema
from streams.core.state_dict import digest
from streams.core.statistics.running_moments import RunningMoments
from streams.operators.label_join import Revealed

torch.set_num_threads(1)
SCHEMA = Schema(tuple(Feature(f"x{i}", "numeric") for i in range(6)), "classification", (0, 1, 2))
SEED = 11


def stream(n: int, classes: tuple[ClassName, ...] = (0, 1, 2)) -> Batch:
    rng = np.random.default_rng(0)
    x = 3 + 2 * rng.normal(size=(n, 6))
    i = np.arange(n)
    y = (x[:, 0] > 3).astype(np.int64) + (x[:, 1] > 4)
    return Batch(i, i * 1.0, x, i.astype(np.int32), i, y, classes=classes)


def learner(schema: Schema = SCHEMA, **settings: Any) -> Replay:
    given: dict[str, Any] = {
        "kind": "replay",
        "model": {"kind": "mlp", "hidden": [32, 16]},
        "optimizer": {"kind": "adam", "lr": 0.01},
        "steps": 2,
        "replay_size": 8,
        "buffer": {"capacity": 40},
    }
    return Replay(RehearsalConfig.model_validate(given | settings), schema, SEED)


def step(replay: Replay, batch: Batch) -> Any:
    """Predicts a batch and is told its labels at once."""
    return replay.step(replace(batch, y=None), Revealed(batch, np.arange(len(batch))))


@pytest.mark.parametrize("admission", ["reservoir", "ring", "class-balanced"])
def test_replay_equals_plain_torch_loop(admission: str) -> None:
    """Chaudhry et al. 2019, algorithm 1, written out by hand: equal to the bit."""
    batches = list(stream(320).micro_batches(16))
    ours = learner(buffer={"capacity": 40, "admission": admission})
    said = [step(ours, batch).proba for batch in batches]

    torch.manual_seed(SEED)
    body = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
    net = nn.Sequential(body, nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(net.parameters(), 0.01, weight_decay=0.0, fused=True)
    moments, buffer = RunningMoments((6,)), Buffer(40, admission, "uniform", SEED)

    def scaled(x: Any) -> torch.Tensor:
        return torch.from_numpy(moments.scale(x))

    for batch, theirs in zip(batches, said, strict=True):
        with torch.no_grad():
            assert np.array_equal(torch.softmax(net(scaled(batch.x)), 1).numpy(), theirs)
        moments.update(batch.x)
        recalled = buffer.sample(8, draws=2).columns
        for draw in range(2):
            x, y = batch.x, batch.y
            if recalled:
                m = len(recalled["y"]) // 2
                rows = slice(draw * m, draw * m + m)
                x = np.concatenate([x, recalled["x"][rows]])
                y = np.concatenate([y, recalled["y"][rows]])
            loss = F.cross_entropy(net(scaled(x)), torch.from_numpy(y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        buffer.add(batch.ids, x=batch.x, y=batch.y)
    for a, b in zip(ours.net.parameters(), net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_replay_recalls_only_earlier_events() -> None:
    replay = learner(steps=1)
    drawn: list[np.ndarray] = []
    sample = replay.buffer.sample

    def watched(*asked: int) -> Any:
        drawn.append(sample(*asked).columns["ids"])
        return sample(*asked)

    replay.buffer.sample = watched  # type: ignore[method-assign]
    for batch in stream(64).micro_batches(16):
        step(replay, batch)
    assert len(drawn) == 3
    assert all((ids < 16 * (i + 1)).all() for i, ids in enumerate(drawn))


def test_replay_with_few_stored_recalls_fewer() -> None:
    replay = learner(replay_size=32)
    for batch in stream(12).micro_batches(4):
        step(replay, batch)
    assert len(replay.buffer) == 12


def test_correct_changes_only_the_buffer() -> None:
    replay, batch = learner(), stream(16)
    step(replay, batch)
    weights = [p.detach().clone() for p in replay.net.parameters()]
    corrected = np.array([3, 4, 999]), np.array([2, 2, 0])
    replay.step(replace(batch[:0], y=None), Revealed(batch[:0], batch.ids[:0], corrected))
    kept = replay.buffer.state()["columns"]
    assert kept["y"][np.isin(kept["ids"], [3, 4])].tolist() == [2, 2]
    assert all(torch.equal(a, b) for a, b in zip(weights, replay.net.parameters(), strict=True))
    assert replay.version == 1


def test_correct_may_add_a_class() -> None:
    replay, batch = learner(replace(SCHEMA, classes=())), stream(32, ("a", "b", "c"))
    batch = replace(batch, y=batch.y % 2)
    step(replay, batch[:16])
    assert replay.classes == ("a", "b")
    corrected = np.arange(16), np.full(16, 2)
    replay.step(replace(batch[:0], y=None), Revealed(batch[:0], batch.ids[:0], corrected))
    assert replay.classes == ("a", "b", "c")
    assert step(replay, batch[16:]).proba.shape == (16, 3)


def test_forget_deletes_by_id() -> None:
    replay = learner()
    for batch in stream(32).micro_batches(16):
        step(replay, batch)
    assert replay.forget(np.array([1, 5, 31, 77])) == 3
    assert not np.isin(replay.buffer.state()["columns"]["ids"], [1, 5, 31]).any()
    assert replay.forget(np.arange(32)) == 29
    step(replay, stream(16))  # an emptied buffer is like a new one


def test_regression_scales_old_and_new_targets_alike() -> None:
    schema = replace(SCHEMA, task="regression", classes=())
    replay, batch = learner(schema), stream(640)
    y = 1e6 + 100 * batch.x[:, 0]
    for part in replace(batch, y=y).micro_batches(16):
        said = step(replay, part)
    assert np.abs(said.value - y[-16:]).mean() < 60
    assert replay.buffer.state()["columns"]["y"].min() > 1e5, "targets are kept as they came"


def test_class_balanced_for_regression_raises() -> None:
    schema = replace(SCHEMA, task="regression", classes=())
    with pytest.raises(LearnerError, match="class-balanced"):
        learner(schema, buffer={"admission": "class-balanced"})


def trained_on(replay: Replay) -> list[torch.Tensor]:
    """The inputs of every forward pass that is trained on, as they come."""
    seen: list[torch.Tensor] = []

    def keep(_module: Any, inputs: Any) -> None:
        if torch.is_grad_enabled():
            seen.append(inputs[0].clone())

    replay.net.register_forward_pre_hook(keep)
    return seen


def test_each_presentation_is_a_new_view() -> None:
    """A pixel of light tells where each view was moved to."""
    schema = Schema((Feature("i", "image", (1, 9, 9)),), "classification", (0, 1, 2))
    x = np.zeros((32, 1, 9, 9), np.uint8)
    x[:, 0, 4, 4] = 255
    replay = learner(schema, augment={"kind": "image", "shift": 4}, steps=3, replay_size=16)
    seen = trained_on(replay)
    for batch in replace(stream(32), x=x).micro_batches(16):
        step(replay, batch)
    assert [len(views) for views in seen] == [16, 16, 16, 32, 32, 32]
    places = torch.cat(seen).flatten(1)
    assert bool((places.sum(1) == 1).all())
    found = [set(step.flatten(1).argmax(1).tolist()) for step in seen]
    assert all(len(places) > 8 for places in found), "rows of a step are moved alike"
    assert len({frozenset(places) for places in found}) == 6, "steps are moved alike"
    old = seen[-1][16:].flatten(1).argmax(1)
    assert len(set(old.tolist())) > 8, "what is recalled is moved too"
    assert np.array_equal(replay.buffer.state()["columns"]["x"], x), "and is kept as it was"


def test_predict_uses_no_views() -> None:
    replay, plain = learner(augment="strong"), learner()
    for batch in stream(64).micro_batches(16):
        step(replay, batch)
        step(plain, batch)
    assert not torch.equal(replay.optimizer.weights, plain.optimizer.weights)
    plain.load(replay.state())
    question = replace(stream(20), y=None)
    assert np.array_equal(replay.predict(question).proba, plain.predict(question).proba)


def test_candidates_are_scored_without_views() -> None:
    """Whom a rule chooses by loss or interference does not hang on views that are drawn for it."""
    for recall in ("highest-loss", "maximal-interference"):
        replay = learner(augment="strong", steps=1, buffer={"capacity": 40, "recall": recall})
        batches = list(stream(48).micro_batches(16))
        step(replay, batches[0])
        step(replay, batches[1])
        other = learner(steps=1, buffer={"capacity": 40, "recall": recall})
        other.load(replay.state())
        slots = []
        for each in (replay, other):
            old = next(each.recall(each.examples(batches[2])))
            assert old is not None
            assert old.slots is not None
            slots.append(old.slots.tolist())
        assert slots[0] == slots[1]
        assert len(slots[0]) == 8


def batch_normed(shape: tuple[int, ...]) -> nn.Module:
    return nn.Sequential(nn.Linear(*shape, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))


@pytest.mark.parametrize("recall", ["highest-loss", "maximal-interference"])
def test_scoring_candidates_changes_nothing(recall: str) -> None:
    """No weight, no statistic of a batch norm, no state of the optimizer, and nothing is drawn."""
    replay = learner(
        model={"kind": f"{__name__}:batch_normed"}, buffer={"capacity": 40, "recall": recall}
    )
    first, second = list(stream(32).micro_batches(16))
    step(replay, first)
    before, drawn = replay.state(), torch.get_rng_state()
    assert next(replay.recall(replay.examples(second))) is not None
    after = replay.state()
    for part in ("net", "optimizer", "rng"):
        assert digest({part: after[part]}) == digest({part: before[part]}), part
    assert torch.equal(torch.get_rng_state(), drawn)


def test_views_unfit_for_stream_raise() -> None:
    with pytest.raises(LearnerError, match=r"learner\.augment: kind 'image' is for images"):
        learner(augment={"kind": "image", "flip": True})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"buffer": {"admission": "reservor"}}, "did you mean 'reservoir'"),
        ({"buffer": {"recall": "unifrom"}}, "did you mean 'uniform'"),
        ({"buffer": {"capacity": 0}}, "greater than 0"),
        ({"replay_sise": 3}, "did you mean 'replay_size'"),
        ({"steps": 0}, "greater than 0"),
        ({"optimizer": {"kind": "adam", "betas": [2, 0.9]}}, "less than 1"),
        ({"model": {"kind": "mpl"}}, "mlp"),
        ({"augment": "wek"}, "'weak', 'strong'"),
    ],
)
def test_wrong_settings_raise_with_name(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        learner(**settings)


def as_version_1(state: dict[str, Any]) -> dict[str, Any]:
    """What the first version would have written: no time of recalls, and no views."""
    recall = {"name": state["buffer"]["recall"]["name"]}
    old = {**state, "state_version": 1, "buffer": {**state["buffer"], "recall": recall}}
    del old["random"]
    return old


def test_migrate_version_1_continues_exactly() -> None:
    batches = list(stream(320).micro_batches(16))
    first, second, third = learner(), learner(), learner()
    for batch in batches[:10]:
        step(first, batch)
    second.load(Replay.migrate(as_version_1(first.state())))
    third.load_servable(Replay.migrate({**first.servable(), "state_version": 1}))
    assert np.array_equal(third.predict(batches[10]).value, first.predict(batches[10]).value)
    for batch in batches[10:]:
        ours, theirs = step(first, batch), step(second, batch)
        assert np.array_equal(ours.proba, theirs.proba)
    assert second.state()["state_version"] == 2


def test_migrate_version_1_of_images_raises() -> None:
    images = Schema((Feature("i", "image", (1, 4, 4)),), "classification", (0, 1))
    state = learner(images).state()
    assert Replay.migrate(state) is state
    with pytest.raises(LearnerError, match="pixels between -1 and 1"):
        Replay.migrate({**state, "state_version": 1})
