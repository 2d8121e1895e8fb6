"""Waiting in short steps, so that whoever reads can be asked to stop meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
            yield replace(before[:0], arrivals=None, dead=(), classes=(), ends=False)
