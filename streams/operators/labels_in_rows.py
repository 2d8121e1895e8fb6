"""The label join for labels that stand in the rows of their events and are shown later."""

from __future__ import annotations

import heapq

import numpy as np

from streams.core.batch import Array, Batch, ClassName, Ints
from streams.core.state_dict import State
from streams.operators.label_join import Chunk, LabelJoin, Pieces, ReadyRows, no_label


class DelayByEvents(LabelJoin):
    """Labels in the rows: that of event i is known just before event i + ``delay`` is predicted,
    or, with delay 0, right after its own prediction."""

    def __init__(self, delay: int, wait: int, segments: bool = False, exact: bool = False) -> None:
        if delay >= wait:
            raise ValueError(f"the label delay is {delay} events, but events wait only for {wait}")
        super().__init__(wait, segments, exact)
        self.delay = delay
        self._given = 0

    def _pick(self, chunk: Chunk, batch: Batch) -> ReadyRows | None:
        m = self._pushed - self.delay - self._given
        if m <= 0:
            return None
        first = self._given + max(self.delay, 1) - (self._pushed - len(batch))
        return ReadyRows(self._take(m), np.arange(first, first + m))

    def _take(self, m: int) -> Pieces:
        pieces: Pieces = []
        self._given += m
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
        self._given = self._pushed
        y = np.concatenate([c.batch.y[r] for c, r in pieces if c.batch.y is not None])
        return y, np.arange(len(y))

    def state(self) -> State:
        return {**super().state(), "given": self._given}

    def load(self, state: State, classes: tuple[ClassName, ...] = ()) -> None:
        super().load(state, classes)
        self._given = state["given"]


class DelayByEventTime(LabelJoin):
    """Labels in the rows: known just before the first event whose time has come to ``due``.

    ``delay`` seconds after the event; None: at the ``due`` of each row (NaN: never).
    """

    def __init__(
        self, delay: float | None, wait: int, segments: bool = False, exact: bool = False
    ) -> None:
        super().__init__(wait, segments, exact)
        self.delay = delay
        self._now = -np.inf
        self._first_due: list[tuple[float, int]] = []  # heap of (earliest due in chunk, its number)

    def _pick(self, chunk: Chunk, batch: Batch) -> ReadyRows | None:
        n = len(batch)
        if not n:
            return None
        time = np.maximum.accumulate(np.maximum(batch.time, self._now))
        self._now = float(time[-1])
        due = batch.due if self.delay is None else batch.time + self.delay
        chunk.due = np.full(n, np.nan) if due is None else due
        self._plan(chunk)
        touched: list[Chunk] = []
        pieces: list[tuple[Chunk, Ints]] = []
        while self._first_due and self._first_due[0][0] <= self._now:
            waiting = self._chunks.get(heapq.heappop(self._first_due)[1])
            if waiting is None or waiting.due is None:
                continue
            touched.append(waiting)
            rows = waiting.open_rows()
            rows = rows[waiting.due[rows] <= self._now]
            if waiting.index[0] < self._pushed - self.wait:  # some may expire before they are due
                known = self._pushed - n + np.searchsorted(time, waiting.due[rows])
                rows = rows[known - waiting.index[rows] <= self.wait]
            if len(rows):
                pieces.append((waiting, rows))
                self._close(waiting, rows)
        for waiting in touched:
            self._plan(waiting)
        if len(self._first_due) > 2 * len(self._chunks) + 16:  # most of it for what has expired
            self._plan_all()
        if not pieces:
            return None
        due = np.concatenate([c.due[r] for c, r in pieces if c.due is not None])
        index = np.concatenate([c.index[r] for c, r in pieces])
        before = np.searchsorted(time, due)
        before = np.maximum(before, index - (self._pushed - n) + 1)  # not before its own prediction
        order = np.lexsort((index, due, before))
        return ReadyRows([*pieces], before[order], order)

    def _plan(self, chunk: Chunk) -> None:
        assert chunk.due is not None
        if chunk.waiting:
            first = float(np.fmin.reduce(chunk.due[chunk.open_rows()]))
            if first == first:  # NaN: none of them ever
                heapq.heappush(self._first_due, (first, chunk.number))

    def _plan_all(self) -> None:
        self._first_due = []
        for chunk in self._chunks.values():
            self._plan(chunk)

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
        self._plan_all()
