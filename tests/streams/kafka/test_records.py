"""Messages of several partitions in one order: nothing lost, nothing twice, no order turned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.errors import StreamError
from streams.kafka import records as module
from streams.kafka.records import Fetched, Held, Messages, Place, Topics

TOPICS = Topics(["ev", "more"], "lab")
PLACES: list[Place] = [("ev", 0), ("ev", 3), ("more", 0), ("lab", 1)]


def piece(place: Place, offset: Sequence[int], time: Sequence[int]) -> Fetched:
    values: list[bytes | None] = [f"{place[0]}{place[1]}@{at}".encode() for at in offset]
    return Fetched(place, np.array(offset, np.int64), np.array(time, np.int64), values)


def told(messages: Messages) -> list[bytes | None]:
    return messages.values


def test_names_of_partitions() -> None:
    named = {place: TOPICS.name(place) for place in PLACES}
    assert named == {
        ("ev", 0): "0",
        ("ev", 3): "3",
        ("more", 0): "65536",
        ("lab", 1): "labels/1",
    }
    assert [TOPICS.place(name) for name in named.values()] == PLACES
    assert TOPICS.cursor({("lab", 1): 5, ("ev", 0): 7}) == {"0": 7, "labels/1": 5}
    assert TOPICS.names == ["ev", "more", "lab"]


@pytest.mark.parametrize("name", ["131072", "labels/65536"])
def test_a_partition_of_a_topic_that_is_no_more_in_the_job(name: str) -> None:
    with pytest.raises(StreamError, match=rf"^stream\.topic: the run has read partition {name}"):
        TOPICS.place(name)


def test_a_topic_of_events_and_labels() -> None:
    with pytest.raises(StreamError, match=r"stream\.labels\.topic: 'ev' is a topic of events"):
        Topics(["ev"], "ev")


def test_merged_by_time_labels_first_and_no_partition_turned() -> None:
    merged = TOPICS.merge(
        [
            piece(("ev", 0), [4, 5], [10, 30]),
            piece(("lab", 1), [0, 1], [30, 31]),
            piece(("ev", 3), [9, 10, 11], [20, 5, 30]),  # the second came late: it stays behind
            piece(("ev", 0), [6], [29]),
        ]
    )
    assert told(merged) == [
        b"ev0@4",  # 10
        b"ev3@9",  # 20
        b"ev3@10",  # 5, counts as 20
        b"lab1@0",  # 30: labels go first
        b"ev0@5",  # 30
        b"ev0@6",  # 29, counts as 30
        b"ev3@11",  # 30
        b"lab1@1",  # 31
    ]
    assert merged.label.tolist() == [False] * 3 + [True] + [False] * 3 + [True]
    assert merged.partition.tolist() == [0, 3, 3, 1, 0, 0, 3, 1]
    assert merged.partition.dtype == np.int32
    assert merged.time.tolist() == [10, 20, 5, 30, 30, 29, 30, 31]
    assert merged.at(3, 10) == 2


def test_nothing_merged() -> None:
    merged = TOPICS.merge([])
    assert merged.values == []
    assert merged.partition.dtype == np.int32
    assert merged.offset.dtype == merged.time.dtype == np.int64
    assert merged.label.dtype == np.bool_


def test_without_times_side_by_side() -> None:
    """A broker of old keeps none: each partition goes by its share of the block, labels first."""
    parts = [piece(("ev", 0), [0, 1], [-1, -1]), piece(("lab", 1), [0, 1, 2, 3], [-1] * 4)]
    # shares: 1/4 and 3/4; 1/8, 3/8, 5/8 and 7/8
    assert told(TOPICS.merge(parts)) == [
        b"lab1@0",
        b"ev0@0",
        b"lab1@1",
        b"lab1@2",
        b"ev0@1",
        b"lab1@3",
    ]


offsets = st.lists(st.integers(1, 3), max_size=12).map(lambda steps: np.cumsum([0, *steps]))
"""Those of a partition, with gaps."""


@st.composite
def partitions(draw: st.DrawFn) -> dict[Place, Fetched]:
    """Some partitions, each with its messages; their times, if any, go back and forth."""
    found, time = {}, draw(st.sampled_from([st.integers(0, 8), st.integers(0, 8), st.just(-1)]))
    for place in PLACES:
        at = draw(offsets).tolist()[: draw(st.integers(0, 12))]
        times = st.lists(time, min_size=len(at), max_size=len(at))
        found[place] = piece(place, at, draw(times))
    return found


@st.composite
def torn(draw: st.DrawFn, whole: Fetched) -> list[Fetched]:
    """The same messages in several pieces."""
    n = len(whole.values)
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=3)))
    places = zip([0, *cuts], [*cuts, n], strict=True)
    return [whole.rows(slice(a, b)) for a, b in places if a < b]


@given(partitions(), st.data())
def test_the_order_hangs_on_the_ranges_alone(
    parts: dict[Place, Fetched], data: st.DataObject
) -> None:
    """In whatever pieces, and in whichever order of partitions, they come."""
    plain = TOPICS.merge([part for part in parts.values() if part.values])
    order = data.draw(st.permutations(PLACES))
    again = TOPICS.merge([p for place in order for p in data.draw(torn(parts[place]))])
    assert told(plain) == told(again)
    for one, other in zip(plain[:4], again[:4], strict=True):
        np.testing.assert_array_equal(one, other)
    for place, part in parts.items():  # each partition in its own order
        mine = [v for v in told(plain) if v and v.startswith(f"{place[0]}{place[1]}@".encode())]
        assert mine == part.values


@given(partitions(), st.data())
def test_all_that_is_held_is_taken_once_and_in_order(
    parts: dict[Place, Fetched], data: st.DataObject
) -> None:
    """Whatever comes and is taken in turns: per partition what came, in its order; and nothing is
    taken that is later than what may yet come of a partition that is behind."""
    held = Held(TOPICS, PLACES)
    coming = {place: data.draw(torn(part)) for place, part in parts.items()}
    given: dict[Place, list[bytes | None]] = {place: [] for place in PLACES}
    clocks = dict.fromkeys(PLACES, -2)  # latest time that was taken of each
    while any(coming.values()) or len(held):
        for place in data.draw(st.lists(st.sampled_from(PLACES), max_size=4)):
            if coming[place]:
                held.add(coming[place].pop(0))
        behind = {place for place in PLACES if coming[place]}
        if waits := sorted(behind & held.empty):  # nothing of it yet: the caller waits
            held.add(coming[waits[0]].pop(0))
            continue
        if not len(held):
            continue
        size = data.draw(st.integers(1, 9))
        certain = min((latest(held, place) for place in behind), default=99)
        taken = held.take(size, {place for place in PLACES if not coming[place]})
        assert 1 <= sum(len(p.values) for p in taken) <= size
        for p in taken:
            given[p.place] += p.values
            clocks[p.place] = max(clocks[p.place], int(p.time.max()))
            assert int(p.time.max()) <= certain
    assert given == {place: part.values for place, part in parts.items()}


def latest(held: Held, place: Place) -> int:
    return max(int(p.time.max()) for p in held._pieces[place])


def test_taken_up_to_what_the_one_behind_may_still_bring() -> None:
    held = Held(TOPICS, PLACES[:2])
    held.add(piece(PLACES[0], [0, 1, 2, 3], [1, 5, 6, 9]))
    held.add(piece(PLACES[1], [0, 1], [2, 5]))
    taken = held.take(100, {PLACES[0]})  # of the second more may come, at 5 or later
    assert [p.offset.tolist() for p in taken] == [[0, 1], [0, 1]]
    assert len(held) == 2
    assert held.empty == {PLACES[1]}
    held.add(piece(PLACES[1], [2], [6]))
    assert [p.offset.tolist() for p in held.take(1, set(PLACES))] == [[2]]
    taken = held.take(100, set(PLACES))
    assert [(p.place, p.offset.tolist()) for p in taken] == [(PLACES[0], [3]), (PLACES[1], [2])]


def test_what_is_anothers_by_now_is_let_go() -> None:
    held = Held(TOPICS, PLACES[:1])
    held.add(piece(PLACES[1], [0], [1]))
    assert len(held) == 0
    assert held.places == PLACES[:1]
    assert held.take(5, set()) == []


def test_large_messages_make_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 100)
    held = Held(TOPICS, PLACES[:2])
    held.add(piece(PLACES[0], range(19), range(19)))  # of 5 and, from the tenth on, 6 bytes
    held.add(piece(PLACES[1], [0], [0]))
    assert len(held) == 20
    assert held.fills(1000)
    assert held.may_grow(1000)
    assert sum(len(p.values) for p in held.take(1000, set(PLACES))) == 20 * 100 // 109
    held.add(piece(PLACES[0], range(19, 120), range(19, 120)))
    assert not held.may_grow(1000)
    while len(held):
        assert 1 <= sum(len(p.values) for p in held.take(1000, set(PLACES))) <= 20
    assert not held.fills(1)
    assert held.empty == set(PLACES[:2])
    assert held.may_grow(1)
