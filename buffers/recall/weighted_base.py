"""The base of recall rules that draw rows by weight."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from buffers.recall.base import Distinct, Ints, Recall

Weights = NDArray[np.float32]

_NEWEST = 0.05  # weight of the newest draw in the estimate of how many proposals succeed


class Weighted(Recall):
    """Draw rows in proportion to a weight, without replacement within one draw.

    Rejection sampling: a row is proposed, all equally likely, and accepted with a probability equal
    to its weight, unless the draw has it already. That equals drawing one row after another, in
    proportion to the weights of the rows left. The work depends on the mean weight, not on the
    number of rows. Proposals are made in lots, of the size that the last draws needed.

    A lot as large as the buffer is not worth it. Then each row gets an exponential waiting time
    with its weight as the rate, and the first k are taken, which has the same distribution
    (Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir").

    A subclass defines the weights.
    """

    def __init__(self, capacity: int, views: int = 1) -> None:
        super().__init__(capacity, views)
        self._distinct = Distinct(capacity)
        self._share = 0.5  # estimated share of proposals that give a new row

    @abstractmethod
    def _weights(self, slots: Ints) -> Weights:
        """Return the weights (m,) float32 of ``slots`` (m,): above 0, at most 1."""

    def draw(self, k: int, filled: int, rng: np.random.Generator) -> Ints:
        k = min(k, filled)
        # Two standard deviations in reserve, and one proposal for each expected repetition.
        n = int((k + 2 * k**0.5 + k * k / max(filled, 1)) / self._share) + 1
        taken = self._propose(n, filled, rng) if n < filled else np.empty(0, np.int64)
        while len(taken) < k:
            n *= 2
            if n >= filled:
                rest = self._soonest(k - len(taken), filled, taken, rng)
                return np.concatenate((taken, rest))
            more = self._propose(n, filled, rng)
            taken = self._first(np.concatenate((taken, more)))
        return taken[:k]

    def _propose(self, n: int, filled: int, rng: np.random.Generator) -> Ints:
        """Return the distinct rows that ``n`` proposals give, in the order of the proposals."""
        drawn = rng.random(n)
        drawn *= filled
        whole = np.floor(drawn)
        slots: Ints = whole.astype(np.int64)
        drawn -= whole  # the fraction is uniform again, with 53 - log2(filled) bits
        accepted = drawn.astype(np.float32) < self._weights(slots)
        taken = self._first(slots.take(accepted.nonzero()[0]))
        self._share += _NEWEST * (max(len(taken), 1) / n - self._share)
        return taken

    def _first(self, slots: Ints) -> Ints:
        """Return each of the slots (m,) once, at its first position.

        The last position would be wrong with unequal weights: it would move the rows that are
        proposed often to the end.
        """
        return self._distinct(slots[::-1])[::-1]

    def _soonest(self, k: int, filled: int, taken: Ints, rng: np.random.Generator) -> Ints:
        """Return ``k`` rows that are not in ``taken``: those with the shortest waiting times."""
        weights = self._weights(np.arange(filled))
        waits = -np.log1p(-rng.random(filled)) / weights
        waits[taken] = np.inf
        self._share += _NEWEST * (float(weights.mean()) - self._share)
        return np.argpartition(waits, k - 1)[:k] if k else taken[:0]

    def memory_bytes(self) -> int:
        return super().memory_bytes() + self._distinct.nbytes

    def state(self, filled: int) -> dict[str, Any]:
        return {**super().state(filled), "share": self._share}

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        self._share = float(state["share"])
