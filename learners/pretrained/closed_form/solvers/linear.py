"""Linear scores of classes."""

from __future__ import annotations

import numpy as np

from streams.core.batch import Array


def linear_weights(w: Array, b: Array) -> dict[str, Array]:
    """Return weights (k, d) and offsets (k,) of linear scores, in float32."""
    return {"w": w.astype(np.float32), "b": b.astype(np.float32)}


def linear_scores(weights: dict[str, Array], x: Array) -> Array:
    """Return x @ w.T + b for rows (n, d) float32: (n, k) float32."""
    scores: Array = x @ weights["w"].T
    scores += weights["b"]
    return scores
