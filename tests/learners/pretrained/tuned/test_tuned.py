"""Learners with trained parts inside a frozen backbone, by the example of one adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from learners.base import LearnerError, NotFiniteError
from learners.checks.case import Case, LearnerRun, with_example_settings
from learners.pretrained.adapters.adapter import Adapter, AdapterConfig
from learners.pretrained.adapters.mos import Mos
from learners.pretrained.tuned.prototypes import PrototypeLoss
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema
from streams.core.state_dict import copied, digest, leaves
from streams.operators.label_join import Revealed

TEXT = Schema((Feature("text", "text"),), "classification")
CASE = Case(Adapter, "classification", with_example_settings(Adapter))
EXAMPLE = Adapter.example("classification")


def adapter(schema: Schema = TEXT, seed: int = 1, **settings: Any) -> Adapter:
    return Adapter(AdapterConfig.model_validate(EXAMPLE | settings), schema, seed)


def stream(n: int = 64) -> Batch:
    return CASE.stream(n)


def digest_of(weights: Iterable[torch.Tensor]) -> str:
    found = hashlib.sha256()
    for weight in weights:
        found.update(weight.numpy().tobytes())
    return found.hexdigest()


def test_only_the_parts_are_trained() -> None:
    learner = adapter()
    frozen = digest_of(learner.backbone.weights())
    before = [p.detach().clone() for p in learner.parts.parameters()]
    LearnerRun(learner).feed(stream(160))
    assert digest_of(learner.backbone.weights()) == frozen
    assert len(before) == 4  # of one adapter: the last of two blocks
    for old, new in zip(before, learner.parts.parameters(), strict=True):
        assert (old != new).any()


def test_no_weight_of_the_backbone_is_in_the_state() -> None:
    """Neither of the state, nor of what a server gets; and both know which backbone it was."""
    learner = LearnerRun(adapter(head="prototype")).feed(stream()).learner
    for state in (learner.state(), learner.servable()):
        assert state["backbone"] == learner.backbone.fingerprint  # type: ignore[attr-defined]
        assert set(state["parts"]) == {
            f"adapters.0.{part}" for part in ("down.weight", "down.bias", "up.weight", "up.bias")
        }
    assert "optimizer" not in learner.servable()
    largest = max(np.size(leaf) for _, leaf in leaves(learner.servable()))
    assert largest == 64 * 4


def test_first_features_are_those_of_the_frozen_backbone() -> None:
    """The adapter starts without effect. The head then predicts as on an encoder's vectors."""
    learner, batch = adapter(), stream(20)
    rows = torch.from_numpy(learner.rows(batch))
    hidden = learner.backbone.embed(rows)
    for i in range(learner.backbone.blocks):
        hidden = learner.backbone.block(i, hidden)
    expected = learner.backbone.pool(hidden).numpy()
    np.testing.assert_allclose(learner.features(rows.numpy()), expected, atol=1e-5)


def test_one_step_by_hand() -> None:
    """The loss is over the means of the classes, the rows of the step included."""
    learner = adapter(optimizer={"kind": "sgd", "lr": 0.5}, head="prototype")
    twin = adapter(head="prototype")
    batch = stream(9)
    assert batch.y is not None
    features = twin.parts.features(*twin._trunk(torch.from_numpy(twin.rows(batch))))
    unit = F.normalize(features, dim=1)
    y = torch.from_numpy(batch.y)
    means = torch.stack([unit[y == c].mean(0) for c in range(3)]).detach()
    loss = F.cross_entropy(16 * unit @ F.normalize(means, dim=1).T, y)
    loss.backward()  # type: ignore[no-untyped-call]
    learner._learn(batch)
    for old, new in zip(twin.parts.parameters(), learner.parts.parameters(), strict=True):
        assert old.grad is not None
        torch.testing.assert_close(new, old - 0.5 * old.grad, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        learner.head.state()["statistics"]["sums"],
        np.stack([unit.detach()[y == c].sum(0) for c in range(3)]),
        atol=1e-4,
    )


def test_no_gradient_reaches_the_means() -> None:
    loss = PrototypeLoss(2, 1.0)
    rows = torch.tensor([[2.0, 0.0], [0.0, 3.0]], requires_grad=True)
    loss.add(rows, np.array([0, 2]))
    value = loss(rows[:1], np.array([0]))
    # The means are (1, 0) and (0, 1); class 1 has not been seen, and takes no part.
    assert value.item() == pytest.approx(np.log(1 + np.exp(-1)), abs=1e-6)
    value.backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    share = 1 / (1 + np.exp(1))
    torch.testing.assert_close(rows.grad, torch.tensor([[0.0, float(share) / 2], [0.0, 0.0]]))


@pytest.mark.parametrize(
    "head",
    [
        "ranpac",
        "knn",
        {"kind": "rls", "ridge": 10},
        {"kind": "linear-probe", "optimizer": {"lr": 0.03}},
    ],
)
def test_any_learner_over_vectors_is_a_head(head: Any) -> None:
    run = LearnerRun(adapter(head=head)).feed(stream(200))
    y = stream(200).y
    assert y is not None
    assert (run.values()[-60:] == y[-60:]).mean() > 0.6
    heir = adapter(seed=2, head=head)
    heir.load(heir.migrate(copied(run.learner.state())))
    assert digest(heir.state()) == digest(run.learner.state())


