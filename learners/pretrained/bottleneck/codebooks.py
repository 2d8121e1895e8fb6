"""Codebooks: which of many frozen keys is nearest to each projection of a row."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from streams.core.batch import Array, Ints
from streams.core.settings import Settings

_BLOCK = 256  # rows whose distances to all keys are in memory at a time
_FAR = 1e6  # numbers of a row are clipped here, so that squares stay finite
_DECAY = 0.95
_EPSILON = 1e-5
_DEAD = 0.1  # share of its fair share of rows below which a key is replaced


class CodebooksConfig(Settings):
    """Settings of codebooks.

    Attributes:
        count: how many there are. Accuracy, memory and work grow with it.
        keys: of one codebook.
        dimension: of a key. Each codebook projects a row to that many numbers.
        projection: ``random``; or ``chunk``, which cuts a row into one piece for each codebook, and
            suits rows of a few numbers. ``dimension`` has no effect there.
        epochs: passes over the sample by which keys are fitted.
        batch: rows of the sample in one step of the fit.
    """

    count: PositiveInt = Field(64, le=4096)
    keys: PositiveInt = Field(128, le=1 << 15)
    dimension: PositiveInt = Field(12, le=1024)
    projection: Literal["random", "chunk"] = "random"
    epochs: PositiveInt = Field(10, le=1000)
    batch: PositiveInt = Field(256, le=1 << 16)


class Nearest(NamedTuple):
    """The nearest keys of n rows.

    Attributes:
        codes: (codebooks, n) int64, the key of each codebook, numbered through all codebooks.
        errors: (n,) float64, mean squared distances to the nearest keys; None where not asked for.
    """

    codes: Ints
    errors: Array | None = None


class Codebooks:
    """C codebooks of J keys of m numbers each (Träuble et al., "Discrete Key-Value Bottleneck",
    ICML 2023).

    Codebook c projects a row x of d numbers to h_c = x P_c, and finds

        code_c(x) = argmin_j |h_c - K_cj|**2

    The numbers of P_c (d, m) are standard normal, and each column is divided by its length. They
    are a function of the seed and kept in no state. Ties go to the first key.

    ``fit`` makes the keys from a sample, without labels. After that they never change.

    Args:
        config: settings.
        width: d.
        seed: of the projections and of the fit.

    Attributes:
        keys: (codebooks, keys, dimension) float32; None before they are made.
    """

    def __init__(self, config: CodebooksConfig, width: int, seed: int) -> None:
        self.config = config
        self.width = width
        self.seed = seed
        self.keys: Array | None = None
        c, m = config.count, config.dimension
        self._chunk = config.projection == "chunk"
        if self._chunk:
            m = -(-width // c)
        else:
            drawn = default_rng([seed, 0]).normal(size=(c, width, m))
            drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
            joined = drawn.transpose(1, 0, 2).reshape(width, c * m)
            self._projections = joined.astype(np.float32)
        self.dimension = m
        self._first = np.arange(c)[:, None] * config.keys  # code of the first key of each codebook

    @property
    def codes(self) -> int:
        """Keys of all codebooks."""
        return self.config.count * self.config.keys

    def project(self, x: Array) -> Array:
        """Return (codebooks, n, dimension + 1) float32 projections of rows (n, d), and ones.

        The ones multiply the squares of keys in the product that gives all distances.
        """
        n, c, m = len(x), self.config.count, self.dimension
        x = np.clip(x, -_FAR, _FAR, dtype=np.float32)
        if self._chunk:
            projected = np.zeros((n, c * m), np.float32)
            projected[:, : self.width] = x
        else:
            projected = x @ self._projections
        heads = np.empty((c, n, m + 1), np.float32)
        heads[:, :, :m] = projected.reshape(n, c, m).transpose(1, 0, 2)
        heads[:, :, m] = 1
        return heads

    def load(self, keys: Array | None) -> None:
        """Take these keys, (codebooks, keys, dimension) float32."""
        self.keys = keys
        if keys is not None:
            self._products = _products(keys)
            self._usable: Array | None = None

    def use_only(self, usable: NDArray[np.bool_]) -> None:
        """Let ``nearest(..., masked=True)`` find only the keys marked in (codes,) bool."""
        shape = (self.config.count, self.config.keys)
        products = self._products.copy() if self._usable is None else self._usable
        products[:, -1] = np.where(usable.reshape(shape), self._products[:, -1], np.inf)
        self._usable = products

    def nearest(self, x: Array, masked: bool = False, errors: bool = False) -> Nearest:
        """Return the nearest keys of rows (n, d), or the nearest usable ones. Pure."""
        products = self._usable if masked else self._products
        assert products is not None
        parts = [
            self._nearest(self.project(x[start : start + _BLOCK]), products, errors)
            for start in range(0, max(len(x), 1), _BLOCK)
        ]
        if len(parts) == 1:
            return parts[0]
        found = [part.errors for part in parts if part.errors is not None]
        codes = np.concatenate([part.codes for part in parts], 1)
        return Nearest(codes, np.concatenate(found) if found else None)

    def _nearest(self, heads: Array, products: Array, errors: bool) -> Nearest:
        distances = np.matmul(heads, products)  # without the square of the projection itself
        codes = distances.argmin(2)
        if not errors:
            return Nearest(codes + self._first)
        least = np.take_along_axis(distances, codes[:, :, None], 2)[:, :, 0].sum(0)
        own = np.einsum("cnm,cnm->n", heads, heads) - len(heads)  # without the ones
        return Nearest(codes + self._first, (least + own).astype(np.float64) / len(heads))

    def fit(self, sample: Array) -> None:
        """Make the keys from rows (n, d), n >= 1, by vector quantisation with moving averages.

        Keys start from standard normal numbers. A step takes a batch and finds the nearest key of
        each projection. With the count a_j and the sum s_j of the projections at key j,

            n_j <- 0.95 n_j + 0.05 a_j,    m_j <- 0.95 m_j + 0.05 s_j
            K_j  = m_j / [(n_j + eps) / (sum_i n_i + J eps) * sum_i n_i],    eps = 1e-5

        A key with n_j < 0.1 B / J, for batches of B rows, is replaced by a projection from the
        batch. Deviations: n_j starts at 1 and m_j at the key; those of a replaced key restart at
        the fair share n_j = B / J, else the next steps would draw it back to where it was dead.
        """
        config = self.config
        rng = default_rng([self.seed, 1])
        shape = (config.count, config.keys, self.dimension)
        keys = rng.normal(size=shape)
        average = MovingAverages(np.ones(shape[:2]), keys)
        for _ in range(config.epochs):
            order = rng.permutation(len(sample))
            for start in range(0, len(sample), config.batch):
                heads = self.project(sample[order[start : start + config.batch]])
                codes = self._nearest(heads, _products(keys.astype(np.float32)), False).codes
                keys = average.update(codes, heads[:, :, :-1])
                self._replace_dead(keys, average, heads, rng)
        self.load(np.ascontiguousarray(keys, np.float32))

    def _replace_dead(
        self, keys: Array, average: MovingAverages, heads: Array, rng: np.random.Generator
    ) -> None:
        """Replace keys that get less than a tenth of their fair share of a batch, in place."""
        fair = heads.shape[1] / self.config.keys
        book, key = np.nonzero(average.counts < _DEAD * fair)
        row = rng.integers(0, heads.shape[1], len(book))
        keys[book, key] = heads[book, row, :-1]
        average.counts[book, key] = fair
        average.sums[book, key] = fair * keys[book, key]


class MovingAverages:
    """Moving averages of counts (codebooks, keys) and sums (codebooks, keys, dimension)."""

    def __init__(self, counts: Array, keys: Array) -> None:
        self.counts = counts
        self.sums = keys * counts[:, :, None]

    def update(self, codes: Ints, heads: Array) -> Array:
        """Add a batch; return the keys.

        Args:
            codes: (codebooks, n), the nearest keys.
            heads: (codebooks, n, dimension), the projections.
        """
        flat, shape = codes.ravel(), self.counts.shape
        counts = np.bincount(flat, minlength=self.counts.size).reshape(shape)
        columns = [
            np.bincount(flat, heads[:, :, i].ravel(), self.counts.size).reshape(shape)
            for i in range(heads.shape[2])
        ]
        self.counts = _DECAY * self.counts + (1 - _DECAY) * counts
        self.sums = _DECAY * self.sums + (1 - _DECAY) * np.stack(columns, 2)
        total = self.counts.sum(1, keepdims=True)
        share = (self.counts + _EPSILON) / (total + shape[1] * _EPSILON)
        keys: Array = self.sums / (share * total)[:, :, None]
        return keys


def _products(keys: Array) -> Array:
    """Return (codebooks, dimension + 1, keys) float32: its product with a projection and 1 is the
    squared distance, without the square of the projection."""
    squares = np.square(keys).sum(2)[:, None]
    return np.ascontiguousarray(np.concatenate([-2 * keys.transpose(0, 2, 1), squares], 1))
