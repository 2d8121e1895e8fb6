"""Waiting in short steps, so that whoever reads can be asked to stop meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from streams.core.batch import Batch

STEP_S = 0.2


def pause(
    until: float, before: Batch, clock: Callable[[], float], sleep: Callable[[float], None]
) -> Iterator[Batch]:
    """Sleeps until the clock has come to a time (seconds). After each step but the last comes a
    block without anything in it, of the kind of the one ``before`` which is waited."""
    while (wait := until - clock()) > 0:
        sleep(min(wait, STEP_S))
        if wait > STEP_S:
            yield replace(before[:0], arrivals=None, dead=(), classes=(), flush=False)


def block_size(rate: float | None, most: int) -> int:
    """Events in a block: at a pace they come in small ones, fifty a second."""
    return most if rate is None else min(most, max(1, int(rate / 50)))


def paced(
    blocks: Iterable[Batch],
    rate: float | None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Batch]:
    """The blocks, no earlier than ``rate`` events a second have them; None: as fast as they come.
    A reader that falls behind is not hurried to catch up by more than a second. While nothing is
    due, blocks without anything in them come now and then."""
    if rate is None:
        yield from blocks
        return
    due = clock()
    for block in blocks:
        due = max(due + block.events / rate, clock() - 1.0)
        yield from pause(due, block, clock, sleep)
        yield block
