"""What a learner noted of events when it predicted them, until their labels come."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.core.batch import Ints
from streams.core.state_dict import State

Floats = NDArray[np.float64]


class Notes(NamedTuple):
    """Notes on m events whose label has come.

    Attributes:
        values: (m, parts, outputs); 0 without a note.
        known: (m,) bool, whether there is a note.
        delays: (m,) how many events were predicted from each of them on.
    """

    values: Floats
    known: NDArray[np.bool_]
    delays: Floats


class NotedEvents:
    """Keep numbers of events that wait for their label, in the order of their predictions.

    Memory follows the number of events that wait. Beyond ``limit`` the oldest are dropped, so that
    events whose label never comes take no more.

    Args:
        parts: rows of numbers that are noted of an event.
        limit: the most events.
    """

    def __init__(self, parts: int, limit: int) -> None:
        self._limit = limit
        self._ids: Ints = np.zeros(0, np.int64)
        self._values: Floats = np.zeros((0, parts, 0))

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, ids: Ints, values: Floats) -> None:
        """Note the values (n, parts, outputs) of events (n,). Outputs may be more than before."""
        self._grow(values.shape[2])
        self._ids = np.concatenate([self._ids, ids])[-self._limit :]
        self._values = np.concatenate([self._values, values])[-self._limit :]

    def pop(self, ids: Ints, outputs: int) -> Notes:
        """Return and drop what was noted of events (m,), for at least as many outputs."""
        self._grow(outputs)
        m = len(ids)
        if np.array_equal(self._ids[:m], ids):  # labels come in the order of events
            found, rows = np.ones(m, np.bool_), np.arange(m)
            kept: slice | NDArray[np.bool_] = slice(m, None)
        else:
            order = np.argsort(self._ids, kind="stable")
            places = np.searchsorted(self._ids, ids, sorter=order)
            rows = order[np.minimum(places, len(order) - 1)] if len(order) else places
            found = self._ids[rows] == ids if len(order) else np.zeros(m, np.bool_)
            kept = np.ones(len(self._ids), np.bool_)
            kept[rows[found]] = False
        values = np.zeros((m, *self._values.shape[1:]))
        values[found] = self._values[rows[found]]
        delays = np.where(found, len(self._ids) - rows, max(len(self._ids), 1)).astype(np.float64)
        self._ids, self._values = self._ids[kept], self._values[kept]
        return Notes(values, found, delays)

    def _grow(self, outputs: int) -> None:
        new = outputs - self._values.shape[2]
        if new > 0:
            self._values = np.pad(self._values, ((0, 0), (0, 0), (0, new)))

    def state(self) -> State:
        return {"ids": self._ids, "values": self._values}

    def load(self, state: State) -> None:
        self._ids, self._values = np.array(state["ids"]), np.array(state["values"])
