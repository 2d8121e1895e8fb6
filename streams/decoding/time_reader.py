"""Columns of times to seconds, by the unit, the zone and the format that a job states."""

from __future__ import annotations

import math
from datetime import date, datetime
from typing import Any, Literal, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from pydantic import ValidationInfo, field_serializer, field_validator

from streams.core.batch import Floats
from streams.core.stream_config import StreamConfig
from streams.decoding.columns import (
    as_text,
    as_utc,
    moment,
    moment_as,
    numbers,
    seconds,
    to_numpy,
    valid,
)
from streams.times import TimeZone

TimeUnit = Literal["s", "ms", "us", "ns"]
UNITS: dict[TimeUnit, str] = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
}
_TICKS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
YEAR_5000 = 95_617_584_000.0
_IN_PYTHON = ("%f", "%z", "%Z")
"""Directives that Arrow does not read."""
_DATE_FORMATS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
"""Formats of integers that are dates, by their number of digits."""


class TimeValues(TypedDict):
    """The unit, the zone and the format of a ``TimeReader``, as they are stated."""

    unit: TimeUnit | None
    zone: str | None
    format: str | None


class TimeReader:
    """Reads times. Numbers are in the unit; times without an offset are those of the zone.

    Args:
        unit: of numbers, and of texts that are numbers.
        zone: of times that state no offset; None: UTC.
        format: of texts and of integers, as of ``strptime``; None: ISO 8601, or a number.
        numbers_read: numbers in columns are seconds, as a format has read them.
        or_iso: texts that are not of the format may be ISO 8601.
    """

    def __init__(
        self,
        unit: TimeUnit | None = None,
        zone: str | None = None,
        format: str | None = None,
        numbers_read: bool = False,
        or_iso: bool = False,
    ) -> None:
        self.settings: TimeValues = {"unit": unit, "zone": zone, "format": format}
        self.unit: TimeUnit = unit or "s"
        self.zone = None if zone is None else TimeZone(zone)
        self.format = format
        self._numbers_read = numbers_read
        self._or_iso = or_iso
        self.ticks = _TICKS[self.unit]
        self._to_utc = as_utc if self.zone is None else self.zone.to_utc

    def for_features(self) -> TimeReader:
        """Return what reads columns of times that are features: as those of the stream, and also
        ISO 8601 where the stream has another format."""
        return TimeReader(**self.settings, numbers_read=self._numbers_read, or_iso=True)

    @property
    def expected(self) -> str:
        """What a value must be, for the reason of a dead letter."""
        if self.format is not None:
            other = ", or ISO 8601" if self._or_iso else ""
            return f"a time as {self.format!r} (stream.time_format){other}"
        return f"a time ({UNITS[self.unit]}, or ISO 8601)"

    def __call__(self, column: pa.Array) -> Floats:
        """Return (n,) epoch seconds, NaN where null or not a time. Of a local time that comes
        twice, the first."""
        kind = column.type
        if self._numbers_read and not pt.is_string(kind):
            return seconds(column)
        if self.format is not None and (pt.is_string(kind) or pt.is_integer(kind)):
            time = self._formatted(as_text(column), self.format)
            return self._iso_too(column, time) if self._or_iso else time
        return seconds(column, self.ticks, self._to_utc)

    @property
    def plain(self) -> bool:
        """Whether numbers are seconds, and other times ISO 8601 in UTC."""
        return not any(self.settings.values())

    def parse(self, value: float | str | date, expected: str = "a time") -> float:
        """Return the epoch seconds of a time in a job: a number, a text, or a date or time of
        YAML. Raises ``ValueError``, which names what is ``expected``."""
        text = value.isoformat() if isinstance(value, date) else str(value)
        time = float(self(pa.array([text]))[0])
        if math.isnan(time):  # in a job a time may be ISO 8601, whatever its format in the stream
            time = moment(text, self.ticks, self._to_utc)
        if not math.isfinite(time):
            raise ValueError(
                f"{expected} is wanted, and this is not a time: state seconds, or ISO 8601 as in "
                "2024-05-01T12:00:00Z"
            )
        return time

    def check(self, column: pa.Array) -> str | None:
        """Return why a sample of a column of numbers cannot be times in this unit, with the
        remedy; None: it can."""
        if self.format is not None or pt.is_temporal(column.type):
            return None
        values = numbers(column)
        values = values[np.isfinite(values)]
        if not len(values):
            return None
        shown = f"{values[0]:.17g}"
        if self.unit == "s" and (form := _date_format(values)):
            return f'{shown}: a date? state stream.time_format: "{form}"'
        if self.unit == "s" and (values > YEAR_5000).all():
            return f"{shown} {after_5000(float(values[0]))}"
        if self.unit != "s" and (values > 1e8).all() and (values < 1e10).all():
            return f"{shown} would be in 1970: seconds? leave out stream.time_unit"
        return None

    def _iso_too(self, column: pa.Array, time: Floats) -> Floats:
        """Return times with those of the texts that the format has not read."""
        if not pt.is_string(column.type):
            return time
        rest = np.isnan(time) & valid(column)
        if rest.any():
            time[rest] = seconds(column.filter(pa.array(rest)), self.ticks, self._to_utc)
        return time

    def _formatted(self, column: pa.Array, form: str) -> Floats:
        """Return the times of texts of a format."""
        if any(directive in form for directive in _IN_PYTHON):
            return np.array([self._strptime(text, form) for text in column.to_pylist()], np.float64)
        times = pc.strptime(pc.utf8_trim_whitespace(column), form, "us", error_is_null=True)
        time = self._to_utc(to_numpy(times.cast(pa.int64())).astype(np.float64) / 1e6)
        for row in np.flatnonzero(np.isnan(time) & valid(column)).tolist():
            time[row] = self._strptime(column[row].as_py(), form)  # Arrow wants 01.05. for 1.5.
        return time

    def _strptime(self, text: str | None, form: str) -> float:
        if text is None:
            return math.nan
        return moment_as(text, lambda text: datetime.strptime(text, form), self._to_utc)


