"""Blocks of any length into micro-batches of one length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from streams.batch import Batch


def cut(blocks: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Micro-batches of exactly ``size`` rows, the last as long as it comes out.

    Where the blocks end leaves no trace in the result, so that a run resumed from any micro-batch
    sees the same ones as a run that was never broken. Rows are views of their block, but for the
    one micro-batch that straddles two. What stands after the last row of a block waits for the next
    event; at the end of the stream it comes with the last micro-batch.
    """
    rest: Batch | None = None  # 1 to size rows that may yet be the last, with nothing after them
    beside: Batch | None = None  # no rows, only what stood after the last one
    for block in blocks:
        if beside is not None:
            block = Batch.concat([beside, block])
        block, beside = _split(block)
        if not len(block):
            continue
        start = 0
        if rest is not None:
            start = min(size - len(rest), len(block))
            rest = Batch.concat([rest, block[:start]]) if start else rest
            if start == len(block):
                continue
            yield rest
        while len(block) - start > size:
            yield block[start : start + size]
            start += size
        rest = block[start:]
    last = [batch for batch in (rest, beside) if batch is not None]
    if last:
        yield Batch.concat(last)


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
        stop = int(np.searchsorted(arrivals.before, n))
        arrivals = arrivals[:stop] if stop else None
    dead = tuple(d for d in block.dead if d.before < n)
    return replace(block, arrivals=arrivals, dead=dead), after
