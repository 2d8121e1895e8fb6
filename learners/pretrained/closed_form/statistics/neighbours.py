"""The nearest of some rows, exactly, in blocks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from streams.core.batch import Array, Ints

_BLOCK = 64  # rows that are searched for at once
_SPARE = 8  # candidates beyond those wanted
_ROUNDING = 1e-5  # of a product of two rows in float32, relative to their lengths


class Neighbours(NamedTuple):
    """The nearest rows, nearest first.

    Attributes:
        places: (n, k) int64 indices of rows.
        distances: (n, k) float64, squared.
    """

    places: Ints
    distances: Array


class Stored(NamedTuple):
    """Rows to search in.

    Attributes:
        x: (m, d) float32.
        squares: (m,) float32, |x|**2.
        turns: (m,) int64: of two rows at one distance, that of the larger turn is nearer.
    """

    x: Array
    squares: Array
    turns: Ints


def nearest(x: Array, stored: Stored, k: int) -> Neighbours:
    """Return the ``k`` nearest of m >= 1 stored rows for each row of x (n, d); all where k > m.

    Products of matrices in float32 choose candidates: all rows that may be among the nearest for
    all that rounding can do. Their distances are then summed in float64, so that equal rows have
    equal distances, and the result depends neither on other rows nor on a library.
    """
    k = min(k, len(stored.x))
    parts = [_nearest(x[start : start + _BLOCK], stored, k) for start in range(0, len(x), _BLOCK)]
    return Neighbours(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _nearest(x: Array, stored: Stored, k: int) -> Neighbours:
    squares = np.einsum("nd,nd->n", x, x)
    about = x @ stored.x.T
    about *= -2
    about += stored.squares
    doubt = 2 * _ROUNDING * (squares + stored.squares.max())
    wanted, m = min(k + _SPARE, len(stored.x)), len(stored.x)
    while True:  # until no row that is left out can be among the nearest
        least = torch.topk(torch.from_numpy(about), wanted, dim=1, largest=False)
        values, places = least.values.numpy(), least.indices.numpy()
        if wanted == m or not (values[:, -1] <= values[:, k - 1] + doubt).any():
            break
        wanted = min(2 * wanted, m)
    distances = _distances(x, stored.x, places)
    order = np.lexsort((-stored.turns[places], distances), axis=1)[:, :k]
    return Neighbours(np.take_along_axis(places, order, 1), np.take_along_axis(distances, order, 1))


def _distances(x: Array, rows: Array, places: Ints) -> Array:
    """Return the squared distances (n, c) float64 of rows x (n, d) from c rows each."""
    out = np.empty(places.shape)
    for i, own in enumerate(places):
        difference = rows[own].astype(np.float64)
        difference -= x[i]
        difference *= difference
        np.add.reduce(difference, 1, out=out[i])
    return out
