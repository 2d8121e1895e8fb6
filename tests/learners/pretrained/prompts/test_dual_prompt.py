"""DualPrompt: general and expert prefixes, and who trains which expert."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from learners.base import LearnerError
from learners.checks.case import LearnerRun
from learners.pretrained.prompts.dual_prompt import DualPrompt
from tests.learners.pretrained.prompts.problems import learner, moved_rows, queries_of, stream


@pytest.mark.parametrize(
    ("settings", "general", "expert"),
    [
        ({}, {1: 0}, {2: 0}),
        ({"general_blocks": [2], "expert_blocks": [1, 2]}, {2: 0}, {1: 0, 2: 1}),
    ],
)
def test_prefixes_stand_before_keys_and_values(
    settings: dict[str, Any], general: dict[int, int], expert: dict[int, int]
) -> None:
    """The features are those of blocks with the prefixes of one row at a time, by hand."""
    made, batch = learner(DualPrompt, top=2, length=3, **settings), stream(DualPrompt, 6)
    rows = torch.from_numpy(made.rows(batch))
    backbone, parts = made.backbone, made.parts
    chosen = parts.pool.nearest(queries_of(made, batch))
    expected = []
    for row, experts in zip(rows, chosen.tolist(), strict=True):
        hidden = backbone.block(0, backbone.embed(row[None]))
        for i in (1, 2):
            pairs = [parts.general[general[i]]] if i in general else []
            pairs += [parts.pool.prompts[e][expert[i]] for e in experts] if i in expert else []
            keys, values = (torch.cat([pair[k] for pair in pairs])[None] for k in (0, 1))
            hidden = backbone.block(i, hidden, prefix=(keys, values))
        expected.append(backbone.pool(hidden)[0])
    found = made.features(rows.numpy())
    np.testing.assert_allclose(found, torch.stack(expected).detach().numpy(), atol=1e-5)


def test_each_task_trains_its_expert() -> None:
    """Tasks of 20 events, three experts: the fourth task trains the first expert again."""
    made = learner(DualPrompt, masks="task", every=20, pool=3)
    for task, part in enumerate(stream(DualPrompt, 80).micro_batches(10)):
        before = [made.parts.pool.prompts.detach().clone(), made.parts.general.detach().clone()]
        made._learn(part)
        assert moved_rows(before[0], made.parts.pool.prompts) == {task // 2 % 3}
        assert moved_rows(before[1], made.parts.general) == {0}
    assert made.parts.pool.uses.tolist() == [40, 20, 20]


def test_a_task_may_end_within_a_micro_batch() -> None:
    made = learner(DualPrompt, masks="task", every=20, pool=3)
    for part in stream(DualPrompt, 50).micro_batches(16):
        made._learn(part)
    assert made.parts.pool.uses.tolist() == [20, 20, 10]


def test_segments_of_the_stream_are_tasks() -> None:
    made = learner(DualPrompt, masks="task", pool=3)
    assert made.requires_segments
    assert made.needs_boundaries
    batch = stream(DualPrompt, 40)
    segments = np.repeat([0, 2, 0, 1], 10)
    LearnerRun(made, 0).feed(replace(batch, segment=segments), 10)
    assert made.parts.pool.uses.tolist() == [20, 10, 10]
    with pytest.raises(LearnerError, match=r"learner\.every: this learner needs to know where"):
        made._learn(batch)


def test_no_expert_is_chosen_before_it_was_trained() -> None:
    """With tasks. Otherwise an expert would be chosen only if its key as drawn is the nearest."""
    made, batch = learner(DualPrompt, masks="task", every=20, pool=8), stream(DualPrompt, 40)
    for part in batch.micro_batches(10):
        made._learn(part)
    queries = queries_of(made, batch)
    assert set(made.parts.nearest(queries).flatten().tolist()) == {0, 1}
    free = learner(DualPrompt, pool=8)
    assert set(free.parts.nearest(queries).flatten().tolist()) - {0, 1}


def test_by_default_no_segment_is_read() -> None:
    made = learner(DualPrompt)
    assert not made.needs_boundaries
    assert not made.requires_segments


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"masks": "task", "top": 2}, "top: a task has one expert"),
        ({"every": 20}, "every: tasks have no effect under masks: query"),
        ({"general_blocks": [], "expert_blocks": []}, "no prompt acts anywhere: name a block"),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        learner(DualPrompt, **settings)


def test_blocks_below_the_prompts_are_refused() -> None:
    with pytest.raises(
        LearnerError, match=r"learner\.expert_blocks: .* blocks 1 to 2, and not in 0"
    ):
        learner(DualPrompt, expert_blocks=[0, 1])
