"""Hashes of texts: fixed values, all 64 bits in use, and equal wherever the text lies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.batch import Ragged
from streams.core.hashing import category_keys, hash_texts, mix

MASK = 2**64 - 1


def hash_by_hand(text: str) -> int:
    """The hash of one text, in Python's integers."""
    raw = text.encode()
    words = [int.from_bytes(raw[i : i + 8], "little") for i in range(0, len(raw), 8)] or [0]
    odd = 0xA0761D6478BD642F
    total = words[0] + len(raw) * odd
    for place, word in enumerate(words[1:], start=1):
        total += splitmix((word + place * odd) & MASK, seed=0)
    return (splitmix(total & MASK, seed=1) ^ 2**63) - 2**63


def splitmix(z: int, seed: int) -> int:
    z = (z + seed * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15) & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


@given(st.lists(st.text(max_size=40)), st.data())
def test_hash_is_that_of_the_text_wherever_it_lies(texts: list[str], data: st.DataObject) -> None:
    column = Ragged.of_text(texts)
    wanted = [hash_by_hand(text) for text in texts]
    assert hash_texts(column).tolist() == wanted
    start = data.draw(st.integers(0, len(texts)))
    assert hash_texts(column[start:]).tolist() == wanted[start:]
    assert hash_texts(column[:start]).tolist() == wanted[:start]


def test_hashes_are_stable() -> None:
    """A change of these makes every stored table worthless."""
    column = Ragged.of_text(["", "a", "a\0", "elec2", "12345678", "123456789", "Zürich " * 5])
    assert hash_texts(column).tolist() == [
        -817120325086700006,
        -7754343449525086269,
        -7345381746322793245,
        -8497836763039587181,
        -665859870868293936,
        8239007858248839188,
        4552111798547757498,
    ]


def test_a_million_short_ids_have_a_million_hashes() -> None:
    """And each bit of the hash is set in half of them."""
    values = np.frombuffer("".join(map(str, range(1_000_000))).encode(), np.uint8)
    lengths = np.searchsorted(10 ** np.arange(1, 7), np.arange(1_000_000), side="right") + 1
    column = Ragged(values, np.concatenate([[0], np.cumsum(lengths)]))
    hashes = hash_texts(column)
    assert (np.diff(np.sort(hashes)) > 0).all()
    bits = np.unpackbits(hashes[:100_000].view(np.uint8)).reshape(-1, 64)
    np.testing.assert_allclose(bits.mean(0), 0.5, atol=0.01)


def test_one_changed_letter_changes_half_of_the_bits() -> None:
    texts = [f"customer-{i:05}-north" for i in range(2000)]
    for place in (0, 8, 13, 19):
        changed = [text[:place] + "X" + text[place + 1 :] for text in texts]
        differ = hash_texts(Ragged.of_text(texts)) ^ hash_texts(Ragged.of_text(changed))
        bits = np.unpackbits(differ.view(np.uint8)).reshape(-1, 64)
        np.testing.assert_allclose(bits.mean(0), 0.5, atol=0.06)


def test_integers_of_64_bits_are_keys_already() -> None:
    keys = np.array([3, -1, 2**62])
    assert category_keys(keys) is keys


@pytest.mark.parametrize(
    "column",
    [
        np.array([5, -7], np.int32),
        np.array([0.5, np.nan]),
        np.array([True, False]),
        np.array(["a", "longer than a word"]),
        np.array([None, "x"], object),
    ],
    ids=["int32", "float", "bool", "str", "object"],
)
def test_other_columns_are_keyed_by_their_text(column: np.ndarray) -> None:
    texts = Ragged.of_text(str(value) for value in column.tolist())
    assert category_keys(column).tolist() == hash_texts(texts).tolist()
    assert category_keys(texts).tolist() == hash_texts(texts).tolist()


def test_mix_differs_by_seed() -> None:
    ids = np.arange(1000)
    assert len(np.unique(np.concatenate([mix(ids, 0), mix(ids, 1)]))) == 2000
