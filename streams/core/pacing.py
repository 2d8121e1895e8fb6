"""Throttling a stream, with short waits, so that a run can be stopped meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from streams.core.batch import Batch

STEP_S = 0.2


def sleep_until(
    until: float, next_block: Batch, clock: Callable[[], float], sleep: Callable[[float], None]
) -> Iterator[Batch]:
    """Sleep until ``clock`` reaches a time (seconds), in steps of ``STEP_S``. Yield an empty block
    after each step but the last, with the columns of the block that is next."""
    while (remaining := until - clock()) > 0:
        sleep(min(remaining, STEP_S))
        if remaining > STEP_S:
            yield replace(next_block[:0], arrivals=None, dead=(), classes=(), flush=False)


def block_size(rate: float | None, maximum: int) -> int:
    """Return the events in a block: with a rate (events per second), as many as make 50 blocks a
    second."""
    return maximum if rate is None else min(maximum, max(1, int(rate / 50)))


def throttle(
    blocks: Iterable[Batch],
    rate: float | None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Batch]:
    """Yield the blocks at no more than ``rate`` events a second; None: as fast as they come. A
    reader that falls behind catches up by one second at most. While nothing is due, empty blocks
    are given now and then."""
    if rate is None:
        yield from blocks
        return
    due = clock()
    for block in blocks:
        due = max(due + block.events / rate, clock() - 1.0)
        yield from sleep_until(due, block, clock, sleep)
        yield block
