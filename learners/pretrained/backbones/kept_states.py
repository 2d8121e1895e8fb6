"""A bounded cache of the states of rows."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from torch import Tensor


class KeptStates:
    """The states of the rows used last, by key. Several threads may use it.

    Attributes:
        bytes: of the states in it, at most the largest number that was reserved.
    """

    def __init__(self) -> None:
        self._states: OrderedDict[bytes, Tensor] = OrderedDict()
        self._lock = Lock()
        self._size = 0
        self.bytes = 0

    def reserve(self, size: int) -> None:
        """Make room for ``size`` bytes, if there is less."""
        self._size = max(self._size, size)

    def get(self, key: bytes) -> Tensor | None:
        """Return the states of a row, or None."""
        with self._lock:
            if (states := self._states.get(key)) is not None:
                self._states.move_to_end(key)
            return states

    def add(self, key: bytes, states: Tensor) -> None:
        """Keep the states of a row, in the place of those that were not used for longest."""
        cost = states.nbytes + len(key)
        with self._lock:
            if cost > self._size or key in self._states:
                return
            self._states[key] = states
            self.bytes += cost
            while self.bytes > self._size:
                old, dropped = self._states.popitem(last=False)
                self.bytes -= dropped.nbytes + len(old)
