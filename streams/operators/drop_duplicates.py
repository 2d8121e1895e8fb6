"""Events that cannot be used for what came before them: seen already, or from the past."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from streams.core.batch import Batch, Dead, Floats
from streams.core.state_dict import State
from streams.operators.base import Operator


class UniqueIds(Operator):
    """Sets aside an event whose id was seen within the last ``window`` events.

    The window moves by whole micro-batches, so it is at least ``window`` and at most that and one
    micro-batch. Memory: the ids of the window.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self._seen: set[int] = set()
        self._chunks: deque[list[int]] = deque()

    def apply(self, batch: Batch) -> Iterable[Batch]:
        ids = batch.ids.tolist()
        fresh = set(ids)
        if len(fresh) != len(ids) or not self._seen.isdisjoint(fresh):
            earlier: set[int] = set()
            twice = []
            for i in ids:
                twice.append(i in self._seen or i in earlier)
                earlier.add(i)
            duplicate = np.array(twice)
            batch = set_aside(
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
        return (batch,)

    def state(self) -> State:
        return {
            "ids": np.array([i for chunk in self._chunks for i in chunk], np.int64),
            "lengths": np.array([len(chunk) for chunk in self._chunks], np.int64),
        }

    def load(self, state: State) -> None:
        ids = iter(state["ids"].tolist())
        self._chunks = deque(list(islice(ids, n)) for n in state["lengths"].tolist())
        self._seen = set(state["ids"].tolist())


class TimeOrder(Operator):
    """Sets aside an event whose time is more than ``lateness`` seconds before the latest seen: of
    the whole stream, or, where partitions are written and read side by side, of its partition."""

    def __init__(self, lateness: float, by_partition: bool = False) -> None:
        self.lateness = lateness
        self.by_partition = by_partition
        self._latest: dict[int, float] = {}  # of the whole stream: under -1

    def apply(self, batch: Batch) -> Iterable[Batch]:
        if not len(batch):
            return (batch,)
        latest: Floats = np.empty(len(batch))
        if self.by_partition:
            for partition in np.unique(batch.partition).tolist():
                rows = np.flatnonzero(batch.partition == partition)
                latest[rows] = self._advance(partition, batch.time[rows])
        else:
            latest = self._advance(-1, batch.time)
        late = batch.time < latest - self.lateness
        if late.any():
            batch = set_aside(
                batch,
                late,
                [
                    f"time goes back: {t:.17g} is {newest - t:.6g} s before {newest:.17g}, the"
                    f" latest seen, and lateness is {self.lateness:g} s"
                    for t, newest in zip(
                        batch.time[late].tolist(), latest[late].tolist(), strict=True
                    )
                ],
            )
        return (batch,)

    def _advance(self, partition: int, time: Floats) -> Floats:
        """The latest time seen at each event."""
        latest = np.maximum.accumulate(np.maximum(time, self._latest.get(partition, -np.inf)))
        self._latest[partition] = float(latest[-1])
        return latest

    def state(self) -> State:
        if not self.by_partition:
            return {"latest": np.array(self._latest.get(-1, -np.inf))}
        known = sorted(self._latest.items())
        return {
            "partitions": np.array([partition for partition, _ in known], np.int64),
            "latest": np.array([latest for _, latest in known], np.float64),
        }

    def load(self, state: State) -> None:
        if not self.by_partition:
            self._latest = {-1: float(state["latest"])}
            return
        known = zip(state["partitions"].tolist(), state["latest"].tolist(), strict=True)
        self._latest = dict(known)


def set_aside(batch: Batch, rows: NDArray[np.bool_], reasons: list[str]) -> Batch:
    """The batch without the rows where the mask holds; each of them is dead for its reason."""
    kept = batch.take(~rows)
    before = np.zeros(len(batch) + 1, np.int64)  # rows kept before each row
    np.cumsum(~rows, out=before[1:])
    dead = [replace(d, before=int(before[d.before])) for d in batch.dead]
    for row, reason in zip(np.flatnonzero(rows).tolist(), reasons, strict=True):
        dead.append(
            Dead(
                partition=int(batch.partition[row]),
                offset=int(batch.offset[row]),
                reason=reason,
                id=int(batch.ids[row]),
                before=int(before[row]),
            )
        )
    arrivals = batch.arrivals
    if arrivals is not None:
        arrivals = replace(arrivals, before=before[arrivals.before])
    dead.sort(key=lambda d: (d.before, d.partition, d.offset))
    return replace(kept, arrivals=arrivals, dead=tuple(dead))
