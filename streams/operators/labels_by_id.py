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
from streams.operators.label_join import LabelJoin, ReadyRows, Revealed
from streams.operators.outcomes import NONE, Chunk, Pieces, ScoredRows, no_label, no_labels

_ROW_BITS = 32  # the slot of a waiting event is (number of its chunk << 32 | row)
_ROW = 2**_ROW_BITS - 1


class TimerQueue:
    """Timers: numbers, each with the event time at which it is due (NaN or infinity: never).

    Timers that are no longer needed stay in the queue. Before they outnumber the others, the queue
    is rebuilt from those that ``current`` gives.
    """

    def __init__(self, current: Callable[[], Iterable[tuple[float, int]]]) -> None:
        self._current = current
        self._heap: list[tuple[float, int]] = []

    def add(self, time: float, number: int, needed: int) -> None:
        """Add a timer; ``needed`` is how many timers are still needed."""
        if math.isfinite(time):
            heapq.heappush(self._heap, (time, number))
            if len(self._heap) > 2 * needed + 16:
                self.rebuild()

    def rebuild(self) -> None:
        """Replace all timers by the current ones."""
        timers = self._current()
        self._heap = [(time, number) for time, number in timers if math.isfinite(time)]
        heapq.heapify(self._heap)

    def pop_due(self, now: float) -> Iterator[int]:
        """Remove and yield the numbers whose time is before ``now``."""
        while self._heap and self._heap[0][0] < now:
            yield heapq.heappop(self._heap)[1]


@dataclass(slots=True)
class JoinStep:
    """One micro-batch of n events on its way through the join.

    Attributes:
        ids: the ids of its events.
        base: the slot of its first event.
        start: the number of events pushed before it.
        clock: (n + 1,) the latest event time before each row, and after the last.
        predicted: how many of its rows have been predicted so far.
        matches: slot to (id, label, the row of the micro-batch just before which it is known).
        slots: id to slot, of the matches.
        corrected: id to new label, of events that were given out with another label.
    """

    ids: list[int]
    base: int
    start: int
    clock: list[float]
    predicted: int = 0
    matches: dict[int, tuple[int, float, int]] = field(default_factory=dict)
    slots: dict[int, int] = field(default_factory=dict)
    corrected: dict[int, float] = field(default_factory=dict)

    def match(self, slot: int, id_: int, y: float, before: int) -> None:
        """Match an event with its label, known just before a row."""
        self.matches[slot] = (id_, y, before)
        self.slots[id_] = slot


