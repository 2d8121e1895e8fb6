"""Running moments against numpy, weighted sums, and hostile columns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.state_dict import copied, digest
from streams.core.statistics.running_moments import RunningMoments

lengths = st.lists(st.integers(1, 20), min_size=1, max_size=8)


@given(lengths, st.integers(0, 99), st.sampled_from([1.0, 1e-6, 1e9]))
def test_mean_and_variance_of_all_rows(parts: list[int], seed: int, scale: float) -> None:
    rows = np.random.default_rng(seed).normal(3, 1, (sum(parts), 4)) * scale
    moments = RunningMoments((4,))
    for part in np.split(rows, np.cumsum(parts)[:-1]):
        moments.update(part)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-9)
    if len(rows) > 1:
        np.testing.assert_allclose(moments.std(), rows.std(0), rtol=1e-9)
    assert moments.count == len(rows)


@given(lengths, st.integers(0, 99), st.sampled_from([0.5, 7.0, 1000.0]))
def test_half_life_is_a_weighted_mean(parts: list[int], seed: int, half_life: float) -> None:
    """A row weighs 1/2 to the (rows that came in later micro-batches / half_life)."""
    rows = np.random.default_rng(seed).normal(-2, 3, (sum(parts), 2))
    moments = RunningMoments((2,), half_life)
    for part in np.split(rows, np.cumsum(parts)[:-1]):
        moments.update(part)
    later = sum(parts) - np.repeat(np.cumsum(parts), parts)
    weight = 0.5 ** (later / half_life)
    mean = np.average(rows, 0, weight)
    variance = np.average((rows - mean) ** 2, 0, weight)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-8, atol=1e-12)
    if len(rows) > 1 and parts[-1] > 1:
        np.testing.assert_allclose(moments.std(), np.sqrt(variance), rtol=1e-8)
    assert moments.count == pytest.approx(weight.sum())


@pytest.mark.parametrize("value", [0.0, 0.1, -1e-30, 7e12, 1.7e9 + 0.1])
def test_constant_column_is_only_centred(value: float) -> None:
    moments = RunningMoments((1,))
    for n in (1, 3, 32, 7, 1000):
        moments.update(np.full((n, 1), value))
        assert moments.std().tolist() == [1.0]
    np.testing.assert_allclose(moments.scale(np.full((2, 1), value)), 0, atol=1e-2)


@pytest.mark.parametrize("offset", [1e6, 1.7e9, 1e12])
def test_large_numbers_with_small_variance_are_scaled(offset: float) -> None:
    rows = np.random.default_rng(0).normal(0, max(1.0, offset * 1e-8), (4000, 1))
    moments = RunningMoments((1,))
    for part in np.split(rows + offset, 40):
        moments.update(part)
    scaled = moments.scale(rows + offset)
    assert abs(scaled.std() - 1) < 0.01
    assert abs(scaled.mean()) < 0.01


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("huge", [1e20, 3e38, 1e300, 1.7e308])
def test_moments_survive_a_huge_value(huge: float, dtype: type) -> None:
    if huge > float(np.finfo(dtype).max):
        return
    moments = RunningMoments((2,), half_life=10)
    plain = np.random.default_rng(0).normal(0, 1, (64, 2))
    moments.update(plain.astype(dtype))
    absurd = np.array([[huge, 1], [-huge, 1]], dtype)
    scaled = moments.scale(absurd)
    assert scaled.dtype == np.float32
    assert scaled[:, 0].tolist() == [100, -100]
    moments.update(absurd)
    for rows in (absurd, plain):
        assert np.isfinite(moments.scale(rows)).all()
    assert np.isfinite(moments.mean).all()
    assert np.isfinite(moments.m2).all()
    for _ in range(300):
        moments.update(plain)
    assert moments.scale(plain)[:, 0].std() > 0.1  # forgotten after a while


@pytest.mark.parametrize("half_life", [None, 10.0, 1000.0])
@pytest.mark.parametrize("size", [1, 16])
@pytest.mark.parametrize("absurd", [1e4, -1e39, 1e200, -1.7e308])
def test_outlier_does_not_spoil_the_scale(
    absurd: float, size: int, half_life: float | None
) -> None:
    plain = np.random.default_rng(0).normal(5, 2, (4000, 2))
    plain[500, 0] = absurd
    moments = RunningMoments((2,), half_life)
    for part in np.split(plain, 4000 // size):
        moments.update(part)
        assert moments.std()[0] < 2 * 100
    scaled = moments.scale(plain[-500:])
    assert 0.3 < scaled[:, 0].std() < 3
    assert abs(scaled[:, 0].mean()) < 3


def test_the_bound_is_of_each_value() -> None:
    """As much as 100 standard deviations off, and no row beside it touched."""
    rows = np.random.default_rng(0).normal(0, 1, (64, 1))
    bounded, wanted = RunningMoments((1,)), RunningMoments((1,))
    for moments in (bounded, wanted):
        moments.update(rows)
    edge = wanted.mean + 100 * wanted.std()
    bounded.update(np.concatenate([rows[:9], [[1e12]]]))
    wanted.update(np.concatenate([rows[:9], edge[None]]))
    np.testing.assert_allclose(bounded.mean, wanted.mean)
    np.testing.assert_allclose(bounded.std(), wanted.std())


@pytest.mark.parametrize(("before", "spread"), [(0.0, 0.0), (3.0, 1.0), (7e12, 0.0), (1e18, 0.0)])
@pytest.mark.parametrize("half_life", [None, 10.0])
def test_moments_follow_a_shift_in_a_few_micro_batches(
    before: float, spread: float, half_life: float | None
) -> None:
    noise = np.random.default_rng(0).normal(0, 1, (4000, 1))
    moments = RunningMoments((1,), half_life)
    for part in np.split(before + spread * noise, 125):
        moments.update(part)
    after = 1e5 + 2.5 * before + noise
    for part in np.split(after[:320], 10):
        moments.update(part)
    assert np.abs(moments.scale(after)).max() < 15
    for part in np.split(np.tile(after, (10, 1)), 1250):
        moments.update(part)
    assert moments.scale(after).mean() == pytest.approx(0, abs=0.5)


def test_integers_and_other_shapes() -> None:
    moments = RunningMoments(())
    moments.update(np.array([1, 2, 3, 4]))
    assert moments.mean == 2.5
    assert moments.scale(np.array([2.5])).tolist() == [0]
    image = RunningMoments((3, 2, 2))
    rows = np.random.default_rng(0).integers(0, 255, (50, 3, 2, 2), np.uint8)
    image.update(rows)
    np.testing.assert_allclose(image.mean, rows.mean(0))
    np.testing.assert_allclose(image.std(), rows.std(0))


def test_rows_are_not_changed() -> None:
    for dtype in (np.float32, np.float64):
        rows = np.ones((3, 2), dtype)
        rows.flags.writeable = False
        moments = RunningMoments((2,))
        moments.update(rows)
        moments.scale(rows)


def test_state_goes_on() -> None:
    rows = np.random.default_rng(0).normal(size=(100, 3))
    first, second = RunningMoments((3,), 9.0), RunningMoments((3,), 9.0)
    for part in np.split(rows, 10):
        first.update(part)
        kept = first.state()
        before = digest(kept)
        second.load(copied(kept))
        np.testing.assert_array_equal(first.scale(rows), second.scale(rows))
        first.update(part)
        second.update(part)
        assert digest(first.state()) == digest(second.state())
        assert digest(kept) == before, "a state that was handed out has changed"


@st.composite
def gappy_rows(draw: st.DrawFn) -> np.ndarray:
    """Rows of three columns, the last without gaps, cut anywhere into micro-batches later."""
    n = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    rows = rng.normal(3, 2, (n, 3)) * [1, 1e6, 1]
    rows[:, :2][rng.random((n, 2)) < draw(st.sampled_from([0.1, 0.5, 0.9, 1.0]))] = np.nan
    return rows


@given(gappy_rows(), st.lists(st.integers(0, 60), max_size=5))
def test_missing_numbers_count_in_no_column(rows: np.ndarray, cuts: list[int]) -> None:
    moments = RunningMoments((3,))
    for part in np.split(rows, sorted(min(cut, len(rows)) for cut in cuts)):
        if len(part):
            moments.update(part)
    for j in range(3):
        known = rows[~np.isnan(rows[:, j]), j]
        assert np.broadcast_to(moments.count, 3)[j] == len(known)
        np.testing.assert_allclose(moments.mean[j], known.mean() if len(known) else 0, rtol=1e-9)
        if len(known) > 1:
            np.testing.assert_allclose(moments.std()[j], known.std(), rtol=1e-9)
    scaled = moments.scale(rows)
    assert (np.isnan(scaled) == np.isnan(rows)).all()


@pytest.mark.parametrize("half_life", [None, 20.0])
def test_column_with_gaps_is_that_of_its_known_values(half_life: float | None) -> None:
    """A gap leaves the moments of its column as they are, the bound for outliers too."""
    rng = np.random.default_rng(2)
    known = rng.normal(size=(40, 1))
    known[30] = 1e7
    alone, gappy = RunningMoments((1,), half_life), RunningMoments((2,), half_life)
    for row in known:
        alone.update(row[None])
        gappy.update(np.array([[row[0], np.nan], [np.nan, 1.0]]))
    np.testing.assert_allclose(gappy.mean[0], alone.mean[0], rtol=1e-12)
    np.testing.assert_allclose(gappy.std()[0], alone.std()[0], rtol=1e-12)
    assert gappy.count[0] == pytest.approx(alone.count)  # type: ignore[index]


def test_state_is_as_ever_until_a_number_is_missing() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 2))
    moments = RunningMoments((2,))
    moments.update(rows)
    assert moments.state()["count"] == 30.0
    rows[3, 1] = np.nan
    moments.update(rows)
    assert moments.state()["count"].tolist() == [60.0, 59.0]
    heir = RunningMoments((2,))
    heir.load(copied(moments.state()))
    for each in (moments, heir):
        each.update(rows)
    assert digest(heir.state()) == digest(moments.state())
