"""Bags of words and of character n-grams."""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.networks.encoders.text_bags import bag, scaled
from streams.core.batch import Array, Ragged

PLACES = 64
PRIME = 0x9E3779B97F4A7C15
BITS = 2**64 - 1

characters = st.one_of(
    st.sampled_from("abzAZ09 ,.-\n我今天觉得คนไทยかカéÉßΩω한국🙂\u3000。"),
    st.characters(codec="utf-8"),
)
texts = st.lists(st.text(characters, max_size=12), max_size=4)


def words_of(text: str) -> list[str]:
    """Return the words of a text, in lower case."""
    signs = []
    for character in text:
        separates = unicodedata.category(character)[0] in "PZC" and ord(character) < 2**16
        if ord(character) < 128:
            separates = not character.isalnum()
        lower = character.lower()
        keeps = len(lower) != 1 or ord(character) >= 2**16
        signs.append(" " if separates else character if keeps else lower)
    return "".join(signs).split(" ")


@cache
def unspaced(character: str) -> bool:
    begins = ("CJK ", "HIRAGANA ", "KATAKANA ", "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ")
    if ord(character) >= 2**16:
        return ord(character) >= 0x20000
    return ord(character) >= 0x0E00 and unicodedata.name(character, "").startswith(begins)


def ngrams_of(word: str) -> list[str]:
    """Return the n-grams of a word; ``\\0`` is its edge."""
    found = []
    edged = f"\0{word}\0"
    for size in (2, 3, 4):
        for at in range(len(edged) - size + 1):
            gram = edged[at : at + size]
            dense = [c != "\0" and unspaced(c) for c in gram]
            if (all(dense) and size < 4) or (not any(dense) and size > 2):
                found.append(gram)
    return found


def place(hashed: int, half: int) -> int:
    mixed = ((hashed ^ (hashed >> 29)) * PRIME & BITS) >> 32
    return mixed * half >> 32


def reference(text: str, places: int) -> Array:
    """Return the counts of a text, a word and an n-gram at a time."""
    counts, half = np.zeros(places, np.int64), places // 2
    for word in words_of(text):
        if not word:
            continue
        hashed = sum(ord(c) * pow(PRIME, i + 1, 2**64) for i, c in enumerate(word)) & BITS
        counts[place(hashed, half)] += 1
        for gram in ngrams_of(word):
            hashed = 0
            for character in gram:
                hashed = (hashed * PRIME + ord(character) + 1) & BITS
            counts[half + place(hashed, half)] += 1
    return np.minimum(counts, 255)


@given(texts)
def test_bag_counts_as_one_text_at_a_time_does(rows: list[str]) -> None:
    counts = bag(Ragged.of_text(rows), PLACES)
    assert counts.shape == (len(rows), PLACES)
    assert counts.dtype == np.uint8
    for row, text in zip(counts, rows, strict=True):
        assert row.tolist() == reference(text, PLACES).tolist()


@given(texts, st.integers(0, 5), st.integers(0, 5))
def test_bag_of_a_slice_is_the_slice_of_a_bag(rows: list[str], start: int, stop: int) -> None:
    column = Ragged.of_text(rows)
    part = bag(column[start:stop], PLACES)
    assert np.array_equal(part, bag(column, PLACES)[start : max(start, stop)])


def test_bag_ignores_case_and_punctuation() -> None:
    same = ["Red CAT", "red, cat!", "  RED\tcat", "red。cat"]
    counts = bag(Ragged.of_text(same))
    assert (counts == counts[0]).all()
    accents = bag(Ragged.of_text(["ÑANDÚ ÉTÉ", "ñandú été"]))
    assert (accents[0] == accents[1]).all()


def test_bag_tells_order_within_words_apart() -> None:
    """Words of the same letters differ, and so do words cut elsewhere."""
    one, other, cut = bag(Ragged.of_text(["listen", "silent", "lis ten"]))
    assert (one != other).any()
    assert (one != cut).any()


def test_bag_saturates() -> None:
    counts = bag(Ragged.of_text(["a " * 300, "a"]), 8)
    assert counts.max() == 255
    assert np.array_equal(counts[0] > 0, counts[1] > 0)


@given(texts)
def test_scaled_gives_each_half_one_length(rows: list[str]) -> None:
    counts = bag(Ragged.of_text(rows), PLACES)
    x = scaled(counts)
    assert x.dtype == np.float32
    for half in (slice(0, PLACES // 2), slice(PLACES // 2, PLACES)):
        length = np.linalg.norm(x[:, half], axis=1) / np.sqrt(PLACES / 2)
        assert length == pytest.approx((counts[:, half].any(axis=1)).astype(float), abs=1e-5)
        assert ((x[:, half] > 0) == (counts[:, half] > 0)).all()


@pytest.mark.parametrize("space", ["", " "])
def test_a_linear_model_learns_with_and_without_spaces(space: str) -> None:
    """Sentences whose mood is in one word of them, and a word nobody else has."""
    rng = np.random.default_rng(2)
    y = rng.integers(0, 2, 400)
    moods = (("喜欢", "很好", "快乐"), ("讨厌", "很坏", "难过"))
    rows = [
        space.join(["我", "今天", "觉得", str(rng.choice(moods[label])), str(rng.integers(9999))])
        for label in y
    ]
    x = scaled(bag(Ragged.of_text(rows)))
    weights = np.zeros(x.shape[1])
    for row, label in zip(x[:300], y[:300], strict=True):
        weights += 0.01 * (label - 1 / (1 + np.exp(-row @ weights))) * row
    assert ((x[300:] @ weights > 0) == y[300:]).mean() >= 0.97
