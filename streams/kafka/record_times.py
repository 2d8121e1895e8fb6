"""The right times of the records and the events of one block.

A timestamp is at most the reader's clock, and the time of an event at most that of its message. A
time that is far ahead of those around it, in its partition and block, counts as they do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.core.batch import Array, Floats, Ints, TimeStatus
from streams.decoding.wrong_times import LAST_ROWS, confirmed, corrected, far_ahead, judge_end

FRESH_S = 600.0
"""A time that is at most this many seconds before the reader's clock is confirmed by it."""
ROUNDING_S = 0.001
"""Timestamps are whole milliseconds."""

Statuses = NDArray[np.int8]


class RecordTimes(NamedTuple):
    """The times of n records.

    Attributes:
        time: (n,) int64 milliseconds, right as far as the block tells.
        sent: (n,) int64 milliseconds, at most the reader's clock.
        status: (n,) a ``TimeStatus`` each.
    """

    time: Ints
    sent: Ints
    status: Statuses


def right_stamps(time: Ints, read_at: float, lateness: float) -> RecordTimes:
    """Return the right timestamps of records of one partition, in offset order.

    Args:
        time: (n,) milliseconds.
        read_at: the reader's clock in seconds.
        lateness: seconds by which times may step back.
    """
    if not len(time) or time[0] < 0:  # the broker keeps no timestamps
        return RecordTimes(time, time, np.full(len(time), TimeStatus.CONFIRMED, np.int8))
    sent = np.minimum(time, int(read_at * 1000))
    right, status = right_times(sent / 1000.0, read_at, lateness)
    wrong = status == TimeStatus.CORRECTED
    status[(sent < time) & ~wrong] = TimeStatus.BOUNDED
    return RecordTimes(
        np.where(wrong, np.round(right * 1000.0), sent).astype(np.int64), sent, status
    )


def right_times(time: Floats, read_at: float, lateness: float) -> tuple[Floats, Statuses]:
    """Return the right times of rows of one partition, and a ``TimeStatus`` for each.

    Args:
        time: (n,) seconds.
        read_at: the reader's clock in seconds.
        lateness: seconds by which times may step back.
    """
    wrong = far_ahead(time, lateness)
    if (np.diff(time[-LAST_ROWS - 2 :]) < 0).any():
        wrong, _ = judge_end(time, wrong, lateness, final=False)
    right = corrected(time, wrong)
    sure = right >= read_at - FRESH_S
    if not sure.all():
        sure |= confirmed(right, lateness)
    status = np.where(sure, TimeStatus.CONFIRMED, TimeStatus.UNCONFIRMED).astype(np.int8)
    status[wrong] = TimeStatus.CORRECTED
    return right, status


def right_event_times(
    time: Floats, sent: Floats, partition: Array, read_at: float, lateness: float
) -> tuple[Floats, Statuses]:
    """Return the right times of events that have their own, and a ``TimeStatus`` for each.

    Args:
        time: (n,) seconds.
        sent: (n,) seconds, the timestamps of their messages; negative where there is none.
        partition: (n,) their partitions, each in offset order.
        read_at: the reader's clock in seconds.
        lateness: seconds by which times may step back.
    """
    bounded = (time > sent + ROUNDING_S) & (sent >= 0)
    right = np.where(bounded, sent, time)
    status: Statuses = np.empty(len(time), np.int8)
    for part in np.unique(partition).tolist():
        rows = np.flatnonzero(partition == part)
        right[rows], status[rows] = right_times(right[rows], read_at, lateness)
    status[bounded & (status != TimeStatus.CORRECTED)] = TimeStatus.BOUNDED
    return right, status
