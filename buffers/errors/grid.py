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


def direction_on_grid(vectors: NDArray[np.floating], radius: int = RADIUS) -> Vectors:
    """Return vectors (n, width) of finite numbers, scaled to length ``radius`` and rounded.

    A vector of zeros stays one. Rounding goes toward zero, so that no vector gets longer. It turns
    a direction by at most ``sqrt(width) / radius`` radians.
    """
    length = lengths(vectors)
    scale = np.divide(radius, length, out=np.zeros_like(length), where=length > 0)
    return _round(vectors, scale)


def position_on_grid(vectors: NDArray[np.floating], reach: float, radius: int = RADIUS) -> Vectors:
    """Return vectors (n, width) of finite numbers, times ``radius / reach``, and rounded.

    A vector longer than ``reach`` is shortened to it. Rounding goes toward zero.
    """
    return _round(vectors, radius / np.maximum(lengths(vectors), reach))


def _round(vectors: NDArray[np.floating], scale: NDArray[np.float64]) -> Vectors:
    # toward zero, with a margin: a product of rounded factors might be a whole number too large
    scaled = np.multiply(vectors, (scale * (1 - 1e-12))[:, None], dtype=np.float64)
    rounded: Vectors = scaled.astype(np.int16)
    return rounded
