"""SDIM against its closed form, and a click model that learns from histories."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from buffers.errors.sim_hash import collision_rate
from learners.base import LearnerError
from learners.recommenders.click_model import ClickModel, ClickModelConfig
from learners.recommenders.sdim import Sdim, SdimConfig
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema
from streams.core.state_dict import copied, digest
from streams.core.stream_config import HistoryConfig
from streams.operators.features.histories import Histories

CLASSES = (0, 1)
SCHEMA = Schema(
    (Feature("user", "categorical"), Feature("item", "categorical")), "classification", CLASSES
)
KINDS = ("fm", "deepfm", "dcn-v2")


def vectors(n: int = 3, length: int = 20, d: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    candidate = torch.randn(n, d, generator=generator)
    history = torch.randn(n, length, d, generator=generator) + candidate[:, None]
    return candidate, history, torch.ones(n, length, dtype=torch.bool)


@pytest.mark.parametrize("bits", [1, 3, 5])
def test_weights_converge_to_attention_in_closed_form(bits: int) -> None:
    candidate, history, known = vectors()
    cosine = torch.cosine_similarity(candidate[:, None], history, dim=2).numpy()
    closed = collision_rate(cosine.astype(np.float64), bits)
    errors = []
    for signatures in (4, 32, 256):
        sdim = Sdim(8, SdimConfig(signatures=signatures, bits=bits))
        share = sdim.collisions(candidate, history, known).double().mean(2).numpy()
        errors.append(np.sqrt(np.square(share - closed).mean()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.05


def test_interest_converges_to_that_of_attention() -> None:
    candidate, history, known = vectors()
    cosine = torch.cosine_similarity(candidate[:, None], history, dim=2).numpy()
    weights = torch.from_numpy(collision_rate(cosine.astype(np.float64), 3)).float()
    attention = torch.einsum("nl,nld->nd", weights, history)
    interest = Sdim(8, SdimConfig(signatures=256)).interest(candidate, history, known)
    assert torch.cosine_similarity(interest, attention).min() > 0.98


def test_padding_changes_nothing_and_nothing_known_is_zero() -> None:
    candidate, history, known = vectors()
    sdim = Sdim(8, SdimConfig())
    padded = torch.cat([history, candidate[:, None].expand(3, 5, 8)], 1)
    mask = torch.cat([known, torch.zeros(3, 5, dtype=torch.bool)], 1)
    torch.testing.assert_close(
        sdim.interest(candidate, padded, mask), sdim.interest(candidate, history, known)
    )
    assert sdim.interest(candidate, history, ~known).eq(0).all()


def operator(length: int = 8) -> Histories:
    settings = {"by": "user", "of": "item", "length": length, "keys": 512}
    return Histories(HistoryConfig.model_validate(settings), SCHEMA)


def model(kind: str, history: bool = True) -> ClickModel:
    settings = {
        "kind": "click-model",
        "model": {"kind": kind},
        "optimizer": {"kind": "adam", "lr": 0.005},
        "inputs": {"rows": 512},
    }
    schema = operator().schema(SCHEMA) if history else SCHEMA
    return ClickModel(ClickModelConfig.model_validate(settings), schema, 1)


def clicks(n: int, seed: int = 0) -> Batch:
    """Return events of users who come a few times each, and click items of one of two tastes."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 400, n) + 1000 * (np.arange(n) // 4000), rng.integers(0, 20, n)
    y = (((user * 7919) % 13 < 6) == (item % 2 == 0)).astype(np.int64)
    offset = np.arange(n)
    x = {"user": user, "item": item}
    return Batch(offset, offset * 1.0, x, np.zeros(n, np.int32), offset, y, classes=CLASSES)


def fed(learner: ClickModel, before: Histories, batch: Batch, size: int = 32) -> float:
    """Learn a batch. Return the accuracy on its last half, each event predicted first."""
    right = []
    for part in batch.micro_batches(size):
        seen = before.apply(part)
        right.append(learner.predict(seen).value == part.y)
        learner._observe(seen)
        learner._learn(seen)
        before.learn(seen)
    whole = np.concatenate(right)
    return float(whole[len(whole) // 2 :].mean())


def test_click_model_learns_tastes_from_histories() -> None:
    batch = clicks(8000)
    with_history = fed(model("deepfm"), operator(), batch)
    without = fed(model("deepfm", history=False), operator(), batch)
    assert with_history > without + 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_resume_and_serving_with_histories(kind: str) -> None:
    batch = clicks(320)
    whole, of_whole = model(kind), operator()
    fed(whole, of_whole, batch)
    half, of_half, other, of_other = model(kind), operator(), model(kind), operator()
    fed(half, of_half, batch[:160])
    other.load(copied(half.state()))
    of_other.load(copied(of_half.state()))
    fed(other, of_other, batch[160:])
    assert digest(other.state()) == digest(whole.state())
    served, of_served = model(kind), operator()
    served.load_servable(copied(whole.servable()))
    of_served.load(copied(of_whole.servable()))
    fresh = clicks(40, seed=3)
    theirs, ours = whole.predict(of_whole.view(fresh)), served.predict(of_served.view(fresh))
    assert np.array_equal(ours.proba, theirs.proba)  # type: ignore[arg-type]


def test_sdim_without_history_is_refused() -> None:
    settings: dict[str, Any] = {"kind": "click-model", "sdim": {"bits": 2}}
    with pytest.raises(LearnerError, match=r"stream\.history"):
        ClickModel(ClickModelConfig.model_validate(settings), SCHEMA, 1)
