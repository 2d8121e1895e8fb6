"""What all learners by prompts keep: rows apart, exact states, frozen weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from learners.checks.case import LearnerRun
from learners.networks.modules import module_state
from learners.pretrained.prompts.coda import Coda
from learners.pretrained.prompts.dual_prompt import DualPrompt
from learners.pretrained.prompts.l2p import L2P
from learners.pretrained.tuned.base import TunedLearner
from streams.core.batch import Ragged
from streams.core.state_dict import copied, digest, leaves
from tests.learners.pretrained.prompts.problems import learner, stream

KINDS: list[tuple[type[TunedLearner], dict[str, Any]]] = [
    (L2P, {}),
    (L2P, {"readout": "prompts", "top": 3, "vote": True}),
    (DualPrompt, {"top": 2, "frequency_penalty": True, "steps": 2}),
    (DualPrompt, {"masks": "task", "every": 25, "general_blocks": [1, 2]}),
    (Coda, {}),
]
each = pytest.mark.parametrize(("cls", "settings"), KINDS)


@each
def test_padding_changes_no_feature(cls: type[TunedLearner], settings: dict[str, Any]) -> None:
    made = learner(cls, **settings)
    texts = Ragged.of_text(["one", "a b c d e f", "", "two words"])
    rows = made.rows(replace(stream(cls, 4), x={"text": texts}))
    together = made.parts.features(*made._trunk(torch.from_numpy(rows)))
    for row, of_row in zip(rows, together.detach().numpy(), strict=True):
        np.testing.assert_allclose(made.features(row[None])[0], of_row, atol=1e-5)


@each
def test_resume_mid_way_is_exact(cls: type[TunedLearner], settings: dict[str, Any]) -> None:
    batch = stream(cls, 120)
    plain = LearnerRun(learner(cls, **settings), 0).feed(batch[:60])
    heir = learner(cls, seed=2, **settings)
    heir.load(heir.migrate(copied(plain.learner.state())))
    resumed = LearnerRun(heir, 0).feed(batch[60:])
    plain.feed(batch[60:])
    assert digest(resumed.learner.state()) == digest(plain.learner.state())


@each
def test_prompts_learn_beside_frozen_weights(
    cls: type[TunedLearner], settings: dict[str, Any]
) -> None:
    """Means of classes, summed before, do not move. The loss on them falls by the prompts."""
    made = learner(cls, **settings | {"optimizer": {"lr": 0.02}, "steps": 30})
    batch = stream(cls, 30)
    assert batch.y is not None
    frozen = [weight.clone() for weight in made.backbone.weights()]
    rows = made.rows(batch)
    before = torch.from_numpy(made.features(rows))
    made._learn(batch)
    after = torch.from_numpy(made.features(rows))
    assert made.prototypes(after, batch.y) < 0.9 * made.prototypes(before, batch.y)
    for old, new in zip(frozen, made.backbone.weights(), strict=True):
        assert torch.equal(old, new)


@each
def test_a_server_gets_prompts_and_no_weights(
    cls: type[TunedLearner], settings: dict[str, Any]
) -> None:
    """And predicts as the learner does."""
    made, batch = learner(cls, head="prototype", **settings), replace(stream(cls, 20), y=None)
    LearnerRun(made, 0).feed(stream(cls, 100))
    state = copied(made.servable())
    assert "optimizer" not in state
    trained = sum(p.numel() for p in made.parts.parameters())
    numbers = sum(np.size(leaf) for path, leaf in leaves(state) if path.startswith("parts"))
    assert trained <= numbers <= trained + 10  # of what prompts were used for
    server = learner(cls, seed=3, head="prototype", **settings)
    server.load_servable(state)
    assert np.array_equal(server.predict(batch).proba, made.predict(batch).proba)


@each
def test_prompts_stay_after_the_first_events(
    cls: type[TunedLearner], settings: dict[str, Any]
) -> None:
    """The head then holds what they give for all events; a run resumes exactly on both sides."""
    settings = settings | {"train_for": 50, "head": "prototype"}
    batch, made = stream(cls, 100), learner(cls, **settings)
    heirs = []
    for stop in (0, 32, 64):
        LearnerRun(made, 0).feed(batch[stop : stop + 32])
        heirs.append(learner(cls, seed=2, **settings))
        heirs[-1].load(copied(made.state()))
    parts = digest(module_state(made.parts))
    LearnerRun(made, 0).feed(batch[96:])
    assert digest(module_state(made.parts)) == parts
    for heir, stop in zip(heirs, (32, 64, 96), strict=True):
        LearnerRun(heir, 0).feed(batch[stop:])
        assert digest(heir.state()) == digest(made.state())
    unit = made.features(made.rows(batch))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    sums = made.head.state()["statistics"]["sums"]
    expected = [unit[batch.y == c].sum(0) for c in range(3)]
    np.testing.assert_allclose(sums, expected, atol=1e-4)
    assert made.metrics()["kept_rows"] == 0
