"""Micro-batches are the same wherever the blocks end, with all that stands beside their rows."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.batch import Batch, DeadLetter, Labels
from streams.operators import microbatch as module
from streams.operators.microbatch import STREAK, rebatch


def rows(n: int) -> Batch:
    at = np.arange(n, dtype=np.int64)
    return Batch(at, at / 2, np.stack([at, at], 1) / 4, np.zeros(n, np.int32), at, at % 3)


def with_side_records(batch: Batch, dead: list[int], labels: list[int]) -> Batch:
    """The batch with dead events and labels before the given rows."""
    m, zero = len(labels), np.zeros(len(labels), np.int64)
    arrivals = Labels(
        np.arange(m), zero, zero / 1.0, zero.astype(np.int32), np.arange(m), np.sort(labels)
    )
    return replace(
        batch,
        dead=tuple(DeadLetter(0, k, "why", k, before) for k, before in enumerate(sorted(dead))),
        arrivals=arrivals if m else None,
    )


def records_of(batches: Any) -> list[Any]:
    """Each micro-batch as its rows and what stands where beside them."""
    return [
        (
            b.ids.tolist(),
            b.x.tolist(),
            b.y.tolist(),
            [(d.offset, d.insert_before) for d in b.dead],
            []
            if b.arrivals is None
            else list(zip(b.arrivals.ids, b.arrivals.insert_before, strict=True)),
        )
        for b in batches
    ]


def expected(n: int, dead: list[int], labels: list[int], size: int) -> list[Any]:
    """The same, event by event."""
    x = rows(n).x.tolist()  # type: ignore[union-attr]
    out = []
    starts = list(range(0, n, size)) or ([0] if dead or labels else [])
    for start in starts:
        stop = min(start + size, n)
        end = stop + (stop == n)

        def here(places: list[int], start: int = start, end: int = end) -> list[tuple[int, int]]:
            return [(k, p - start) for k, p in enumerate(sorted(places)) if start <= p < end]

        ids = list(range(start, stop))
        out.append((ids, x[start:stop], [i % 3 for i in ids], here(dead), here(labels)))
    return out


@given(st.data(), st.integers(0, 30), st.integers(1, 9))
def test_cut(data: st.DataObject, n: int, size: int) -> None:
    places = st.lists(st.integers(0, n), max_size=6)
    dead, labels = data.draw(places), data.draw(places)
    inside = st.lists(st.integers(1, max(n - 1, 1)), max_size=5, unique=True)
    bounds = [0, *sorted(c for c in data.draw(inside) if c < n), n]
    stream = with_side_records(rows(n), dead, labels)
    blocks = [stream[a:b] for a, b in pairwise(bounds)]
    assert records_of(rebatch(blocks, size)) == expected(n, dead, labels, size)


@given(st.data(), st.integers(1, 9))
def test_side_records_after_a_block_join_the_next_event(data: st.DataObject, size: int) -> None:
    """Blocks that begin or end with dead events, and blocks of nothing else."""
    lengths = data.draw(st.lists(st.integers(0, 7), max_size=6))
    n, at, blocks, dead, labels = sum(lengths), 0, [], [], []
    whole = rows(n)
    for length in lengths:
        block = with_side_records(whole[at : at + length], [], [])
        first = data.draw(st.lists(st.integers(0, length), max_size=3))
        second = data.draw(st.lists(st.integers(0, length), max_size=3))
        block = with_side_records(block, first, second)
        k, m = len(dead), len(labels)
        arrivals = block.arrivals and replace(block.arrivals, ids=block.arrivals.ids + m)
        moved = tuple(replace(d, offset=d.offset + k) for d in block.dead)
        blocks.append(replace(block, arrivals=arrivals, dead=moved))
        dead += sorted(at + p for p in first)
        labels += sorted(at + p for p in second)
        at += length
    assert records_of(rebatch(blocks, size)) == expected(n, dead, labels, size)


def test_rows_within_a_block_are_views() -> None:
    block = rows(64)
    assert all(np.shares_memory(b.x, block.x) for b in rebatch([block], 16))


def test_nothing() -> None:
    assert list(rebatch([], 4)) == []
    assert list(rebatch([rows(0), rows(0)], 4)) == []


def blocks_from(items: list[int], row: int, label: int, first: int, bounds: list[int]) -> list[Any]:
    """Events from position ``first`` on, cut at ``bounds``: ``items`` holds 1 for a row, 0 for a
    dead event and 2 for a label, each at a position of its own kind; ``row`` and ``label`` come
    next."""
    out, places = [], [0, *bounds, len(items)]
    for a, b in pairwise(places):
        part, n = items[a:b], items[a:b].count(1)
        alive, dead, labels, at = 0, [], [], []
        for item in part:
            if item == 2:
                labels.append(alive)
                continue
            if item == 1:
                at.append(first)
                alive += 1
            else:
                dead.append(DeadLetter(0, first, "why", first, alive))
            first += 1
        block = replace(
            with_side_records(rows(row + n)[row:], [], labels),
            dead=tuple(dead),
            offset=np.array(at, np.int64),
        )
        if block.arrivals is not None:
            ids = block.arrivals.ids + label
            block = replace(block, arrivals=replace(block.arrivals, ids=ids, offset=ids))
        row, label = row + n, label + len(labels)
        out.append(block)
    return out


@given(st.data(), st.integers(1, 5))
def test_streak_of_dead_events_ends_a_micro_batch(data: st.DataObject, size: int) -> None:
    """The same wherever blocks end, and from any micro-batch on."""
    runs = data.draw(st.lists(st.tuples(st.sampled_from([0, 0, 1, 2]), st.integers(1, 9))))
    items = [kind for kind, n in runs for _ in range(n)]

    def cuts(n: int) -> list[int]:
        return sorted(data.draw(st.lists(st.integers(0, n), max_size=6)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STREAK", 4)
        found = list(rebatch(blocks_from(items, 0, 0, 0, cuts(len(items))), size))
        assert records_of(found) == records_of(rebatch(blocks_from(items, 0, 0, 0, []), size))
        event = row = label = 0
        for k, batch in enumerate(found):
            assert len(batch) <= size
            run, at = 0, 0
            for d in batch.dead:
                run, at = (run + 1 if d.insert_before == at else 1), d.insert_before
                assert run < 4 or d is batch.dead[-1]
            row, event = row + len(batch), event + len(batch) + len(batch.dead)
            label += 0 if batch.arrivals is None else len(batch.arrivals)
            rest = remaining(items, event, label)
            again = list(rebatch(blocks_from(rest, row, label, event, cuts(len(rest))), size))
            assert records_of(again) == records_of(found[k + 1 :])
        assert (event, label) == (len(items) - items.count(2), items.count(2))


def remaining(items: list[int], events: int, labels: int) -> list[int]:
    """What a stream gives from a cursor on: each label where it stood, or at once."""
    rest = []
    for item in items:
        if item == 2:
            labels -= 1
            if labels < 0:
                rest.append(item)
        else:
            events -= 1
            if events < 0:
                rest.append(item)
    return rest


def test_long_streak_is_split() -> None:
    none = rows(0)
    blocks = (replace(none, dead=(DeadLetter(0, at, "why", at, 0),)) for at in range(20_000))
    lengths = [len(batch.dead) for batch in rebatch(blocks, 1)]
    assert lengths == [STREAK] * (20_000 // STREAK) + [20_000 % STREAK]


def some(n: int, first: int = 0) -> Batch:
    return rows(first + n)[first:]


def sizes(blocks: list[Batch], size: int) -> list[tuple[int, int, int]]:
    """Rows, dead ones and labels of each micro-batch."""
    return [
        (len(b), len(b.dead), 0 if b.arrivals is None else len(b.arrivals))
        for b in rebatch(blocks, size)
    ]


def test_flushed_block_ends_a_micro_batch() -> None:
    end = replace(rows(0), flush=True)
    after = with_side_records(some(3), [3, 3], [1, 3])
    assert sizes([some(3), replace(some(2, 3), flush=True), some(4, 5)], 4) == [
        (4, 0, 0),
        (1, 0, 0),
        (4, 0, 0),
    ]
    assert sizes([some(3), end, some(2, 3)], 4) == [(3, 0, 0), (2, 0, 0)]
    assert sizes([some(4), end, end, some(2, 4)], 4) == [(4, 0, 0), (2, 0, 0)]  # full by itself
    assert sizes([end, some(2)], 4) == [(2, 0, 0)]  # nothing ends where nothing is
    assert sizes([replace(after, flush=True), some(2, 3)], 4) == [(3, 2, 2), (2, 0, 0)]
    assert sizes([after, some(2, 3)], 4) == [(4, 2, 2), (1, 0, 0)]
    assert sizes([after, end, some(2, 3)], 4) == [(3, 2, 2), (2, 0, 0)]


def test_empty_flushed_block_ends_a_micro_batch() -> None:
    labels = with_side_records(rows(0), [0], [0, 0])
    assert sizes([replace(labels, flush=True), some(2)], 4) == [(0, 1, 2), (2, 0, 0)]
    assert sizes([some(2), replace(labels, flush=True), some(2, 2)], 4) == [(2, 1, 2), (2, 0, 0)]
    assert sizes([some(4), replace(labels, flush=True), some(2, 4)], 4) == [(4, 1, 2), (2, 0, 0)]
    assert sizes([labels, labels, replace(rows(0), flush=True)], 4) == [(0, 2, 4)]


def test_marks_do_not_reach_the_batches() -> None:
    assert not any(b.flush for b in rebatch([replace(some(5), flush=True), some(2, 5)], 2))


def poisoned(*kinds: str) -> Batch:
    """A block without rows, of dead events and dead labels, each at its position."""
    next_ = {"event": 0, "label": 0}
    dead = []
    for kind in kinds:
        dead.append(DeadLetter(0, next_[kind], "why", -1, label=kind == "label"))
        next_[kind] += 1
    return replace(rows(0), dead=tuple(dead))


def test_streak_in_a_flushed_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STREAK", 3)
    block = replace(poisoned(*["event"] * 5), flush=True)
    assert sizes([some(1), block, some(2, 1)], 4) == [(1, 3, 0), (0, 2, 0), (2, 0, 0)]


def test_dead_labels_make_no_streak(monkeypatch: pytest.MonkeyPatch) -> None:
    """A label that can be read waits for the next event; so do those after it that cannot."""
    monkeypatch.setattr(module, "STREAK", 3)
    assert sizes([poisoned(*["label"] * 9), some(1)], 4) == [(1, 9, 0)]
    kinds = ["label", "event", "label", "event", "label", "event", "event", "label"]
    first, second = rebatch([poisoned(*kinds), some(1)], 4)
    assert [(d.label, d.offset) for d in first.dead] == [(False, 0), (False, 1), (False, 2)]
    assert [(d.label, d.offset, d.insert_before) for d in second.dead] == [
        (True, 0, 0),
        (True, 1, 0),
        (True, 2, 0),
        (False, 3, 0),
        (True, 3, 0),
    ]
