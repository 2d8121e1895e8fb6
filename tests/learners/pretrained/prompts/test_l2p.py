"""L2P: prompts before the tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from learners.pretrained.prompts.l2p import L2P
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