class JoinById(LabelJoin):
    """The label join for labels that arrive on their own.

    * The first label of an event wins.
    * A label that arrives before its event is held. It becomes known right after the prediction of
      the event.
    * A second label that arrives before the event was given out replaces the first. With ``exact``
      an event is given out as soon as it and its first label are there; else at the end of their
      micro-batch.
    * An event expires after ``label_timeout_events`` later events. With ``label_timeout_seconds``
      it also expires once event time has advanced by more than that plus ``lateness``. Event time
      is ``Batch.clock``: where partitions are interleaved, what the slowest live one has reached;
      else the latest time of the events predicted so far. An event that is already older when it
      arrives expires right after its prediction, unless its label is held.
    * A held label is dropped when ``label_timeout_events`` newer ones are held, or when event time
      has advanced by more than the timeout since its own time (NaN: unknown, so never).
    * When an id is used again while its event waits, labels go to the newer event.
    * A withdrawal drops the held label of its event. A label that has met its event stays.

    ``counts`` has the number of labels of each kind. The first label of an event, if in time, is in
    none of them but perhaps ``early``:

    ============= ================================================================================
    ``duplicate`` the event, or the held label, already has this label
    ``corrected`` it has another label, which this one replaces; passed on in
                  ``Revealed.corrected`` if the event was given out
    ``late``      its event has expired
    ``stray``     its event did not arrive while it was held, or it was too old to be held
    ``early``     it arrived before its event and was held
    ``withdrawn`` it was taken back while it was held
    ============= ================================================================================

    The result does not depend on the size of the micro-batches, with two exceptions: without
    ``exact``, the label that an event is given out with; and which past ids are forgotten first.

    Args:
        label_timeout_events, segments, exact: as in ``LabelJoin``.
        numeric: whether labels are float64 targets, not class codes.
        window: how many ids of past events are remembered, to recognise corrections and late
            labels. The label of a forgotten event is taken for an early one.
        label_timeout_seconds: seconds of event time that an event waits for its label; None: no
            limit.
        lateness: seconds by which event time may run ahead of what may still arrive.
    """

    def __init__(
        self,
        label_timeout_events: int,
        segments: bool = False,
        exact: bool = False,
        numeric: bool = False,
        window: int = 100_000,
        label_timeout_seconds: float | None = None,
        lateness: float = 0.0,
    ) -> None:
        super().__init__(label_timeout_events, segments, exact)
        self.window = window
        self.counts = dict.fromkeys(("duplicate", "corrected", "late", "early", "stray"), 0)
        seconds = math.inf if label_timeout_seconds is None else label_timeout_seconds
        self._timeout_s = seconds + lateness
        self._now = -math.inf  # the latest time of an event
        self._dtype = np.dtype(np.float64 if numeric else np.int64)
        self._last = np.array([np.nan if numeric else -1], self._dtype)
        self._slots: dict[int, int] = {}  # id to slot, of the events that wait
        self._past: OrderedDict[int, float | None] = OrderedDict()  # id to label; None: expired
        self._early: OrderedDict[int, tuple[float, float]] = OrderedDict()  # id to label, its time
        self._chunk_timers = TimerQueue(self._chunk_deadlines)  # of numbers of chunks
        self._early_timers = TimerQueue(self._early_deadlines)  # of ids

    def _ready(self, chunk: Chunk, batch: Batch) -> ReadyRows | None:
        n = len(batch)
        times = batch.time if batch.clock is None else batch.clock
        clock = [self._now, *np.fmax.accumulate(np.fmax(times, self._now)).tolist()]
        start = self._pushed - n
        step = JoinStep(batch.ids.tolist(), chunk.number << _ROW_BITS, start, clock)
        arrivals = batch.arrivals
        if arrivals is not None:
            used = ~no_labels(arrivals.y) | arrivals.withdrawals
            for id_, y, time, before, is_withdrawal in zip(
                arrivals.ids[used].tolist(),
                arrivals.y[used].tolist(),
                arrivals.time[used].tolist(),
                arrivals.insert_before[used].tolist(),
                arrivals.withdrawals[used].tolist(),
                strict=True,
            ):
                if before > step.predicted:
                    self._add_predicted(step, before)
                if is_withdrawal:
                    if self._early.pop(id_, None) is not None:
                        self.counts["withdrawn"] = self.counts.get("withdrawn", 0) + 1
                    continue
                slot = self._slots.get(id_)
                if slot is None:
                    self._add_unmatched(step, id_, y, time, before)
                elif self._has_expired(step, slot, before):
                    self.counts["late"] += 1  # the event expires with this micro-batch
                else:
                    del self._slots[id_]
                    step.match(slot, id_, y, before)
        self._add_predicted(step, n)
        self._now = clock[n]
        self._drop_early(self._now)
        if n:
            self._schedule(chunk)
        return self._ready_rows(step)

    def _add_predicted(self, step: JoinStep, stop: int) -> None:
        """Let the events up to row ``stop``, now predicted, wait or meet a held label."""
        start, step.predicted = step.predicted, stop
        if not self._early:
            slots = range(step.base + start, step.base + stop)
            self._slots.update(zip(step.ids[start:stop], slots, strict=True))
            return
        for row, id_ in enumerate(step.ids[start:stop], start):
            early = self._early.pop(id_, None)
            if early is not None and not early[1] + self._timeout_s < step.clock[row]:
                step.match(step.base + row, id_, early[0], row + 1)
            else:
                self.counts["stray"] += early is not None
                self._slots[id_] = step.base + row

    def _has_expired(self, step: JoinStep, slot: int, before: int) -> bool:
        """Whether the event in a slot no longer waits just before a row."""
        chunk, row = self._chunks[slot >> _ROW_BITS], slot & _ROW
        if step.start + before - chunk.index.item(row) > self.label_timeout_events:
            return True
        return step.clock[before] > chunk.batch.time.item(row) + self._timeout_s

    def _add_unmatched(self, step: JoinStep, id_: int, y: float, time: float, before: int) -> None:
        """Take a label whose event does not wait: it was matched, is past, or is yet to arrive."""
        if id_ in step.slots:
            slot = step.slots[id_]
            _, first, known = step.matches[slot]
            if y == step.corrected.get(id_, first):
                self.counts["duplicate"] += 1
            else:
                self.counts["corrected"] += 1
                if self.exact and before >= known:
                    step.corrected[id_] = y
                else:
                    del step.matches[slot]  # it is known later than the first, and than some others
                    step.match(slot, id_, y, max(before, known))
        elif id_ in self._past:
            first_or_none = self._past[id_]
            if first_or_none is None:
                self.counts["late"] += 1
            elif y == first_or_none:
                self.counts["duplicate"] += 1
            else:
                self.counts["corrected"] += 1
                self._past[id_] = step.corrected[id_] = y
        else:
            self._hold_early(id_, y, time, step.clock[before])

    def _hold_early(self, id_: int, y: float, time: float, now: float) -> None:
        """Hold a label whose event has not arrived."""
        self._drop_early(now)
        if time + self._timeout_s < now:
            self.counts["stray"] += 1
            return
        if id_ in self._early:
            self.counts["duplicate" if self._early[id_][0] == y else "corrected"] += 1
        else:
            self.counts["early"] += 1
        self._early[id_] = (y, time)
        self._early_timers.add(time + self._timeout_s, id_, len(self._early))
        if len(self._early) > self.label_timeout_events:
            self._early.popitem(last=False)
            self.counts["stray"] += 1

    def _drop_early(self, now: float) -> None:
        """Drop the held labels whose timeout has passed."""
        for id_ in self._early_timers.pop_due(now):
            early = self._early.get(id_)
            if early is not None and early[1] + self._timeout_s < now:
                del self._early[id_]
                self.counts["stray"] += 1

    def _early_deadlines(self) -> Iterator[tuple[float, int]]:
        return ((time + self._timeout_s, id_) for id_, (_, time) in self._early.items())

    def _ready_rows(self, step: JoinStep) -> ReadyRows | None:
        """Return the matched rows, in the order in which their labels became known."""
        matches, corrected, corrections = step.matches, step.corrected, None
        if corrected:
            corrections = (
                np.fromiter(corrected, np.int64, len(corrected)),
                np.fromiter(corrected.values(), self._dtype, len(corrected)),
            )
        if not matches:
            return None if corrections is None else ReadyRows([], NONE, corrected=corrections)
        by_time = sorted(matches.items(), key=lambda item: item[1][2])
        self._remember((id_, corrected.get(id_, y)) for _, (id_, y, _) in by_time)
        slots = np.array([slot for slot, _ in by_time], np.int64)
        y = np.array([y for _, (_, y, _) in by_time], self._dtype)
        insert_before = np.array([before for _, (_, _, before) in by_time], np.int64)
        numbers, rows = slots >> _ROW_BITS, slots & _ROW
        by_chunk = np.argsort(numbers, kind="stable")
        cuts = np.flatnonzero(np.diff(numbers[by_chunk])) + 1
        pieces: Pieces = []
        for part in np.split(by_chunk, cuts):
            chunk = self._chunks[int(numbers[part[0]])]
            pieces.append((chunk, rows[part]))
            self._close(chunk, rows[part])
        by_label = np.empty_like(by_chunk)  # the inverse permutation
        by_label[by_chunk] = np.arange(len(by_chunk))
        return ReadyRows(pieces, insert_before, by_label, y, corrections)

    def _remember(self, labels: Iterable[tuple[int, float | None]]) -> None:
        """Remember ids of past events, with their label; None: they have expired."""
        for id_, y in labels:
            self._past[id_] = y
            self._past.move_to_end(id_)
        while len(self._past) > self.window:
            self._past.popitem(last=False)

    def _expire(self) -> list[tuple[Chunk, Ints]]:
        expired = super()._expire() + self._expire_by_time()
        for chunk, rows in expired:
            base = chunk.number << _ROW_BITS
            ids = [i for i, row in _ids_and_rows(chunk, rows) if self._slots.get(i) == base + row]
            for id_ in ids:
                del self._slots[id_]
            self._remember((id_, None) for id_ in ids)
        return expired

    def _expire_by_time(self) -> list[tuple[Chunk, Ints]]:
        """Close the rows whose timeout has passed; return them."""
        expired = []
        for number in self._chunk_timers.pop_due(self._now):
            chunk = self._chunks.get(number)
            if chunk is None:
                continue
            rows = chunk.open_rows()
            rows = rows[chunk.batch.time[rows] + self._timeout_s < self._now]
            if len(rows):
                expired.append((chunk, rows))
                self._close(chunk, rows)
            self._schedule(chunk)
        return expired

    def _schedule(self, chunk: Chunk) -> None:
        """Set the timer of a chunk for its next row to expire by time."""
        self._chunk_timers.add(self._deadline(chunk), chunk.number, len(self._chunks))

    def _chunk_deadlines(self) -> Iterator[tuple[float, int]]:
        return ((self._deadline(chunk), chunk.number) for chunk in self._chunks.values())

    def _deadline(self, chunk: Chunk) -> float:
        """Return when the first waiting row expires by time; NaN or infinity: never."""
        if math.isinf(self._timeout_s) or not chunk.waiting:
            return math.nan
        return float(np.fmin.reduce(chunk.batch.time[chunk.open_rows()])) + self._timeout_s

    def finish(self, size: int) -> Iterator[tuple[Revealed, ScoredRows]]:
        self.counts["stray"] += len(self._early)
        self._early.clear()
        self._slots.clear()
        return super().finish(size)

    def _last_labels(self, pieces: Pieces) -> tuple[Array, Ints]:
        n = sum(chunk.waiting for chunk, _ in pieces)
        y = np.empty(n, self._dtype)
        y.fill(no_label(y))
        return y, np.arange(n)

    def state(self) -> State:
        labels = list(self._past.values())
        named = [
            self._slots.get(id_) == chunk.number << _ROW_BITS | row
            for chunk in self._chunks.values()
            for id_, row in _ids_and_rows(chunk, chunk.open_rows())
        ]
        return {
            **super().state(),
            "counts": dict(self.counts),
            "named": np.array(named, np.bool_),  # False: the id was used again by a later event
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
        slots = (
            (id_, chunk.number << _ROW_BITS | row)
            for chunk in self._chunks.values()
            for id_, row in _ids_and_rows(chunk, chunk.open_rows())
        )
        named = state["named"].tolist()
        self._slots = {
            i: slot for (i, slot), is_named in zip(slots, named, strict=True) if is_named
        }
        past = zip(
            state["past_ids"].tolist(),
            state["past_y"].tolist(),
            state["past_expired"].tolist(),
            strict=True,
        )
        self._past = OrderedDict((id_, None if expired else y) for id_, y, expired in past)
        ids = state["early_ids"].tolist()
        # Checkpoints from before ``label_timeout_seconds`` have no times.
        times = state["early_time"].tolist() if "early_time" in state else [math.nan] * len(ids)
        early = zip(state["early_y"].tolist(), times, strict=True)
        self._early = OrderedDict(zip(ids, early, strict=True))
        self._now = float(state["now"]) if "now" in state else -math.inf
        self._chunk_timers.rebuild()
        self._early_timers.rebuild()


def _ids_and_rows(chunk: Chunk, rows: Ints) -> Iterator[tuple[int, int]]:
    """Yield the id and the row of each of these rows."""
    return zip(chunk.batch.ids[rows].tolist(), rows.tolist(), strict=True)
