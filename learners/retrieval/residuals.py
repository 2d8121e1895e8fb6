"""Exponentially weighted residuals of segments, in a table of bounded size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from learners.retrieval.noted import Floats
from streams.core.batch import Ints
from streams.core.key_table import KeyTable
from streams.core.state_dict import State

_CURVATURE = 0.2
"""Of a label without a residual: about p (1 - p)."""


class SegmentTable:
    """Sums of errors and of curvatures by key, which fade with the labels of the key.

    A key without a row, as in a full table, has residual 0. The row of a new key is that of the one
    seen least recently (``KeyTable``).

    Args:
        rows: the most keys.
        columns: keys of an event.
        half_lives: labels of a key after which one counts half.
        prior: labels without a residual that a key starts with.

    Attributes:
        count: labels added so far.
    """

    def __init__(self, rows: int, columns: int, half_lives: Sequence[float], prior: float) -> None:
        self._keys = KeyTable(rows, admit_after=1, min_age=0)
        self._kept = 0.5 ** (1.0 / np.array(half_lives, np.float64))
        self._columns = columns
        self._prior = prior
        shape = (self._keys.rows, len(half_lives), 2, 0)
        self._sums: NDArray[np.float32] = np.zeros(shape, np.float32)
        self.count = 0

    def __len__(self) -> int:
        return len(self._keys)

    def _grow(self, outputs: int) -> None:
        new = outputs - self._sums.shape[3]
        if new > 0:
            self._sums = np.pad(self._sums, ((0, 0), (0, 0), (0, 0), (0, new)))

    def residuals(self, keys: Ints, outputs: int, targets: bool) -> Floats:
        """Return the residuals (n, columns * half-lives, outputs) of keys (n, columns). Pure."""
        n, known = len(keys), min(outputs, self._sums.shape[3])
        rows = self._keys.find(keys)
        sums = self._sums[rows, :, :, :known].astype(np.float64)
        sums[rows < 0] = 0.0
        prior = self._prior * (1.0 if targets else _CURVATURE)
        share = 1.0 if targets else (outputs - 1) / max(outputs, 1)
        means = share * sums[:, :, :, 0] / (sums[:, :, :, 1] + prior)
        found = np.zeros((n, self._columns * len(self._kept), outputs))
        found[:, :, :known] = means.reshape(*found.shape[:2], known)
        return found

    def add(self, keys: Ints, error: Floats, curvature: Floats) -> None:
        """Add m >= 1 labels, one after another: errors and curvatures (m, outputs)."""
        m, outputs = error.shape
        self._grow(outputs)
        self._keys.advance(m)
        admitted, rows = self._keys.observe_and_find(keys.reshape(-1))
        self._sums[admitted.rows] = 0
        values = np.repeat(np.stack([error, curvature], 1), self._columns, 0)
        known = rows >= 0
        self._fold(rows[known], values[known])
        self.count += m

    def _fold(self, rows: Ints, values: Floats) -> None:
        """Let the sums of rows (q,) fade and take values (q, 2, outputs), in this order."""
        order = np.argsort(rows, kind="stable")
        rows, values = rows[order], values[order]
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        if not len(starts):
            return
        counts = np.diff(starts, append=len(rows))
        later = np.repeat(starts + counts, counts) - 1 - np.arange(len(rows))
        weighted = values[:, None] * (self._kept ** later[:, None])[:, :, None, None]
        added = np.add.reduceat(weighted, starts, 0)
        fade = (self._kept ** counts[:, None])[:, :, None, None]
        first = rows[starts]
        self._sums[first] = self._sums[first] * fade + added

    def servable(self) -> State:
        """Return what ``residuals`` needs: a row of each key, in its place."""
        return {"served": self._keys.servable(), **self._sums_state()}

    def state(self) -> State:
        return {"keys": self._keys.state(), **self._sums_state()}

    def _sums_state(self) -> State:
        rows, outputs = len(self._sums), self._sums.shape[3]
        flat = self._sums.reshape(rows, self._sums.size // rows)
        return {"sums": flat, "outputs": outputs, "count": self.count}

    def load(self, state: State) -> None:
        """Restore what ``state`` or ``servable`` returned."""
        outputs, self.count = state["outputs"], state["count"]
        shape = (self._keys.rows, len(self._kept), 2, outputs)
        self._sums = np.array(state["sums"]).reshape(shape)
        self._keys.load(state["keys"] if "keys" in state else state["served"])
