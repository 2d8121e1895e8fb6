"""Linear scores of classes."""

from __future__ import annotations

import numpy as np

from streams.core.batch import Array

_MOST = 1e20
"""The largest weight: its product with the largest number of a row, 1e15, is finite in float32."""


def linear_weights(w: Array, b: Array) -> dict[str, Array]:
    """Return weights (k, d) and offsets (k,) of linear scores, in float32."""
    named = {"w": w, "b": b}
    return {name: x.clip(-_MOST, _MOST).astype(np.float32) for name, x in named.items()}


def linear_scores(weights: dict[str, Array], x: Array) -> Array:
    """Return x @ w.T + b for rows (n, d) float32: (n, k) float32."""
    scores: Array = x @ weights["w"].T
    scores += weights["b"]
    return scores
