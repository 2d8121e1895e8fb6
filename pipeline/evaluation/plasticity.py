"""Plasticity of a network: measures of its ability to learn, from its hidden units on a batch.

The activations of a layer are (n, units), or (n, units, ...) for feature maps; there a unit is a
channel, and its activation is the mean over the map.
"""

from __future__ import annotations

import math

import numpy as np

from learners.base import Learner
from streams.core.batch import Array, Batch, Floats

TIE = 1e-7
"""Relative: what is as near to a bound is at it, since singular values are known no better and the
last bits of a sum are another processor's otherwise."""


def dormant(activations: list[Array], tau: float = 0.025) -> float:
    """Return the share of units, over all layers, whose mean |h| is at most ``tau`` times the mean
    over their layer (Sokar et al. 2023, "The dormant neuron phenomenon in deep reinforcement
    learning"), to within ``TIE``. In a layer whose output is 0, every unit is dormant."""
    sizes = [_size(layer).mean(0) for layer in activations]
    most = tau * (1 + TIE)
    return float(np.concatenate([size <= most * size.mean() for size in sizes]).mean())


def dead(activations: list[Array], share: float = 0.01) -> float:
    """Return the share of units, over all layers, that are nonzero on less than ``share`` of the
    rows (Dohare et al. 2024, "Loss of plasticity in deep continual learning")."""
    return float(np.concatenate([(_size(h) != 0).mean(0) < share for h in activations]).mean())


def singular_values(features: Array) -> Floats:
    """Return the singular values of (n, units), largest first.

    The smaller Gram matrix takes a fraction of the time of a decomposition. Values below 1e-7 of
    the largest are lost in the squares and count as 0.
    """
    wide = features.astype(np.float64)
    squares = np.linalg.eigvalsh(wide.T @ wide if len(wide) > wide.shape[1] else wide @ wide.T)
    squares[squares < 1e-14 * squares[-1]] = 0.0
    values: Floats = np.sqrt(squares[::-1])
    return values


def effective_rank(values: Floats) -> float:
    """Return the exponential of the entropy of the singular values, each divided by their sum (Roy
    and Vetterli 2007, "The effective rank"): between 1 and the rank; 0 if all are 0."""
    values = values[values > 0]
    shares = values / values.sum()
    return math.exp(-float(shares @ np.log(shares))) if len(shares) else 0.0


def stable_rank(values: Floats, share: float = 0.99) -> float:
    """Return the smallest number of singular values that make up ``share`` of their sum (as in
    Dohare et al. 2024), to within ``TIE``; 0 if all are 0."""
    mass = np.cumsum(values)
    least = share * (1 - TIE) * mass[-1]
    return float(np.searchsorted(mass, least) + 1) if mass[-1] else 0.0


def weight_norm(weights: Array) -> float:
    """Return the mean |w|, which grows as plasticity is lost (Dohare et al. 2024)."""
    return float(np.abs(weights).mean())


def plasticity(learner: Learner, batch: Batch) -> dict[str, float]:
    """Return the metrics of a learner's network by name, on the events of a batch.

    Units are those of all hidden layers, ranks those of the last. The result is empty without a
    network. A metric that is not finite, as after divergence, is left out.
    """
    metrics: dict[str, float] = {}
    layers, weights = learner.activations(batch), learner.weight_vector()
    if layers and all(np.isfinite(layer).all() for layer in layers):
        metrics["plasticity/dormant_units"] = dormant(layers)
        metrics["plasticity/dead_units"] = dead(layers)
        last = layers[-1]
        last = last.reshape(*last.shape[:2], -1).mean(2)
        values = singular_values(last)
        metrics["plasticity/effective_rank"] = effective_rank(values)
        metrics["plasticity/stable_rank"] = stable_rank(values)
    if weights is not None:
        metrics["plasticity/weight_norm"] = weight_norm(weights)
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _size(layer: Array) -> Floats:
    """Return |h|, (n, units)."""
    size: Floats = np.abs(layer).reshape(*layer.shape[:2], -1).mean(2, dtype=np.float64)
    return size
