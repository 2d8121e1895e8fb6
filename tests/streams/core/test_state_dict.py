"""The state digest tells any difference that matters, and none that does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.batch import Batch, Ragged
from streams.core.state_dict import State, copied, digest, leaves, pack, unpack

BASE: State = {
    "a": np.arange(6, dtype=np.int32).reshape(2, 3),
    "b": {"c": 1.5, "d": [1, 2], "e": np.float64(2)},
    "f": "text",
    "g": None,
}


def test_the_digest_stays_what_it_is() -> None:
    """Summaries and the contract of exactness hang on it."""
    assert digest({}) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest(BASE) == digest(copied(BASE))


@pytest.mark.parametrize(
    "other",
    [
        {**BASE, "a": BASE["a"].astype(np.int64)},
        {**BASE, "a": BASE["a"].reshape(3, 2)},
        {**BASE, "a": BASE["a"].view(np.uint32)},
        {**BASE, "a": BASE["a"].tolist()},
        {**BASE, "b": {"c": 1.5, "d": [1, 2], "e": 2.0}},
        {**BASE, "b": {"c": 1.5, "d": [1, 2], "e": np.array([2.0])}},
        {**BASE, "b": {"c": 1.5, "d": [2, 1], "e": np.float64(2)}},
        {**BASE, "f": "texT"},
        {**BASE, "g": False},
        {**BASE, "g": 0},
        {**BASE, "h": None},
        {k: v for k, v in BASE.items() if k != "g"},
        {"x": BASE},
    ],
)
def test_differences(other: State) -> None:
    assert digest(other) != digest(BASE)


@given(st.integers(0, 23), st.integers(0, 7))
def test_any_bit_of_an_array(byte: int, bit: int) -> None:
    array = BASE["a"].copy()
    array.view(np.uint8).reshape(-1)[byte] ^= 1 << bit
    assert digest({**BASE, "a": array}) != digest(BASE)


def test_moved_between_paths() -> None:
    one, two = np.zeros(2), np.ones(2)
    assert digest({"a": one, "b": two}) != digest({"a": two, "b": one})
    assert digest({"a": {"b": one}}) != digest({"ab": one})
    assert digest({"a": np.zeros(0), "b": np.zeros(2)}) != digest(
        {"a": np.zeros(2), "b": np.zeros(0)}
    )
    assert digest({"a": -np.zeros(1)}) != digest({"a": np.zeros(1)})


def test_layout_order_and_byte_order_do_not_matter() -> None:
    a = BASE["a"]
    wide = np.zeros((4, 6), np.int32)
    wide[::2, ::2] = a
    locked = a.copy()
    locked.flags.writeable = False
    for same in (np.asfortranarray(a), a.astype(">i4"), wide[::2, ::2], locked):
        assert digest({**BASE, "a": same}) == digest(BASE)
    assert digest(dict(reversed(BASE.items()))) == digest(BASE)
    assert digest({"a": np.float32(3)}) == digest({"a": np.array(3, np.float32)})


def test_digest_of_non_state_is_refused() -> None:
    with pytest.raises(ValueError, match="slash"):
        digest({"a/b": 1})
    with pytest.raises(ValueError, match="'deep/a' is an array of objects"):
        digest({"deep": {"a": np.array([None, 1])}})
    with pytest.raises(TypeError):
        digest({"a": object()})


def test_copied_state_shares_nothing() -> None:
    state: Any = {"a": {"b": np.zeros(3)}, "c": [1, [2]], "d": np.asfortranarray(np.eye(2))}
    copy = copied(state)
    for (_, old), (_, new) in zip(leaves(state), leaves(copy), strict=True):
        if isinstance(old, np.ndarray):
            assert not np.shares_memory(old, new)
    before = digest(copy)
    state["a"]["b"] += 1
    state["c"][1].append(3)
    assert digest(copy) == before != digest(state)


def test_leaves_are_in_order() -> None:
    state: State = {"b": 1, "a": {"z": 1, "y": {}}, "a-": 2}
    assert [path for path, _ in leaves(state)] == ["a/y", "a/z", "a-", "b"]
    assert digest({"a": {}}) != digest({}), "an empty part is a part"


@pytest.mark.parametrize("mixed", [False, True])
def test_pack_round_trip(mixed: bool) -> None:
    at = np.arange(5, dtype=np.int64)
    x: Any = np.stack([at, at], 1) / 2
    if mixed:
        x = {"n": x[:, 0], "w": Ragged.of_text(["", "a", "bc", "d", "é"]), "v": x}
    batch = Batch(
        at, at / 1.0, x, at.astype(np.int32), at, at % 2, probe=at > 2, classes=("a", "b")
    )
    for rows in (batch, batch[1:4], batch[5:]):
        again = unpack(copied(pack(rows)), ("a", "b"))
        assert again.classes == rows.classes
        assert digest(pack(again)) == digest(pack(rows))
        if mixed:
            assert again.x["w"].texts() == rows.x["w"].texts()  # type: ignore[index, union-attr]
