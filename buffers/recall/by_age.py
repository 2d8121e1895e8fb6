"""Recall by age: older rows come up less often, by a power law or exponentially."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from buffers.recall.base import Array, Ints
from buffers.recall.weighted_base import Weighted, Weights


class ByAge(Weighted):
    """Rows with chances that fall with their age, as a part of the age of the stream.

    The age of a row is the number of rows offered since it came, as of the last one that stayed,
    divided by ``horizon`` or, without one, by all rows offered so far: from 0 to 1. So the shape of
    the law is the same however long the stream is, and so is the work of a draw.
    """

    def __init__(self, capacity: int, views: int, horizon: int | None) -> None:
        super().__init__(capacity, views)
        if horizon is not None and horizon < 1:
            raise ValueError(f"horizon: {horizon} was given, at least 1 is expected")
        self.horizon = horizon
        self._offered = 0
        self._came = np.zeros(capacity, np.int64)  # by slot: rows offered by then

    @abstractmethod
    def _by_age(self, age: NDArray[np.float32]) -> Weights:
        """(m,) float32, for ages (m,) from 0 to 1: 1 at 0, falling."""

    def ages(self, slots: Ints) -> NDArray[np.float32]:
        """(m,) float32, from 0 to 1: the ages of the rows at ``slots`` (m,)."""
        scale = np.float32(1 / (self.horizon or max(self._offered, 1)))
        age = (self._offered - self._came.take(slots)).astype(np.float32)
        age *= scale
        return np.minimum(age, np.float32(1), out=age)

    def _weights(self, slots: Ints) -> Weights:
        return self._by_age(self.ages(slots))

    def put(self, slots: Ints, now: int) -> None:
        super().put(slots, now)
        self._offered = now
        self._came[slots] = now

    def move(self, source: Ints, target: Ints) -> None:
        super().move(source, target)
        self._came[target] = self._came[source]

    def row_values(self, filled: int) -> dict[str, Array]:
        """The age of each row."""
        return {"age": self.ages(np.arange(filled))}

    def memory_bytes(self) -> int:
        return super().memory_bytes() + self._came.nbytes

    def state(self, filled: int) -> dict[str, Any]:
        came = self._came[:filled].copy()
        return {**super().state(filled), "offered": self._offered, "came": came}

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        self._offered = int(state["offered"])
        self._came[: len(state["came"])] = state["came"]


class PowerLaw(ByAge):
    """Chances in proportion to ``(1 + age / grain) ** -exponent``.

    In environments whose past comes back by a power law of the time since, that is how often to
    rehearse it (Gandhi et al., after Anderson & Schooler 1991, "Reflections of the environment in
    memory").

    Args:
        capacity: number of slots.
        views: presentations that the learner makes of one drawn row.
        exponent: how fast chances fall; 0 to 10.
        grain: the age up to which all rows count about the same; 0.001 to 1000.
        horizon: rows offered that make an age of 1, the most there is; None for all so far.
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
    """Chances in proportion to ``exp(-rate * age)``: what ``PowerLaw`` is to be compared with.

    Args:
        capacity: number of slots.
        views: presentations that the learner makes of one drawn row.
        rate: how fast chances fall; 0 to 50.
        horizon: rows offered that make an age of 1, the most there is; None for all so far.
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
