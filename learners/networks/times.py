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
    with np.errstate(invalid="ignore"):
        known = (column >= SMALLEST) & (column <= LARGEST)
    time = np.where(known, column, 0.0)
    local = time if zone is None else zone.to_local(time)
    day, week = np.mod(local, DAY), np.mod(local - _MONDAY, WEEK)
    angles = np.stack([day / DAY, week / WEEK, _of_year(local)]) * (2 * np.pi)
    numbers = np.zeros((len(column), NUMBERS), np.float32)
    numbers[:, 0:6:2] = np.sin(angles).T
    numbers[:, 1:6:2] = np.cos(angles).T
    with np.errstate(invalid="ignore", over="ignore"):
        ago = event_time - time
        ago = np.where(np.isfinite(ago), np.sign(ago) * np.log1p(np.abs(ago)) / _LOG_YEAR, 0.0)
    numbers[:, 6] = ago
    numbers[~known] = 0
    codes = np.stack([day // 3600, week // DAY], axis=1).astype(np.int64)
    codes[~known] = [size - 1 for size in CODES]
    return EncodedTimes(numbers, codes)


def _of_year(local: Floats) -> Floats:
    """Return the share of its year that has passed at each local time, from 0 to 1."""
    years = local.astype(np.int64).astype("M8[s]").astype("M8[Y]")
    first = years.astype("M8[s]").astype(np.float64)
    last = (years + 1).astype("M8[s]").astype(np.float64)
    return np.asarray((local - first) / (last - first))
