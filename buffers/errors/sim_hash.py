"""SimHash: hashes that similar directions share, from the signs of Gaussian projections.

Charikar, "Similarity Estimation Techniques from Rounding Algorithms", STOC 2002. Two vectors at an
angle ``a`` agree in one bit with probability ``1 - a / pi``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from buffers.errors.grid import direction_on_grid

_MOST_BITS = 24


class SimHash:
    """Map vectors to ``tables`` hashes of ``bits`` bits each.

    Vectors and projections lie on a grid of whole numbers (``grid``). So the hashes of a vector are
    exact: they depend neither on the vectors beside it nor on the machine. The projections follow
    from the arguments, so there is no state.

    A vector of zeros has hash 0 in every table. Vectors that lie in one orthant, as outputs of
    ReLU, share most bits: subtract their mean first.

    Args:
        width: numbers of a vector.
        bits: bits of a hash, L in the paper's notation; 1 to 24.
        tables: number of independent hashes, K.
        seed: of the projections.
    """

    def __init__(self, width: int, bits: int, tables: int, seed: int = 0) -> None:
        if width < 1:
            raise ValueError(f"width: {width} was given, at least 1 is expected")
        if not 1 <= bits <= _MOST_BITS:
            raise ValueError(f"bits: {bits} was given, 1 to {_MOST_BITS} is expected")
        if tables < 1:
            raise ValueError(f"tables: {tables} was given, at least 1 is expected")
        self.width, self.bits, self.tables = width, bits, tables
        drawn = np.random.default_rng(seed).standard_normal((tables * bits, width))
        self._projections = np.ascontiguousarray(direction_on_grid(drawn).T, np.float32)

    @property
    def buckets(self) -> int:
        """The number of hashes of a table that may occur."""
        return 1 << self.bits

    def hashes(self, vectors: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the hashes (n, tables), 0 to ``buckets - 1``, of finite vectors (n, width)."""
        return self.hashes_on_grid(direction_on_grid(vectors))

    def hashes_on_grid(self, vectors: NDArray[np.int16]) -> NDArray[np.int64]:
        """Return the hashes (n, tables) of vectors (n, width) that are on the grid already."""
        signs = vectors.astype(np.float32) @ self._projections > 0
        packed = np.packbits(
            signs.reshape(len(vectors), self.tables, self.bits), axis=2, bitorder="little"
        )
        hashes = packed[:, :, 0].astype(np.int64)
        for byte in range(1, packed.shape[2]):
            hashes |= packed[:, :, byte].astype(np.int64) << (8 * byte)
        return hashes


def collision_rate(cosine: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """Return the probability that two vectors share a hash of ``bits`` bits, by their cosine."""
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    rate: NDArray[np.float64] = (1.0 - angle / np.pi) ** bits
    return rate