def test_a_correction_may_name_a_class_for_the_first_time() -> None:
    learner, batch = adapter(head="knn"), stream(40)
    learner._learn(batch)
    names = (*batch.classes, "new")
    none = replace(batch[:0], classes=names)
    y = np.full(len(batch), 3)
    learner._correct(Revealed(none, np.zeros(0, np.int64), corrected=(batch.ids, y)))
    found = learner.predict(replace(batch, y=None))
    assert (found.value == 3).all()
    assert learner.classes == found.classes == names


def test_cache_changes_no_bit() -> None:
    runs = [LearnerRun(adapter(cache_mb=mb, steps=2)).feed(stream(160)) for mb in (0, 1)]
    assert digest(runs[0].learner.state()) == digest(runs[1].learner.state())
    trunk = runs[1].learner._trunk  # type: ignore[attr-defined]
    assert trunk.counts().misses < 161 < trunk.counts().hits


def test_learners_share_a_backbone() -> None:
    assert adapter().backbone is adapter(seed=2, head="prototype").backbone


def test_a_state_of_another_backbone_is_refused() -> None:
    other = adapter(backbone={"kind": "random-transformer", "width": 64, "seed": 1})
    for load in (other.load, other.load_servable):
        with pytest.raises(LearnerError, match=r"learner\.backbone: it is not the one"):
            load(adapter().state())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "bert"}, "kind: 'bert': "),
        ({"backbone": {"kind": "minilm", "layers": 1}}, "unknown key 'layers'"),
        ({"head": "sldaa"}, "did you mean 'slda'"),
        ({"head": {"kind": "ranpac", "rigde": 1}}, "did you mean 'ridge'"),
        ({"head": "ewc"}, "kind: 'ewc' cannot be a head"),
        ({"head": {"kind": "slda", "shrinkage": 2}}, "head: shrinkage: Input should be less"),
        ({"head": 3}, "head: state the name of a learner, or a mapping with its kind, not 3"),
        ({"backbone": None}, "backbone: kind: name a backbone. There are: "),
        ({"backbone": EXAMPLE["backbone"] | {"seed": 2**63}}, "backbone: seed: "),
    ],
)
def test_wrong_settings_name_the_key(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        AdapterConfig.model_validate(EXAMPLE | settings)
    first = error.value.errors()[0]
    assert message in f"{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}"


@pytest.mark.parametrize(
    ("settings", "features", "message"),
    [
        ({"first_block": 2}, TEXT.features, "has blocks 0 to 1, and not 2"),
        ({"head": "adapter"}, TEXT.features, "learner.head: learner.backbone: "),
        (
            {},
            (*TEXT.features, Feature("n", "numeric")),
            "takes one column of kind text, and the stream has 'text' (text), 'n' (numeric): leave",
        ),
        ({}, (Feature("text", "vector", (4,)),), "do not encode that one (stream.encoder)"),
    ],
)
def test_unsuited_streams_name_the_remedy(
    settings: dict[str, Any], features: tuple[Feature, ...], message: str
) -> None:
    with pytest.raises(LearnerError) as error:
        adapter(replace(TEXT, features=features), **settings)
    assert message in str(error.value)


def test_paths_start_from_the_folder_of_the_job(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    stated = {"kind": "adapter", "backbone": {"kind": "transformers", "model": "model"}}
    config = AdapterConfig.model_validate(stated).located(tmp_path)
    again = AdapterConfig.model_validate(config.model_dump(mode="json"))
    assert again == config
    assert again.backbone.model == str(tmp_path / "model")  # type: ignore[attr-defined]
    assert again.head.model_dump()["kind"] == "slda"


@pytest.mark.parametrize("cls", [Adapter, Mos])
def test_divergence_is_named_before_a_head_learns_it(cls: type[Adapter]) -> None:
    """A head may fail on such rows in its own way, as a decomposition that does not converge."""
    example = cls.example("classification") | {"optimizer": {"lr": 1e30}}
    learner = cls(cls.Config.model_validate(example), TEXT, 1)
    first, second = stream(32)[:16], stream(32)[16:]
    learner._learn(first)
    head = digest(learner.head.state())
    with pytest.raises(NotFiniteError, match="features are no longer finite"):
        learner._learn(second)
    assert digest(learner.head.state()) == head


@pytest.mark.parametrize("cls", [Adapter, Mos])
@pytest.mark.parametrize("lr", [1e12, 1e30])
def test_parts_that_are_of_no_use_are_neither_saved_nor_served(
    cls: type[Adapter], lr: float
) -> None:
    """They are finite still, and the features of the next event may be no numbers."""
    example = cls.example("classification") | {"optimizer": {"lr": lr}}
    learner = cls(cls.Config.model_validate(example), TEXT, 1)
    learner.verify()
    learner._learn(stream(32))
    assert np.isfinite(learner.weight_vector()).all()
    with pytest.raises(NotFiniteError, match=r"largest number of its trained parts is "):
        learner.verify()
