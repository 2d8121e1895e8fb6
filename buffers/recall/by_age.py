"""Recall by age: draw older rows less often, by a power law or exponentially."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from buffers.recall.base import Array, Ints
from buffers.recall.weighted_base import Weighted, Weights


class ByAge(Weighted):
    """Draw rows with a probability that falls with their age.

    The age of a row is the number of rows offered since it arrived, counted at the last row that
    was kept. It is divided by ``horizon``, or by all rows offered so far, and is from 0 to 1. So
    the shape of the law, and the work of a draw, do not depend on the length of the stream.
    """

    def __init__(self, capacity: int, views: int, horizon: int | None) -> None:
        super().__init__(capacity, views)
        if horizon is not None and horizon < 1:
            raise ValueError(f"horizon: {horizon} was given, at least 1 is expected")
        self.horizon = horizon
        self._offered = 0
        self._arrived = np.zeros(capacity, np.int64)  # by slot: rows offered when its row arrived

    @abstractmethod
    def _by_age(self, age: NDArray[np.float32]) -> Weights:
        """Return the weights (m,) float32 for ages (m,) from 0 to 1: 1 at age 0, then falling."""

    def ages(self, slots: Ints) -> NDArray[np.float32]:
        """Return the ages (m,) float32, from 0 to 1, of the rows at ``slots`` (m,)."""
        scale = np.float32(1 / (self.horizon or max(self._offered, 1)))
        age = (self._offered - self._arrived.take(slots)).astype(np.float32)
        age *= scale
        return np.minimum(age, np.float32(1), out=age)

    def _weights(self, slots: Ints) -> Weights:
        return self._by_age(self.ages(slots))

    def put(self, slots: Ints, now: int) -> None:
        super().put(slots, now)
        self._offered = now
        self._arrived[slots] = now

    def move(self, source: Ints, target: Ints) -> None:
        super().move(source, target)
        self._arrived[target] = self._arrived[source]

    def row_values(self, filled: int) -> dict[str, Array]:
        """Return the age of each row: (filled,) float32."""
        return {"age": self.ages(np.arange(filled))}

    def memory_bytes(self) -> int:
        return super().memory_bytes() + self._arrived.nbytes

    def state(self, filled: int) -> dict[str, Any]:
        arrived = self._arrived[:filled].copy()
        return {**super().state(filled), "offered": self._offered, "came": arrived}

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        self._offered = int(state["offered"])
        self._arrived[: len(state["came"])] = state["came"]


class PowerLaw(ByAge):
    """Draw rows in proportion to ``(1 + age / grain) ** -exponent``.

    Where the past of a stream recurs by a power law of the time since, it should be rehearsed by
    that law (Gandhi et al., after Anderson and Schooler 1991, "Reflections of the Environment in
    Memory").

    Args:
        capacity: number of slots.
        views: presentations of one drawn row by the learner.
        exponent: how fast the probability falls; 0 to 10.
        grain: the age below which all rows have about the same weight; 0.001 to 1000.
        horizon: rows offered that make an age of 1, the largest; None: all rows so far.
    """

    name = "power-law"

    def __init__(
        self,
        capacity: int,
        views: int = 1,
        exponent: float = 1.0,
        grain: float = 0.1,
        horizon: int | None = None,
    ) -> None:
        super().__init__(capacity, views, horizon)
        if not 0 <= exponent <= 10:
            raise ValueError(f"exponent: {exponent} was given, 0 to 10 is expected")
        if not 0.001 <= grain <= 1000:
            raise ValueError(f"grain: {grain} was given, 0.001 to 1000 is expected")
        self.exponent = exponent
        self.grain = grain

    def _by_age(self, age: NDArray[np.float32]) -> Weights:
        age *= np.float32(1 / self.grain)
        age += 1
        weights: Weights = age ** np.float32(-self.exponent)
        return weights


class Exponential(ByAge):
    """Draw rows in proportion to ``exp(-rate * age)``, to compare with ``PowerLaw``.

    Args:
        capacity: number of slots.
        views: presentations of one drawn row by the learner.
        rate: how fast the probability falls; 0 to 50.
        horizon: rows offered that make an age of 1, the largest; None: all rows so far.
    """

    name = "exponential"

    def __init__(
        self, capacity: int, views: int = 1, rate: float = 3.0, horizon: int | None = None
    ) -> None:
        super().__init__(capacity, views, horizon)
        if not 0 <= rate <= 50:
            raise ValueError(f"rate: {rate} was given, 0 to 50 is expected")
        self.rate = rate

    def _by_age(self, age: NDArray[np.float32]) -> Weights:
        age *= np.float32(-self.rate)
        return np.exp(age)
