"""Class names that differ only in spelling."""

from __future__ import annotations

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.schema import Feature, Schema
from streams.decoding.class_names import difference, lookalikes, shown, spelling
from streams.decoding.decoder import Columns, Decoder, NamedColumn
from tests.support.fuzz import examples

WORDS = st.text("aeéßİ\u0301ﬁk 1", min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("one", "other", "aspects"),
    [
        ("café", "cafe\u0301", "Unicode form"),
        ("yes", "YES", "case"),
        ("yes", " yes", "spaces"),
        ("a b", "a  B", "spaces and case"),
        ("a b", "a\u00a0b", "spaces"),
        ("ab", "a\u200bb", "Unicode form"),
        ("Straße", "STRASSE", "case"),
    ],
)
def test_lookalikes_differ_in_named_aspects(one: str, other: str, aspects: str) -> None:
    assert lookalikes(["x", one, 1, other, True]) == [(one, other)]
    assert difference(one, other) == aspects


def test_different_names_are_no_lookalikes() -> None:
    assert lookalikes(["a", "b", "a b", "ab", "1", 1, 1.0, True, "é", "e"]) == []


def test_shown_escapes_what_cannot_be_seen() -> None:
    assert shown("café") == "'café'"
    assert shown("cafe\u0301") == r"'cafe\u0301'"
    assert shown("a\u00a0b") == r"'a\xa0b'"


@examples(0.5)
@given(st.lists(WORDS, unique=True))
def test_any_mixture_of_spellings_is_grouped(words: list[str]) -> None:
    """Every spelling of a word is in its group, whatever else is among the names."""
    respellings = (str.upper, lambda w: f" {w} ", lambda w: unicodedata.normalize("NFD", w))
    names = list(
        dict.fromkeys([w for word in words for w in (word, *(f(word) for f in respellings))])
    )
    groups = lookalikes(names)
    assert all(len({spelling(name) for name in group}) == 1 for group in groups)
    grouped = {name for group in groups for name in group}
    for name in names:
        alike = [other for other in names if spelling(other) == spelling(name)]
        assert (name in grouped) == (len(alike) > 1)
    for first, *others in groups:
        assert all(difference(first, other) for other in others)


@examples(0.5)
@given(st.lists(WORDS, unique=True, min_size=1), st.lists(st.tuples(WORDS, st.integers(0, 3))))
def test_reason_of_any_unstated_class_says_what_differs(
    stated: list[str], others: list[tuple[str, int]]
) -> None:
    """A class is read if it is stated as it is written. Else the reason names a stated class that
    differs only in spelling, where there is one."""
    respell = (str, str.upper, lambda w: f" {w}", lambda w: unicodedata.normalize("NFD", w))
    names = [*stated, *(respell[way](word) for word, way in others)]
    columns = Columns(label=NamedColumn("y"))
    decoder = Decoder(Schema((Feature("x", "numeric"),), "classification", tuple(stated)), columns)
    table = pa.table({"x": [0.5] * len(names), "y": names})
    rows = np.arange(len(names))
    batch = decoder(table, np.zeros(len(names), np.int32), rows, rows.astype(np.float64))
    assert batch.offset.tolist() == [i for i, name in enumerate(names) if name in stated]
    for letter in batch.dead:
        name = names[letter.offset]
        alike = [other for other in stated if spelling(other) == spelling(name)]
        assert ("only in" in letter.reason) == bool(alike)
        if alike:
            assert f"it differs from {shown(alike[0])} only in" in letter.reason
