"""Times as numbers and categories for a network."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streams.core.batch import Array, Floats, Ints
from streams.times import LARGEST, SMALLEST, TimeZone

DAY = 86_400.0
WEEK = 7 * DAY
_MONDAY = 4 * DAY
"""The first Monday after 1970-01-01, a Thursday, in seconds."""
_LOG_YEAR = np.log1p(365.25 * DAY)

NUMBERS = 7
"""Numbers of a time: sine and cosine of the time of day, of the week and of the year, and the time
from it to the event."""
CODES = (25, 8)
"""Values of the codes of a time: the hour of the day, 24 where it is missing, and the day of the
week from Monday, 7 where it is missing."""


class EncodedTimes(NamedTuple):
    """A column of n times.

    Attributes:
        numbers: (n, NUMBERS) float32 from about -1.5 to 1.5, 0 where the time is missing.
        codes: (n, len(CODES)) int64, each below its number of ``CODES``.
    """

    numbers: Array
    codes: Ints


def encode_times(column: Floats, event_time: Floats, zone: TimeZone | None = None) -> EncodedTimes:
    """Encode times by their place in day, week and year, and by how long ago they are.

    How long ago is on a logarithmic scale with a sign: ``log(1 + seconds)``, 1 for a year before
    the event, negative after it. Sine and cosine have no jump at midnight (as in Kazemi et al.
    2019, "Time2Vec", with periods that are known).

    Args:
        column: (n,) float64 seconds; missing where it is no time of the years 1 to 9999.
        event_time: (n,) float64 seconds of the events; the last number is 0 where that is no time.
        zone: whose days and weeks count; None: UTC.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        known = (column >= SMALLEST) & (column <= LARGEST)
        whole = bool(known.all())
        time = column if whole else np.where(known, column, 0.0)
        ago = event_time - time
        since = np.copysign(np.log1p(np.abs(ago)), ago) / _LOG_YEAR
    local = time if zone is None else zone.to_local(time)
    days = local / DAY
    shares = np.empty((len(column), 3))
    shares[:, 0] = days - np.floor(days)
    weeks = (local - _MONDAY) / WEEK
    shares[:, 1] = weeks - np.floor(weeks)
    shares[:, 2] = _of_year(local)
    codes = np.stack(
        [np.mod(local, DAY) // 3600, np.mod(local - _MONDAY, WEEK) // DAY], axis=1
    ).astype(np.int64)
    shares *= 2 * np.pi
    numbers = np.empty((len(column), NUMBERS), np.float32)
    np.sin(shares, out=numbers[:, 0:6:2], casting="same_kind")
    np.cos(shares, out=numbers[:, 1:6:2], casting="same_kind")
    numbers[:, 6] = np.where(np.isfinite(since), since, 0.0)
    if not whole:
        numbers[~known] = 0
        codes[~known] = [size - 1 for size in CODES]
    return EncodedTimes(numbers, codes)


def _of_year(local: Floats) -> Floats:
    """Return the share of its year that has passed at each local time, from 0 to 1."""
    years = local.astype(np.int64).astype("M8[s]").astype("M8[Y]")
    first = years.astype("M8[s]").astype(np.float64)
    last = (years + 1).astype("M8[s]").astype(np.float64)
    return np.asarray((local - first) / (last - first))
