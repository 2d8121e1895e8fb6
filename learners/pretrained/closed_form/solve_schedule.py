"""When a learner in closed form solves for new weights."""

from __future__ import annotations

import numpy as np

from learners.pretrained.closed_form.statistics import grown
from streams.core.batch import Ints
from streams.core.state_dict import State

_EVERY = 500
_FEW = 32  # a class with fewer events at the last solve
_MOST = 8  # times as long as summing, that solving for classes of more events may take


class SolveSchedule:
    """Say when to solve for new weights.

    To add the products of a row of M numbers takes M**2 multiplications; to factor their matrix,
    M**3 / 3; and to solve with the factor for k outputs, k * M**2. So a solve costs as much as
    M / 3 + k events. It is due

    - once a class has its first events; several classes of one micro-batch share a solve;
    - once the events of a class have grown by the share ``growth`` since the last solve; where it
      had 32 or more by then, only after an eighth of the events that a solve costs;
    - once there were ``every`` events since then.

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
        self._counts = np.zeros(outputs, np.int64)

    def add(self, rows: int) -> None:
        """Count rows that were added to the sums."""
        self._since += rows

    def due(self, counts: Ints, width: int) -> bool:
        """Return whether to solve now.

        Args:
            counts: (k,) the events of each class.
            width: M, numbers of a row.
        """
        old = self._counts = grown(self._counts, len(counts))
        price = width // 3 + len(counts)
        every = max(_EVERY, price) if self.every is None else self.every
        more = (counts >= (1 + self.growth) * old) & (counts > old)
        if self._since * _MOST < price:
            more &= old < _FEW
        return bool(self._since >= every or more.any())

    def solved(self, counts: Ints) -> None:
        """Count a solve. ``counts`` are as of ``due``."""
        self.solves += bool(counts.any())
        self._since = 0
        self._counts = counts.copy()

    def state(self) -> State:
        """Return all that changes."""
        return {
            "solves": self.solves,
            "since": self._since,
            "counts": self._counts,
        }

    def load(self, state: State) -> None:
        """Restore a ``state``."""
        self.solves, self._since = state["solves"], state["since"]
        self._counts = np.array(state["counts"])
