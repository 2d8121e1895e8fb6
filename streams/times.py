"""Times as text, and local times of a time zone as seconds."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

_EPOCH = datetime(1970, 1, 1)
_COUNTER = 1e8
"""Numbers up to this, in early 1973 as seconds, are shown as numbers: most are counters."""
_QUARTER = 900.0
"""Seconds: time zones change their offset on quarters of an hour."""
LARGEST = 253_402_300_799.0
"""The last second of the year 9999."""
SMALLEST = -62_135_596_800.0
"""The first second of the year 1."""


def iso(time: float, counters: bool = True) -> str:
    """Return a time in seconds as ISO 8601 in UTC; one outside the years 1 to 9999 as it is. With
    ``counters`` a small number too, which is most often a counter."""
    if (counters and abs(time) < _COUNTER) or not SMALLEST <= time <= LARGEST:
        return f"{time:.17g}"
    moment = _EPOCH + timedelta(seconds=math.floor(time), microseconds=round(time % 1 * 1e6))
    return moment.isoformat() + "Z"


def autumn_night(time: float) -> bool:
    """Return whether a local time may lie in a night in which clocks are set back: one to Sunday,
    in autumn of either hemisphere, between 23 and 4 o'clock."""
    if not SMALLEST <= time <= LARGEST or abs(time) < _COUNTER:
        return False
    moment = _EPOCH + timedelta(seconds=math.floor(time))
    night = moment + timedelta(hours=1)  # in Chile and Lebanon it is 23 o'clock that comes twice
    return night.weekday() == 6 and night.month in (3, 4, 9, 10, 11) and night.hour < 5


class TimeZone:
    """A time zone.

    Args:
        name: its name in the IANA database, as in ``Europe/Vienna``.

    Raises:
        ValueError: there is none of that name.
    """

    def __init__(self, name: str) -> None:
        try:
            self._zone = ZoneInfo(name)
        except (KeyError, ValueError, OSError):  # OSError: it is a folder of zones
            raise ValueError(
                f"{name!r} is no time zone: state one of the IANA database, as in Europe/Vienna"
            ) from None
        self.name = name
        self._by_local: dict[float, float] = {}
        self._by_utc: dict[float, float] = {}
        self._by_offset: dict[float, float] = {}

    def to_utc(self, local: Floats) -> Floats:
        """Return (n,) UTC seconds of local ones. A local time that comes twice counts as the first;
        one that is left out, in spring, is shifted by what the clock is set forward."""
        return local - self._looked_up(local, self._by_local, self._offset)

    def to_local(self, time: Floats) -> Floats:
        """Return (n,) local seconds of UTC ones."""
        return time + self._looked_up(time, self._by_offset, self._offset_at)

    def fold(self, time: Floats) -> Floats:
        """Return (n,) seconds by which each time is later if its local time, which comes twice, is
        the second one; 0: it comes once, or is the second."""
        return self._looked_up(time, self._by_utc, self._fold)

    @staticmethod
    def _looked_up(time: Floats, known: dict[float, float], find: object) -> Floats:
        """Return a function of the quarter of an hour of each time."""
        result = np.zeros(len(time))
        with np.errstate(invalid="ignore"):
            readable = np.flatnonzero((time >= SMALLEST + 1e5) & (time <= LARGEST - 1e5))
        quarters, index = np.unique(np.floor(time[readable] / _QUARTER), return_inverse=True)
        for quarter in quarters.tolist():
            if quarter not in known:
                if len(known) > 100_000:
                    known.clear()
                known[quarter] = find(quarter * _QUARTER)  # type: ignore[operator]
        values = np.array([known[quarter] for quarter in quarters.tolist()])
        if len(values):
            result[readable] = values[index]
        return result

    def _offset(self, local: float) -> float:
        moment = (_EPOCH + timedelta(seconds=local)).replace(tzinfo=self._zone)
        return _seconds(moment)

    def _offset_at(self, time: float) -> float:
        moment = datetime.fromtimestamp(0, UTC) + timedelta(seconds=time)
        return _seconds(moment.astimezone(self._zone))

    def _fold(self, time: float) -> float:
        moment = datetime.fromtimestamp(0, UTC) + timedelta(seconds=time)
        local = moment.astimezone(self._zone)
        if local.fold:
            return 0.0
        return max(_seconds(local) - _seconds(local.replace(fold=1)), 0.0)


def _seconds(moment: datetime) -> float:
    """Return the offset of a moment from UTC in seconds."""
    offset = moment.utcoffset()
    return 0.0 if offset is None else offset.total_seconds()
