"""Recursive least squares: weights and their covariance, as of every event."""

from __future__ import annotations

import numpy as np
import torch

from learners.base import LearnerError
from learners.pretrained.closed_form.statistics.base import Statistics, counts_without, grown
from learners.pretrained.closed_form.statistics.gram import folded, unfolded
from streams.core.batch import Array, Ints
from streams.core.state_dict import State

_BLOCK = 128  # rows of one update
_OFFSET_SHARE = 1e-3  # of the ridge, for the offset
_ERROR_WINDOW = 2000  # events


class RecursiveSums(Statistics):
    """The ridge solution of all rows so far, updated by the Woodbury identity.

    With forgetting, an event of age t has weight l**t, l = 2**(-1 / half_life). Let R be the
    weighted sum of h h' plus a diagonal prior, and P = R^-1. For m rows H (with a constant 1 at
    the end of each) and their targets Y, both multiplied by the roots of their weights:

        P <- P / l**m,  U = P H',  L L' = I + H U,  V = U L'^-1
        W <- W + V L^-1 (Y - H W),  P <- P - V V'

    V V' is symmetric as it is computed, so that P remains so. Everything is float64.

    Without more, the prior would fade too, and P would grow without end in directions in which no
    row comes: *wind-up*, after which one such row spoils all weights. So the prior is renewed: a
    coordinate i that has p of its prior lam left gets the row sqrt(lam - p) e_i with target 0
    (cf. Salgado et al. 1988, "Modified Least Squares Algorithm Incorporating Exponential Resetting
    and Forgetting", and Gunnarsson 1996). The coordinates take turns, each at least once in a
    half-life. So at least half of the prior is always there, and P <= 2 / lam.

    Args:
        width: numbers of a row.
        targets: whether y are targets, and not class codes, which stand for one column each.
        ridge: lam in mean squares of a number of the first rows; for the offset a thousandth of it.
        half_life: events after which the weight of an event has halved; None: all weigh the same.

    Attributes:
        weights: W (width + 1, k); the last row are the offsets.
        covariance: P (width + 1, width + 1).
        origin: the first target, which is subtracted from all.
        error: squared error of late, before events were learned, summed over outputs.
    """

    def __init__(
        self, width: int, targets: bool, ridge: float, half_life: float | None = None
    ) -> None:
        outputs = int(targets)
        self.targets = targets
        self.counts = np.zeros(outputs, np.int64)
        self.weights = np.zeros((width + 1, outputs))
        self.covariance = np.zeros((width + 1, width + 1))
        self.origin = 0.0
        self.error = 1.0
        self._ridge = ridge
        self._half_life = half_life
        self._prior = np.zeros(width + 1)  # zeros before the first row
        self._rows = 0
        self._renewed = np.zeros(width + 1, np.int64)  # rows by then, of each coordinate
        self._turn = 0

    def grow(self, classes: int) -> None:
        self.counts = grown(self.counts, classes)
        # Past events had the target 0 in a new column: its weights are 0.
        self.weights = np.ascontiguousarray(grown(self.weights.T, classes).T)

    def add(self, x: Array, y: Array) -> None:
        if not self._rows:
            self._begin(x, y)
        for start in range(0, len(x), _BLOCK):
            self._add(x[start : start + _BLOCK], y[start : start + _BLOCK])

    def _begin(self, x: Array, y: Array) -> None:
        square = float(np.square(x, dtype=np.float64).mean())
        self._prior[:] = self._ridge * (square or 1.0)
        self._prior[-1] = self._ridge * _OFFSET_SHARE
        self.covariance[np.diag_indices(len(self._prior))] = 1 / self._prior
        if self.targets:
            self.origin = float(y[0])

    def _add(self, x: Array, y: Array) -> None:
        m = len(x)
        rows, outputs = self._expanded(x, y)
        residuals = outputs - rows @ self.weights
        if self._half_life is not None:
            root = 0.5 ** (np.arange(m)[::-1] / (2 * self._half_life))
            rows *= root[:, None]
            outputs *= root[:, None]
            self.covariance *= 2 ** (m / self._half_life)
        self._note_error(residuals)
        through = self.covariance @ rows.T
        self._condition(rows @ through, through, outputs - rows @ self.weights)
        self._rows += m
        np.add.at(self.counts, self._codes(y), 1)
        if self._half_life is not None:
            self._renew(m, self._half_life)

    def _expanded(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return rows with a constant (m, width + 1), and outputs (m, k), both float64."""
        rows = np.ones((len(x), x.shape[1] + 1))
        rows[:, :-1] = x
        if self.targets:
            return rows, (y - self.origin)[:, None]
        outputs = np.zeros((len(y), len(self.counts)))
        outputs[np.arange(len(y)), y] = 1
        return rows, outputs

    def _codes(self, y: Array) -> Ints:
        return np.zeros(len(y), np.int64) if self.targets else y

    def _note_error(self, residuals: Array) -> None:
        m = len(residuals)
        share = max(1 - (1 - 1 / _ERROR_WINDOW) ** m, m / (self._rows + m))
        squared = float(np.einsum("mk,mk->", residuals, residuals)) / m
        self.error += share * (squared - self.error)

    def _condition(self, gram: Array, through: Array, residuals: Array, sign: int = 1) -> None:
        """Take in m rows H, or take them out with ``sign`` -1.

        Args:
            gram: H P H' (m, m).
            through: P H' (width + 1, m).
            residuals: Y - H W (m, k).
            sign: 1 or -1.
        """
        identity = np.eye(len(gram))
        factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(identity + sign * gram))
        if failed:  # rounding or a number that is not finite: ``verify`` reports it
            factor = factor.fill_(torch.nan)
        sides = torch.from_numpy(np.concatenate([through.T, residuals], axis=1))
        solved = torch.linalg.solve_triangular(factor, sides, upper=False).numpy()
        # Contiguous, so that NumPy takes the symmetric kernel for the product below.
        v = np.ascontiguousarray(solved[:, : len(through)])
        errors = solved[:, len(through) :]
        self.weights += sign * (v.T @ errors)
        self.covariance -= sign * (v.T @ v)

    def _renew(self, m: int, half_life: float) -> None:
        """Renew the prior of as many coordinates as are due after m more rows."""
        width = len(self._prior)
        due = int(np.ceil(width * m / half_life))
        for start in range(0, min(due, width), _BLOCK):
            places = (self._turn + np.arange(start, min(due, width, start + _BLOCK))) % width
            age = self._rows - self._renewed[places]
            root = np.sqrt(self._prior[places] * (1 - 0.5 ** (age / half_life)))
            through = self.covariance[:, places] * root
            residuals = -root[:, None] * self.weights[places]
            self._condition(root[:, None] * through[places], through, residuals)
            self._renewed[places] = self._rows
        self._turn = (self._turn + min(due, width)) % width

    def subtract(self, x: Array, y: Array) -> None:
        if self._half_life is not None:
            raise LearnerError(
                "with learner.half_life the weight of an event depends on its age, which is not "
                "known any more: only a learner without it can unlearn events"
            )
        counts = counts_without(self.counts, self._codes(y))
        before = self.weights.copy(), self.covariance.copy()
        for start in range(0, len(x), _BLOCK):
            rows, outputs = self._expanded(x[start : start + _BLOCK], y[start : start + _BLOCK])
            through = self.covariance @ rows.T
            self._condition(rows @ through, through, outputs - rows @ self.weights, -1)
        if not np.isfinite(self.covariance).all():
            self.weights, self.covariance = before
            raise LearnerError(
                "the sums are less than these events alone: unlearn only events that this learner "
                "has learned"
            )
        self.counts = counts
        self._rows -= len(x)

    def state(self) -> State:
        return {
            "counts": self.counts,
            "weights": self.weights,
            "covariance": folded(self.covariance),
            "prior": self._prior,
            "renewed": self._renewed,
            "rows": self._rows,
            "turn": self._turn,
            "origin": np.array(self.origin),
            "error": np.array(self.error),
        }

    def load(self, state: State) -> None:
        self.counts, self.weights = np.array(state["counts"]), np.array(state["weights"])
        self.covariance, self._prior = unfolded(state["covariance"]), np.array(state["prior"])
        self._renewed = np.array(state["renewed"])
        self._rows, self._turn = state["rows"], state["turn"]
        self.origin, self.error = float(state["origin"]), float(state["error"])
