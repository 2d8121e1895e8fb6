"""A pool of opinions whose weights are learned online, with their uncertainty."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streams.core.state_dict import State

Floats = NDArray[np.float64]

_PRIOR = 30.0
"""The precision of a weight before the first event."""
LEAST = 1e-4
"""The least probability of an opinion: its logarithm stays within reach of the others."""


class LogLinearPool:
    """Probabilities in proportion to exp(sum_f w_f phi_f), with weights w learned online.

    The features phi of an event are rows (classes,): the log-probabilities of the base, whose
    weight starts at 1, and what may correct them, whose weights start at 0 (Genest and Zidek 1986,
    "Combining Probability Distributions"). The weight of the first is an inverse temperature.

    The weights are the mean of a Gaussian posterior (online Newton steps; the extended Kalman
    filter of logistic regression). For m events of one call, with p the present probabilities and y
    the label,

        g = sum_events sum_c ([c = y] - p_c) phi_c
        H = sum_events (sum_c p_c phi_c phi_c' - (sum_c p_c phi_c) (sum_c p_c phi_c)')
        A <- k A + (1 - k) A0 + H,    w <- w + A^-1 (g - (1 - k) A0 (w - w0))

    where k forgets by the half-life, and A0, w0 are the prior. Cuts of the events matter, as those
    of micro-batches of a network do.

    Args:
        features: how many; the first is the base.
        half_life: events after which one counts half.
    """

    def __init__(self, features: int, half_life: float) -> None:
        self._half_life = half_life
        self._start = np.zeros(features)
        self._start[0] = 1.0
        self.weights: Floats = self._start.copy()
        self._precision: Floats = np.eye(features) * _PRIOR

    def shares(self, features: Floats) -> Floats:
        """Return the probabilities (n, classes) of features (n, features, classes). Pure."""
        logits: Floats = (features * self.weights[:, None]).sum(1)
        if not logits.shape[1]:
            return logits
        logits -= logits.max(1, keepdims=True)
        shares: Floats = np.exp(logits)
        shares /= shares.sum(1, keepdims=True)
        return shares

    def update(self, features: Floats, labels: NDArray[np.int64]) -> None:
        """Learn m >= 1 events by their features and labels (m,)."""
        shares = self.shares(features)
        m, rows = len(labels), np.arange(len(labels))
        mean = (features * shares[:, None]).sum(2)
        gradient = (features[rows, :, labels] - mean).sum(0)
        centred = features - mean[:, :, None]
        weighted = centred * shares[:, None]
        curvature = (weighted[:, :, None] * centred[:, None]).sum((0, 3))
        kept = 0.5 ** (m / self._half_life)
        pull = (1 - kept) * _PRIOR
        self._precision = kept * self._precision + curvature
        self._precision[np.diag_indices(len(self.weights))] += pull
        gradient -= pull * (self.weights - self._start)
        self.weights = self.weights + np.linalg.solve(self._precision, gradient)

    def state(self) -> State:
        return {"weights": self.weights, "precision": self._precision}

    def load(self, state: State) -> None:
        self.weights, self._precision = np.array(state["weights"]), np.array(state["precision"])


def log_shares(shares: Floats) -> Floats:
    """Return the logarithms of probabilities, with the least at 1e-4."""
    logs: Floats = np.log(np.maximum(shares, LEAST))
    return logs


class LinearPool:
    """What to add to a prediction of targets: sum_f w_f phi_f, with weights learned online.

    The weights are the mean of a Gaussian posterior, as in ``LogLinearPool``, under squared error
    in units of the targets' deviation. All start at 0: the base as it is.

    Args:
        features: how many.
        half_life: events after which one counts half.
    """

    def __init__(self, features: int, half_life: float) -> None:
        self._half_life = half_life
        self.weights: Floats = np.zeros(features)
        self._precision: Floats = np.eye(features) * _PRIOR

    def correction(self, features: Floats) -> Floats:
        """Return what to add (n,), by features (n, features). Pure."""
        return np.asarray((features * self.weights).sum(1), np.float64)

    def update(self, features: Floats, errors: Floats) -> None:
        """Learn m >= 1 events by their features and the errors (m,) of the base."""
        left = errors - self.correction(features)
        gradient = (features * left[:, None]).sum(0)
        curvature = (features[:, :, None] * features[:, None]).sum(0)
        kept = 0.5 ** (len(errors) / self._half_life)
        pull = (1 - kept) * _PRIOR
        self._precision = kept * self._precision + curvature
        self._precision[np.diag_indices(len(self.weights))] += pull
        self.weights = self.weights + np.linalg.solve(
            self._precision, gradient - pull * self.weights
        )

    def state(self) -> State:
        return {"weights": self.weights, "precision": self._precision}

    def load(self, state: State) -> None:
        self.weights, self._precision = np.array(state["weights"]), np.array(state["precision"])
