"""Recall by forgetting curve: draw rows more often that are likely to be forgotten.

The curve and the strength are those of MemoryBank (Zhong et al. 2024, after Ebbinghaus 1885). They
schedule rehearsal as in Amiri et al. 2017, "Repeat before Forgetting".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from buffers.recall.base import Array, Ints, RecallOutcome
from buffers.recall.weighted_base import Weighted, Weights


def retention_probability(
    elapsed: ArrayLike, strength: ArrayLike, constant: float
) -> NDArray[np.float32]:
    """Return ``exp(-elapsed / (constant * strength))``: the share retained, from 1 down to 0.

    A stronger memory decays more slowly. The decay is memoryless: the share that survives from one
    time to a later one depends on the time between them alone.

    Args:
        elapsed: presentations since the last recall.
        strength: of the same shape.
        constant: presentations after which a memory of strength 1 is retained to 1/e.
    """
    scale = np.float32(-constant) * np.asarray(strength, np.float32)
    return np.exp(np.asarray(elapsed).astype(np.float32) / scale)


class ForgettingCurve(Weighted):
    """Draw rows in proportion to ``1 - retention + floor``.

    The retention of a row is ``exp(-t / (c S))``, where t is the number of presentations since its
    last recall, or its arrival. Its strength S starts at 1. A successful recall multiplies it by
    ``growth``, a failed one resets it to 1.

    Args:
        capacity: number of slots.
        views: presentations of one drawn row by the learner.
        cycles: the time constant c, in uniform cycles through a full buffer, of ``capacity *
            views`` presentations each; above 0.
        growth: factor by which a success multiplies the strength; above 1.
        strongest: the largest strength; at least 1.
        floor: weight of a fully retained row; above 0.
    """

    name = "forgetting-curve"
    needs_outcome = True

    def __init__(
        self,
        capacity: int,
        views: int = 1,
        cycles: float = 1.0,
        growth: float = 2.0,
        strongest: float = 16.0,
        floor: float = 0.1,
    ) -> None:
        super().__init__(capacity, views)
        _check("cycles", cycles, 0.001 <= cycles <= 1e6, "0.001 to 1e6")
        _check("growth", growth, 1 < growth <= 1e6, "more than 1, at most 1e6")
        _check("strongest", strongest, 1 <= strongest <= 1e6, "1 to 1e6")
        _check("floor", floor, 0.001 <= floor <= 1000, "0.001 to 1000")
        self.constant = cycles * capacity * views
        self.growth = growth
        self.strongest = strongest
        self.floor = floor
        self.strength = np.ones(capacity, np.float32)

    def retention(self, slots: Ints) -> NDArray[np.float32]:
        """Return the share retained now, (m,) float32, of the rows at ``slots`` (m,)."""
        elapsed = self.clock - self.last.take(slots)
        return retention_probability(elapsed, self.strength.take(slots), self.constant)

    def _weight(self, retained: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the weight for each share retained: from ``floor`` to ``1 + floor``."""
        return (1 + self.floor) - retained

    def _weights(self, slots: Ints) -> Weights:
        weights = self._weight(self.retention(slots))
        weights *= 1 / (1 + self.floor)
        return weights

    def update(self, slots: Ints, outcome: RecallOutcome) -> None:
        grown = self.strength.take(slots) * np.float32(self.growth)
        grown = np.minimum(grown, np.float32(self.strongest))
        self.strength[slots] = np.where(outcome.correct, grown, np.float32(1))

    def put(self, slots: Ints, now: int) -> None:
        super().put(slots, now)
        self.strength[slots] = 1

    def move(self, source: Ints, target: Ints) -> None:
        super().move(source, target)
        self.strength[target] = self.strength[source]

    def row_values(self, filled: int) -> dict[str, Array]:
        """Return the strength of each row, and its retention now: (filled,) float32 each."""
        slots = np.arange(filled)
        return {"strength": self.strength[:filled].copy(), "retention": self.retention(slots)}

    def memory_bytes(self) -> int:
        return super().memory_bytes() + self.strength.nbytes

    def state(self, filled: int) -> dict[str, Any]:
        return {**super().state(filled), "strength": self.strength[:filled].copy()}

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        self.strength[: len(state["strength"])] = state["strength"]


def _check(name: str, value: float, in_range: bool, expected: str) -> None:
    if not in_range:
        raise ValueError(f"{name}: {value} was given, {expected} is expected")
