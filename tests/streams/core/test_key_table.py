"""The key table against a slow one of dictionaries; its floor, its memory, and its state."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.errors import StreamError
from streams.core.hashing import mix
from streams.core.key_table import WAYS, Admitted, CountMinSketch, KeyTable
from streams.core.state_dict import copied, digest, leaves

RESERVED = -(2**63)
KEYS = [*range(40), RESERVED, RESERVED + 1, 2**63 - 1]


class SlowTable:
    """A key table that takes one key at a time."""

    def __init__(self, rows: int, admit_after: int, min_age: int) -> None:
        self.sets = -(-rows // WAYS)
        self.admit_after, self.min_age = admit_after, min_age
        self.row_of: dict[int, int] = {}
        self.seen: dict[int, int] = {}
        self.sketch = SlowSketch(self.sets * WAYS)
        self.clock = 0

    def observe(self, keys: list[int]) -> list[tuple[int, int]]:
        keys = [legal(key) for key in keys]
        for key in self.row_of:
            if key in keys:
                self.seen[key] = self.clock
        absent = {key: n for key, n in sorted(Counter(keys).items()) if key not in self.row_of}
        if self.admit_after > 1:
            estimates = self.sketch.add(absent)
            absent = {key: n for key, n in absent.items() if estimates[key] >= self.admit_after}
        admitted = []
        for key in absent:
            row = self.free_row(key)
            if row is not None:
                last = next((k for k, r in self.row_of.items() if r == row), None)
                if last is not None:
                    del self.row_of[last], self.seen[last]
                self.row_of[key], self.seen[key] = row, self.clock
                admitted.append((row, key))
        return admitted

    def free_row(self, key: int) -> int | None:
        """The first free row of the key's set, else the row that was seen longest ago."""
        rows = range(slow_set(key, self.sets) * WAYS, (slow_set(key, self.sets) + 1) * WAYS)
        key_of = {row: key for key, row in self.row_of.items()}
        for row in rows:
            if row not in key_of:
                return row
        age, row = min((self.seen[key_of[row]], row) for row in rows)
        return row if self.clock - age > self.min_age else None


