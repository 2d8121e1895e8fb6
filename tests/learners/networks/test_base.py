from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learners.base import Learner, LearnerError
from learners.checks import check_learner
from learners.checks.assertions import saved_and_read
from learners.rehearsal.base import RehearsalConfig
from learners.rehearsal.replay import Replay
from streams.core.batch import Array, Batch, Ragged
from streams.core.schema import Feature, Schema, Task
from streams.core.state_dict import copied, digest
from streams.operators.label_join import Revealed

torch.set_num_threads(1)
TABLE = Schema(tuple(Feature(f"x{i}", "numeric") for i in range(6)), "classification")
IMAGES = Schema((Feature("i", "image", (1, 8, 8)),), "classification")

MODULES = """
import torch
from torch import nn

class Noisy(nn.Module):
    def __init__(self, shape, width=16):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(shape[0], width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3)
        )
    def forward(self, x):
        return self.net(x)

class Plain(nn.Linear):
    pass

def lazy():
    return nn.Sequential(nn.LazyLinear(8), nn.ReLU())

def flat(): return nn.Sequential(nn.Linear(6, 3), nn.Flatten(0))
def pair():
    class Pair(nn.Module):
        def forward(self, x): return x, x
    return Pair()
def wrong(): return nn.Linear(5, 3)
def number(): return 3
"""


@pytest.fixture(autouse=True)
def modules(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    folder: Path = tmp_path_factory.mktemp("user")
    (folder / "my_nets.py").write_text(MODULES)
    monkeypatch.syspath_prepend(folder)
    yield
    import sys

    sys.modules.pop("my_nets", None)


def make(schema: Schema, seed: int = 3, **settings: Any) -> Replay:
    given: dict[str, Any] = {
        "kind": "replay",
        "optimizer": {"kind": "adam", "lr": 0.01},
        "steps": 2,
        "replay_size": 8,
        "buffer": {"capacity": 40},
    }
    return Replay(RehearsalConfig.model_validate(given | settings), schema, seed)


def events(x: Any, y: Array) -> Batch:
    i = np.arange(len(y))
    return Batch(i, i * 1.0, x, i.astype(np.int32), i, y, classes=("a", "b", "c"))


def table(n: int = 192) -> Batch:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 6)), np.arange(n) % 3
    x[np.arange(n), y] += 4
    return events(x, y)


def run(learner: Learner, batch: Batch, size: int = 16) -> list[Array]:
    said = []
    for part in batch.micro_batches(size):
        revealed = Revealed(part, np.arange(len(part)))
        said.append(learner.step(replace(part, y=None), revealed).value)
    return said


def accuracy(said: list[Array], batch: Batch) -> float:
    assert batch.y is not None
    last = np.concatenate(said)[-64:]
    return float((last == batch.y[-64:]).mean())


def test_conv_learns_small_images() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 60, (192, 1, 8, 8)).astype(np.uint8)
    y = np.arange(192) % 3
    for code in range(3):
        x[y == code, :, 2 * code : 2 * code + 2] += 150
    batch = events(x, y)
    learner = make(IMAGES, model={"kind": "conv", "channels": [8, 16], "hidden": 16})
    assert accuracy(run(learner, batch), batch) > 0.9
    assert learner.buffer.state()["columns"]["x"].dtype == np.uint8
    mlp = make(IMAGES, model={"kind": "mlp", "hidden": [16]})
    assert accuracy(run(mlp, batch), batch) > 0.9


def test_mlp_learns_texts_and_categories() -> None:
    schema = Schema(
        (Feature("n", "numeric"), Feature("c", "categorical"), Feature("t", "text")),
        "classification",
    )
    y = np.arange(256) % 3
    rng = np.random.default_rng(2)
    text = Ragged.of_text(["good day", "bad night", "so so"][c] for c in y)
    kind = Ragged.of_text(["x", "y", "z"][c] for c in rng.integers(0, 3, 256))
    batch = events({"n": rng.normal(size=256) + 1e6, "c": kind, "t": text}, y)
    learner = make(schema, model={"kind": "mlp", "hidden": [32]})
    assert accuracy(run(learner, batch), batch) > 0.9


class WithNoise(Replay):
    """Replay over a user's module that draws and counts in training."""

    kind = "with-noise"
    Config = RehearsalConfig

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return {**super().example(task), "kind": "replay", "model": {"kind": "my_nets:Noisy"}}


def test_user_module_with_dropout_and_batch_norm_passes_checks() -> None:
    check_learner(WithNoise)


