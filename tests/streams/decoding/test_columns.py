"""Columns to arrays: times however they are written, and one numbering of classes."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest

from streams.decoding.columns import first_seen, moment, seconds


@pytest.mark.parametrize(
    "column",
    [
        *(
            pa.array([datetime(2020, 1, 1, 1)]).cast(pa.timestamp(u))
            for u in ("s", "ms", "us", "ns")
        ),
        pa.array([datetime(2020, 1, 1, 1, tzinfo=UTC)]).cast(pa.timestamp("us", "Asia/Tokyo")),
        pa.array(["2020-01-01T01:00:00"]),
        pa.array(["2020-01-01 01:00:00Z"]),
        pa.array([" 2020-01-01T10:00:00+09:00 "]),
        pa.array(["2020-01-01T01:00:00.000000000"]),
        pa.array(["1577840400"]),
        pa.array([1577840400.0]),
        pa.array([1577840400]),
    ],
)
def test_times(column: pa.Array) -> None:
    assert seconds(column).tolist() == [1577840400.0]


def test_dates() -> None:
    assert seconds(pa.array([date(1970, 1, 2), None]))[0] == 86400
    assert seconds(pa.array([date(1970, 1, 2)]).cast(pa.date64()))[0] == 86400
    assert math.isnan(moment("next week"))


def test_first_seen_numbers_by_appearance_keeps_missing() -> None:
    parts = [(np.array([1, -1]), ("a", "b")), (np.array([0, 1]), ("c", "b"))]
    codes, classes = first_seen(parts)  # type: ignore[arg-type]
    assert classes == ("b", "c")
    assert codes.tolist() == [0, -1, 1, 0]
