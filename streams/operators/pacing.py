"""Throttling a stream, with short waits, so that a run can be stopped meanwhile."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np

from streams.core.batch import Batch

STEP_S = 0.2
SLICE_S = 0.02
"""With a speed, events are given out in slices of this many seconds."""


def sleep_until(
    until: float, next_block: Batch, clock: Callable[[], float], sleep: Callable[[float], None]
) -> Iterator[Batch]:
    """Sleep until ``clock`` reaches a time (seconds), in steps of ``STEP_S``. Yield an empty block
    after each step but the last, with the columns of the block that is next."""
    while (remaining := until - clock()) > 0:
        sleep(min(remaining, STEP_S))
        if remaining > STEP_S:
            empty = replace(next_block[:0], arrivals=None, dead=(), tombstones=None)
            yield replace(empty, classes=(), flush=False)


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


def throttle_by_event_time(
    batches: Iterable[Batch],
    speed: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Batch]:
    """Yield the batches in slices, none before its event time. From the first event on, event time
    advances ``speed`` times as fast as the clock, and never goes back. While nothing is due, empty
    blocks are given now and then."""
    begun: tuple[float, float] | None = None  # the first event: by the clock, and in event time
    latest = -math.inf
    for batch in batches:
        n = len(batch)
        if not n:
            yield batch
            continue
        times = np.maximum.accumulate(np.maximum(batch.time, latest))
        latest = float(times[-1])
        begun = begun or (clock(), float(times[0]))
        due = begun[0] + (times - begun[1]) / speed
        start = 0
        while start < n:
            until = max(float(due[start]) + SLICE_S, clock())
            stop = int(np.searchsorted(due, until, "right"))
            yield from sleep_until(float(due[stop - 1]), batch, clock, sleep)
            yield replace(batch[start:stop], flush=batch.flush and stop == n)
            start = stop
