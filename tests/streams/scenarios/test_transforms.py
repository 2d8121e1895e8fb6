"""What is done to rows, against numbers worked out by hand and against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from streams.scenarios.transforms import Permuted, Rotated


def images(n: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *shape)).astype(np.uint8)


def test_values_change_places() -> None:
    permuted = Permuted(np.array([[0, 1, 2], [2, 0, 1]]))
    x = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.float32)
    found = permuted(x, np.array([1, 0, 1]))
    assert found.tolist() == [[3, 1, 2], [4, 5, 6], [9, 7, 8]]
    assert found.dtype == np.float32
    assert x.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_a_pixel_keeps_its_channels() -> None:
    permuted = Permuted(np.array([[1, 2, 3, 0]]))
    x = np.array([[[[1, 2], [3, 4]], [[5, 6], [7, 8]]]], np.uint8)  # 2 channels of 2 x 2
    found = permuted(x, np.zeros(1, int))
    assert found.tolist() == [[[[2, 3], [4, 1]], [[6, 7], [8, 5]]]]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 5, 5)])
def test_right_angles_are_exact(shape: tuple[int, ...]) -> None:
    x = images(6, *shape)
    turned = Rotated([0, 90, 180, 270, -90, 360], *shape[1:])
    found = turned(x, np.arange(6))
    for row, turns in enumerate([0, 1, 2, 3, -1, 4]):
        assert (found[row] == np.rot90(x[row], turns, (1, 2))).all()


def test_an_eighth_of_a_turn_by_hand() -> None:
    """The pixel right of the centre comes to stand between the two above it: the corner lies
    sqrt(2) - 1 beyond it, and gets 0.586 of it; its neighbours get 0.293 * 0.707 = 0.207."""
    x = np.zeros((1, 1, 3, 3), np.uint8)
    x[0, 0, 1, 2] = 100
    found = Rotated([45], 3, 3)(x, np.zeros(1, int))
    assert found[0, 0].tolist() == [[0, 21, 59], [0, 0, 21], [0, 0, 0]]


@pytest.mark.parametrize("degrees", [10.0, 45.0, 77.5, 135.0])
def test_any_angle_as_scipy_has_it(degrees: float) -> None:
    x = images(3, 1, 28, 28)
    found = Rotated([degrees], 28, 28)(x, np.zeros(3, int))
    for row in range(3):
        whole = x[row, 0].astype(float)
        expected = ndimage.rotate(whole, degrees, reshape=False, order=1, mode="grid-constant")
        # A weight is off by at most half a 256th, and of that there are four.
        assert np.abs(found[row, 0] - expected).max() < 2.5


def test_rebatch_without_rows_gives_nothing() -> None:
    empty = np.empty((0, 1, 3, 3), np.uint8)
    assert Rotated([45], 3, 3)(empty, np.empty(0, int)).shape == empty.shape
