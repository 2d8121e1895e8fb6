"""Find times that are far ahead of those around them, by what stands around them alone.

A row is judged by the ``WINDOW`` rows before it and the ``WINDOW`` rows after it. So the verdict is
a function of the content: it depends neither on where reading began nor on where blocks end.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from streams.core.batch import Array, Floats, Ints

WINDOW = 64
"""Rows before and after a row by which its time is judged."""
HISTORY = 2 * WINDOW
"""Rows before a row on which its verdict, and those of the rows that it is judged by, depend."""
SCALES = (4, 8, 16, 32, 64)
"""Numbers of following rows, most of which must be earlier. Short ones find a time that is ahead by
a few rows, long ones a device that is often ahead."""
SUPPORT = 8
"""Following rows in a row, none of them earlier, that confirm a time."""
PACE = 10
"""A step of time is far where it is longer than this many of the usual steps."""

FAR_S = 30 * 86_400.0
"""A step to one of the last rows of a stream is wrong if it is far and longer than 30 days; a
shorter one may be a pause, and only its time is corrected."""
LAST_ROWS = 2
"""Rows at the end that have too few after them to confirm a step."""
MIN_STEPS = 8
"""Rows before a step from which the usual steps are known."""

Mask = NDArray[np.bool_]


_EXTREMES = np.errstate(over="ignore", invalid="ignore")
"""Differences of times near the largest float64 are infinite: as far apart as can be."""


@_EXTREMES
def far_ahead(time: Floats, lateness: float, latest: Floats | None = None) -> Mask:
    """Return (n,) True for the times that are far ahead of those around them.

    Such a time is later, by more than ``lateness``, than most of the next 4, 8, 16, 32 or 64 rows,
    and these rows are not earlier than what was before it. So neither a pause nor a step back to an
    earlier time is a wrong time.

    Args:
        time: (n,) seconds; NaN where a row has no time.
        lateness: seconds by which times may step back.
        latest: (n,) the latest that each time may be, where a time zone leaves it open.
    """
    n = len(time)
    wrong = np.zeros(n, np.bool_)
    if n < 3 or _in_order(time, lateness):
        return wrong
    after = _padded(time if latest is None else latest)[WINDOW + 1 :]
    following = sliding_window_view(after, WINDOW)
    with np.errstate(invalid="ignore"):
        rows = np.flatnonzero(np.fmin.reduce(following, axis=1) < time - lateness)
        earlier = following[rows] < (time[rows] - lateness)[:, None]
    present = ~np.isnan(following[rows])
    before = sliding_window_view(_padded(time), WINDOW)[rows]
    for scale in SCALES:
        most = 2 * earlier[:, :scale].sum(1) > present[:, :scale].sum(1)
        some = np.flatnonzero(most & ~wrong[rows])
        if not len(some):
            continue
        next_rows = following[rows[some], :scale]
        level = _level_before(before[some], scale, present[some, :scale].sum(1)) - lateness
        count = (earlier[some, :scale] & (next_rows >= level[:, None])).sum(1)
        count[np.isinf(level) & ~_forward(next_rows)] = 0  # a whole file may go back in time
        far = (2 * count > present[some, :scale].sum(1)) & (count > 1)
        wrong[rows[some[far]]] = True
    return wrong


@_EXTREMES
def judge_end(
    time: Floats, wrong: Mask, lateness: float, final: bool = True
) -> tuple[Mask, Floats]:
    """Judge the last rows by the steps before them, as too few rows come after them.

    Args:
        time: (n,) seconds; NaN where a row has no time.
        wrong: (n,) what ``far_ahead`` found.
        lateness: as in ``far_ahead``.
        final: whether the stream ends with these rows.

    Returns:
        (n,) whether a time is wrong, and (n,) what a time is corrected to: NaN for most.
    """
    wrong, unsure = wrong.copy(), np.full(len(time), np.nan)
    known = np.flatnonzero(~np.isnan(time))
    for row in known[-LAST_ROWS - 1 :].tolist():
        start = max(row - WINDOW, 0)
        before = time[start:row][~wrong[start:row]]
        before = before[~np.isnan(before)]
        after = time[row + 1 :][~np.isnan(time[row + 1 :])]
        agree = int((after >= time[row] - lateness).sum())
        if wrong[row] or len(before) <= MIN_STEPS or agree >= LAST_ROWS:
            continue
        latest = np.maximum.accumulate(before)
        usual, step = float(np.diff(latest).max()), float(time[row] - latest[-1])
        if usual <= 0 or step <= max(lateness, PACE * usual):
            continue
        if len(after) > agree or (final and step > FAR_S):
            wrong[row] = True
        elif final:
            unsure[row] = latest[-1]
    return wrong, unsure


@_EXTREMES
def _in_order(time: Floats, lateness: float) -> bool:
    """Return whether no time is earlier than one before it, by more than ``lateness``."""
    with np.errstate(invalid="ignore"):
        latest = np.fmax.accumulate(time)
        return not (time < latest - lateness).any()


def _padded(time: Floats) -> Floats:
    padded = np.full(len(time) + 2 * WINDOW, np.nan)
    padded[WINDOW:-WINDOW] = time
    return padded


def _level_before(before: Array, scale: int, count: Ints) -> Floats:
    """Return (m,) the time that half of ``scale`` rows before each row have reached; -inf where too
    few are known. Where a stream steps back, at most half of the following rows lie between.

    Args:
        before: (m, ``WINDOW``) the times before each row.
        scale: the number of following rows that are looked at.
        count: (m,) how many of them there are.
    """
    width = max(scale, 2 * SCALES[0])
    near = np.sort(before[:, WINDOW - width :], axis=1)  # NaN last
    known = width - np.isnan(near).sum(1)
    rank = known * scale // (2 * width)
    few = 2 * known < scale
    rank = np.maximum(np.where(few, np.minimum(rank, count // 2), rank), 1)
    level = near[np.arange(len(near)), np.maximum(known - rank, 0)]
    return np.where(few & (known < count), -np.inf, level)


def _forward(following: Array) -> Mask:
    """Return (m,) whether most steps, three of four, from one following row to the next do not go
    back."""
    with np.errstate(invalid="ignore"):
        steps = np.diff(following, axis=1)
        forward: Mask = (steps >= 0).sum(1) >= 3 * (steps < 0).sum(1)
    return forward


def corrected(time: Floats, wrong: Mask) -> Floats:
    """Return the times with the wrong ones spread evenly between the right ones around them."""
    if not wrong.any():
        return time
    right = np.flatnonzero(~wrong & ~np.isnan(time))
    if not len(right):
        return time
    between = np.interp(np.flatnonzero(wrong), right, np.maximum.accumulate(time[right]))
    time = time.copy()
    time[wrong] = between
    return time


@_EXTREMES
def confirmed(time: Floats, lateness: float) -> Mask:
    """Return (n,) True for the times that the rows after them confirm: none of the next
    ``SUPPORT`` is earlier; or the next is not, and the step to the time, if there is one, is no
    longer than ``PACE`` of those after it."""
    padded = np.append(time, np.full(SUPPORT, np.nan))
    following = sliding_window_view(padded[1:], SUPPORT) if len(time) else np.empty((0, SUPPORT))
    run = np.cumprod(following >= (time - lateness)[:, None], axis=1).sum(1)
    step = np.diff(np.fmax.accumulate(time), prepend=np.nan)
    pace = (padded[np.arange(len(time)) + run] - time) / np.maximum(run, 1)
    with np.errstate(invalid="ignore"):
        steady = (run > 0) & ~(step > PACE * pace)
    result: Mask = (run == SUPPORT) | steady
    return result