PLAIN_TIMES = TimeReader()
"""Reads numbers as seconds, and other times as ISO 8601 in UTC."""


def after_5000(value: float) -> str:
    """Return what is wrong with a number of seconds after the year 5000, with the remedy."""
    unit: TimeUnit = "ms" if value < 1e14 else "us" if value < 1e17 else "ns"
    return f"would be after the year 5000: {UNITS[unit]}? state stream.time_unit: {unit}"


def _date_format(values: Floats) -> str | None:
    """Return the format in which all numbers are dates of the years 1900 to 2100, as 20240131 or,
    with the time of day, 202401311159 and 20240131115930; None: they are no dates."""
    for digits, form in _DATE_FORMATS.items():
        scale = 10.0 ** (digits - 4)
        if (
            (values == np.trunc(values)) & (values >= 1900 * scale) & (values < 2101 * scale)
        ).all():
            texts = pa.array([f"{value:.0f}" for value in values.tolist()])
            dates = pc.strptime(texts, format=form, unit="s", error_is_null=True)
            return form if dates.null_count == 0 else None
    return None


class TimeSettings(StreamConfig):
    """How the times of a stream are read: those of ``time``, ``start``, ``label_delay.column`` and
    ``labels.time``.

    Attributes:
        time_unit: the unit of times that are numbers: ``s`` (as by default), ``ms``, ``us`` or
            ``ns``.
        time_zone: the zone of times that state no offset, as in ``Europe/Vienna``; UTC unless
            stated. Of an hour that comes twice, in autumn, the order of the stream says which it
            is; one that is left out, in spring, is shifted.
        time_format: the format of times that are text, or integers such as 20240131, with the
            directives of ``strptime``: ``%d.%m.%Y %H:%M``.
    """

    time_unit: TimeUnit | None = None
    time_zone: str | None = None
    time_format: str | None = None

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, name: str | None) -> str | None:
        if name is not None:
            TimeZone(name)
        return name

    @field_validator("time_format")
    @classmethod
    def _format(cls, form: str | None) -> str | None:
        if form is not None:
            try:
                again = datetime.strptime(datetime(2024, 1, 31).strftime(form), form)
            except ValueError as error:
                raise ValueError(f"{form!r} is no format of strptime: {error}") from None
            if again.date() != date(2024, 1, 31):
                raise ValueError(f"{form!r} has no full date: state year, month and day")
        return form

    def times(self, numbers_read: bool = False) -> TimeReader:
        """Return what reads the times."""
        return TimeReader(self.time_unit, self.time_zone, self.time_format, numbers_read)

    @field_serializer("start", check_fields=False)
    def _start_in_its_unit(self, start: Any) -> Any:
        """Write a start in the unit in which it is read again."""
        return start * self.times().ticks if isinstance(start, float) else start


def start_time(start: Any, info: ValidationInfo, expected: str = "a time") -> float:
    """Return the seconds of the key ``start`` of a ``TimeSettings``, for its validator."""
    unit, zone, form = (info.data.get(f"time_{name}") for name in ("unit", "zone", "format"))
    return TimeReader(unit, zone, form).parse(start, expected)