@pytest.mark.parametrize("name", ["Noisy", "lazy"])
def test_user_module_learns(name: str) -> None:
    batch = table()
    learner = make(TABLE, model={"kind": f"my_nets:{name}"})
    assert accuracy(run(learner, batch), batch) > 0.8
    assert not learner.net.training


def test_user_module_gets_arguments() -> None:
    model = {"kind": "my_nets:Plain", "args": {"in_features": 6, "out_features": 5}}
    assert make(TABLE, model=model).net.head.in_features == 5


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"kind": "conv"}, r"a conv net takes images .* not rows \(6,\)"),
        ({"kind": "nowhere_nets:Net"}, "no module named 'nowhere_nets'"),
        ({"kind": "my_nets:Noisi"}, "did you mean 'Noisy'"),
        ({"kind": "my_nets:Noisy", "args": {"depth": 3}}, "unexpected keyword argument 'depth'"),
        ({"kind": "my_nets:number"}, "gives int, not a torch.nn.Module"),
        ({"kind": "my_nets:wrong"}, r"cannot take rows \(6,\): .*shapes cannot be multiplied"),
        ({"kind": "my_nets:flat"}, r"maps 2 rows \(6,\) to \(6,\)"),
        ({"kind": "my_nets:pair"}, "to tuple"),
    ],
)
def test_impossible_model_raises_one_line(model: dict[str, Any], says: str) -> None:
    with pytest.raises(LearnerError, match=says) as error:
        make(TABLE, model=model)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("learner.model: ")


def test_small_images_and_missing_devices_raise() -> None:
    with pytest.raises(LearnerError, match="too small for 4 poolings"):
        make(IMAGES, model={"kind": "conv", "channels": [4, 4, 4, 4]})
    with pytest.raises(LearnerError, match="device: 'nonsense'") as error:
        Replay(RehearsalConfig(kind="replay"), TABLE, 0, "nonsense")
    assert "\n" not in str(error.value)


