"""Recall by what the learner makes of candidates: those that are lost most, or would be.

Aljundi et al. 2019, "Online Continual Learning with Maximal Interfered Retrieval".
"""

from __future__ import annotations

import numpy as np

from buffers.recall.base import Ints, Uniform


class Candidates(Uniform):
    """Draws ``pool`` times as many rows as asked for, all with the same chance, for the learner to
    choose from. Looking at all rows instead would take time that grows with the buffer.

    Args:
        capacity: number of slots.
        views: presentations that the learner makes of one drawn row.
        pool: candidates for each row that is rehearsed; from 2 to 1000.
    """

    def __init__(self, capacity: int, views: int = 1, pool: int = 5) -> None:
        super().__init__(capacity, views)
        if not 2 <= pool <= 1000:
            raise ValueError(f"pool: {pool} was given, 2 to 1000 is expected")
        self.pool = pool

    def draw(self, k: int, filled: int, rng: np.random.Generator) -> Ints:
        return super().draw(k * self.pool, filled, rng)


class HighestLoss(Candidates):
    """Of the candidates those with the highest loss."""

    name = "highest-loss"
    criterion = "loss"


class MaximalInterference(Candidates):
    """Of the candidates those whose loss a step on the new rows alone would raise most."""

    name = "maximal-interference"
    criterion = "interference"
