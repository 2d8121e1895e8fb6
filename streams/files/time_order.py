"""Set the rows apart whose time is wrong, and say which of two equal local times a row has.

Both follow from the rows around, at most ``HISTORY`` before and ``WINDOW`` after, so a stream that
is read on from any row, in blocks of any size, comes to the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from streams.core.batch import Batch, Floats, Ints, reject_rows
from streams.core.live_stream import skip_before
from streams.core.stream import Cursor
from streams.decoding.wrong_times import HISTORY, WINDOW, Mask, corrected, far_ahead, judge_end
from streams.times import TimeZone, iso

_AROUND = 8
"""Rows around a row that say how time goes on there."""


@dataclass(slots=True)
class _Block:
    """A block, and the time at each of its positions: NaN where a row cannot be read."""

    batch: Batch
    first: int
    time: Floats
    latest: Floats


class TimeOrder:
    """Checks the times of consecutive blocks.

    Args:
        lateness: seconds by which times may step back.
        zone: of times that state no offset; None: all times are certain.
        correct: give a row with a wrong time that of the rows around it, and set none aside.
        say: takes lines for a person: of a partition and offset, and what became of it.
    """

    def __init__(
        self,
        lateness: float,
        zone: TimeZone | None,
        correct: bool,
        say: Callable[[int, int, str], None],
    ) -> None:
        self._lateness = lateness
        self._zone = zone
        self._correct = correct
        self._say = say
        self._next = (-1, 0)  # partition and offset after the last block
        self._before = np.empty(0)  # times at the last positions before the blocks that wait
        self._passes = _Passes()
        self._waiting: deque[_Block] = deque()

    def __call__(self, blocks: Iterable[Batch], cursor: Cursor) -> Iterator[Batch]:
        """Yield the blocks from a cursor on; those before it say what came before."""
        behind = 0  # positions after the first block that waits
        for batch in blocks:
            block = self._positions(batch)
            behind += len(block.time) if self._waiting else 0
            self._waiting.append(block)
            while behind >= WINDOW:
                yield from self._checked(cursor, end=False)
                behind -= len(self._waiting[0].time) if self._waiting else 0
        while self._waiting:
            yield from self._checked(cursor, end=True)

    def _positions(self, batch: Batch) -> _Block:
        offsets = batch.offset
        if batch.dead:
            offsets = np.append(offsets, [d.offset for d in batch.dead])
        if not len(offsets):
            return _Block(batch, 0, np.empty(0), np.empty(0))
        partition = int(batch.partition[0]) if len(batch) else batch.dead[0].partition
        first = int(offsets.min())
        if self._next[0] == partition:
            first = min(self._next[1], first)
        self._next = (partition, int(offsets.max()) + 1)
        time = batch.time
        if len(time) != self._next[1] - first:
            time = np.full(self._next[1] - first, np.nan)
            time[batch.offset - first] = batch.time
        return _Block(batch, first, time, time if self._zone is None else self._with_fold(time))

    def _with_fold(self, time: Floats) -> Floats:
        assert self._zone is not None
        return time + self._zone.fold(time)

    def _checked(self, cursor: Cursor, end: bool) -> Iterator[Batch]:
        """Yield the first block that waits, checked; nothing where it has nothing left."""
        block = self._waiting.popleft()
        after = self._following("time")
        if self._zone is not None:
            block.time = self._passes.resolve(self._before, block.time, block.latest, after)
        n, m = len(self._before), len(block.time)
        time = np.concatenate([self._before, block.time, after])
        in_order = len(time) > 1 and bool((time[1:] >= time[:-1]).all())
        batch = self._with_times(block)
        if not in_order or end:
            latest = time
            if self._zone is not None:
                latest = np.concatenate([self._before, block.time, self._following("latest")])
            wrong = far_ahead(time, self._lateness, latest)
            unsure = np.full(len(time), np.nan)
            if end:
                wrong, unsure = judge_end(time, wrong, self._lateness)
            right = np.where(np.isnan(unsure), corrected(time, wrong), unsure)
            here, rows = slice(n, n + m), batch.offset - block.first
            batch = self._without(batch, wrong[here][rows], right[here][rows])
        self._before = time[: n + m][-HISTORY:]
        batch = skip_before(batch, cursor) if _begins_before(batch, cursor) else batch
        if len(batch) or batch.dead:
            yield batch

    def _following(self, name: str) -> Floats:
        """Return what the next positions hold, at most ``WINDOW`` of them."""
        parts: list[Floats] = []
        count = 0
        for block in self._waiting:
            if count >= WINDOW:
                break
            parts.append(getattr(block, name)[: WINDOW - count])
            count += len(parts[-1])
        return np.concatenate(parts) if parts else np.empty(0)

    def _with_times(self, block: _Block) -> Batch:
        """Return the rows with the times of their positions."""
        batch = block.batch
        if self._zone is None or not len(batch):
            return batch
        time, due = block.time[batch.offset - block.first], batch.due
        if due is not None:  # a label is never known before its event
            with np.errstate(invalid="ignore"):
                due = due + np.where(due < time, self._zone.fold(due), 0.0)
        return replace(batch, time=time, due=due)

    def _without(self, batch: Batch, wrong: Mask, right: Floats) -> Batch:
        """Return the rows without those whose time is wrong; the others have the right time.

        Args:
            batch: n rows.
            wrong: (n,) whether the time of a row is far ahead.
            right: (n,) the times that the rows should have.
        """
        if not wrong.any() and (right == batch.time).all():
            return batch
        if not self._correct:
            reasons = [
                f"time {iso(time)} is far ahead of those around it"
                for time in batch.time[wrong].tolist()
            ]
            batch = reject_rows(batch, wrong, reasons)
            right = right[~wrong]
        for row in np.flatnonzero(right != batch.time).tolist():
            where = int(batch.partition[row]), int(batch.offset[row])
            times = iso(float(batch.time[row])), iso(float(right[row]))
            self._say(
                *where, "time {} is far ahead of those before it: it counts as {}".format(*times)
            )
        return replace(batch, time=right)


def history(cursor: Cursor, is_open: Callable[[Cursor], bool]) -> Cursor:
    """Return where to begin to read, to know what came before the rows at a cursor.

    Args:
        cursor: where to read on.
        is_open: whether what comes before a position must be known, to read on from there.
    """
    rows = HISTORY
    while True:
        begin = _back(cursor, rows)
        if not any(begin.values()) or not is_open(begin):
            return begin
        rows *= 4


def _back(cursor: Cursor, rows: int) -> Cursor:
    """Return the cursor a number of rows before another one, over the files before."""
    begin = dict(cursor)
    partitions = [int(key) for key in cursor if key.isdecimal() and cursor[key]]
    for partition in sorted(partitions, reverse=True):
        back = min(rows, cursor[str(partition)])
        begin[str(partition)] -= back
        rows -= back
    return begin


def _begins_before(batch: Batch, cursor: Cursor) -> bool:
    """Return whether a block of one partition has rows before a cursor."""
    partition = batch.partition[0] if len(batch) else batch.dead[0].partition if batch.dead else -1
    offsets = [d.offset for d in batch.dead] + batch.offset[:1].tolist()
    return min(offsets, default=0) < cursor.get(str(partition), 0)


class _Passes:
    """Tells the two passes through an hour that comes twice apart.

    The second pass begins where time steps back by half of it or more, and the rows after it do not
    return; or, of rows about an hour apart, with a row that is not later than the one before.
    """

    def __init__(self) -> None:
        self._latest = -np.inf  # the latest time in this hour
        self._second = False  # whether the second pass has begun
        self._since = 0  # positions since the last row in it

    def resolve(self, before: Floats, time: Floats, latest: Floats, after: Floats) -> Floats:
        """Return (n,) times, those of the second pass later by what it is later.

        Args:
            before: the times before.
            time: (n,) times as of the first pass.
            latest: (n,) times as of the second pass.
            after: the times after.
        """
        with np.errstate(invalid="ignore"):
            rows: Ints = np.flatnonzero(latest > time)
        if len(rows):
            time = time.copy()
        previous = -1 - self._since
        for row in rows.tolist():
            if row - previous > WINDOW:
                self._latest, self._second = -np.inf, False
            previous = row
            first, second = float(time[row]), float(latest[row])
            back = self._latest - first
            if self._second:
                again = True
            elif back >= (second - first) / 2:
                following = np.concatenate([time[row + 1 : row + 1 + _AROUND], after])
                again = _goes_on_before(following, self._latest)
            else:
                near = np.concatenate([before[-_AROUND:], time[:row]])[-_AROUND:]
                near = near[~np.isnan(near)]
                usual = float(np.median(np.diff(near))) if len(near) > 2 else 0.0
                again = back >= 0 and second - self._latest <= 1.5 * usual
            self._second = again
            if again:
                time[row] = second
            self._latest = max(self._latest, float(time[row]))
        self._since = len(time) - 1 - previous
        return time


def _goes_on_before(following: Floats, latest: float) -> bool:
    """Return whether one of the next two times is not after the latest, or there are none."""
    following = following[~np.isnan(following)][:2]
    return not len(following) or bool((following <= latest).any())
