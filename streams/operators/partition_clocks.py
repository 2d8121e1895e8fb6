"""Event time in streams whose partitions are read interleaved: a clock for each partition.

One wrong time must not move a clock: it would make all later events late, and their labels known
at once. A step that is far by the partition's own pace, and that nothing confirms, moves its clock
only when later events agree with it. None of this depends on the size of micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from streams.core.batch import Batch, Floats, TimeStatus
from streams.core.state_dict import State
from streams.operators.base import Operator
from streams.operators.drop_late import reject_late
from streams.times import TimeZone

FAR_S = 600.0
"""A step of at most this many seconds is never far."""
PACE = 10
"""A step is far where it is longer than this many of the usual steps."""
SLOW_S = FAR_S / PACE
"""Only steps longer than this count as usual ones: for shorter ones ``FAR_S`` is the limit."""
LAST_STEPS = 4
"""Steps of which the second longest is the usual one."""
SUPPORT = 8
"""Events in a row, none back where the clock is, that confirm a step."""
FIRST_EVENTS = 4
"""Events of a partition from which its pace is known."""
IDLE_S = 60.0
"""Default of ``idle_timeout_seconds``."""
LAST_READ = "last_read"
"""The key of the reader's clock in the state: wall clock, so outside the state digest."""


@dataclass(slots=True)
class _Clock:
    """The clock of one partition.

    Attributes:
        latest: the latest time that is believed.
        last_read: the reader's clock when its last event was read.
        seen: events so far, as far as ``FIRST_EVENTS``.
        steps: the last steps of the clock; 0 for one of at most ``SLOW_S``.
        ahead: the earliest time of the events in a row that are far ahead, and their number.
    """

    latest: float = -np.inf
    last_read: float = -np.inf
    seen: int = 0
    steps: list[float] = field(default_factory=lambda: [0.0] * LAST_STEPS)
    ahead: tuple[float, int] = (np.inf, 0)

    def advance(self, time: Floats, sure: np.ndarray | None, lateness: float) -> Floats:
        """Return (n,) what the clock shows at each event, and remember the last.

        Args:
            time: (n,) times of consecutive events.
            sure: (n,) whether the time of each is confirmed; None: all are.
            lateness: seconds by which times may step back.
        """
        latest = np.maximum.accumulate(np.maximum(time, self.latest))
        if sure is None:
            self.latest = float(latest[-1])
            return latest
        steps = np.diff(latest, prepend=self.latest)
        usual = self.seen == FIRST_EVENTS and not self.ahead[1] and not any(self.steps)
        if usual and (steps <= SLOW_S).all():
            self.latest = float(latest[-1])
            return latest
        pairs = zip(time.tolist(), sure.tolist(), strict=True)
        return np.array([self._take(one, is_sure, lateness) for one, is_sure in pairs])

    def _take(self, time: float, sure: bool, lateness: float) -> float:
        """Move the clock to the time of the next event, if that is believed. Return what the clock
        shows: with a far step among the first events, what it was until the next event."""
        first, self.seen = self.seen, min(self.seen + 1, FIRST_EVENTS)
        before = self.latest
        step = time - self.latest
        if step <= 0:
            if first < FIRST_EVENTS and not sure and -step > max(lateness, FAR_S):
                self.latest, self.seen = time, 1  # one of the first was wrong, and this one is not
            self.ahead = (np.inf, 0)
        elif sure or step <= self._far(lateness):
            self._move(time)
        elif first < FIRST_EVENTS - 1:
            self._move(time)
            return before
        else:
            earliest, count = self.ahead
            steady = count > 0 and time > earliest and step <= (PACE + 1) * (time - earliest)
            self.ahead = (min(earliest, time), count + 1)
            if steady or count + 1 >= SUPPORT:
                self._move(self.ahead[0])
                if 0 < time - self.latest <= self._far(lateness):
                    self._move(time)
        return self.latest

    def _far(self, lateness: float) -> float:
        return max(FAR_S, lateness, PACE * sorted(self.steps)[-2])

    def _move(self, time: float) -> None:
        step = time - self.latest
        self.steps = [*self.steps[1:], step if SLOW_S < step < np.inf else 0.0]
        self.latest, self.ahead = time, (np.inf, 0)


