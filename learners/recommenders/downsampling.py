"""Learn from a share of the negative events only, and correct probabilities for it.

He et al. 2014, "Practical Lessons from Predicting Clicks on Ads at Facebook", section 6.3.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from streams.core.batch import Array, Ints
from streams.core.hashing import mix

_SALT = 0x6E


class NegativeDownsampling:
    """Keep each event of class 1, and each of class 0 with the probability ``rate``.

    What is kept has odds 1 / rate times as large. A model that learned them gives p', and of the
    whole stream the probability is

        p = p' / (p' + (1 - p') / rate),

    that is, its log-odds are log(rate) lower. A hash of the id of an event and of the seed decides,
    so the choice depends neither on micro-batches nor on what came before.

    Args:
        rate: above 0, at most 1; 1 keeps all.
        seed: of the learner.
    """

    def __init__(self, rate: float, seed: int) -> None:
        self._shift = math.log(rate)
        self._most = np.uint64(min(int(rate * 2**64), 2**64 - 1))
        self._seed = mix(np.array([seed]), _SALT).view(np.int64)

    def kept(self, ids: Ints, y: Array) -> NDArray[np.bool_]:
        """Return which events (n,) are learned, by their ids and classes (n,)."""
        kept: NDArray[np.bool_] = (y != 0) | (mix(ids ^ self._seed, _SALT) <= self._most)
        return kept

    def correct(self, out: Tensor) -> Tensor:
        """Return the outputs (n, 2) of a model of what is kept as those of the whole stream.

        Outputs of one class, or of none, are returned as they are.
        """
        if out.shape[1] < 2:
            return out
        out = out.clone()
        out[:, 1] += self._shift
        return out
