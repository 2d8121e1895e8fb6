"""Events that cannot be used for what came before them: seen already, or from the past."""

from __future__ import annotations

from collections import deque
from itertools import islice

import numpy as np

from streams.core.batch import Batch, reject_rows
from streams.core.state_dict import State
from streams.operators.base import Operator


class DropDuplicates(Operator):
    """Sets aside an event whose id was seen within the last ``window`` events.

    The window moves by whole micro-batches, so it is at least ``window`` and at most that and one
    micro-batch. Memory: the ids of the window.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self._seen: set[int] = set()
        self._chunks: deque[list[int]] = deque()

    def apply(self, batch: Batch) -> Batch:
        ids = batch.ids.tolist()
        fresh = set(ids)
        if len(fresh) != len(ids) or not self._seen.isdisjoint(fresh):
            earlier: set[int] = set()
            twice = []
            for i in ids:
                twice.append(i in self._seen or i in earlier)
                earlier.add(i)
            duplicate = np.array(twice)
            batch = reject_rows(
                batch,
                duplicate,
                [
                    f"duplicate id {i}: seen before within the last {self.window} events"
                    for i, again in zip(ids, twice, strict=True)
                    if again
                ],
            )
            ids = batch.ids.tolist()
        if ids:
            self._seen.update(ids)
            self._chunks.append(ids)
        while self._chunks and len(self._seen) - len(self._chunks[0]) >= self.window:
            self._seen.difference_update(self._chunks.popleft())
        return batch

    def state(self) -> State:
        return {
            "ids": np.array([i for chunk in self._chunks for i in chunk], np.int64),
            "lengths": np.array([len(chunk) for chunk in self._chunks], np.int64),
        }

    def load(self, state: State) -> None:
        ids = iter(state["ids"].tolist())
        self._chunks = deque(list(islice(ids, n)) for n in state["lengths"].tolist())
        self._seen = set(state["ids"].tolist())
