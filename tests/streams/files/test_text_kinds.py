"""What a column of text is taken for."""

from __future__ import annotations

import random
import string
import uuid
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.files.text_kinds import FEW_CATEGORIES, IDENTIFIER_BYTES, kind_of_text

N = 200
CHANCE = random.Random(5)
WORDS = ["the", "parcel", "came", "late", "and", "a", "box", "was", "open", "when", "we", "took"]


def rows(make: Callable[[int], Any]) -> list[Any]:
    return [make(row) for row in range(N)]


def sentence(row: int) -> str:
    return " ".join(CHANCE.choices(WORDS, k=6))


def letters(count: int) -> str:
    return "".join(CHANCE.choices(string.ascii_letters, k=count))


TIMES = {
    "days": rows(lambda i: f"2024-05-{i % 28 + 1:02}"),
    "moments": rows(lambda i: f"2024-05-01T{i % 24:02}:{i % 60:02}:00Z"),
    "spaced": rows(lambda i: f"2024-05-01 {i % 24:02}:00:00.25"),
    "offsets": rows(lambda i: f"2024-05-01T00:00+0{i % 9}:00"),
    "with gaps": rows(lambda i: f"2024-05-01T{i % 24:02}:00" if i % 2 else None),
    "one in twenty is none": rows(lambda i: "soon" if i % 20 == 0 else "2024-05-01"),
}
IDENTIFIERS = {
    "tail numbers": rows(lambda i: f"N{14228 + 7 * i}"),
    "users": rows(lambda i: f"u{i:05}"),
    "uuids": rows(lambda i: str(uuid.UUID(int=CHANCE.getrandbits(128)))),
    "uuids in braces": rows(lambda i: f"{{{uuid.UUID(int=CHANCE.getrandbits(128))}}}"),
    "sha1": rows(lambda i: f"{CHANCE.getrandbits(160):040x}"),
    "machines": rows(lambda i: f"10.0.{i % 7}.{i}"),
    "mail": rows(lambda i: f"{letters(6)}@example.org"),
    "paths": rows(lambda i: f"/cart/item/{i}"),
    "dates of no order": rows(lambda i: f"{i % 28 + 1:02}.{i % 12 + 1:02}.20{i % 100:02}"),
    "hours": rows(lambda i: f"{i % 24:02}:{i * 7 % 60:02}"),
    "seats": rows(lambda i: f"{i % 90}{'ABCDEF'[i % 6]}x{i}"),
    "surnames": rows(lambda i: letters(7).capitalize()),
    "one in ten is none": rows(lambda i: "of two words" if i % 10 == 0 else f"u{i}"),
    "with gaps": rows(lambda i: None if i % 3 else f"u{i}"),
    "with NA": rows(lambda i: f"u{i}" if i % 3 else "NA"),
}
REPEATED = {
    "few words": rows(lambda i: ["very good", "so so", "bad"][i % 3]),
    "fifty of two words": rows(lambda i: f"town {i % FEW_CATEGORIES}"),
    "non-ASCII": rows(lambda i: ["北京", "上海", "München"][i % 3]),
    "each four times": [f"a shop called {i % 250}" for i in range(1000)],
    "yes and no": rows(lambda i: ["yes", "no"][i % 2]),
    "empty": rows(lambda i: ""),
    "missing": rows(lambda i: "n/a"),
    "true and false": rows(lambda i: ["true", "false"][i % 2]),
}
PADDED = {
    "postcodes": rows(lambda i: f"{i * 411 % 99999:05}"),
    "one of many": rows(lambda i: "007" if i == 3 else str(i * 1000)),
    "negative": rows(lambda i: "-01" if i == 3 else str(i)),
}
NUMBERS = {
    "integers": rows(lambda i: str(i * 37)),
    "ids of one row each": rows(lambda i: str(10**9 + i)),
    "reals": rows(lambda i: f"{i * 0.25}"),
    "below one": rows(lambda i: f"0.{i}"),
    "zero": rows(lambda i: "0"),
    "exponents": rows(lambda i: f"{i}e3"),
    "mostly": rows(lambda i: "low" if i % 20 == 0 else str(i * 0.5)),
    "with NA": rows(lambda i: "NA" if i % 3 else str(i)),
}
TEXTS = {
    "sentences": rows(sentence),
    "Chinese": rows(
        lambda i: "我今天觉得" + "".join(CHANCE.choices("喜欢讨厌很好快乐", k=4)) + str(i)
    ),
    "one long word": rows(lambda i: letters(IDENTIFIER_BYTES + 1)),
    "addresses of the web": rows(lambda i: f"https://shop.de/{letters(5)}/{i}"),
    "tags": rows(lambda i: ",".join([letters(3), letters(4), str(i)])),
    "accents": rows(lambda i: f"é{letters(6)}"),
    "two in ten are of two words": rows(lambda i: f"u {i}" if i % 5 == 0 else f"u{i}"),
    "fifty-one, each twice and less": [f"town {i % 51}" for i in range(102)],
}
CASES = [
    *((name, "time", values) for name, values in TIMES.items()),
    *((name, "categorical", values) for name, values in {**IDENTIFIERS}.items()),
    *((name, "categorical", values) for name, values in {**REPEATED, **PADDED}.items()),
    *((name, "numeric", values) for name, values in NUMBERS.items()),
    *((name, "text", values) for name, values in TEXTS.items()),
]


@pytest.mark.parametrize(
    ("kind", "values"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_kind_of_text_by_cases(kind: str, values: list[Any]) -> None:
    assert kind_of_text(pa.array(values, pa.string())) == kind


@given(st.permutations(range(60)), st.sampled_from(["u{}", "0{}", "{}", "a b {}", "town {}"]))
def test_kind_of_text_needs_no_order(order: list[int], form: str) -> None:
    values = [form.format(i) for i in range(60)]
    shuffled = [values[i] for i in order]
    assert kind_of_text(pa.array(values)) == kind_of_text(pa.array(shuffled))
