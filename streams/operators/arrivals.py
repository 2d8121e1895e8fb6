"""The label join for labels that arrive on their own and name their event by id."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

import numpy as np

from streams.batch import Array, Batch, ClassName, Ints
from streams.operators.join import (
    NONE,
    Chunk,
    LabelJoin,
    Picked,
    Pieces,
    Revealed,
    Settled,
    no_label,
    no_labels,
)
from streams.state import State

_ROW_BITS = 32  # an awaiting row is named by (number of its chunk << 32 | row)
_ROW = 2**_ROW_BITS - 1

Found = dict[int, tuple[int, float, int]]
"""id -> (awaiting row, label, the row of the micro-batch that it is known before)"""


class LabelsById(LabelJoin):
    """Labels that arrive on their own.

    * The first label of an event wins.
    * A label that comes before its event is held, and is known right after the event's prediction.
    * A second label that comes before the event was given out replaces the first. With ``exact``
      an event is given out as soon as both it and its first label are there; else at the end of the
      micro-batch in which they are.
    * One that comes later is a *correction* where it differs: counted, and handed on in
      ``Revealed.corrected``; else a *duplicate*: counted.
    * A label for an event that has expired is *late*; a held label whose event has not come after
      ``wait`` other held ones, or by the end of the stream, is *stray*: counted, and dropped.
    * Where an id comes back while its event waits, labels go to the newer event.

    Args:
        numeric: labels are float64 targets, not class codes.
        window: ids of past events that are remembered, to tell corrections and late labels.
    """

    def __init__(
        self,
        wait: int,
        segments: bool = False,
        exact: bool = False,
        numeric: bool = False,
        window: int = 100_000,
    ) -> None:
        super().__init__(wait, segments, exact)
        self.window = window
        self.counts = dict.fromkeys(("duplicate", "corrected", "late", "early", "stray"), 0)
        self._dtype = np.dtype(np.float64 if numeric else np.int64)
        self._last = np.array([np.nan if numeric else -1], self._dtype)
        self._where: dict[int, int] = {}  # id -> awaiting row
        self._past: OrderedDict[int, float | None] = OrderedDict()  # id -> label; None: expired
        self._early: OrderedDict[int, float] = OrderedDict()

    def _pick(self, chunk: Chunk, batch: Batch) -> Picked | None:
        arrivals = batch.arrivals
        ids = batch.ids.tolist()
        base = chunk.number << _ROW_BITS
        start = self._pushed - len(ids)
        self._where.update(zip(ids, range(base, base + len(ids)), strict=True))

        found: Found = {}
        corrected: dict[int, float] = {}
        if self._early:
            for row, i in enumerate(ids):
                if i in self._early and self._where[i] == base + row:
                    found[i] = (self._where.pop(i), self._early.pop(i), row + 1)
        if arrivals is not None:
            given = ~no_labels(arrivals.y)
            for i, y, before in zip(
                arrivals.ids[given].tolist(),
                arrivals.y[given].tolist(),
                arrivals.before[given].tolist(),
                strict=True,
            ):
                at = self._where.get(i)
                if at is None:
                    self._unexpected(i, y, before, found, corrected)
                elif before <= at - base:  # the event stands later in this very micro-batch
                    self.counts["early"] += 1
                    found[i] = (self._where.pop(i), y, at - base + 1)
                elif start + before - self._index(at) > self.wait:
                    self.counts["late"] += 1  # the event expires with this micro-batch
                else:
                    found[i] = (self._where.pop(i), y, before)
        return self._picked(found, corrected)

    def _index(self, at: int) -> int:
        """How many events were pushed before an awaiting row."""
        return int(self._chunks[at >> _ROW_BITS].index[at & _ROW])

    def _unexpected(
        self, i: int, y: float, before: int, found: Found, corrected: dict[int, float]
    ) -> None:
        """A label whose event does not wait (any more, or yet)."""
        if i in found:
            row, first, known = found[i]
            if y == corrected.get(i, first):
                self.counts["duplicate"] += 1
            else:
                self.counts["corrected"] += 1
                if self.exact and before >= known:
                    corrected[i] = y
                else:
                    del found[i]  # it is known later than the first, and later than some others
                    found[i] = (row, y, max(before, known))
        elif i in self._past:
            first_or_none = self._past[i]
            if first_or_none is None:
                self.counts["late"] += 1
            elif y == first_or_none:
                self.counts["duplicate"] += 1
            else:
                self.counts["corrected"] += 1
                self._past[i] = corrected[i] = y
        else:
            if i in self._early:
                self.counts["duplicate" if self._early[i] == y else "corrected"] += 1
            else:
                self.counts["early"] += 1
            self._early[i] = y
            if len(self._early) > self.wait:
                self._early.popitem(last=False)
                self.counts["stray"] += 1

    def _picked(self, found: Found, corrected: dict[int, float]) -> Picked | None:
        corrections = None
        if corrected:
            corrections = (
                np.fromiter(corrected, np.int64, len(corrected)),
                np.fromiter(corrected.values(), self._dtype, len(corrected)),
            )
        if not found:
            return None if corrections is None else Picked([], NONE, corrected=corrections)
        by_time = sorted(found.items(), key=lambda item: item[1][2])
        self._remember((i, corrected.get(i, y)) for i, (_, y, _) in by_time)
        at = np.array([row for _, (row, _, _) in by_time], np.int64)
        y = np.array([y for _, (_, y, _) in by_time], self._dtype)
        before = np.array([before for _, (_, _, before) in by_time], np.int64)
        numbers, rows = at >> _ROW_BITS, at & _ROW
        by_chunk = np.argsort(numbers, kind="stable")
        cuts = np.flatnonzero(np.diff(numbers[by_chunk])) + 1
        pieces: Pieces = []
        for part in np.split(by_chunk, cuts):
            home = self._chunks[int(numbers[part[0]])]
            pieces.append((home, rows[part]))
            self._close(home, rows[part])
        back = np.empty_like(by_chunk)
        back[by_chunk] = np.arange(len(by_chunk))
        return Picked(pieces, before, back, y, corrections)

    def _remember(self, labels: Iterable[tuple[int, float | None]]) -> None:
        for i, y in labels:
            self._past[i] = y
            self._past.move_to_end(i)
        while len(self._past) > self.window:
            self._past.popitem(last=False)

    def _expire(self) -> list[tuple[Chunk, Ints]]:
        gone = super()._expire()
        for chunk, rows in gone:
            base = chunk.number << _ROW_BITS
            expired = [i for i, row in _named(chunk, rows) if self._where.get(i) == base + row]
            for i in expired:
                del self._where[i]
            self._remember((i, None) for i in expired)
        return gone

    def finish(self, size: int) -> Iterator[tuple[Revealed, Settled]]:
        self.counts["stray"] += len(self._early)
        self._early.clear()
        self._where.clear()
        return super().finish(size)

    def _last_labels(self, pieces: Pieces) -> tuple[Array, Ints]:
        n = sum(chunk.waiting for chunk, _ in pieces)
        y = np.empty(n, self._dtype)
        y.fill(no_label(y))
        return y, np.arange(n)

    def state(self) -> State:
        labels = list(self._past.values())
        named = [
            self._where.get(i) == chunk.number << _ROW_BITS | row
            for chunk in self._chunks.values()
            for i, row in _named(chunk, chunk.open_rows())
        ]
        return {
            **super().state(),
            "counts": dict(self.counts),
            "named": np.array(named, np.bool_),  # all, but for events whose id has come back
            "past_ids": np.fromiter(self._past, np.int64, len(self._past)),
            "past_y": np.array([0 if y is None else y for y in labels], self._dtype),
            "past_expired": np.array([y is None for y in labels], np.bool_),
            "early_ids": np.fromiter(self._early, np.int64, len(self._early)),
            "early_y": np.fromiter(self._early.values(), self._dtype, len(self._early)),
        }

    def load(self, state: State, classes: tuple[ClassName, ...] = ()) -> None:
        super().load(state, classes)
        self.counts = dict(state["counts"])
        awaiting = (
            (i, chunk.number << _ROW_BITS | row)
            for chunk in self._chunks.values()
            for i, row in _named(chunk, chunk.open_rows())
        )
        named = state["named"].tolist()
        self._where = {i: at for (i, at), is_named in zip(awaiting, named, strict=True) if is_named}
        past = zip(
            state["past_ids"].tolist(),
            state["past_y"].tolist(),
            state["past_expired"].tolist(),
            strict=True,
        )
        self._past = OrderedDict((i, None if expired else y) for i, y, expired in past)
        early = zip(state["early_ids"].tolist(), state["early_y"].tolist(), strict=True)
        self._early = OrderedDict(early)


def _named(chunk: Chunk, rows: Ints) -> Iterator[tuple[int, int]]:
    """The ids of rows of a chunk, and the rows."""
    return zip(chunk.batch.ids[rows].tolist(), rows.tolist(), strict=True)
