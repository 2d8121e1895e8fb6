"""Transforms of the rows of a data set that make different tasks of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from streams.core.batch import Array, Ints

_ONE = 256  # weights of pixels are whole 256ths: the same bytes on every machine


class Transform(ABC):
    """Transforms rows by the number of their concept."""

    def __call__(self, x: Array, concept: Ints) -> Array:
        """Return a new array like ``x`` (n, ...), each row transformed by its concept (n,)."""
        if not len(x) or (concept == concept[0]).all():
            return self._rows(x, int(concept[0])) if len(x) else x
        out = np.empty_like(x)
        for number in np.unique(concept).tolist():
            rows = concept == number
            out[rows] = self._rows(x[rows], number)
        return out

    @abstractmethod
    def _rows(self, x: Array, concept: int) -> Array: ...


class Permuted(Transform):
    """Permutes the values of a vector, or the pixels of an image, by concept.

    Args:
        places: (concepts, d): value i of a row becomes its value ``places[concept, i]``; d is the
            length of a vector, or the number of pixels of an image.
    """

    def __init__(self, places: Ints) -> None:
        self.places = places

    def _rows(self, x: Array, concept: int) -> Array:
        places = self.places[concept]
        moved: Array = x.reshape(-1, len(places)).take(places, axis=1)
        return moved.reshape(x.shape)


class Rotated(Transform):
    """Rotates images counter-clockwise about their centre: bilinear, black outside the image.

    Args:
        degrees: the angle of each concept.
        height: of the images, in pixels.
        width: of the images, in pixels.
    """

    def __init__(self, degrees: Sequence[float], height: int, width: int) -> None:
        self._corners = [_corners(angle, height, width) for angle in degrees]

    def _rows(self, x: Array, concept: int) -> Array:
        places, weights = self._corners[concept]
        pixels = np.ascontiguousarray(x.reshape(-1, places.shape[1]).T)
        turned = np.full(pixels.shape, _ONE // 2, np.uint16)  # 256 * 255 + 128 still fits
        for place, weight in zip(places, weights, strict=True):
            turned += pixels[place] * weight[:, None]
        return (turned >> 8).astype(np.uint8).T.reshape(x.shape)


def _corners(degrees: float, height: int, width: int) -> tuple[Ints, Array]:
    """Return for each pixel of the rotated image the four pixels around it, (4, h * w), and their
    weights in 256ths, (4, h * w) uint16."""
    angle = np.deg2rad(degrees)
    row, column = np.mgrid[:height, :width].reshape(2, -1)
    up, right = (height - 1) / 2 - row, column - (width - 1) / 2
    # The position of the pixel before the rotation.
    old_right = np.cos(angle) * right + np.sin(angle) * up
    old_up = np.cos(angle) * up - np.sin(angle) * right
    # Rounded, so that a rotation by a right angle is exact.
    y = np.round((height - 1) / 2 - old_up, 6)
    x = np.round((width - 1) / 2 + old_right, 6)
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    lower = np.round((y - top) * _ONE)
    places, weights = [], []
    for down in (0, 1):
        in_row = lower if down else _ONE - lower
        to_right = np.round((x - left) * in_row)
        for across in (0, 1):
            at = top + down, left + across
            weight = to_right if across else in_row - to_right
            inside = (at[0] >= 0) & (at[0] < height) & (at[1] >= 0) & (at[1] < width)
            places.append(np.where(inside, at[0] * width + at[1], 0))
            weights.append(np.where(inside, weight, 0))
    return np.stack(places), np.stack(weights).astype(np.uint16)
