"""Values: what each key of the codebooks votes for, and the only part that is trained."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from streams.core.batch import Array, Ints
from streams.core.state_dict import State


class ValueTable:
    """A row of values for each code; the outputs for an event are the mean of the rows it fetches.

    Args:
        codes: rows.
        codebooks: rows that an event fetches, one of each codebook.
        outputs: values of a row, which start at 0.

    Attributes:
        values: (codes, outputs) float32.
        trained: (codes,) bool, the rows that an event has trained.
    """

    def __init__(self, codes: int, codebooks: int, outputs: int) -> None:
        self._codebooks = codebooks
        self.values = np.zeros((codes, outputs), np.float32)
        self.trained: NDArray[np.bool_] = np.zeros(codes, np.bool_)

    def outputs(self, codes: Ints) -> Array:
        """Return (n, outputs) float32 for the codes (codebooks, n) of n >= 1 events. Pure."""
        fetched = torch.from_numpy(np.ascontiguousarray(codes.T))
        # The mean of embedding_bag takes four times as long as its sum.
        sums = F.embedding_bag(fetched, torch.from_numpy(self.values), mode="sum")
        outputs: Array = sums.numpy() / np.float32(self._codebooks)
        return outputs

    def step(self, codes: Ints, gradient: Array, lr: float) -> bool:
        """Take a step of gradient descent with the rows that n >= 1 events fetch, and no others.

        The gradient of a row is the mean of those of its events, so that no number of events in a
        batch can make the step too long.

        Args:
            codes: (codebooks, n).
            gradient: (n, outputs) float32, of the loss of each event by its outputs.
            lr: the length of the step.

        Returns:
            Whether a row has been trained for the first time.
        """
        rows = codes.ravel()
        events = np.bincount(rows, minlength=len(self.values))[rows]
        part = np.divide(-lr / self._codebooks, events, dtype=np.float32)
        steps = part.reshape(codes.shape)[:, :, None] * gradient
        flat = torch.from_numpy(steps.reshape(len(rows), -1))
        torch.from_numpy(self.values).index_add_(0, torch.from_numpy(rows), flat)
        if self.trained[rows].all():
            return False
        self.trained[rows] = True
        return True

    def insert(self, columns: int) -> None:
        """Insert copies of the last column before it."""
        old = self.values
        new = np.repeat(old[:, -1:], columns, 1)
        self.values = np.ascontiguousarray(np.concatenate([old[:, :-1], new, old[:, -1:]], 1))

    def state(self) -> State:
        return {"values": self.values, "trained": self.trained}

    def load(self, state: State) -> None:
        self.values = np.array(state["values"])
        self.trained = np.array(state["trained"])


def gradient_of(out: Array, y: Ints, unseen: int, smoothing: float) -> Array:
    """Return the gradient (n, k + 1) float32 of the cross-entropy of each event by its outputs.

    The last output is that of each of ``unseen`` classes that have not come. So with M of them,

        p_c = exp(out_c) / Z, p_u = exp(out_u) / Z, Z = sum_c exp(out_c) + M exp(out_u)
        gradient_c = p_c - t_c,    t_c = (1 - s) [c = y] + s / (k + M)

    and that of the last is the gradient for *one* of them: all of them have the same column.

    Args:
        out: (n, k + 1) outputs.
        y: (n,) class codes.
        unseen: M, at least 1.
        smoothing: s.
    """
    p = np.exp(out - out.max(1, keepdims=True), dtype=np.float64)
    p /= p[:, :-1].sum(1, keepdims=True) + unseen * p[:, -1:]
    gradient = p - smoothing / (out.shape[1] - 1 + unseen)
    gradient[np.arange(len(y)), y] -= 1 - smoothing
    rounded: Array = gradient.astype(np.float32)
    return rounded
