"""When a learner in closed form solves for new weights."""

from __future__ import annotations

import numpy as np

from learners.pretrained.closed_form.statistics import grown
from streams.core.batch import Ints
from streams.core.state_dict import State

_EVERY = 500
_FEW = 32  # a class with fewer events at the last solve
_SAVED = 5  # solves that can be saved up: for a class of 1, 2, 4, 8 and 16 events


class SolveSchedule:
    """Say when to solve, so that solving takes about as long as summing.

    To add the products of a row of M numbers takes M**2 multiplications; to factor their matrix,
    M**3 / 3; and to solve with the factor for k outputs, k * M**2. So a solve costs as much as
    M / 3 + k events. It is due

    - once a class has its first events, at once; several of one micro-batch share a solve;
    - once the events of all classes have grown by the share ``growth`` since the last solve;
    - once those of a class of few events have, where events have paid for it. Five such solves can
      be saved up, so that a class that comes late is known after a few events;
    - once there were ``every`` events since the last solve.

    Args:
        every: as above. None: 500, or as many as a solve costs where these are more.
        growth: as above; 1 is a doubling.
        outputs: k at the start: 0 classes, or 1 for regression.

    Attributes:
        solves: how many there were.
    """

    def __init__(self, every: int | None, growth: float, outputs: int) -> None:
        self.every = every
        self.growth = growth
        self.solves = 0
        self._since = 0
        self._saved = 0
        self._counts = np.zeros(outputs, np.int64)

    def add(self, rows: int, width: int) -> None:
        """Count rows (``rows``, ``width``) that were added to the sums."""
        self._since += rows
        self._saved = min(self._saved + rows, _SAVED * self._price(width))

    def due(self, counts: Ints, width: int) -> bool:
        """Return whether to solve now, and take what was saved up if that is the reason.

        Args:
            counts: (k,) the events of each class.
            width: M, numbers of a row.
        """
        price = self._price(width)
        every = max(_EVERY, price) if self.every is None else self.every
        old = self._counts = grown(self._counts, len(counts))
        if self._since >= every or ((counts > 0) & (old == 0)).any():
            return True
        share = 1 + self.growth
        if counts.sum() >= share * old.sum() and (counts > old).any():
            return True
        grown_since = (old < _FEW) & (counts >= share * old) & (counts > old)
        if self._saved < price or not grown_since.any():
            return False
        self._saved -= price
        return True

    def solved(self, counts: Ints, width: int) -> None:
        """Count a solve. ``counts`` and ``width`` are as of ``due``."""
        self.solves += bool(counts.any())
        self._since = 0
        self._counts = counts.copy()

    def _price(self, width: int) -> int:
        return width // 3 + len(self._counts)

    def state(self) -> State:
        """Return all that changes."""
        return {
            "solves": self.solves,
            "since": self._since,
            "saved": self._saved,
            "counts": self._counts,
        }

    def load(self, state: State) -> None:
        """Restore a ``state``."""
        self.solves, self._since = state["solves"], state["since"]
        self._saved, self._counts = state["saved"], np.array(state["counts"])
