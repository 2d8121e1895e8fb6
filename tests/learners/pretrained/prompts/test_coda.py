"""CODA-Prompt: mixtures of components."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from learners.pretrained.prompts.coda import Coda
from tests.learners.pretrained.prompts.problems import learner, queries_of, stream


def test_prompts_are_mixtures_of_components() -> None:
    """By the formula of the paper, number by number, for one row at a time."""
    made, batch = learner(Coda, components=4, length=2), stream(Coda, 6)
    rows, parts = torch.from_numpy(made.rows(batch)), made.parts
    parts.attention.data.mul_(3)
    expected = []
    for row, query in zip(rows, queries_of(made, batch), strict=True):
        hidden = made.backbone.block(0, made.backbone.embed(row[None]))
        for j, i in enumerate((1, 2)):
            weights = [
                F.cosine_similarity(query * parts.attention[j, m], parts.keys[j, m], dim=0)
                for m in range(4)
            ]
            mixed = sum(w * parts.components[j, m] for m, w in enumerate(weights))
            keys, values = mixed.view(2, 1, 2, -1).unbind(0)
            hidden = made.backbone.block(i, hidden, prefix=(keys, values))
        expected.append(made.backbone.pool(hidden)[0])
    found = made.features(rows.numpy())
    np.testing.assert_allclose(found, torch.stack(expected).detach().numpy(), atol=1e-5)


def test_penalty_is_zero_for_orthogonal_components() -> None:
    parts = learner(Coda, components=4).parts
    assert parts.penalty().item() == pytest.approx(0, abs=1e-6)
    parts.keys.data[0, 1] = parts.keys.data[0, 0]  # two of 16 products are 1
    assert parts.penalty().item() == pytest.approx(0.1 * 2 / 16, abs=1e-6)


def test_all_components_learn_at_each_step() -> None:
    made = learner(Coda, components=4)
    before = [p.detach().clone() for p in made.parts.parameters()]
    made._learn(stream(Coda, 8))
    for old, new in zip(before, made.parts.parameters(), strict=True):
        assert (old != new).flatten(2).any(2).all()
    assert made.metrics()["prompt_movement"] > 0
    assert 0 < made.metrics()["routing_entropy"] < 1


def test_without_penalty_nothing_is_added_to_the_loss() -> None:
    made, batch = learner(Coda, orthogonality=0), stream(Coda, 8)
    states = made._trunk(torch.from_numpy(made.rows(batch)))
    assert made.parts.trained(*states).penalty is None
