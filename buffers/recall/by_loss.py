"""Recall by loss: the learner chooses, among random candidates, those of the highest loss.

Aljundi et al. 2019, "Online Continual Learning with Maximal Interfered Retrieval".
"""

from __future__ import annotations

import numpy as np

from buffers.recall.base import Ints, Uniform


class Candidates(Uniform):
    """Draw ``pool`` times as many rows as asked for, for the learner to choose from.

    All rows are equally likely. Scoring all rows instead would take time that grows with the
    buffer.

    Args:
        capacity: number of slots.
        views: presentations of one drawn row by the learner.
        pool: candidates for each row that is rehearsed; 2 to 1000.
    """

    def __init__(self, capacity: int, views: int = 1, pool: int = 5) -> None:
        super().__init__(capacity, views)
        if not 2 <= pool <= 1000:
            raise ValueError(f"pool: {pool} was given, 2 to 1000 is expected")
        self.pool = pool

    def draw(self, k: int, filled: int, rng: np.random.Generator) -> Ints:
        return super().draw(k * self.pool, filled, rng)


class HighestLoss(Candidates):
    """Rehearse the candidates with the highest loss."""

    name = "highest-loss"
    criterion = "loss"


class MaximalInterference(Candidates):
    """Rehearse the candidates whose loss a step on the new rows alone would raise most."""

    name = "maximal-interference"
    criterion = "interference"
