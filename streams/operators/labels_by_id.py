"""The label join for labels that arrive on their own and name their event by id."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from streams.core.batch import Array, Batch, ClassName, Ints
from streams.core.state_dict import State
from streams.operators.label_join import (
    NONE,
    Chunk,
    LabelJoin,
    Pieces,
    ReadyRows,
    Revealed,
    ScoredRows,
    no_label,
    no_labels,
)

_ROW_BITS = 32  # an awaiting row is named by (number of its chunk << 32 | row)
_ROW = 2**_ROW_BITS - 1


class TimerQueue:
    """Names by the time when each must be looked at; a NaN is never. Names that are no longer
    wanted may stay in it: it is made anew from those that are before they outnumber them."""

    def __init__(self, wanted: Callable[[], Iterable[tuple[float, int]]]) -> None:
        self._wanted = wanted
        self._heap: list[tuple[float, int]] = []

    def add(self, time: float, name: int, wanted: int) -> None:
        """``wanted``: how many names are."""
        if math.isfinite(time):
            heapq.heappush(self._heap, (time, name))
            if len(self._heap) > 2 * wanted + 16:
                self.renew()

    def renew(self) -> None:
        self._heap = [(time, name) for time, name in self._wanted() if math.isfinite(time)]
        heapq.heapify(self._heap)

    def passed(self, now: float) -> Iterator[int]:
        """Takes out the names whose time is before ``now``."""
        while self._heap and self._heap[0][0] < now:
            yield heapq.heappop(self._heap)[1]


@dataclass(slots=True)
class JoinStep:
    """One micro-batch of n events on its way through the join.

    Attributes:
        ids: of its events. base: the awaiting row of its first one; start: events pushed before.
        clock: (n + 1,) the latest event time before each row, and after the last.
        come: how many of its rows have been predicted so far.
        found: awaiting row -> (id, label, the row of the micro-batch that it is known before).
        where: id -> awaiting row, of those found.
        corrected: id -> label, of events that were given out with another.
    """

    ids: list[int]
    base: int
    start: int
    clock: list[float]
    come: int = 0
    found: dict[int, tuple[int, float, int]] = field(default_factory=dict)
    where: dict[int, int] = field(default_factory=dict)
    corrected: dict[int, float] = field(default_factory=dict)

    def find(self, at: int, i: int, y: float, before: int) -> None:
        self.found[at] = (i, y, before)
        self.where[i] = at


class JoinById(LabelJoin):
    """Labels that arrive on their own.

    * The first label of an event wins.
    * A label that comes before its event is held, and is known right after the event's prediction.
    * A second label that comes before the event was given out replaces the first. With ``exact``
      an event is given out as soon as both it and its first label are there; else at the end of the
      micro-batch in which they are.
    * An event waits for ``wait`` later events, and, where ``within`` is stated, until event time
      has moved on by more than ``within + lateness`` seconds: then it expires. Event time is the
      latest time of the events predicted so far. An event that is older than that when it comes
      expires right after its prediction, unless its label is held.
    * A held label is dropped when ``wait`` newer ones are held, or when event time has moved on by
      more than ``within + lateness`` since its own time (NaN: unknown, so never).
    * Where an id comes back while its event waits, labels go to the newer event.

    What becomes of a label is one of these, and ``counts`` has how often; only labels that name
    their event for the first time, and in time, are in none but ``early``:

    ============= ================================================================================
    ``duplicate`` the event, or the held label, has this very label already
    ``corrected`` it has another, which this one replaces; handed on in ``Revealed.corrected`` where
                  the event was given out
    ``late``      its event has expired
    ``stray``     its event never came while it was held, or it was too old to be held
    ``early``     it came before its event and was held: it has met it, or is stray, or is held yet
    ============= ================================================================================

    All this is the same wherever the micro-batches are cut, but for two things: without ``exact``,
    which label an event is given out with; and which past ids are forgotten first.

    Args:
        numeric: labels are float64 targets, not class codes.
        window: ids of past events that are remembered, to tell corrections and late labels. The
            label of an event that is forgotten is taken for an early one.
        within: seconds of event time that an event waits for its label; None: any.
        lateness: seconds by which event time runs ahead of what may still come.
    """

    def __init__(
        self,
        wait: int,
        segments: bool = False,
        exact: bool = False,
        numeric: bool = False,
        window: int = 100_000,
        within: float | None = None,
        lateness: float = 0.0,
    ) -> None:
        super().__init__(wait, segments, exact)
        self.window = window
        self.counts = dict.fromkeys(("duplicate", "corrected", "late", "early", "stray"), 0)
        self._span = math.inf if within is None else within + lateness
        self._now = -math.inf  # the latest time of an event
        self._dtype = np.dtype(np.float64 if numeric else np.int64)
        self._last = np.array([np.nan if numeric else -1], self._dtype)
        self._where: dict[int, int] = {}  # id -> awaiting row
        self._past: OrderedDict[int, float | None] = OrderedDict()  # id -> label; None: expired
        self._early: OrderedDict[int, tuple[float, float]] = OrderedDict()  # id -> label, its time
        self._ending = TimerQueue(self._first_ends)  # numbers of chunks
        self._aging = TimerQueue(lambda: ((t + self._span, i) for i, (_, t) in self._early.items()))

    def _pick(self, chunk: Chunk, batch: Batch) -> ReadyRows | None:
        n = len(batch)
        clock = [self._now, *np.fmax.accumulate(np.fmax(batch.time, self._now)).tolist()]
        start = self._pushed - n
        turn = JoinStep(batch.ids.tolist(), chunk.number << _ROW_BITS, start, clock)
        arrivals = batch.arrivals
        if arrivals is not None:
            given = ~no_labels(arrivals.y)
            for i, y, time, before in zip(
                arrivals.ids[given].tolist(),
                arrivals.y[given].tolist(),
                arrivals.time[given].tolist(),
                arrivals.insert_before[given].tolist(),
                strict=True,
            ):
                if before > turn.come:
                    self._come(turn, before)
                at = self._where.get(i)
                if at is None:
                    self._unexpected(turn, i, y, time, before)
                elif self._has_ended(turn, at, before):
                    self.counts["late"] += 1  # the event expires with this micro-batch
                else:
                    del self._where[i]
                    turn.find(at, i, y, before)
        self._come(turn, n)
        self._now = clock[n]
        self._drop_old(self._now)
        if n:
            self._plan(chunk)
        return self._picked(turn)

    def _come(self, turn: JoinStep, stop: int) -> None:
        """The events up to row ``stop`` of the micro-batch have been predicted."""
        come, turn.come = turn.come, stop
        if not self._early:
            rows = range(turn.base + come, turn.base + stop)
            self._where.update(zip(turn.ids[come:stop], rows, strict=True))
            return
        for row, i in enumerate(turn.ids[come:stop], come):
            held = self._early.pop(i, None)
            if held is not None and not held[1] + self._span < turn.clock[row]:
                turn.find(turn.base + row, i, held[0], row + 1)
            else:
                self.counts["stray"] += held is not None
                self._where[i] = turn.base + row

    def _has_ended(self, turn: JoinStep, at: int, before: int) -> bool:
        """Whether the event of an awaiting row no longer waits just before a row."""
        chunk, row = self._chunks[at >> _ROW_BITS], at & _ROW
        if turn.start + before - chunk.index.item(row) > self.wait:
            return True
        return turn.clock[before] > chunk.batch.time.item(row) + self._span

    def _unexpected(self, turn: JoinStep, i: int, y: float, time: float, before: int) -> None:
        """A label whose event does not wait (any more, or yet)."""
        if i in turn.where:
            at = turn.where[i]
            _, first, known = turn.found[at]
            if y == turn.corrected.get(i, first):
                self.counts["duplicate"] += 1
            else:
                self.counts["corrected"] += 1
                if self.exact and before >= known:
                    turn.corrected[i] = y
                else:
                    del turn.found[at]  # it is known later than the first, and than some others
                    turn.find(at, i, y, max(before, known))
        elif i in self._past:
            first_or_none = self._past[i]
            if first_or_none is None:
                self.counts["late"] += 1
            elif y == first_or_none:
                self.counts["duplicate"] += 1
            else:
                self.counts["corrected"] += 1
                self._past[i] = turn.corrected[i] = y
        else:
            self._hold(i, y, time, turn.clock[before])

    def _hold(self, i: int, y: float, time: float, now: float) -> None:
        """A label whose event has not come."""
        self._drop_old(now)
        if time + self._span < now:
            self.counts["stray"] += 1
            return
        if i in self._early:
            self.counts["duplicate" if self._early[i][0] == y else "corrected"] += 1
        else:
            self.counts["early"] += 1
        self._early[i] = (y, time)
        self._aging.add(time + self._span, i, len(self._early))
        if len(self._early) > self.wait:
            self._early.popitem(last=False)
            self.counts["stray"] += 1

    def _drop_old(self, now: float) -> None:
        """Drops the held labels that event time has left behind."""
        for i in self._aging.passed(now):
            held = self._early.get(i)
            if held is not None and held[1] + self._span < now:
                del self._early[i]
                self.counts["stray"] += 1

    def _picked(self, turn: JoinStep) -> ReadyRows | None:
        found, corrected, corrections = turn.found, turn.corrected, None
        if corrected:
            corrections = (
                np.fromiter(corrected, np.int64, len(corrected)),
                np.fromiter(corrected.values(), self._dtype, len(corrected)),
            )
        if not found:
            return None if corrections is None else ReadyRows([], NONE, corrected=corrections)
        by_time = sorted(found.items(), key=lambda item: item[1][2])
        self._remember((i, corrected.get(i, y)) for _, (i, y, _) in by_time)
        at = np.array([row for row, _ in by_time], np.int64)
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
        return ReadyRows(pieces, before, back, y, corrections)

    def _remember(self, labels: Iterable[tuple[int, float | None]]) -> None:
        for i, y in labels:
            self._past[i] = y
            self._past.move_to_end(i)
        while len(self._past) > self.window:
            self._past.popitem(last=False)

    def _expire(self) -> list[tuple[Chunk, Ints]]:
        gone = super()._expire() + self._outlived()
        for chunk, rows in gone:
            base = chunk.number << _ROW_BITS
            expired = [i for i, row in _named(chunk, rows) if self._where.get(i) == base + row]
            for i in expired:
                del self._where[i]
            self._remember((i, None) for i in expired)
        return gone

    def _outlived(self) -> list[tuple[Chunk, Ints]]:
        """The rows that event time has left behind; they wait no more."""
        gone = []
        for number in self._ending.passed(self._now):
            chunk = self._chunks.get(number)
            if chunk is None:
                continue
            rows = chunk.open_rows()
            rows = rows[chunk.batch.time[rows] + self._span < self._now]
            if len(rows):
                gone.append((chunk, rows))
                self._close(chunk, rows)
            self._plan(chunk)
        return gone

    def _plan(self, chunk: Chunk) -> None:
        self._ending.add(self._first_end(chunk), chunk.number, len(self._chunks))

    def _first_ends(self) -> Iterator[tuple[float, int]]:
        return ((self._first_end(chunk), chunk.number) for chunk in self._chunks.values())

    def _first_end(self, chunk: Chunk) -> float:
        """When the first of the rows that wait expires by time; NaN or infinity: never."""
        if math.isinf(self._span) or not chunk.waiting:
            return math.nan
        return float(np.fmin.reduce(chunk.batch.time[chunk.open_rows()])) + self._span

    def finish(self, size: int) -> Iterator[tuple[Revealed, ScoredRows]]:
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
            "early_y": np.array([y for y, _ in self._early.values()], self._dtype),
            "early_time": np.array([time for _, time in self._early.values()], np.float64),
            "now": np.array(self._now),
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
        ids = state["early_ids"].tolist()
        # Checkpoints of before there was a window hold no times.
        times = state["early_time"].tolist() if "early_time" in state else [math.nan] * len(ids)
        held = zip(state["early_y"].tolist(), times, strict=True)
        self._early = OrderedDict(zip(ids, held, strict=True))
        self._now = float(state["now"]) if "now" in state else -math.inf
        self._ending.renew()
        self._aging.renew()


def _named(chunk: Chunk, rows: Ints) -> Iterator[tuple[int, int]]:
    """The ids of rows of a chunk, and the rows."""
    return zip(chunk.batch.ids[rows].tolist(), rows.tolist(), strict=True)
