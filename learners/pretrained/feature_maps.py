"""Random features: a fixed nonlinear map after which linear methods separate more."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from streams.core.batch import Array
from streams.core.settings import Settings
from streams.core.state_dict import State

SAMPLE = 256
"""Rows of which the median heuristic takes the distances."""

_MOST = 1e15  # numbers beyond it count as it, so that products are finite
_LEAST = 1e-20  # bandwidth, so that products with its inverse are finite in float32
_OF_MEDIAN = 1.5
_BLOCK = 16  # rows of a matrix product; see ``RandomFeatures.__call__``
_KINDS = ("relu", "fourier")


class RandomFeaturesConfig(Settings):
    """Settings of random features.

    Attributes:
        kind: ``relu`` for max(x R, 0), or ``fourier`` for cos(x R / bandwidth + b).
        dimension: how many features. Accuracy grows with it, and so do the costs.
        bandwidth: of Fourier features: rows much closer than this are alike. None: 1.5 times
            the median distance between two rows of a sample.
    """

    kind: Literal["relu", "fourier"] = "relu"
    dimension: PositiveInt = Field(2000, le=1 << 16)
    bandwidth: PositiveFloat | None = None

    @model_validator(mode="after")
    def _bandwidth_has_a_use(self) -> RandomFeaturesConfig:
        if self.kind != "fourier" and self.bandwidth is not None:
            raise ValueError(f"bandwidth: {self.kind} features have none: take kind: fourier")
        return self


class _Weights(NamedTuple):
    """The fixed weights of a map: (width, dimension) float32, and (dimension,) of Fourier."""

    matrix: Array
    phases: Array | None


class RandomFeatures:
    """Map rows to random features.

    For rows x of d numbers, and R of d columns of standard normal numbers:

    - ``relu``: h = max(x R * sqrt(2 / d), 0). The products of two rows approximate the arc-cosine
      kernel of order 1 (Cho and Saul 2009). It is the projection of RanPAC (McDonnell et al.,
      NeurIPS 2023); the factor is ours.
    - ``fourier``: h = sqrt(2) * cos(x R / bandwidth + b), b uniform in [0, 2 pi). The mean of the
      products approximates the kernel exp(-|x - y|**2 / (2 * bandwidth**2)) (Rahimi and Recht,
      "Random Features for Large-Scale Kernel Machines", 2007; for streams: RanDumb, Prabhu et al.
      2024).

    For rows of independent numbers of variance 1 the mean square of a feature is 1, and the
    bandwidth without a sample, sqrt(2 d), is their typical distance.

    The weights are a function of the seed, the kind, and both widths. They are drawn by PCG64 of
    NumPy and kept in no state.

    Args:
        config: settings.
        width: d, numbers of a row.
        seed: of the weights.

    Attributes:
        dimension: features of a row.
        bandwidth: of Fourier features.
        fitted: whether the bandwidth is stated or fitted, or none is needed.
    """

    def __init__(self, config: RandomFeaturesConfig, width: int, seed: int) -> None:
        self.kind = config.kind
        self.width = width
        self.dimension = config.dimension
        self.bandwidth = config.bandwidth or math.sqrt(2 * width)
        self.fitted = config.kind != "fourier" or config.bandwidth is not None
        self._matrix, self._phases = _draw(config.kind, width, config.dimension, seed)

    def fit(self, rows: Array) -> None:
        """Set the bandwidth to 1.5 times the median distance of two rows of (n, width), n >= 2.

        The median alone is the usual choice. On CLINC150, outdoor objects and digits 1.5 to 2 times
        as much was better by 0.2 to 1 points; much less is worse than much more.

        Rows beyond the first ``SAMPLE`` are ignored. Where half of the pairs are equal, the
        bandwidth stays as it is.
        """
        x = np.asarray(rows[:SAMPLE], np.float64)
        squares = (x * x).sum(1)
        pairs = np.triu_indices(len(x), 1)
        distances = (squares[:, None] + squares - 2 * (x @ x.T))[pairs]
        median = float(np.median(np.sqrt(np.maximum(distances, 0)))) if len(distances) else 0.0
        # Rounding makes equal rows about 1e-8 of their length apart.
        if median > 1e-6 * math.sqrt(float(squares.max(initial=0))):
            # In float32, so that an implementation of matrix products cannot be seen in it.
            self.bandwidth = float(np.float32(max(_OF_MEDIAN * median, _LEAST)))
        self.fitted = True

    def __call__(self, rows: Array) -> Array:
        """Return the features (n, dimension) float32 of rows (n, width).

        Those of a row depend on this row alone, bit for bit. Libraries of linear algebra choose
        their order of additions by the shapes of a product; so all products here have one shape.
        """
        n = len(rows)
        padded = -n % _BLOCK
        x = np.zeros((n + padded, self.width), np.float32)
        np.clip(rows, -_MOST, _MOST, out=x[:n], casting="same_kind")
        out = np.empty((n + padded, self.dimension), np.float32)
        for start in range(0, n, _BLOCK):
            np.matmul(x[start : start + _BLOCK], self._matrix, out=out[start : start + _BLOCK])
        if self._phases is None:
            np.maximum(out, 0, out=out)
        else:
            out *= np.float32(1 / self.bandwidth)
            out += self._phases
            np.cos(out, out=out)
            out *= np.float32(math.sqrt(2))
        return out[:n]

    def state(self) -> State:
        """Return what was fitted."""
        return {"bandwidth": self.bandwidth, "fitted": self.fitted}

    def load(self, state: State) -> None:
        """Restore a ``state``."""
        self.bandwidth, self.fitted = state["bandwidth"], state["fitted"]


def _draw(kind: str, width: int, dimension: int, seed: int) -> _Weights:
    entropy = [seed % 2**64, _KINDS.index(kind), width, dimension]
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
    matrix = rng.standard_normal((width, dimension), dtype=np.float32)
    if kind == "fourier":
        return _Weights(matrix, rng.uniform(0, 2 * np.pi, dimension).astype(np.float32))
    matrix *= np.float32(math.sqrt(2 / width))
    return _Weights(matrix, None)
