"""The states below the first trained part: the same bits, computed or from the cache."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from learners.pretrained.backbones.base import Backbone
from learners.pretrained.backbones.registry import load_backbone
from learners.pretrained.backbones.trunk import Trunk
from streams.core.batch import Ragged
from streams.core.schema import Feature

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
TEXTS = [" ".join(WORDS[: 1 + i % 7]) + f" {i}" for i in range(40)]
_RANDOM = {"kind": "random-transformer", "blocks": 3, "width": 64, "heads": 4, "max_tokens": 12}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(_RANDOM, Feature("text", "text"))


def rows_of(backbone: Backbone, texts: list[str]) -> Tensor:
    return torch.from_numpy(backbone.rows(Ragged.of_text(texts)))


def test_states_and_queries_equal_those_of_the_blocks(backbone: Backbone) -> None:
    rows = rows_of(backbone, TEXTS[:9])
    hidden, queries = Trunk(backbone, 2, 1 << 20, queried=True)(rows)
    expected = backbone.block(1, backbone.block(0, backbone.embed(rows)))
    assert hidden.mask is not None
    assert expected.mask is not None
    assert torch.equal(hidden.mask, expected.mask)
    real = hidden.mask
    torch.testing.assert_close(hidden.states[real], expected.states[real], rtol=0, atol=1e-5)
    pooled = backbone.pool(backbone.block(2, expected))
    torch.testing.assert_close(queries, pooled, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [0, 20_000, 1 << 24])
def test_a_row_has_its_bits_computed_or_kept(backbone: Backbone, size: int) -> None:
    """In any batch, whatever was computed before, and where the cache is too small."""
    rows = rows_of(backbone, TEXTS)
    fresh = [Trunk(backbone, 1, 0, queried=True)(row[None]) for row in rows]
    trunk = Trunk(backbone, 1, size, queried=True)
    for part in (rows[:7], rows[3:30], rows, rows.flip(0).contiguous(), rows[:1]):
        hidden, queries = trunk(part)
        assert queries is not None
        place = {row.numpy().tobytes(): i for i, row in enumerate(rows)}
        for states, query, row in zip(hidden.states, queries, part, strict=True):
            alone, of_alone = fresh[place[row.numpy().tobytes()]]
            assert of_alone is not None
            assert torch.equal(states[: alone.states.shape[1]], alone.states[0])
            assert torch.equal(query, of_alone[0])
    counts = trunk.counts()
    assert counts.bytes <= size
    assert counts.hits + counts.misses == 7 + 27 + 40 + 40 + 1
    if size == 1 << 24:
        assert counts.misses == 40
    if size == 20_000:
        assert 40 < counts.misses < 115


def test_states_of_a_prediction_serve_training(backbone: Backbone) -> None:
    trunk = Trunk(backbone, 1, 1 << 24)
    rows = rows_of(backbone, TEXTS[:5])
    with torch.inference_mode():
        trunk(rows)
    scale = torch.ones(64, requires_grad=True)
    hidden, _ = trunk(rows)
    hidden = backbone.block(2, hidden, adapter=lambda x: x * scale)
    backbone.pool(hidden)[:, 0].sum().backward()
    assert trunk.counts().hits == 5
    assert scale.grad is not None
    assert abs(scale.grad).max() > 0


def test_trunks_with_the_same_blocks_share_their_states(backbone: Backbone) -> None:
    rows = rows_of(backbone, TEXTS[:6])
    first = Trunk(backbone, 1, 1 << 20, shared=True)
    hidden, _ = first(rows)
    second, other = Trunk(backbone, 1, 0, shared=True), Trunk(backbone, 2, 1 << 20, shared=True)
    again, _ = second(rows)
    other(rows)
    assert torch.equal(again.states, hidden.states)
    assert (first.counts().misses, second.counts().misses, other.counts().misses) == (6, 0, 6)
    assert first.counts().bytes == second.counts().bytes > 0


def test_several_threads_share_states(backbone: Backbone) -> None:
    """While one drops what another one looks up."""
    rows = rows_of(backbone, TEXTS)
    expected = Trunk(backbone, 1, 0)(rows)[0].states
    trunks = [Trunk(backbone, 1, 30_000) for _ in range(4)]
    for trunk in trunks[1:]:
        trunk._kept = trunks[0]._kept
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda trunk: [trunk(rows)[0].states for _ in range(5)], trunks):
            assert all(torch.equal(states, expected) for states in found)
    assert 0 < trunks[0].counts().bytes <= 30_000
