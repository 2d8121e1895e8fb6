"""Reject events that are later than the allowed lateness."""

from __future__ import annotations

import numpy as np

from streams.core.batch import Batch, Floats, reject_rows
from streams.core.state_dict import State
from streams.operators.base import Operator


class DropLate(Operator):
    """Rejects an event whose time is more than ``lateness`` seconds before the latest time seen: of
    the whole stream, or of its partition where partitions are interleaved (``by_partition``)."""

    def __init__(self, lateness: float, by_partition: bool = False) -> None:
        self.lateness = lateness
        self.by_partition = by_partition
        self._latest: dict[int, float] = {}  # by partition; -1: of the whole stream

    def apply(self, batch: Batch) -> Batch:
        if not len(batch):
            return batch
        latest: Floats = np.empty(len(batch))
        if self.by_partition:
            for partition in np.unique(batch.partition).tolist():
                rows = np.flatnonzero(batch.partition == partition)
                latest[rows] = self._advance(partition, batch.time[rows])
        else:
            latest = self._advance(-1, batch.time)
        late = batch.time < latest - self.lateness
        if late.any():
            batch = reject_rows(
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
        return batch

    def _advance(self, partition: int, time: Floats) -> Floats:
        """Return the latest time seen at each event, and remember the last."""
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
