"""Sums of products of the rows of each class, for a covariance of each."""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack

from learners.pretrained.closed_form.statistics.base import ClassRows, ClassSums, grown
from streams.core.batch import Array, Ints
from streams.core.state_dict import State


class ClassProducts(ClassSums):
    """The sums of ``ClassSums``, and the sum of products of the rows of each class.

    The sum of x x' of a class is symmetric. It is kept in rectangular full packed format
    (Gustavson et al. 2010), to which LAPACK adds without unpacking it. Without products of
    different numbers only the sums of squares of each are kept.

    Args:
        width: d, numbers of a row.
        full: whether products of different numbers are summed too.

    Attributes:
        products: (k, d * (d + 1) / 2) float64, or (k, d) of squares.
    """

    def __init__(self, width: int, full: bool) -> None:
        super().__init__(width)
        self._width, self._full = width, full
        self.products = np.zeros((0, width * (width + 1) // 2 if full else width))

    def grow(self, classes: int) -> None:
        super().grow(classes)
        self.products = grown(self.products, classes)

    def include(self, part: ClassRows, sign: int) -> None:
        super().include(part, sign)
        for i, code in enumerate(part.codes.tolist()):
            self._multiply(code, part.x[part.place == i], sign)

    def _multiply(self, code: int, rows: Array, sign: int) -> None:
        if not self._full:
            self.products[code] += sign * np.einsum("md,md->d", rows, rows)
            return
        d, m = self._width, len(rows)
        packed = self.products[code]
        added = lapack.dsfrk(d, m, float(sign), rows.T, 1.0, packed, overwrite_c=1)
        if added is not packed:
            packed[:] = added

    def scatter(self, code: int) -> Array:
        """Return the sum of (x - m)(x - m)' of a class with mean m: (d, d), or its diagonal."""
        total = self.sums[code]
        n = max(int(self.counts[code]), 1)
        if not self._full:
            squares: Array = np.maximum(self.products[code] - total * total / n, 0)
            return squares
        return self._unpacked(self.products[code]) - np.outer(total, total / n)

    def within(self) -> Array:
        """Return the covariance within all classes together: (d, d), or its diagonal."""
        n = max(int(self.counts.sum()), 1)
        roots = self.sums / np.sqrt(np.maximum(self.counts, 1))[:, None]
        products = self.products.sum(0)
        if not self._full:
            squares: Array = np.maximum(products - np.einsum("kd,kd->d", roots, roots), 0) / n
            return squares
        covariance: Array = (self._unpacked(products) - roots.T @ roots) / n
        return covariance

    def _unpacked(self, packed: Array) -> Array:
        """Return the symmetric matrix (d, d) of a packed one."""
        upper, _ = lapack.dtfttr(self._width, packed)
        upper = np.triu(upper)
        square: Array = upper + np.triu(upper, 1).T
        return square

    def merge(self, other: ClassProducts, codes: Ints) -> None:  # type: ignore[override]
        super().merge(other, codes)
        np.add.at(self.products, codes, other.products)

    def drop_class(self, code: int) -> None:
        super().drop_class(code)
        self.products[code] = 0

    def state(self) -> State:
        return {**super().state(), "products": self.products}

    def load(self, state: State) -> None:
        super().load(state)
        self.products = np.array(state["products"])
