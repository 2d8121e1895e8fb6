"""What looks wrong in the first rows of a stream of files: a line for each, with its remedy.

A warning stops nothing. A check is a function from the sample to lines; ``CHECKS`` lists all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from streams.decoding.columns import seconds
from streams.files.sample import StreamSample

Check = Callable[[StreamSample], Iterator[str]]


def warnings_of(sample: StreamSample) -> Iterator[str]:
    """Yield the warnings of all checks."""
    for check in CHECKS:
        yield from check(sample)


def _times_in_order(sample: StreamSample) -> Iterator[str]:
    """Warn of a row whose time is before that of an earlier row."""
    if sample.times is None:
        return
    times = seconds(sample.times)
    known = np.flatnonzero(np.isfinite(times))
    steps = np.diff(times[known])
    back = np.flatnonzero(steps < 0)
    if len(back):
        row, worst = int(known[back[0] + 1]), -float(steps.min())
        yield (
            f"{sample.path}: row {row} is before the row above it in {sample.columns.time!r}, and "
            f"so are {len(back) - 1:,} others of the first {len(times):,} rows, by up to "
            f"{worst:g} s: events are read in the order of the file; sort it by that column, or "
            "set stream.lateness"
        )


CHECKS: tuple[Check, ...] = (_times_in_order,)
