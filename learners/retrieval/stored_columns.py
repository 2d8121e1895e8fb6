"""The columns of events that a memory stores, from which their keys are made anew."""

from __future__ import annotations

from streams.core.batch import Batch
from streams.core.state_dict import State, pack, unpack


class StoredColumns:
    """Keep the columns of the last events as they came, without their labels.

    Args:
        capacity: the most events.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._parts: list[Batch] = []
        self._count = 0

    def add(self, batch: Batch) -> None:
        """Add n >= 1 events."""
        self._parts.append(batch.to_predict(False))
        self._count += len(batch)
        while self._count - len(self._parts[0]) >= self._capacity:
            self._count -= len(self._parts.pop(0))

    def last(self, n: int) -> Batch | None:
        """Return the last n events, oldest first; None without any."""
        if not self._parts:
            return None
        whole = Batch.concat(self._parts)
        self._parts = [whole]
        return whole[len(whole) - n :]

    def clear(self) -> None:
        """Forget all events."""
        self._parts, self._count = [], 0

    def state(self) -> State:
        last = self.last(min(self._count, self._capacity))
        return {} if last is None else {"events": pack(last)}

    def load(self, state: State) -> None:
        """Restore what ``state`` returned."""
        self.clear()
        if "events" in state:
            self.add(unpack(state["events"], ()))
