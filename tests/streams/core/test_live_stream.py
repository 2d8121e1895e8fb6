"""Ranges of blocks, and what of a block is left from a position on."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.core.batch import Batch, DeadLetter, Labels
from streams.core.live_stream import ranges_of, reached, skip_before, truncate_at

Item = tuple[str, int, int]
"""What a message is (event, label, dead, dead label), its partition and its position."""


def block(items: list[Item], flush: bool = False) -> Batch:
    """Messages in the order of the stream, as a block."""
    rows, labels, dead = [], [], []
    for what, partition, offset in items:
        if what == "event":
            rows.append((partition, offset))
        elif what == "label":
            labels.append((partition, offset, len(rows)))
        else:
            wrong = what == "dead label"
            dead.append(DeadLetter(partition, offset, "why", 0, len(rows), b"?", wrong))
    at = np.array([offset for _, offset in rows], np.int64)
    part = np.array([partition for partition, _ in rows], np.int32)
    arrivals = None
    if labels:
        p, o, b = np.array(labels, np.int64).T
        arrivals = Labels(o * 10 + p, o % 3, o / 1.0, p.astype(np.int32), o, b)
    x = np.stack([part, at], 1) / 1.0
    return Batch(
        at * 10 + part, at / 2, x, part, at, arrivals=arrivals, dead=tuple(dead), flush=flush
    )


def records_of(batch: Batch) -> tuple[list[Any], list[Any], list[Any]]:
    """Events, labels and dead ones, each with its position and the row that it comes before."""
    a = batch.arrivals
    assert batch.ids.tolist() == (batch.offset * 10 + batch.partition).tolist()
    assert np.array_equal(batch.x, np.stack([batch.partition, batch.offset], 1))
    assert a is None or a.ids.tolist() == (a.offset * 10 + a.partition).tolist()
    labels: list[Any] = (
        [] if a is None else list(zip(a.partition, a.offset, a.insert_before, strict=True))
    )
    return (
        list(zip(batch.partition.tolist(), batch.offset.tolist(), strict=True)),
        labels,
        [(d.label, d.partition, d.offset, d.insert_before) for d in batch.dead],
    )


BLOCK = [
    ("label", 0, 7),
    ("event", 3, 20),
    ("dead", 3, 21),
    ("dead label", 1, 4),
    ("event", 65536, 0),
    ("label", 1, 5),
    ("event", 3, 22),
    ("label", 0, 8),
    ("dead", 2, 9),
]


def test_ranges_of_by_hand() -> None:
    assert ranges_of(block(BLOCK)) == {
        "3": (20, 23),
        "65536": (0, 1),
        "2": (9, 10),
        "labels/0": (7, 9),
        "labels/1": (4, 6),
    }
    assert ranges_of(block([])) == ranges_of(block([], flush=True)) == {}


def test_skip_before_by_hand() -> None:
    whole = block(BLOCK, flush=True)
    rest = skip_before(whole, {"3": 21, "65536": 1, "labels/0": 8, "labels/1": 5, "7": 99})
    assert records_of(rest) == (
        [(3, 22)],
        [(1, 5, 0), (0, 8, 1)],
        # of a partition that the cursor does not know, all
        [(False, 3, 21, 0), (False, 2, 9, 1)],
    )
    assert rest.flush
    assert rest.dead[0].value == b"?"
    assert skip_before(whole, {"3": 20, "labels/0": 7}) is whole
    gone = {"3": 23, "65536": 1, "2": 10, "labels/0": 9, "labels/1": 6}
    assert records_of(skip_before(whole, gone)) == ([], [], [])
    assert skip_before(whole, gone).arrivals is None
    assert skip_before(whole, gone).flush


def test_truncate_at_by_hand() -> None:
    stop = {"3": 22, "2": 10, "labels/0": 8, "labels/1": 0}
    assert records_of(truncate_at(block(BLOCK), stop)) == (
        [(3, 20)],
        [(0, 7, 0)],
        [(False, 3, 21, 1), (False, 2, 9, 1)],  # nothing of what the position does not name
    )


def test_reached() -> None:
    assert reached({"0": 5, "1": 9}, {"0": 5})
    assert not reached({"0": 4, "1": 9}, {"0": 5})
    assert not reached({}, {"labels/0": 1})
    assert reached({}, {"0": 0})  # an empty partition
    assert reached({}, {})


@st.composite
def streams(draw: st.DrawFn) -> list[Item]:
    """Messages of a block, in the order of each partition."""
    kinds = st.sampled_from(["event", "event", "label", "dead", "dead label"])
    next_: dict[tuple[bool, int], int] = {}
    found = []
    for what in draw(st.lists(kinds, max_size=14)):
        partition = draw(st.integers(0, 2))
        key = what.endswith("label"), partition
        next_[key] = next_.get(key, draw(st.integers(0, 3))) + draw(st.integers(0, 1))  # with gaps
        found.append((what, partition, next_[key]))
        next_[key] += 1
    return found


@given(streams(), st.data())
def test_skip_before_and_truncate_at_split_a_block(items: list[Item], data: st.DataObject) -> None:
    whole = block(items)
    ranges = ranges_of(whole)
    names = {name: st.integers(first, after) for name, (first, after) in ranges.items()}
    cursor: dict[str, int] = {name: data.draw(at) for name, at in names.items()}

    def early(item: Item) -> Any:
        what, partition, offset = item
        return offset < cursor[f"{'labels/' if what.endswith('label') else ''}{partition}"]

    rest = [item for item in items if not early(item)]
    assert records_of(truncate_at(whole, cursor)) == records_of(
        block([item for item in items if early(item)])
    )
    assert records_of(skip_before(whole, cursor)) == records_of(block(rest))
    assert reached(cursor, {name: after for name, (_, after) in ranges.items()}) == (not rest)
    for name, (first, after) in ranges.items():
        mine = [
            offset
            for what, partition, offset in items
            if f"{'labels/' if what.endswith('label') else ''}{partition}" == name
        ]
        assert (first, after) == (min(mine), max(mine) + 1)
