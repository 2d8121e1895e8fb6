"""Times as numbers and codes, against datetime."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.networks.encoders.time_codes import CODES, NUMBERS, encode_times
from streams.times import TimeZone

moments = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)).map(
    lambda moment: moment.replace(tzinfo=UTC, microsecond=0)
)
modern = st.datetimes(datetime(1971, 1, 1), datetime(2037, 12, 31)).map(
    lambda moment: moment.replace(tzinfo=UTC, microsecond=0)
)
zones = st.sampled_from(
    ["Europe/Vienna", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia"]
)


def seconds(moment: datetime) -> float:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()


def by_datetime(moment: datetime, event: datetime) -> tuple[list[float], list[int]]:
    """Return numbers and codes of a local time."""
    midnight = moment.replace(hour=0, minute=0, second=0, tzinfo=None)
    naive = moment.replace(tzinfo=None)
    day = (naive - midnight) / timedelta(days=1)
    week = (moment.weekday() + day) / 7
    first = naive.replace(month=1, day=1, hour=0, minute=0, second=0)
    days = 366 if first.year % 4 == 0 and (first.year % 100 or first.year % 400 == 0) else 365
    year = (naive - first) / timedelta(days=days)
    ago = (event - moment).total_seconds()
    log = math.copysign(math.log1p(abs(ago)) / math.log1p(365.25 * 86_400), ago)
    angles = [2 * math.pi * share for share in (day, week, year)]
    numbers = [f(angle) for angle in angles for f in (math.sin, math.cos)]
    return [*numbers, log], [moment.hour, moment.weekday()]


@given(st.lists(moments, min_size=1, max_size=4), moments)
def test_encode_times_is_as_datetime_has_it(rows: list[datetime], event: datetime) -> None:
    column = np.array([seconds(row) for row in rows])
    numbers, codes = encode_times(column, np.full(len(rows), seconds(event)))
    assert (numbers.dtype, numbers.shape) == (np.float32, (len(rows), NUMBERS))
    for i, row in enumerate(rows):
        wanted, code = by_datetime(row, event)
        assert numbers[i].tolist() == pytest.approx(wanted, abs=1e-5)
        assert codes[i].tolist() == code


@given(st.lists(modern, min_size=1, max_size=4), zones)
def test_encode_times_in_a_zone_is_local(rows: list[datetime], name: str) -> None:
    column = np.array([seconds(row) for row in rows])
    numbers, codes = encode_times(column, column, TimeZone(name))
    for i, row in enumerate(rows):
        wanted, code = by_datetime(row.astimezone(ZoneInfo(name)), row.astimezone(ZoneInfo(name)))
        assert numbers[i].tolist() == pytest.approx(wanted, abs=1e-5)
        assert codes[i].tolist() == code


def test_encode_times_when_clocks_change() -> None:
    """The hour that comes twice is twice the same; the one that is left out never comes."""
    zone = TimeZone("Europe/Vienna")
    autumn = seconds(datetime(2024, 10, 26, 23, 30, tzinfo=UTC)) + 3600 * np.arange(4)
    spring = seconds(datetime(2024, 3, 31, 0, 30, tzinfo=UTC)) + 3600 * np.arange(2)
    assert encode_times(autumn, autumn, zone).codes[:, 0].tolist() == [1, 2, 2, 3]
    assert encode_times(spring, spring, zone).codes[:, 0].tolist() == [1, 3]
    assert encode_times(spring, spring).codes[:, 0].tolist() == [0, 1]


def test_encode_times_marks_what_is_missing() -> None:
    column = np.array([np.nan, np.inf, -np.inf, 1e300, 0.0])
    numbers, codes = encode_times(column, np.zeros(5), TimeZone("Europe/Vienna"))
    assert not numbers[:4].any()
    assert (codes[:4] == np.array(CODES) - 1).all()
    assert codes[4].tolist() == [1, 3]  # a Thursday, one o'clock
    numbers, _ = encode_times(np.array([0.0, 60.0]), np.array([np.nan, np.inf]))
    assert (numbers[:, 6] == 0).all()
    assert np.isfinite(numbers).all()


@given(st.floats(), st.floats())
def test_encode_times_is_finite_whatever_it_takes(time: float, event: float) -> None:
    numbers, codes = encode_times(np.array([time]), np.array([event]), TimeZone("America/Havana"))
    assert np.isfinite(numbers).all()
    assert (codes >= 0).all()
    assert (codes < np.array(CODES)).all()
