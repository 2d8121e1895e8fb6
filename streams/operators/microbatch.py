"""Blocks of any length to micro-batches of one length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from streams.core.batch import Batch, DeadLetter, Tombstones

STREAK = 4096  # dead events in a row that end a micro-batch


def rebatch(blocks: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Yield micro-batches of exactly ``size`` rows; the last may be shorter.

    The result does not depend on where blocks end, so a run that resumes from any micro-batch sees
    the same ones as a run that was never stopped. Rows are views of their block, except in the one
    micro-batch that spans two. Side records after the last row of a block are kept for the next
    event; at the end of the stream they come with the last micro-batch. That one is marked as the
    ``last``, unless the stream ended with one of the two cases below.

    A micro-batch also ends in two other cases. With a block whose ``flush`` is True: the side
    records after its last row come with it. And, short or empty, with the 4,096th dead event in a
    row, so that a long streak of them is counted, logged and can stop the run: labels among them,
    dead ones too, are kept for the next event.
    """
    rest: Batch | None = None  # 1 to size rows that may yet be the last, with nothing after them
    for piece, ends in _pieces(blocks):
        n, start = len(piece), 0
        if rest is not None:
            start = min(size - len(rest), n)
            if start or not n:
                rest = Batch.concat([rest, piece[:start]])
            if start < n:
                yield rest
                rest = None
        if rest is None:
            while n - start > size:
                yield piece[start : start + size]
                start += size
            rest = piece[start:]
        if ends:
            if not rest.is_empty:
                yield rest
            rest = None
    if rest is not None:
        yield replace(rest, last=True)


def first_events(batch: Batch, count: int) -> Batch:
    """Return the first events of a micro-batch, dead ones counted, with the labels before them."""
    events = _dead(batch, False)
    dead = sum(d.insert_before + i < count for i, d in enumerate(events))
    rows = count - dead
    first = replace(batch, dead=())[:rows]
    labels = tuple(d for d in _dead(batch, True) if d.insert_before < rows)
    both = sorted((*events[:dead], *labels), key=lambda d: d.insert_before)
    return replace(first, dead=tuple(both))


def _pieces(blocks: Iterable[Batch]) -> Iterator[tuple[Batch, bool]]:
    """Yield blocks that end with a row, with the side records after it moved to the front of the
    next; and whether a micro-batch ends with the block: it is flushed, or it ends a streak of dead
    events. At the end of the stream the last block may have side records after its last row."""
    trailing: list[Batch] = []  # no rows, only the side records after the last one
    streak = 0  # dead events among them
    for block in blocks:
        while streak + len(block.dead) >= STREAK and (end := _streak_end(block, streak)):
            head, block = _split_at_streak(block, *end)
            if len(head):
                yield Batch.concat([*trailing, head]), True
                trailing = []
            else:
                yield Batch.concat([*(_of_events(b) for b in trailing), head]), True
                trailing = [b for b in map(_of_labels, trailing) if b.has_side_records]
            streak = 0
        if block.flush:
            yield replace(Batch.concat([*trailing, block]), flush=False), True
            trailing, streak = [], 0
            continue
        rows, after = _split_trailing(block)
        if len(rows):
            yield Batch.concat([*trailing, rows]), False
            trailing, streak = [], 0
        if after is not None:
            trailing.append(after)
            streak += len(_dead(after, False))
    if trailing:
        yield Batch.concat(trailing), False


def _streak_end(block: Batch, streak: int) -> tuple[int, int] | None:
    """Return where a streak that already has ``streak`` dead events is full: the row that its last
    one comes before, and its number among the dead events of the block. None: it is not full."""
    row = 0
    for count, dead in enumerate(_dead(block, False), 1):
        streak = streak + 1 if dead.insert_before == row else 1
        row = dead.insert_before
        if streak == STREAK:
            return row, count
    return None


def _dead(block: Batch, labels: bool) -> tuple[DeadLetter, ...]:
    """Return the dead letters of a block that are labels, or those that are events."""
    return tuple(d for d in block.dead if d.label is labels)


def _of_events(block: Batch) -> Batch:
    """Return a block without the side records of labels."""
    dead, tombstones = _dead(block, False), _deleted(block, False)
    return replace(block, arrivals=None, dead=dead, tombstones=tombstones)


def _of_labels(block: Batch) -> Batch:
    """Return a block without the side records of events."""
    return replace(block, dead=_dead(block, True), tombstones=_deleted(block, True))


def _deleted(block: Batch, labels: bool) -> Tombstones | None:
    """Return the tombstones of a block that are of labels, or those that are of events."""
    tombstones = block.tombstones
    return None if tombstones is None else tombstones.select(tombstones.label == labels)


def _split_at_streak(block: Batch, row: int, count: int) -> tuple[Batch, Batch]:
    """Return the rows up to ``row`` with the first ``count`` dead events, and the rest. Labels just
    before ``row``, dead ones too, are in the rest."""
    bare = replace(block, dead=())
    now, later, events = [], [], 0
    for d in block.dead:
        if d.insert_before < row if d.label else events < count:
            now.append(d)
        else:
            later.append(replace(d, insert_before=d.insert_before - row))
        events += not d.label
    head, rest = _split_trailing(bare[:row])[0], bare[row:]
    if rest.tombstones is not None:  # those before a dead event of their partition are as old
        last = {d.partition: d.offset for d in now if not d.label and d.insert_before == row}
        t = rest.tombstones
        old = (t.insert_before == 0) & ~t.label
        old &= t.offset < np.array([last.get(p, -1) for p in t.partition.tolist()])
        if old.any():
            older = replace(bare[:0], arrivals=None, tombstones=t[old])
            head, rest = Batch.concat([head, older]), replace(rest, tombstones=t.select(~old))
    return replace(head, dead=tuple(now)), replace(rest, dead=tuple(later), flush=block.flush)


def _split_trailing(block: Batch) -> tuple[Batch, Batch | None]:
    """Return the rows with the side records before them, and those after the last row (or None)."""
    n = len(block)
    if not block.has_side_records:
        return block, None
    after = block[n:]
    if not after.has_side_records:
        return block, None
    arrivals = block.arrivals
    if arrivals is not None:
        stop = int(np.searchsorted(arrivals.insert_before, n))
        arrivals = arrivals[:stop] if stop else None
    dead = tuple(d for d in block.dead if d.insert_before < n)
    tombstones = block.tombstones
    if tombstones is not None:
        tombstones = tombstones.select(tombstones.insert_before < n)
    return replace(block, arrivals=arrivals, dead=dead, tombstones=tombstones), after
