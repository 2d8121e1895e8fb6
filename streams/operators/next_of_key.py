"""The label join of sequences: the label of an event is the next event of its key."""

from __future__ import annotations

import heapq
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from streams.core.batch import Array, Batch, ClassName, Ints
from streams.core.state_dict import State
from streams.operators.label_join import LabelJoin, ReadyRows
from streams.operators.outcomes import Chunk, Pieces


class NextOfKey(LabelJoin):
    """The label of an event, its ``y`` and ``wait``, becomes known just before the next event of
    its ``key`` is predicted: the type of that event, and the seconds until then.

    An event that is older than the one before of its key counts as at the time of that. After
    ``horizon`` seconds the label is that nothing came: type -1 and ``wait`` of ``horizon``. It
    becomes known just before the first event at which no event of that time can come any more: the
    stream has then gone on by more than ``horizon`` and ``lateness``. What still waits at the end
    of the stream has no label.

    Each key has at most one event that waits.

    Args:
        horizon: in seconds; None: it is never known that nothing came.
        lateness: how many seconds event time may step back.
        label_timeout_events: as in ``LabelJoin``.
        segments: as in ``LabelJoin``.
        exact: as in ``LabelJoin``.
    """

    def __init__(
        self,
        horizon: float | None,
        lateness: float,
        label_timeout_events: int,
        segments: bool = False,
        exact: bool = False,
    ) -> None:
        super().__init__(label_timeout_events, segments, exact)
        self.horizon = horizon
        self.lateness = lateness
        self._now = -np.inf  # the latest event time
        self._latest: dict[int, _LatestEvent] = {}  # by key
        self._due: list[tuple[float, int, int]] = []  # heap: when nothing came, index, key

    def _ready(self, chunk: Chunk, batch: Batch) -> ReadyRows | None:
        keys, types, n = batch.key, batch.y, len(batch)
        assert keys is not None
        assert types is not None
        clock = batch.time if batch.clock is None else batch.clock
        clock = np.maximum.accumulate(np.maximum(clock, self._now))
        horizon = np.inf if self.horizon is None else self.horizon
        chunk.due = np.maximum(clock, batch.time) + (horizon + self.lateness)
        times = batch.time.tolist()
        found: list[_Label] = []
        columns = (keys, types, clock, chunk.due, chunk.index)
        for i, (key, kind, now, due, index) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        ):
            self._end_silence(now, index, i, found)
            before = self._latest.get(key)
            if before is not None and index - before.place <= self.label_timeout_events:
                times[i] = max(times[i], before.time)
                wait = times[i] - before.time
                label = (kind, wait) if wait <= horizon else (-1, horizon)
                found.append(_Label(before.chunk, before.row, i, *label))
            self._latest[key] = _LatestEvent(index, chunk.number, i, times[i])
            if self.horizon is not None:
                heapq.heappush(self._due, (due, index, key))
        if len(self._due) > 2 * len(self._latest) + 16:  # most of it for events with a label
            self._schedule_all()
        if n:
            self._now = float(clock[-1])
            chunk.batch = replace(chunk.batch, time=np.array(times))
        return self._give(found)

    def _end_silence(self, now: float, index: int, row: int, found: list[_Label]) -> None:
        """Give out the events to whose keys nothing came before the event ``index``, at ``now``."""
        while self._due and self._due[0][0] < now:
            _, waiting, key = heapq.heappop(self._due)
            event = self._latest.get(key)
            in_time = index - waiting <= self.label_timeout_events
            if event is not None and event.place == waiting and in_time:
                del self._latest[key]
                assert self.horizon is not None
                found.append(_Label(event.chunk, event.row, row, -1, self.horizon))

    def _give(self, found: list[_Label]) -> ReadyRows | None:
        """Close the rows whose labels are known, and return them in this order."""
        if not found:
            return None
        numbers, rows, before, y, wait = (np.array(column) for column in zip(*found, strict=True))
        by_chunk = np.argsort(numbers, kind="stable")
        bounds = np.flatnonzero(np.diff(numbers[by_chunk])) + 1
        pieces: Pieces = []
        for part in np.split(by_chunk, bounds):
            chunk = self._chunks[int(numbers[part[0]])]
            pieces.append((chunk, rows[part]))
            self._close(chunk, rows[part])
        return ReadyRows(pieces, before, np.argsort(by_chunk), y, wait=wait.astype(np.float64))

    def _expire(self) -> list[tuple[Chunk, Ints]]:
        expired = super()._expire()
        for chunk, rows in expired:
            assert chunk.batch.key is not None
            for key, index in zip(
                chunk.batch.key[rows].tolist(), chunk.index[rows].tolist(), strict=True
            ):
                event = self._latest.get(key)
                if event is not None and event.place == index:
                    del self._latest[key]
        return expired

    def _last_labels(self, pieces: Pieces) -> tuple[Array, Ints]:
        n = sum(len(rows) for _, rows in pieces if not isinstance(rows, slice))
        return np.full(n, -1), np.arange(n)

    def state(self) -> State:
        return {**super().state(), "now": np.array(self._now)}

    def load(self, state: State, classes: tuple[ClassName, ...] = ()) -> None:
        super().load(state, classes)
        self._now = float(state["now"])
        self._latest = {}
        for chunk in self._chunks.values():
            assert chunk.batch.key is not None
            columns = (chunk.batch.key, chunk.index, chunk.batch.time)
            for row, (key, index, time) in enumerate(
                zip(*(column.tolist() for column in columns), strict=True)
            ):
                self._latest[key] = _LatestEvent(index, chunk.number, row, time)
        self._schedule_all()

    def _schedule_all(self) -> None:
        """Note when nothing came to the keys of the events that wait, and to no others."""
        self._due = []
        for key, event in self._latest.items() if self.horizon is not None else ():
            due = self._chunks[event.chunk].due
            assert due is not None
            self._due.append((float(due[event.row]), event.place, key))
        heapq.heapify(self._due)


class _LatestEvent(NamedTuple):
    """An event that waits: the number of events before it, where it is, and its time."""

    place: int
    chunk: int
    row: int
    time: float


class _Label(NamedTuple):
    """An event whose label is known: where it is, the row before which that was, and the label."""

    chunk: int
    row: int
    before: int
    y: int
    wait: float
