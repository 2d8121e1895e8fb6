"""Reject events whose id was seen before."""

from __future__ import annotations

from collections import deque
from itertools import islice

import numpy as np

from streams.core.batch import Batch, reject_rows
from streams.core.state_dict import State
from streams.operators.base import Operator


class DropDuplicates(Operator):
    """Rejects an event whose id was seen within the last ``window`` events.

    The window advances by whole micro-batches, so it is at most one micro-batch longer. Memory: the
    ids of the window.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self._seen: set[int] = set()
        self._chunks: deque[list[int]] = deque()

    def apply(self, batch: Batch) -> Batch:
        ids = batch.ids.tolist()
        unique = set(ids)
        if len(unique) != len(ids) or not self._seen.isdisjoint(unique):
            earlier: set[int] = set()
            duplicate = []
            for id_ in ids:
                duplicate.append(id_ in self._seen or id_ in earlier)
                earlier.add(id_)
            batch = reject_rows(
                batch,
                np.array(duplicate),
                [
                    f"duplicate id {id_}: seen before within the last {self.window} events"
                    for id_, rejected in zip(ids, duplicate, strict=True)
                    if rejected
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
