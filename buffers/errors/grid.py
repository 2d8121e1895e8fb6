"""Vectors on a grid of whole numbers, whose products are exact in float32.

Libraries of linear algebra choose the order of additions by the shape of a product. So the bits of
a product of real numbers depend on the rows beside it, on the number of threads and on the machine.
Sums of whole numbers below 2^24 are exact in float32 in any order. Vectors of a length of at most
``RADIUS`` have such products, and their partial sums are in bounds too (Cauchy-Schwarz).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.int16]

RADIUS = 4095
"""The greatest length of a vector on the grid: RADIUS^2 < 2^24."""


def lengths(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the lengths (n,) of vectors (n, width). Row i depends on vector i alone."""
    wide = np.ascontiguousarray(vectors, np.float64)
    squares: NDArray[np.float64] = np.multiply(wide, wide).sum(1)
    return np.sqrt(squares)


def reach_of(width: int, radius: int = RADIUS) -> float:
    """Return the greatest length that a vector may have before it is rounded.

    Rounding makes a vector of ``width`` numbers longer by at most half the root of ``width``.
    """
    return radius - float(np.sqrt(width)) / 2


def direction_on_grid(vectors: NDArray[np.floating], radius: int = RADIUS) -> Vectors:
    """Return vectors (n, width) of finite numbers, scaled to length ``reach_of`` and rounded.

    A vector of zeros stays one. Rounding turns a direction by at most about
    ``sqrt(width) / (2 radius)`` radians.
    """
    length = lengths(vectors)
    reach = reach_of(vectors.shape[1], radius)
    return _round(vectors, np.divide(reach, length, out=np.zeros_like(length), where=length > 0))


def position_on_grid(
    vectors: NDArray[np.floating], longest: float, radius: int = RADIUS
) -> Vectors:
    """Return vectors (n, width) of finite numbers, times ``reach_of / longest``, and rounded.

    A vector longer than ``longest`` is shortened to it.
    """
    reach = reach_of(vectors.shape[1], radius)
    return _round(vectors, reach / np.maximum(lengths(vectors), longest))


def _round(vectors: NDArray[np.floating], scale: NDArray[np.float64]) -> Vectors:
    scaled = np.multiply(vectors, scale[:, None], dtype=np.float64)
    rounded: Vectors = np.rint(scaled).astype(np.int16)
    return rounded
