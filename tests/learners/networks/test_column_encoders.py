import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from learners.networks.column_encoders import (
    CATEGORY_BUCKETS,
    TEXT_BUCKETS,
    Inputs,
    _bag_of_words,
    _hashes,
)
from streams.core.batch import Ragged
from streams.core.schema import Feature, Schema

U64 = 2**64
PRIME = 0x9E3779B97F4A7C15
ANY_TEXT = st.lists(st.text(max_size=12), max_size=6)


def plain_hash(piece: bytes) -> int:
    total = sum((byte + 1) * pow(PRIME, i + 1, U64) for i, byte in enumerate(piece)) % U64
    return ((total ^ (total >> 29)) * PRIME % U64) >> 32


def plain_words(text: str) -> list[bytes]:
    lower = bytes(b + 32 if ord("A") <= b <= ord("Z") else b for b in text.encode())
    return re.findall(rb"[a-z0-9\x80-\xff]+", lower)


def plain_bag(texts: list[str]) -> np.ndarray:
    bag = np.zeros((len(texts), TEXT_BUCKETS))
    for row, text in enumerate(texts):
        for word in plain_words(text):
            bag[row, plain_hash(word) % TEXT_BUCKETS] += 1
    return bag / np.maximum(np.sqrt((bag * bag).sum(1, keepdims=True)), 1e-12)


@given(ANY_TEXT)
@example([])
@example([""])
@example(["", "", "a"])
@example(["ab", "cd"])  # a word ends with its row
@example(["x ", " y", "", "z"])
@example(["ÄÖ", "é", "日本 語", "Ab aB"])
def test_bag_of_words_equals_plain_python(texts: list[str]) -> None:
    column = Ragged.of_text(texts)
    np.testing.assert_allclose(_bag_of_words(column, TEXT_BUCKETS), plain_bag(texts), atol=1e-6)


@given(ANY_TEXT, st.integers(0, 6), st.integers(0, 6))
def test_bag_of_words_of_slice_equals_its_rows(texts: list[str], start: int, stop: int) -> None:
    whole = _bag_of_words(Ragged.of_text(texts), TEXT_BUCKETS)
    part = _bag_of_words(Ragged.of_text(texts)[start:stop], TEXT_BUCKETS)
    assert np.array_equal(part, whole[start : max(start, stop)])


def test_hashes_are_stable() -> None:
    """Buffers and networks on disk hang on these."""
    column = Ragged.of_text(["", "a", "red", "grün"])
    starts, lengths = column.bounds[:-1], np.diff(column.bounds)
    found = _hashes(column.values, starts, lengths).tolist()
    assert found == [plain_hash(t.encode()) for t in ("", "a", "red", "grün")]
    assert found == [0, 717581425, 508101343, 3601469936]


def test_hashes_of_different_texts_differ() -> None:
    texts = ["", "\0", "\0\0", "a", "aa", "ab", "ba", *(str(i) for i in range(20_000))]
    column = Ragged.of_text(texts)
    found = _hashes(column.values, column.bounds[:-1], np.diff(column.bounds))
    assert len(set(found.tolist())) == len(texts)
    counts = np.bincount((found % CATEGORY_BUCKETS).astype(np.int64), minlength=CATEGORY_BUCKETS)
    assert counts.min() > 0.8 * len(texts) / CATEGORY_BUCKETS, "buckets are filled unevenly"


MIXED = Schema(
    (Feature("n", "numeric"), Feature("c", "categorical"), Feature("t", "text")), "classification"
)


def test_inputs_encode_mixed_columns_as_one_row() -> None:
    inputs = Inputs(MIXED)
    n = np.array([1_700_000_000.0, 1_700_000_001.0, 1_700_000_002.0])
    text = Ragged.of_text(["red cat", "", "red"])
    x = {"n": n, "c": np.array(["x", "y", "x"]), "t": text}
    rows = inputs.rows(x)
    assert rows.shape == (3, *inputs.shape) == (3, 1 + CATEGORY_BUCKETS + TEXT_BUCKETS)
    category = rows[:, 1 : 1 + CATEGORY_BUCKETS]
    assert category.sum(1).tolist() == [1, 1, 1]
    assert np.array_equal(category[0], category[2])
    assert not np.array_equal(category[0], category[1])
    words = rows[:, 1 + CATEGORY_BUCKETS :]
    np.testing.assert_allclose(np.linalg.norm(words, axis=1), [1, 0, 1], rtol=1e-6)

    inputs.observe(x)
    tensor = inputs.tensor(rows).numpy()
    np.testing.assert_allclose(tensor[:, 0], [-1.2247, 0, 1.2247], atol=1e-3)
    np.testing.assert_allclose(tensor[:, 1:], rows[:, 1:], rtol=1e-6)
    assert tensor.dtype == np.float32


def test_inputs_of_texts_are_float32() -> None:
    inputs = Inputs(Schema((Feature("t", "text"),), "classification"))
    x = {"t": Ragged.of_text(["a b", "c"])}
    rows = inputs.rows(x)
    assert rows.dtype == np.float32
    inputs.observe(x)
    assert np.array_equal(inputs.tensor(rows).numpy(), rows)


def test_inputs_store_images_as_bytes_and_scale_to_1() -> None:
    inputs = Inputs(Schema((Feature("i", "image", (1, 2, 2)),), "classification"))
    x = np.array([[[[0, 255], [51, 204]]]], np.uint8)
    rows = inputs.rows(x)
    assert rows.dtype == np.uint8
    inputs.observe(rows)
    np.testing.assert_allclose(inputs.tensor(rows).numpy().ravel(), [0, 1, 0.2, 0.8], atol=1e-6)


def test_tensor_scales_at_call_time_unless_disabled() -> None:
    schema = Schema((Feature("a", "numeric"),), "regression")
    inputs, plain = Inputs(schema), Inputs(schema, scale=False)
    x = np.array([[10.0], [20.0]])
    assert inputs.tensor(x).numpy().ravel().tolist() == [10, 20]
    for each in (inputs, plain):
        each.observe(x)
    assert inputs.tensor(x).numpy().ravel().tolist() == [-1, 1]
    assert plain.tensor(x).numpy().ravel().tolist() == [10, 20]
    assert inputs.tensor(inputs.rows(np.array([15.0]))).shape == (1, 1)


def test_inputs_vector_beside_other_columns_raises() -> None:
    schema = Schema((Feature("a", "numeric"), Feature("v", "vector", (3,))), "classification")
    with pytest.raises(ValueError, match="'v' stands beside"):
        Inputs(schema)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("kind", ["numeric", "text"])
def test_tensor_clips_numbers_beyond_float32(scale: bool, kind: str) -> None:
    """Warnings are errors here."""
    others = (Feature("b", kind),)  # type: ignore[arg-type]
    inputs = Inputs(Schema((Feature("a", "numeric"), *others), "classification"), scale)
    a = np.array([1e39, -1e300, 0.5])
    b = np.zeros(3) if kind == "numeric" else Ragged.of_text(["", "", ""])
    x = np.stack([a, np.zeros(3)], 1) if inputs.shape == (2,) else {"a": a, "b": b}
    inputs.observe(x)
    found = inputs.tensor(inputs.rows(x)).numpy()[:, 0]
    assert np.isfinite(found).all()
    assert scale or found.tolist() == [np.finfo(np.float32).max, np.finfo(np.float32).min, 0.5]