OPTIMIZERS: list[dict[str, Any]] = [
    {"kind": "adam", "lr": 0.01},
    {"kind": "adam", "lr": 0.01, "weight_decay": 0.1, "betas": [0.5, 0.9]},
    {"kind": "sgd", "lr": 0.05},
    {"kind": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("stop", [0, 16, 96])
def test_optimizer_continues_from_state(optimizer: dict[str, Any], stop: int) -> None:
    batch = table()
    donor, heir = make(TABLE, optimizer=optimizer), make(TABLE, 9, optimizer=optimizer)
    run(donor, batch[:stop])
    heir.load(saved_and_read(copied(donor.state())))
    run(donor, batch[stop:])
    run(heir, batch[stop:])
    assert digest(donor.state()) == digest(heir.state())


@pytest.mark.parametrize("optimizer", [OPTIMIZERS[0], OPTIMIZERS[3]])
def test_growing_head_keeps_weights_and_state(optimizer: dict[str, Any]) -> None:
    batch = table()
    assert batch.y is not None
    two = replace(batch, y=batch.y % 2)
    learner = make(TABLE, optimizer=optimizer)
    run(learner, two[:96])
    before = copied(learner.state())
    learner._register_classes(np.array([2]), batch.classes)
    after = learner.state()
    for name in ("head.weight", "head.bias"):
        assert np.array_equal(after["net"][name][:2], before["net"][name])
        assert len(after["net"][name]) == 3
    moments = {n: v for n, v in before["optimizer"].items() if isinstance(v, dict)}
    assert moments
    for name, places in moments.items():
        for place, value in places.items():
            grown = after["optimizer"][name][place]
            assert value.any()
            assert np.array_equal(grown[: len(value)], value)
            assert not grown[len(value) :].any()
    x = learner.tensor(learner.inputs.rows(batch))
    with torch.no_grad():
        body = learner.net.body(x)
        weight, bias = (torch.from_numpy(before["net"][f"head.{n}"]) for n in ("weight", "bias"))
        torch.testing.assert_close(learner.net.head(body)[:, :2], body @ weight.T + bias)
    assert accuracy(run(learner, batch), batch) > 0.8


def test_load_smaller_head_over_larger() -> None:
    batch = table()
    assert batch.y is not None
    two, three = make(TABLE), make(TABLE)
    run(two, replace(batch, y=batch.y % 2))
    run(three, batch)
    three.load(copied(two.state()))
    assert three.classes == ("a", "b")
    assert digest(three.state()) == digest(two.state())


def regression(target: Array, **settings: Any) -> Array:
    schema = replace(TABLE, task="regression")
    batch = replace(table(len(target)), y=target, classes=())
    return np.concatenate(run(make(schema, **settings), batch))


def test_targets_of_any_size_are_scaled() -> None:
    x = table(640).x
    assert isinstance(x, np.ndarray)
    shares = []
    for size, start in ((1e-6, 0.0), (1.0, 0.0), (1e6, 1e9)):
        y = start + size * x[:, 0]
        error = np.abs(regression(y) - y)[-128:].mean() / np.abs(y - y.mean()).mean()
        shares.append(error)
        assert error < 0.4
    assert max(shares) < 1.5 * min(shares), "the size of targets matters"


def test_absurd_target_is_clipped() -> None:
    schema = Schema((Feature("x", "numeric"),), "regression")
    learner = Replay(RehearsalConfig(kind="replay"), schema, 0)
    learner.targets.update(np.random.default_rng(0).normal(5, 2, 100))
    learner.targets.update(np.array([5.0, 1e200]))
    assert learner.targets.std() < 50
    assert learner.labels(np.array([1e200, -1e39])).tolist() == [100, -100]


def test_constant_target_is_predicted() -> None:
    said = regression(np.full(320, 1234.5))
    assert np.isnan(said[:16]).all()
    np.testing.assert_allclose(said[-16:], 1234.5, atol=0.2)


def test_activations_return_each_hidden_layer() -> None:
    learner = make(TABLE, model={"kind": "mlp", "hidden": [5, 4], "activation": "tanh"})
    batch = table(40)
    run(learner, batch)
    first, second = learner.activations(batch)
    body = learner.net.body
    with torch.no_grad():
        x = learner.tensor(learner.inputs.rows(batch))
        torch.testing.assert_close(torch.from_numpy(first), torch.tanh(body[0](x)))
        torch.testing.assert_close(torch.from_numpy(second), body(x))
    assert learner.activations(batch[:0]) == []
    assert make(TABLE, model={"kind": "mlp", "hidden": []}).activations(batch) == []
    # Also where no class is known yet, and the head has no outputs.
    assert [a.shape for a in make(TABLE).activations(batch)] == [(40, 128), (40, 128)]


def test_activations_of_images_are_feature_maps() -> None:
    learner = make(IMAGES, model={"kind": "conv", "channels": [8, 16], "hidden": 12})
    batch = events(np.ones((5, 1, 8, 8), np.uint8), np.arange(5) % 3)
    shapes = [a.shape for a in learner.activations(batch)]
    assert shapes == [(5, 8, 8, 8), (5, 16, 4, 4), (5, 12)]


def test_activations_of_a_user_module() -> None:
    batch = table(64)
    noisy = make(TABLE, model={"kind": "my_nets:Noisy"})
    run(noisy, batch)
    (hidden,) = noisy.activations(batch)
    with torch.no_grad():  # as in use: no dropout, and the statistics of before
        x = noisy.tensor(noisy.inputs.rows(batch))
        torch.testing.assert_close(torch.from_numpy(hidden), noisy.net.body(x))
    model = {"kind": "my_nets:Plain", "args": {"in_features": 6, "out_features": 5}}
    plain = make(TABLE, model=model)
    (given,) = plain.activations(batch)  # it has no module that we know: what it gives itself
    assert given.shape == (64, 5)
    assert (given < 0).any()


@pytest.mark.parametrize("kind", ["mlp", "my_nets:Noisy"])
def test_activations_are_pure(kind: str) -> None:
    batch = table()
    looked, other = (make(TABLE, model={"kind": kind}) for _ in range(2))
    for learner in (looked, other):
        run(learner, batch[:96])
    before, draws = digest(looked.state()), torch.get_rng_state()
    activations, weights = looked.activations(batch), looked.weight_vector()
    assert digest(looked.state()) == before
    assert torch.equal(torch.get_rng_state(), draws)
    assert not any(module._forward_hooks for module in looked.net.modules())
    assert np.shares_memory(weights, looked.net.head.weight.detach().numpy())
    assert weights.shape == (sum(p.numel() for p in looked.net.parameters()),)
    kept = [a.copy() for a in activations]
    for learner in (looked, other):
        run(learner, batch[96:])
    assert digest(looked.state()) == digest(other.state())
    assert all(map(np.array_equal, activations, kept)), "they are not views of what goes on"
