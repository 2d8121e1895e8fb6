"""Plasticity of a network: whether it can still learn, by what its hidden units do on a batch.

Activations of a layer are (n, units), or (n, units, ...) of feature maps, where a unit is a channel
and counts by its mean over the map.
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
    """The share of units, of all layers together, whose mean |h| is at most ``tau`` times the mean
    over their layer (Sokar et al. 2023, "The dormant neuron phenomenon in deep reinforcement
    learning"), to within ``TIE``. In a layer that gives only 0, every unit is dormant."""
    sizes = [_size(layer).mean(0) for layer in activations]
    most = tau * (1 + TIE)
    return float(np.concatenate([size <= most * size.mean() for size in sizes]).mean())


def dead(activations: list[Array], share: float = 0.01) -> float:
    """The share of units, of all layers together, that are other than 0 on less than ``share`` of
    the rows (Dohare et al. 2024, "Loss of plasticity in deep continual learning")."""
    return float(np.concatenate([(_size(h) != 0).mean(0) < share for h in activations]).mean())


def singular_values(features: Array) -> Floats:
    """Of (n, units), greatest first. By way of the smaller Gram matrix, which takes a fraction of
    the time; what is lost in the squares is below 1e-7 of the greatest, and counts as 0."""
    wide = features.astype(np.float64)
    squares = np.linalg.eigvalsh(wide.T @ wide if len(wide) > wide.shape[1] else wide @ wide.T)
    squares[squares < 1e-14 * squares[-1]] = 0.0
    values: Floats = np.sqrt(squares[::-1])
    return values


def effective_rank(values: Floats) -> float:
    """exp of the entropy of singular values, each over their sum (Roy and Vetterli 2007, "The
    effective rank"): between 1 and the rank; 0 where all are 0."""
    values = values[values > 0]
    shares = values / values.sum()
    return math.exp(-float(shares @ np.log(shares))) if len(shares) else 0.0


def stable_rank(values: Floats, share: float = 0.99) -> float:
    """How many of the greatest singular values make up ``share`` of their sum, at least (as Dohare
    et al. 2024 count it), to within ``TIE``; 0 where all are 0."""
    mass = np.cumsum(values)
    least = share * (1 - TIE) * mass[-1]
    return float(np.searchsorted(mass, least) + 1) if mass[-1] else 0.0


def weight_norm(weights: Array) -> float:
    """The mean |w|, which grows where plasticity is lost (Dohare et al. 2024)."""
    return float(np.abs(weights).mean())


def plasticity(learner: Learner, batch: Batch) -> dict[str, float]:
    """The metrics of a learner's network by name, on the events of a batch: units of all hidden
    layers, ranks of the last. Empty without a network; one that is not a number, as of a training
    that has diverged, is left out."""
    found: dict[str, float] = {}
    layers, weights = learner.activations(batch), learner.weight_vector()
    if layers and all(np.isfinite(layer).all() for layer in layers):
        found["plasticity/dormant_units"] = dormant(layers)
        found["plasticity/dead_units"] = dead(layers)
        last = layers[-1]
        last = last.reshape(*last.shape[:2], -1).mean(2)
        values = singular_values(last)
        found["plasticity/effective_rank"] = effective_rank(values)
        found["plasticity/stable_rank"] = stable_rank(values)
    if weights is not None:
        found["plasticity/weight_norm"] = weight_norm(weights)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _size(layer: Array) -> Floats:
    """(n, units) of |h|."""
    size: Floats = np.abs(layer).reshape(*layer.shape[:2], -1).mean(2, dtype=np.float64)
    return size
