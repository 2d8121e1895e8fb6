"""The label joins for labels in the rows of their events, which become known after a delay."""

from __future__ import annotations

import heapq

import numpy as np

from streams.core.batch import Array, Batch, ClassName, Ints
from streams.core.state_dict import State
from streams.operators.label_join import LabelJoin, ReadyRows
from streams.operators.outcomes import Chunk, Pieces, no_label


class DelayByEvents(LabelJoin):
    """The label of event i becomes known just before event i + ``delay`` is predicted; with delay 0
    right after its own prediction."""

    def __init__(
        self, delay: int, label_timeout_events: int, segments: bool = False, exact: bool = False
    ) -> None:
        if delay >= label_timeout_events:
            raise ValueError(
                f"the label delay is {delay} events, but events expire after {label_timeout_events}"
            )
        super().__init__(label_timeout_events, segments, exact)
        self.delay = delay
        self._revealed = 0  # events whose label has become known

    def _ready(self, chunk: Chunk, batch: Batch) -> ReadyRows | None:
        m = self._pushed - self.delay - self._revealed
        if m <= 0:
            return None
        first = self._revealed + max(self.delay, 1) - (self._pushed - len(batch))
        return ReadyRows(self._take(m), np.arange(first, first + m))

    def _take(self, m: int) -> Pieces:
        """Close the oldest m events; return them."""
        pieces: Pieces = []
        self._revealed += m
        while m:
            oldest = self._chunks[self._oldest]
            start = len(oldest.batch) - oldest.waiting
            stop = min(start + m, len(oldest.batch))
            pieces.append((oldest, slice(start, stop)))
            oldest.waiting -= stop - start
            m -= stop - start
            if not oldest.waiting:
                del self._chunks[self._oldest]
                self._oldest += 1
        return pieces

    def _last_labels(self, pieces: Pieces) -> tuple[Array, Ints]:
        self._revealed = self._pushed
        y = np.concatenate([c.batch.y[r] for c, r in pieces if c.batch.y is not None])
        return y, np.arange(len(y))

    def state(self) -> State:
        return {**super().state(), "given": self._revealed}

    def load(self, state: State, classes: tuple[ClassName, ...] = ()) -> None:
        super().load(state, classes)
        self._revealed = state["given"]


class DelayByEventTime(LabelJoin):
    """The label of an event becomes known just before the first event at or after its due time:
    ``delay`` seconds after the event, or (None) the ``due`` of its row (NaN: never)."""

    def __init__(
        self,
        delay: float | None,
        label_timeout_events: int,
        segments: bool = False,
        exact: bool = False,
    ) -> None:
        super().__init__(label_timeout_events, segments, exact)
        self.delay = delay
        self._now = -np.inf  # the latest event time
        self._first_due: list[tuple[float, int]] = []  # heap of (earliest due in chunk, its number)

    def _ready(self, chunk: Chunk, batch: Batch) -> ReadyRows | None:
        n = len(batch)
        if not n:
            return None
        clock = batch.time if batch.clock is None else batch.clock
        time = np.maximum.accumulate(np.maximum(clock, self._now))
        self._now = float(time[-1])
        due = batch.due if self.delay is None else batch.time + self.delay
        chunk.due = np.full(n, np.nan) if due is None else due
        self._schedule(chunk)
        due_chunks: list[Chunk] = []
        pieces: list[tuple[Chunk, Ints]] = []
        while self._first_due and self._first_due[0][0] <= self._now:
            waiting = self._chunks.get(heapq.heappop(self._first_due)[1])
            if waiting is None or waiting.due is None:
                continue
            due_chunks.append(waiting)
            rows = waiting.open_rows()
            rows = rows[waiting.due[rows] <= self._now]
            if waiting.index[0] < self._pushed - self.label_timeout_events:  # some may expire first
                known = self._pushed - n + np.searchsorted(time, waiting.due[rows])
                rows = rows[known - waiting.index[rows] <= self.label_timeout_events]
            if len(rows):
                pieces.append((waiting, rows))
                self._close(waiting, rows)
        for waiting in due_chunks:
            self._schedule(waiting)
        if len(self._first_due) > 2 * len(self._chunks) + 16:  # most of it for expired events
            self._schedule_all()
        if not pieces:
            return None
        due = np.concatenate([c.due[r] for c, r in pieces if c.due is not None])
        index = np.concatenate([c.index[r] for c, r in pieces])
        insert_before = np.searchsorted(time, due)
        after_itself = index - (self._pushed - n) + 1  # not before its own prediction
        insert_before = np.maximum(insert_before, after_itself)
        order = np.lexsort((index, due, insert_before))
        return ReadyRows([*pieces], insert_before[order], order)

    def _schedule(self, chunk: Chunk) -> None:
        """Note when the first waiting row of a chunk is due."""
        assert chunk.due is not None
        if chunk.waiting:
            first = float(np.fmin.reduce(chunk.due[chunk.open_rows()]))
            if first == first:  # NaN: no row is ever due
                heapq.heappush(self._first_due, (first, chunk.number))

    def _schedule_all(self) -> None:
        self._first_due = []
        for chunk in self._chunks.values():
            self._schedule(chunk)

    def _last_labels(self, pieces: Pieces) -> tuple[Array, Ints]:
        due = np.concatenate([c.due[r] for c, r in pieces if c.due is not None])
        y = np.concatenate([c.batch.y[r] for c, r in pieces if c.batch.y is not None])
        y = np.where(np.isnan(due), no_label(y), y).astype(y.dtype)
        return y, np.argsort(due, kind="stable")  # NaN last

    def state(self) -> State:
        return {**super().state(), "now": np.array(self._now)}

    def load(self, state: State, classes: tuple[ClassName, ...] = ()) -> None:
        super().load(state, classes)
        self._now = float(state["now"])
        self._schedule_all()
