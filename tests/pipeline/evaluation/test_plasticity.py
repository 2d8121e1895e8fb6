"""Every metric of plasticity on arrays and networks whose numbers are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from learners.base import LearnerConfig
from learners.baselines.finetune import Finetune
from learners.baselines.no_change import NoChange
from learners.networks.base import NetworkConfig
from pipeline.evaluation.plasticity import (
    dead,
    dormant,
    effective_rank,
    plasticity,
    singular_values,
    stable_rank,
    weight_norm,
)
from streams.core.batch import Array, Batch
from streams.core.schema import Feature, Schema
from streams.core.state_dict import copied, digest

TABLE = Schema((Feature("a", "numeric"), Feature("b", "numeric")), "regression")


def batch(x: Array) -> Batch:
    i = np.arange(len(x))
    return Batch(i, i * 1.0, x, i.astype(np.int32), i)


def test_dormant_by_hand() -> None:
    # Mean |h| is 4, 1, 0.1 and 0; the layer's is 1.275, and 2.5% of it 0.031875.
    layer = np.array([[4, -2, 0.2, 0], [-4, 0, 0, 0]])
    assert dormant([layer]) == 0.25
    assert dormant([layer], tau=0.1) == 0.5  # 0.1 is under 0.1275 too
    # At most tau: mean |h| 1 is just 0.5 times the layer's mean of 2.
    assert dormant([np.array([[1.0, 3.0]])], tau=0.5) == 0.5
    # Each layer is measured by its own mean; all units count alike.
    assert dormant([layer, np.full((2, 4), 1e-9)]) == 1 / 8
    assert dormant([np.zeros((3, 2)), np.ones((3, 2))]) == 0.5


def test_dead_by_hand() -> None:
    layer = np.zeros((200, 3))
    layer[0, 1] = 5  # on 0.5% of the rows
    layer[:2, 2] = -5  # on 1%: not less than that
    assert dead([layer]) == 2 / 3
    assert dead([layer, np.ones((200, 1))]) == 0.5
    assert dead([layer], share=0.02) == 1


def test_dormant_takes_channels_of_feature_maps_as_units() -> None:
    maps = np.zeros((4, 3, 2, 2))
    maps[:, 0] = [[1, -1], [1, -1]]  # mean |h| 1, whatever its sign
    maps[:, 1, 0, 0] = 0.08  # mean |h| 0.02; 2.5% of the layer's 0.34 is 0.0085
    assert dormant([maps]) == 1 / 3
    assert dormant([maps], tau=0.1) == 2 / 3  # 0.02 is under 0.034
    assert dead([maps]) == 1 / 3


def test_effective_and_stable_rank_by_hand() -> None:
    rng = np.random.default_rng(0)
    orthogonal, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    assert effective_rank(singular_values(orthogonal)) == pytest.approx(8)
    assert effective_rank(singular_values(3 * orthogonal[:, :5])) == pytest.approx(5)
    assert stable_rank(singular_values(orthogonal)) == 8
    # Singular values 2, 1, 1: shares 1/2, 1/4, 1/4, entropy 1.5 ln 2.
    three = orthogonal[:, :3] * [2, 1, 1]
    assert effective_rank(singular_values(three)) == pytest.approx(2**1.5)
    assert stable_rank(singular_values(three)) == 3
    assert stable_rank(singular_values(three), share=0.5) == 1
    assert stable_rank(singular_values(three), share=0.7) == 2
    # 98.5%, 1% and 0.5% of the sum.
    assert stable_rank(singular_values(orthogonal[:, :3] * [98.5, 1, 0.5])) == 2


@pytest.mark.parametrize("seed", range(8))
def test_what_is_at_a_bound_to_rounding_is_at_it(seed: int) -> None:
    """Rounding puts the halves of these sums to either side, from matrix to matrix and from one
    processor's linear algebra to another's."""
    rng = np.random.default_rng(seed)
    orthogonal, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    values = singular_values(orthogonal[:, :3] * [2, 1, 1])
    for share in (0.5 - 1e-6, 0.5 - 1e-12, 0.5, 0.5 + 1e-12):
        assert stable_rank(values, share) == 1
    assert stable_rank(values, share=0.5 + 1e-6) == 2
    for off in (-1e-12, 1e-12):
        assert stable_rank(np.array([2 + off, 1, 1]), share=0.5) == 1
    assert stable_rank(np.array([2 - 1e-5, 1, 1]), share=0.5) == 2
    assert stable_rank(values, share=1) == 3
    # Mean |h| of 1 and 3, of which 1 is half of the layer's 2.
    for off, expected in ((-1e-12, 0.5), (1e-12, 0.5), (-1e-5, 0.5), (1e-5, 0)):
        assert dormant([np.array([[1 + off, 3 - off]])], tau=0.5) == expected


@pytest.mark.parametrize("r", [1, 3, 6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ranks_of_a_matrix_of_rank_r(r: int, dtype: Any) -> None:
    rng = np.random.default_rng(r)
    features = (rng.normal(size=(500, r)) @ rng.normal(size=(r, 20))).astype(dtype)
    assert 0.6 * r < effective_rank(singular_values(features)) <= r + 1e-3
    assert stable_rank(singular_values(features)) <= r
    nothing = singular_values(np.zeros((5, 3)))
    assert effective_rank(nothing) == stable_rank(nothing) == 0


def test_weight_norm_is_the_mean_absolute_weight() -> None:
    assert weight_norm(np.array([-3.0, 1.0, 0.0, 2.0])) == 1.5


def tiny() -> Finetune:
    """Two hidden layers, of 3 and of 2 ReLU units, whose weights are known."""
    config = NetworkConfig.model_validate(
        {"kind": "finetune", "scale": False, "model": {"kind": "mlp", "hidden": [3, 2]}}
    )
    learner = Finetune(config, TABLE, 0)
    weights = {
        "body.0.weight": [[1.0, 0], [0, 1], [-1, -1]],
        "body.0.bias": [0.0, 0, 0],
        "body.2.weight": [[1.0, 0, 0], [0, 1, 0]],
        "body.2.bias": [0.0, 0],
        "head.weight": [[1.0, -3]],
        "head.bias": [0.0],
    }
    learner.net.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})
    return learner


def test_plasticity_of_a_network_with_a_dead_unit() -> None:
    """The third unit is ReLU(-a - b), and no event has a + b < 0."""
    learner = tiny()
    events = batch(np.array([[1.0, 0], [0, 1], [1, 0], [0, 1]]))
    first, second = learner.activations(events)
    assert first.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]]
    assert second.tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]
    before = digest(copied(learner.state()))
    assert plasticity(learner, events) == {
        "plasticity/dormant_units": 0.2,  # 1 of 5
        "plasticity/dead_units": 0.2,
        "plasticity/effective_rank": pytest.approx(2),
        "plasticity/stable_rank": 2,
        "plasticity/weight_norm": 0.5,  # (4 + 2 + 4) / (9 + 8 + 3)
    }
    assert digest(learner.state()) == before


def test_plasticity_leaves_out_what_is_undefined() -> None:
    events = batch(np.ones((4, 2)))
    assert plasticity(NoChange(LearnerConfig(kind="no-change"), TABLE, 0), events) == {}
    learner = tiny()
    with torch.no_grad():
        learner.net.head.weight[0, 0] = np.nan
    assert set(plasticity(learner, events)) == {
        f"plasticity/{name}"
        for name in ("dormant_units", "dead_units", "effective_rank", "stable_rank")
    }
    with torch.no_grad():
        learner.net.body[0].weight[0, 0] = np.inf
    assert plasticity(learner, events) == {}
    assert set(plasticity(tiny(), events[:0])) == {"plasticity/weight_norm"}


def test_singular_values_match_the_decomposition() -> None:
    rng = np.random.default_rng(4)
    for shape in ((200, 16), (16, 200), (30, 30), (1, 5)):
        features = rng.normal(size=shape).astype(np.float32)
        expected = np.linalg.svd(features.astype(np.float64), compute_uv=False)
        np.testing.assert_allclose(singular_values(features), expected, rtol=1e-9)
    low = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 20))
    assert (singular_values(low)[3:] == 0).all()
