"""L2P: prompts before the tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from learners.checks.case import LearnerRun
from learners.pretrained.prompts.l2p import L2P
from streams.core.batch import Ragged
from streams.core.state_dict import copied, digest
from tests.learners.pretrained.prompts.problems import learner, queries_of, stream


@pytest.mark.parametrize("readout", ["tokens", "prompts"])
def test_prompts_stand_before_the_tokens(readout: str) -> None:
    """The features are those of the blocks on prompts and tokens, one by one, by hand."""
    made, batch = learner(L2P, top=2, length=3, readout=readout), stream(L2P, 6)
    rows = torch.from_numpy(made.rows(batch))
    backbone, pool = made.backbone, made.parts.pool
    chosen = pool.nearest(queries_of(made, batch))
    expected = []
    for row, (first, second) in zip(rows, chosen.tolist(), strict=True):
        hidden = backbone.block(0, backbone.embed(row[None]))
        states = torch.cat([pool.prompts[first], pool.prompts[second], hidden.states[0]])
        for i in (1, 2):
            states = backbone.block(i, type(hidden)(states[None])).states[0]
        expected.append((states[6:] if readout == "tokens" else states[:6]).mean(0))
    found = made.features(rows.numpy())
    np.testing.assert_allclose(found, torch.stack(expected).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"readout": "prompts", "top": 3}])
def test_padding_changes_no_feature(settings: dict[str, Any]) -> None:
    made = learner(L2P, **settings)
    texts = Ragged.of_text(["one", "a b c d e f", "", "two words"])
    rows = made.rows(replace(stream(L2P, 4), x={"text": texts}))
    together = made.parts.features(*made._trunk(torch.from_numpy(rows)))
    for row, of_row in zip(rows, together.detach().numpy(), strict=True):
        np.testing.assert_allclose(made.features(row[None])[0], of_row, atol=1e-5)


@pytest.mark.parametrize(
    "settings", [{}, {"top": 3, "vote": True}, {"frequency_penalty": True, "steps": 2}]
)
def test_resume_mid_way_is_exact(settings: dict[str, Any]) -> None:
    batch = stream(L2P, 120)
    plain = LearnerRun(learner(L2P, **settings), 0).feed(batch[:60])
    heir = learner(L2P, seed=2, **settings)
    heir.load(heir.migrate(copied(plain.learner.state())))
    resumed = LearnerRun(heir, 0).feed(batch[60:])
    plain.feed(batch[60:])
    assert digest(resumed.learner.state()) == digest(plain.learner.state())


def test_prompts_learn_beside_frozen_weights() -> None:
    """Means of classes, summed before, do not move. The loss on them falls by the prompts."""
    made, batch = learner(L2P, optimizer={"lr": 0.02}, steps=30), stream(L2P, 30)
    assert batch.y is not None
    frozen = [weight.clone() for weight in made.backbone.weights()]
    rows = made.rows(batch)
    before = torch.from_numpy(made.train(rows, batch.y))
    after = torch.from_numpy(made.features(rows))
    assert made.prototypes(after, batch.y) < 0.9 * made.prototypes(before, batch.y)
    for old, new in zip(frozen, made.backbone.weights(), strict=True):
        assert torch.equal(old, new)
