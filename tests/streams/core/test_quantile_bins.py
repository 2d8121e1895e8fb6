"""Numbers as categories of about equal frequency."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.state_dict import copied, digest
from streams.core.statistics.quantile_bins import QuantileBins


def fitted(rows: Any, size: int = 32, bins: int = 16, after: int = 500) -> QuantileBins:
    rows = np.asarray(rows, np.float64)
    made = QuantileBins(rows.shape[1], bins, after)
    for start in range(0, len(rows), size):
        made.observe(rows[start : start + size])
    return made


def test_bins_of_distinct_numbers_hold_equal_shares() -> None:
    rows = np.random.default_rng(0).normal(size=(640, 3))
    codes = fitted(rows, after=640).codes(rows)
    for column in range(3):
        assert np.bincount(codes[:, column], minlength=16).tolist() == [40] * 16


def test_few_values_have_a_bin_each() -> None:
    rows = np.array([[1.0, 5.0], [2.0, 5.0], [7.0, 5.0]] * 40)
    made = fitted(rows, after=120)
    asked = np.array([[0.5, 4.9], [1.5, 5.0], [2.0, 5.1], [6.9, 5.0], [7.5, 5.0]])
    assert made.codes(asked).tolist() == [[0, 0], [0, 0], [1, 0], [1, 0], [2, 0]]


@pytest.mark.parametrize(("frequent", "at"), [(0.0, 0), (1.0, 15), (0.5, None)])
def test_a_frequent_value_takes_one_bin(frequent: float, at: int | None) -> None:
    """Nine tenths are one number: the rest shares the other bins."""
    rng = np.random.default_rng(1)
    rows = np.where(rng.random((500, 1)) < 0.9, frequent, rng.random((500, 1)))
    codes = fitted(rows).codes(rows)[:, 0]
    counts = np.bincount(codes, minlength=16)
    own = codes[rows[:, 0] == frequent][0]
    assert at in (None, own)
    assert counts[own] == (rows == frequent).sum()
    others = np.delete(counts, own)
    assert (others > 0).all()
    assert others.max() <= 5


def test_missing_numbers_have_a_code_of_their_own() -> None:
    rows = np.array([[1.0, np.nan], [np.nan, 3.0]] * 10)
    before, after = QuantileBins(2, 4, 20), fitted(rows, bins=4, after=20)
    assert before.codes(rows[:2]).tolist() == [[0, 4], [4, 0]]
    assert after.codes(rows[:2]).tolist() == [[0, 4], [4, 0]]


def test_a_column_that_begins_late_gets_bins_later() -> None:
    rows = np.array([[i, np.nan] for i in range(100)])
    made = fitted(rows, bins=4, after=50)
    assert made.known.tolist() == [True, False]
    made.observe(np.array([[0.0, i] for i in range(9)]))
    assert made.codes(np.array([[0.0, 8.0]])).tolist() == [[0, 0]]
    made.observe(np.array([[0.0, 9.0]]))
    assert made.known.tolist() == [True, True]
    assert made.codes(np.array([[0.0, 9.0]])).tolist() == [[0, 3]]


def test_observe_returns_how_many_rows_it_took() -> None:
    rows = np.array([[i, np.nan, np.nan if i < 7 else i] for i in range(20)], float)
    made = QuantileBins(3, 4, 10)
    assert made.observe(rows[:6]).tolist() == [6, 6, 6]
    assert made.observe(rows[6:]).tolist() == [4, 14, 4]
    assert made.observe(rows).tolist() == [0, 20, 0]
    late = QuantileBins(1, 4, 10)
    assert late.observe(np.array([[np.nan]] * 12 + [[3.0], [np.nan], [4.0], [5.0]])).tolist() == [
        15
    ]


def test_edges_stay_where_they_are() -> None:
    rows = np.random.default_rng(2).normal(size=(100, 2))
    made = fitted(rows, after=100)
    before = digest(made.state())
    made.observe(rows + 100)
    assert digest(made.state()) == before


def test_extreme_numbers_are_in_the_outer_bins() -> None:
    rows = np.arange(100.0)[:, None]
    codes = fitted(rows, after=100).codes(np.array([[-np.inf], [-1e300], [1e300], [np.inf]]))
    assert codes[:, 0].tolist() == [0, 0, 15, 15]


@given(
    st.lists(
        st.one_of(st.just(np.nan), st.integers(-3, 3).map(float), st.floats(-1e300, 1e300)),
        min_size=1,
        max_size=80,
    ),
    st.integers(2, 20),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_codes_are_monotone_and_cuts_do_not_matter(
    numbers: list[float], bins: int, after: int, size: int
) -> None:
    rows = np.array(numbers)[:, None]
    one, two = fitted(rows, size, bins, after), fitted(rows, len(rows), bins, after)
    assert digest(one.state()) == digest(two.state())
    present = np.sort(rows[~np.isnan(rows)])
    codes = one.codes(present[:, None])[:, 0]
    assert (np.diff(codes) >= 0).all()
    assert ((codes >= 0) & (codes < bins)).all()
    sample = [x for x in numbers[:after] if x == x]
    if len(numbers) >= after and len(sample) >= max(after // 5, 1):  # its edges are known
        different = len(set(sample))
        used = len(set(one.codes(np.array(sample)[:, None])[:, 0].tolist()))
        assert used == different if different <= bins else bins / 2 <= used <= bins


@pytest.mark.parametrize("stop", [0, 20, 40, 90])
def test_state_continues(stop: int) -> None:
    rng = np.random.default_rng(3)
    rows = np.where(rng.random((120, 3)) < [0.0, 0.5, 0.97], np.nan, rng.normal(size=(120, 3)))
    first = fitted(rows[:stop] if stop else rows[:0], after=60)
    second = QuantileBins(3, after=60)
    second.load(copied(first.state()))
    for made in (first, second):
        made.observe(rows[stop:])
    assert digest(first.state()) == digest(second.state())
    assert first.memory_bytes() == second.memory_bytes() > 0
