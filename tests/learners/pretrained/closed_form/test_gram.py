"""Sums of products are exact at any size and order of batches, and stay positive definite."""

import numpy as np
import pytest

from learners.base import LearnerError
from learners.pretrained.closed_form.statistics.gram import GramSums, folded, unfolded
from streams.core.batch import Array
from streams.core.state_dict import copied, digest

WIDTH, CLASSES = 7, 4


def rows(n: int = 700, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.normal(1, 2, (n, WIDTH)).astype(np.float32), rng.integers(0, CLASSES, n)


def summed(x: Array, y: Array, size: int = 64) -> GramSums:
    sums = GramSums(WIDTH, targets=False)
    sums.grow(CLASSES)
    for start in range(0, len(x), size):
        sums.add(x[start : start + size], y[start : start + size])
    return sums


def assert_sums_of(sums: GramSums, x: Array, y: Array) -> None:
    exact, one_hot = x.astype(np.float64), np.eye(CLASSES)[y]
    np.testing.assert_allclose(sums.gram(), exact.T @ exact, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(sums.cross, one_hot.T @ exact, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(sums.totals, exact.sum(0), rtol=1e-10, atol=1e-10)
    assert np.array_equal(sums.counts, np.bincount(y, minlength=CLASSES))


@pytest.mark.parametrize("size", [1, 3, 64, 255, 256, 257, 700])
def test_streaming_sums_equal_batch_sums_at_any_size_and_order(size: int) -> None:
    x, y = rows()
    order = np.random.default_rng(size).permutation(len(x))
    for places in (np.arange(len(x)), order, np.argsort(y, kind="stable")):
        assert_sums_of(summed(x[places], y[places], size), x, y)


def test_gram_is_the_same_bit_for_bit_at_any_size() -> None:
    x, y = rows()
    first = summed(x, y).gram()
    assert np.array_equal(first, first.T)
    for size in (1, 100, 700):
        assert np.array_equal(summed(x, y, size).gram(), first)


def test_targets_are_one_column() -> None:
    x, _ = rows()
    y = np.random.default_rng(1).normal(50, 3, len(x))
    sums = GramSums(WIDTH, targets=True)
    sums.add(x[:200], y[:200])
    sums.add(x[200:], y[200:])
    np.testing.assert_allclose(sums.cross[0], y @ x.astype(np.float64), rtol=1e-12)
    assert sums.labels[0] == pytest.approx(y.sum(), rel=1e-12)
    assert sums.squares == pytest.approx(float(y @ y), rel=1e-12)


def test_merged_shards_are_the_whole() -> None:
    x, y = rows()
    one, other = summed(x[:300], y[:300]), summed(x[300:], y[300:])
    before = digest(other.state())
    one.merge(other, np.arange(CLASSES))
    assert_sums_of(one, x, y)
    assert digest(other.state()) == before


def test_subtracted_rows_were_never_there() -> None:
    x, y = rows()
    sums = summed(x, y)
    sums.subtract(x[100:400], y[100:400])
    kept = np.r_[0:100, 400:700]
    assert_sums_of(sums, x[kept], y[kept])
    with pytest.raises(LearnerError, match="more events of a class than were learned"):
        sums.subtract(x, y)
    sums.subtract(x[kept], y[kept])
    assert not sums.gram().any()
    assert not sums.cross.any()


def test_state_continues_bit_for_bit() -> None:
    x, y = rows()
    unbroken, donor = summed(x, y), summed(x[:300], y[:300], 50)
    heir = GramSums(WIDTH, targets=False)
    heir.load(copied(donor.state()))
    assert digest(heir.state()) == digest(donor.state())
    heir.add(x[300:], y[300:])
    assert np.array_equal(heir.gram(), unbroken.gram())


@pytest.mark.parametrize("m", [1, 2, 3, 4, 7, 8, 101])
def test_a_symmetric_matrix_is_folded_without_loss(m: int) -> None:
    half = np.random.default_rng(m).normal(size=(m, m))
    square = half + half.T
    packed = folded(square)
    assert packed.size == m * (m + 1) // 2
    assert np.array_equal(unfolded(packed), square)


@pytest.mark.soak
def test_gram_stays_positive_definite_over_ten_million_rows() -> None:
    """Two columns differ by 1e-3: the least eigenvalue is 1e-7 of the largest.

    The same block is added again and again, so that the exact matrix is known: a multiple of one
    block. Sums in float32, for comparison, are wrong by more than that eigenvalue.
    """
    repeats = 39_063
    rng = np.random.default_rng(0)
    x = rng.normal(1, 1, (256, WIDTH)).astype(np.float32)
    x[:, 1] = x[:, 0] + np.float32(1e-3) * rng.normal(size=256)
    y = rng.integers(0, CLASSES, 256)
    sums = summed(x, y)
    single = sums.gram().astype(np.float32)
    narrow = single.copy()
    for _ in range(repeats - 1):
        sums.add(x, y)
        narrow += single
    exact = repeats * (x.astype(np.float64).T @ x.astype(np.float64))
    least, most = np.linalg.eigvalsh(exact)[[0, -1]]
    assert sums.rows == repeats * 256 > 10**7
    assert np.abs(sums.gram() - exact).max() < 1e-11 * most
    np.linalg.cholesky(sums.gram())
    assert np.linalg.eigvalsh(sums.gram())[0] == pytest.approx(least, rel=1e-3)
    assert np.abs(narrow - exact).max() > 1e-5 * most > 10 * least
