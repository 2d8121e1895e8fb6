"""Blocks of any length into micro-batches of one length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from streams.core.batch import Batch, DeadLetter

STREAK = 4096  # dead events


def rebatch(blocks: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Micro-batches of exactly ``size`` rows, the last as long as it comes out.

    Where the blocks end leaves no trace in the result, so that a run resumed from any micro-batch
    sees the same ones as a run that was never broken. Rows are views of their block, but for the
    one micro-batch that straddles two. What stands after the last row of a block waits for the next
    event; at the end of the stream it comes with the last micro-batch.

    A micro-batch also ends with a block that says so, where what stands after its last row comes
    with it; and, short or without a row, with the 4,096th dead event in a row: a long
    streak of them can be counted, kept and stopped. Labels among them, dead ones too, wait for the
    next event.
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
            if len(rest) or rest.dead or rest.arrivals is not None:
                yield rest
            rest = None
    if rest is not None:
        yield rest


def _pieces(blocks: Iterable[Batch]) -> Iterator[tuple[Batch, bool]]:
    """Blocks that end with a row, what stands after it moved to the front of the next; and, marked
    True, those with which a micro-batch ends: by their own word, by a streak of dead events, or
    with the stream."""
    beside: list[Batch] = []  # no rows, only what stood after the last one
    streak = 0  # dead events among it
    for block in blocks:
        while streak + len(block.dead) >= STREAK and (found := _streak(block, streak)):
            head, block = _broken(block, *found)
            if len(head):
                yield Batch.concat([*beside, head]), True
                beside = []
            else:
                events = (replace(b, arrivals=None, dead=_dead(b, False)) for b in beside)
                yield Batch.concat([*events, head]), True
                labels = (replace(b, dead=_dead(b, True)) for b in beside)
                beside = [b for b in labels if b.dead or b.arrivals is not None]
            streak = 0
        if block.flush:
            yield replace(Batch.concat([*beside, block]), flush=False), True
            beside, streak = [], 0
            continue
        rows, after = _split(block)
        if len(rows):
            yield Batch.concat([*beside, rows]), False
            beside, streak = [], 0
        if after is not None:
            beside.append(after)
            streak += len(_dead(after, False))
    if beside:
        yield Batch.concat(beside), True


def _streak(block: Batch, streak: int) -> tuple[int, int] | None:
    """The row before which, and the number of dead events of the block with which, a streak that
    goes on from ``streak`` is full; None: it is not."""
    row = 0
    for count, dead in enumerate(_dead(block, False), 1):
        streak = streak + 1 if dead.insert_before == row else 1
        row = dead.insert_before
        if streak == STREAK:
            return row, count
    return None


def _dead(block: Batch, labels: bool) -> tuple[DeadLetter, ...]:
    """The dead ones of a block that are labels, or those that are events."""
    return tuple(d for d in block.dead if d.label is labels)


def _broken(block: Batch, row: int, count: int) -> tuple[Batch, Batch]:
    """Rows up to ``row`` and the first ``count`` dead events; and the others, with the labels, dead
    ones too, that stand between the two."""
    bare = replace(block, dead=())
    now, later, events = [], [], 0
    for d in block.dead:
        if d.insert_before < row if d.label else events < count:
            now.append(d)
        else:
            later.append(replace(d, insert_before=d.insert_before - row))
        events += not d.label
    head = _split(bare[:row])[0]
    return replace(head, dead=tuple(now)), replace(bare[row:], dead=tuple(later), flush=block.flush)


def _split(block: Batch) -> tuple[Batch, Batch | None]:
    """The rows with what stands before them, and what stands after the last (or None)."""
    n = len(block)
    if not block.dead and block.arrivals is None:
        return block, None
    after = block[n:]
    if not after.dead and after.arrivals is None:
        return block, None
    arrivals = block.arrivals
    if arrivals is not None:
        stop = int(np.searchsorted(arrivals.insert_before, n))
        arrivals = arrivals[:stop] if stop else None
    dead = tuple(d for d in block.dead if d.insert_before < n)
    return replace(block, arrivals=arrivals, dead=dead), after