class SlowSketch:
    def __init__(self, keys: int) -> None:
        self.width, self.limit = 4, 2 * keys
        while self.width < 4 * keys:
            self.width *= 2
        self.cells: dict[tuple[int, int], int] = {}
        self.added = 0

    def add(self, counts: dict[int, int]) -> dict[int, int]:
        places = {key: slow_places(key, self.width) for key in counts}
        estimates = {
            key: min(min(self.cells.get(place, 0) for place in places[key]) + n, 255)
            for key, n in counts.items()
        }
        for key, estimate in estimates.items():
            for place in places[key]:
                self.cells[place] = max(self.cells.get(place, 0), estimate)
        self.added += sum(counts.values())
        while self.added >= self.limit:
            self.added //= 2
            self.cells = {place: count // 2 for place, count in self.cells.items()}
        return estimates


def legal(key: int) -> int:
    return RESERVED + 1 if key == RESERVED else key


def slow_set(key: int, sets: int) -> int:
    return (key * 0x9E3779B97F4A7C15 % 2**64 >> 32) * sets >> 32


def slow_places(key: int, width: int) -> list[tuple[int, int]]:
    odds = [int(odd) | 1 for odd in mix(np.arange(CountMinSketch.HASHES), 1)]
    return [(i, (key * odd % 2**64) * width >> 64) for i, odd in enumerate(odds)]


class Call(NamedTuple):
    keys: list[int]
    events: int


calls = st.lists(
    st.builds(Call, st.lists(st.sampled_from(KEYS), max_size=30), st.integers(0, 4)), max_size=20
)


@given(calls, st.integers(1, 20), st.integers(1, 4), st.integers(0, 6))
def test_table_is_that_of_dictionaries(
    calls: list[Call], rows: int, admit_after: int, min_age: int
) -> None:
    """Also after it was loaded from its state, at each call."""
    table, slow = KeyTable(rows, admit_after, min_age), SlowTable(rows, admit_after, min_age)
    for keys, events in calls:
        heir = KeyTable(rows, admit_after, min_age)
        heir.load(copied(table.state()))
        admitted = table.observe(np.array(keys, np.int64))
        assert sorted(pairs(admitted)) == sorted(slow.observe(keys))
        assert pairs(heir.observe(np.array(keys, np.int64))) == pairs(admitted)
        for each in (table, heir):
            each.advance(events)
        slow.clock += events
        assert digest(heir.state()) == digest(table.state())
        wanted = [slow.row_of.get(legal(key), -1) for key in KEYS]
        assert table.find(np.array(KEYS)).tolist() == wanted
        assert len(table) == len(slow.row_of)


def pairs(admitted: Admitted) -> list[tuple[int, int]]:
    return list(zip(admitted.rows.tolist(), admitted.keys.tolist(), strict=True))


@given(calls, st.integers(0, 3))
def test_row_is_not_taken_within_min_age(calls: list[Call], min_age: int) -> None:
    """One set, so that keys contend for its eight rows."""
    table = KeyTable(WAYS, 1, min_age)
    owner: dict[int, int] = {}
    seen: dict[int, int] = {}
    clock = 0
    for keys, events in calls:
        seen |= {key: clock for key in map(legal, keys) if key in owner.values()}
        for row, key in pairs(table.observe(np.array(keys, np.int64))):
            assert row not in owner or clock - seen[owner[row]] > min_age
            owner[row] = key
            seen[key] = clock
        assert len(set(owner.values())) == len(owner), "two rows for one key"
        table.advance(events)
        clock += events


def test_find_takes_any_shape_and_changes_nothing() -> None:
    table = KeyTable(64)
    keys = np.arange(12)
    table.observe(np.repeat(keys, 2))
    before = digest(table.state())
    rows = table.find(keys)
    assert (rows >= 0).all()
    assert len(set(rows.tolist())) == 12
    assert (table.find(keys.reshape(3, 4)) == rows.reshape(3, 4)).all()
    assert (table.find(keys.reshape(3, 4).T) == rows.reshape(3, 4).T).all()
    assert table.find(np.zeros((0, 5), np.int64)).shape == (0, 5)
    assert table.find(np.array([99])).tolist() == [-1]
    assert digest(table.state()) == before


def test_key_is_admitted_at_its_second_occurrence() -> None:
    table = KeyTable(64, admit_after=2)
    assert len(table.observe(np.array([7, 8, 9])).rows) == 0
    admitted = table.observe(np.array([7, 5, 5, 4]))
    assert admitted.keys.tolist() == sorted([5, 7], key=lambda key: slow_set(key, 8))
    assert admitted.rows.tolist() == table.find(admitted.keys).tolist()


def test_least_recent_key_goes_when_its_set_is_full() -> None:
    table = KeyTable(WAYS, admit_after=1, min_age=5)
    for key in range(WAYS):
        table.observe(np.array([key]))
        table.advance(1)
    first = table.find(np.array([0]))[0]
    assert len(table.observe(np.array([100])).rows) == 1  # 8 events after key 0
    assert table.find(np.array([0, 100])).tolist() == [-1, first]
    new = np.array([101, 102, 103, 104])
    assert table.observe(new).rows.tolist() == [1, 2]  # key 3 was seen 5 events ago
    table.advance(2)
    assert table.observe(new).rows.tolist() == [3, 4]


def test_servable_finds_what_the_table_finds() -> None:
    table = KeyTable(64, admit_after=1)
    table.observe(np.arange(30))
    for state in (table.servable(), table.state()):
        server = KeyTable(64, admit_after=1)
        server.load(copied(state))
        assert server.find(np.arange(40)).tolist() == table.find(np.arange(40)).tolist()


def test_state_is_as_large_as_what_is_in_use() -> None:
    table = KeyTable(80_000, admit_after=1)
    assert sum(np.size(leaf) for leaf in table.state().values()) == 1
    table.observe(np.arange(10))
    assert [len(table.state()[name]) for name in ("rows", "keys", "seen")] == [10, 10, 10]
    assert "sketch" not in table.state()
    assert table.memory_bytes() == KeyTable(80_000, admit_after=1).memory_bytes()


def test_state_that_was_handed_out_does_not_change() -> None:
    table = KeyTable(64)
    table.observe(np.arange(20))
    kept = table.state()
    before = digest(kept)
    heir = KeyTable(64)
    heir.load(kept)
    for each in (table, heir):
        each.advance(3)
        each.observe(np.arange(30))
    assert digest(kept) == before
    assert digest(heir.state()) == digest(table.state())


def test_state_with_keys_in_other_sets_is_refused() -> None:
    table = KeyTable(64, admit_after=1)
    table.observe(np.arange(20))
    state = copied(table.state())
    state["rows"] = state["rows"][::-1]
    with pytest.raises(StreamError, match="learn anew"):
        KeyTable(64, admit_after=1).load(state)


def test_half_full_table_leaves_out_few_keys() -> None:
    """The share that the docstring states."""
    table = KeyTable(8192, admit_after=1)
    table.observe(np.arange(4096))
    assert len(table) / 4096 > 0.98


def test_sketch_forgets() -> None:
    """A key of long ago is as one that never came; one that goes on coming is known."""
    sketch = CountMinSketch(64)
    one = np.ones(1, np.int64)
    sketch.add(np.array([-1]), 40 * one)
    for key in range(2000):
        assert sketch.add(np.array([key]), one)[0] <= 8, "counts of others pile up"
        if key % 10 == 0:
            assert sketch.add(np.array([-2]), one)[0] >= min(key // 10, 3)
    assert sketch.add(np.array([-1]), one)[0] <= 3


def test_sketch_takes_few_new_keys_for_old_ones() -> None:
    """At most the share that its docstring states, just before it forgets."""
    sketch = CountMinSketch(1024)
    estimates = [
        sketch.add(np.arange(i, i + 32), np.ones(32, np.int64)) for i in range(0, 2016, 32)
    ]
    assert np.mean(np.concatenate(estimates[-8:]) > 1) < 0.025


def test_counts_of_the_sketch_stop_at_255() -> None:
    sketch = CountMinSketch(1024)
    for _ in range(4):
        estimates = sketch.add(np.array([3, 4]), np.array([100, 1]))
    assert estimates.tolist() == [255, 4]


def test_flood_of_ids_moves_no_recurring_id() -> None:
    """100,000 ids that come once, beside 400 that come again: table and state stay as large."""
    table = KeyTable(4096, min_age=5000)
    recurring = -1 - np.arange(400)
    rng = np.random.default_rng(3)
    sizes = []
    for first in range(0, 100_000, 500):
        for part in np.split(rng.choice(recurring, 1600), 4):
            table.observe(part)
        table.observe(np.arange(first, first + 500))
        table.advance(500)
        if first == 5000:
            rows = table.find(recurring)
        if first >= 5000:
            assert table.find(recurring).tolist() == rows.tolist()
        sizes.append(sum(np.size(leaf) for _, leaf in leaves(table.state())))
    assert (rows >= 0).all()
    assert max(sizes) < 3 * 4096 + 4 * 4 * 4096 + 3
    assert table.memory_bytes() == KeyTable(4096, min_age=5000).memory_bytes() == 8 * 4 * 4096
    assert len(table) < 400 + 1000, "few ids that came once have a row"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0,), "at least 1 row"), ((8, 0), "from 1 to 255"), ((8, 256), "from 1 to 255")],
)
def test_bad_argument_is_refused(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KeyTable(*arguments)


def test_observe_and_find_is_observe_then_find() -> None:
    rng = np.random.default_rng(5)
    one, two = KeyTable(64, 2, min_age=20), KeyTable(64, 2, min_age=20)
    for _ in range(60):
        keys = rng.integers(0, 200, 40)
        admitted, rows = one.observe_and_find(keys)
        other = two.observe(keys)
        np.testing.assert_array_equal(admitted.rows, other.rows)
        np.testing.assert_array_equal(rows, two.find(keys))
        for table in (one, two):
            table.advance(7)
    assert (rows >= 0).any()
    assert (rows < 0).any()


def test_table_of_twice_as_many_rows_keeps_most_keys() -> None:
    """A set of eight rows gets four keys on average: 0.84 % of them find no place (Poisson)."""
    table = KeyTable(65_536, admit_after=1)
    keys = np.random.default_rng(0).integers(-(2**62), 2**62, 32_768)
    table.observe(keys)
    assert 0.988 < len(table) / len(keys) < 0.995