class PartitionClocks(Operator):
    """Keeps a clock for each partition, and gives each row the event time that the stream has
    reached (``Batch.clock``).

    Args:
        lateness: seconds by which event time may step back in a partition.
        rejects: whether later events are rejected; else they are let through.
        slowest: the stream has reached what the slowest live partition has; else what the fastest
            has.
        idle_s: a partition without events for so long, by the reader's clock, is not live.
        zone: the zone of times that state no offset. A time in an hour that comes twice is taken
            for the second one where the first would be late.

    Attributes:
        counts: the number of times that were bounded by their message or the reader's clock, and of
            those that were corrected by those around them.
    """

    def __init__(
        self,
        lateness: float,
        rejects: bool = True,
        slowest: bool = False,
        idle_s: float = IDLE_S,
        zone: TimeZone | None = None,
    ) -> None:
        self.lateness = lateness
        self.rejects = rejects
        self.slowest = slowest
        self.idle_s = idle_s
        self.zone = zone
        self.counts = {"bounded": 0, "corrected": 0}
        self._clocks: dict[int, _Clock] = {}
        self._reached = -np.inf

    def apply(self, batch: Batch) -> Batch:
        if not len(batch):
            return self._without_hints(batch)
        if self.zone is not None:
            batch = self._with_passes(batch, self.zone)
        status = batch.time_status
        sure = None
        if status is not None:  # a bounded time may be wrong, and as late as the reader's clock
            sure = (status == TimeStatus.CONFIRMED) | (status == TimeStatus.CORRECTED)
        latest: Floats = np.empty(len(batch))
        before = {p: (clock.latest, clock.last_read) for p, clock in self._clocks.items()}
        for partition in np.unique(batch.partition).tolist():
            rows = np.flatnonzero(batch.partition == partition)
            clock = self._clocks.setdefault(partition, _Clock())
            known = None if sure is None else sure[rows]
            latest[rows] = clock.advance(batch.time[rows], known, self.lateness)
            if batch.ingestion_time is not None:
                clock.last_read = float(batch.ingestion_time[rows[-1]])
        if status is not None:
            self._count(status)
        batch = replace(batch, clock=self._stream_clock(batch, latest, before))
        if self.rejects:
            batch = reject_late(batch, latest, self.lateness, self.zone is not None)
        return self._without_hints(batch)

    @staticmethod
    def _without_hints(batch: Batch) -> Batch:
        return replace(batch, ingestion_time=None, time_status=None)

    def _count(self, status: np.ndarray) -> None:
        self.counts["bounded"] += int(np.count_nonzero(status == TimeStatus.BOUNDED))
        self.counts["corrected"] += int(np.count_nonzero(status == TimeStatus.CORRECTED))

    def _with_passes(self, batch: Batch, zone: TimeZone) -> Batch:
        """Return the rows with the times of the second pass through an hour where the first would
        be late."""
        fold = zone.fold(batch.time)
        rows = np.flatnonzero(fold)
        if not len(rows):
            return batch
        time = batch.time.copy()
        latest = {p: clock.latest for p, clock in self._clocks.items()}
        for row, partition in enumerate(batch.partition[: rows[-1] + 1].tolist()):
            known = latest.get(partition, -np.inf)
            back = known - float(time[row])
            if fold[row] and fold[row] / 2 <= back <= fold[row] + self.lateness:
                time[row] += fold[row]
            latest[partition] = max(known, float(time[row]))
        return replace(batch, time=time)

    def _stream_clock(
        self, batch: Batch, latest: Floats, before: dict[int, tuple[float, float]]
    ) -> Floats:
        """Return (n,) the event time that the stream has reached at each row.

        Args:
            batch: n rows.
            latest: (n,) what the clock of its partition shows at each row.
            before: what each clock showed before, and the reader's clock then.
        """
        if not self.slowest or batch.ingestion_time is None:
            reached = np.maximum.accumulate(np.maximum(latest, self._reached))
        else:
            read_at = batch.ingestion_time
            slowest = np.full(len(batch), np.inf)
            for partition in self._clocks:
                at, last_read = before.get(partition, (-np.inf, -np.inf))
                own = batch.partition == partition
                clock = np.maximum.accumulate(np.maximum(np.where(own, latest, -np.inf), at))
                last = np.maximum.accumulate(np.maximum(np.where(own, read_at, -np.inf), last_read))
                live = (read_at - last <= self.idle_s) & (last > -np.inf)
                slowest = np.where(live, np.minimum(slowest, clock), slowest)
            reached = np.maximum.accumulate(np.maximum(slowest, self._reached))
        self._reached = float(reached[-1])
        return reached

    def state(self) -> State:
        known = sorted(self._clocks.items())
        clocks = [clock for _, clock in known]
        state: State = {
            "partitions": np.array([partition for partition, _ in known], np.int64),
            "latest": np.array([clock.latest for clock in clocks], np.float64),
        }
        # What follows is kept only where it matters.
        if any(0 < clock.seen < FIRST_EVENTS for clock in clocks):
            state["seen"] = np.array([clock.seen for clock in clocks], np.int64)
        if any(any(clock.steps) for clock in clocks):
            state["steps"] = np.array([clock.steps for clock in clocks], np.float64)
        if any(clock.ahead[1] for clock in clocks):
            state["ahead"] = np.array([clock.ahead[0] for clock in clocks], np.float64)
            state["ahead_count"] = np.array([clock.ahead[1] for clock in clocks], np.int64)
        if any(self.counts.values()):
            state["counts"] = dict(self.counts)
        if self.slowest:
            state[LAST_READ] = np.array([clock.last_read for clock in clocks], np.float64)
        if self._reached != max((clock.latest for clock in clocks), default=-np.inf):
            state["reached"] = np.array(self._reached)
        return state

    def load(self, state: State) -> None:
        partitions = state["partitions"].tolist()
        n = len(partitions)
        seen = state["seen"].tolist() if "seen" in state else [FIRST_EVENTS] * n
        last_read = state[LAST_READ].tolist() if LAST_READ in state else [-np.inf] * n
        steps = state["steps"].tolist() if "steps" in state else [[0.0] * LAST_STEPS] * n
        ahead = [(np.inf, 0)] * n
        if "ahead" in state:
            ahead = [*zip(state["ahead"].tolist(), state["ahead_count"].tolist(), strict=True)]
        self._clocks = {
            partition: _Clock(latest, last_read[i], seen[i], list(steps[i]), ahead[i])
            for i, (partition, latest) in enumerate(
                zip(partitions, state["latest"].tolist(), strict=True)
            )
        }
        latest = max(state["latest"].tolist(), default=-np.inf)
        self._reached = float(state["reached"]) if "reached" in state else latest
        self.counts = {"bounded": 0, "corrected": 0} | dict(state.get("counts", {}))
