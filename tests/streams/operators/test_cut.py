"""Micro-batches are the same wherever the blocks end, with all that stands beside their rows."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.batch import Batch, Dead, Labels
from streams.operators.cut import cut


def rows(n: int) -> Batch:
    at = np.arange(n, dtype=np.int64)
    return Batch(at, at / 2, np.stack([at, at], 1) / 4, np.zeros(n, np.int32), at, at % 3)


def beside(batch: Batch, dead: list[int], labels: list[int]) -> Batch:
    """The batch with dead events and labels before the given rows."""
    m, zero = len(labels), np.zeros(len(labels), np.int64)
    arrivals = Labels(
        np.arange(m), zero, zero / 1.0, zero.astype(np.int32), np.arange(m), np.sort(labels)
    )
    return replace(
        batch,
        dead=tuple(Dead(0, k, "why", k, before) for k, before in enumerate(sorted(dead))),
        arrivals=arrivals if m else None,
    )


def told(batches: Any) -> list[Any]:
    """Each micro-batch as its rows and what stands where beside them."""
    return [
        (
            b.ids.tolist(),
            b.x.tolist(),
            b.y.tolist(),
            [(d.offset, d.before) for d in b.dead],
            [] if b.arrivals is None else list(zip(b.arrivals.ids, b.arrivals.before, strict=True)),
        )
        for b in batches
    ]


def wanted(n: int, dead: list[int], labels: list[int], size: int) -> list[Any]:
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
    stream = beside(rows(n), dead, labels)
    blocks = [stream[a:b] for a, b in pairwise(bounds)]
    assert told(cut(blocks, size)) == wanted(n, dead, labels, size)


@given(st.data(), st.integers(1, 9))
def test_what_stands_after_a_block_goes_with_the_next_event(data: st.DataObject, size: int) -> None:
    """Blocks that begin or end with dead events, and blocks of nothing else."""
    lengths = data.draw(st.lists(st.integers(0, 7), max_size=6))
    n, at, blocks, dead, labels = sum(lengths), 0, [], [], []
    whole = rows(n)
    for length in lengths:
        block = beside(whole[at : at + length], [], [])
        first = data.draw(st.lists(st.integers(0, length), max_size=3))
        second = data.draw(st.lists(st.integers(0, length), max_size=3))
        block = beside(block, first, second)
        k, m = len(dead), len(labels)
        arrivals = block.arrivals and replace(block.arrivals, ids=block.arrivals.ids + m)
        moved = tuple(replace(d, offset=d.offset + k) for d in block.dead)
        blocks.append(replace(block, arrivals=arrivals, dead=moved))
        dead += sorted(at + p for p in first)
        labels += sorted(at + p for p in second)
        at += length
    assert told(cut(blocks, size)) == wanted(n, dead, labels, size)


def test_rows_within_a_block_are_views() -> None:
    block = rows(64)
    assert all(np.shares_memory(b.x, block.x) for b in cut([block], 16))


def test_nothing() -> None:
    assert list(cut([], 4)) == []
    assert list(cut([rows(0), rows(0)], 4)) == []
