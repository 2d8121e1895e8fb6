"""A live stream that was recorded: the same events, labels and dead ones again, in the same order.

A recording is a folder: ``recording.json`` says what the stream was, ``part-*.parquet`` hold its
rows (``recording_table.py``), each file whole blocks, named by the number of its first one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import field_validator

from streams.core.batch import Batch
from streams.core.errors import StreamError
from streams.core.live_stream import ranges_of, reached, skip_before, truncate_at
from streams.core.pacing import pause
from streams.core.stream import Cursor, Stream
from streams.core.stream_config import StreamConfig
from streams.decoding.columns import stated
from streams.recordings.manifest import Part, RecordingManifest, parts, unreadable
from streams.recordings.table import blocks_of

SLICE_S = 0.02
"""At a pace, events come in slices of so many seconds."""


class RecordingConfig(StreamConfig):
    """Settings of a recording that is read again.

    Attributes:
        path: its folder; a relative one starts from the job file's folder, else from the current
            directory.
        speed: ``max``, or how many times as fast as its events happened they are to come.
        start: an event time (ISO 8601, or seconds): it is read from the first event of that time or
            a later one on. Labels of earlier events are among what comes, and meet no event.
        stop: ``end``: all of it is read; ``run``: no more than what the recorded run had dealt with
            when it was stopped, if it was.
    """

    runtime_only_keys: ClassVar[frozenset[str]] = StreamConfig.runtime_only_keys | {"speed", "stop"}

    path: str
    speed: Literal["max"] | float = "max"
    start: float | str | datetime | date | None = None
    stop: Literal["end", "run"] = "end"

    @field_validator("speed", mode="before")
    @classmethod
    def _speed(cls, speed: Any) -> Any:
        try:
            if speed == "max" or 0 < float(speed) < math.inf:
                return speed
        except (TypeError, ValueError):
            pass
        raise ValueError(f"{speed!r} given; max, or a number above 0, is accepted")

    @field_validator("start")
    @classmethod
    def _start(cls, start: float | str | datetime | date | None) -> float | None:
        return None if start is None else stated(start)


class RecordingStream(Stream):
    """The parts that are there as it is made."""

    kind = "recording"
    Config = RecordingConfig

    def __init__(self, config: RecordingConfig, folder: Path) -> None:
        self.config = config
        stated = Path(config.path).expanduser()
        self.path = folder / stated if (folder / stated).exists() else stated.absolute()
        self.about = about = RecordingManifest.read(self.path)
        self.schema = about.schema_
        self.has_ids = about.has_ids
        self.has_time = about.has_time
        self.has_arrivals = about.has_arrivals
        self.gapless = about.gapless
        self.interleaved_partitions = about.side_by_side
        self.id_type = about.id_type
        self.dtype = about.dtype
        self.parts = parts(self.path)
        self._stop = about.cursor if config.stop == "run" and not about.finished else None
        self.open_end = self._stop is not None
        self._origin, self._before = dict(about.start), 0
        if config.start is not None:
            assert isinstance(config.start, float)
            self._origin, self._before = self._seek(config.start)

    def origin(self) -> Cursor:
        return dict(self._origin)

    def __len__(self) -> int:
        events = sum(part.events for part in self.parts)
        if self._stop is not None and self.about.events is not None:
            events = self.about.events
        return max(events - self._before, 0)

    def seek(self, time: float) -> Cursor:
        return self._seek(time)[0]

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        batches = self._read(cursor or self._origin, block_size)
        speed = self.config.speed
        return batches if speed == "max" else timed(batches, float(speed))

    def _read(self, cursor: Cursor, size: int) -> Iterator[Batch]:
        for block in self._up_to_stop(cursor):
            n = len(block)
            for start in range(0, max(n - size, 0), size):
                yield block[start : start + size]
            last = block[(n - 1) // size * size :] if n > size else block
            yield replace(last, flush=block.flush)

    def _up_to_stop(self, cursor: Cursor) -> Iterator[Batch]:
        """What stands at or after a cursor, and before the stop."""
        if self._stop is None:
            yield from self._rest(cursor)
            return
        cursor = dict(cursor)
        for block in self._rest(cursor):
            yield (block := truncate_at(block, self._stop))
            cursor |= {name: after for name, (_, after) in ranges_of(block).items()}
            if reached(cursor, self._stop):
                return

    def _rest(self, cursor: Cursor) -> Iterator[Batch]:
        """All that stands at or after a cursor. An end right before it is told once more: the
        reading before this one may not have come to it, and twice does no harm."""
        done = [reached(cursor, part.after) for part in self.parts]
        first = done.index(False) if False in done else len(done)
        begun = ended = False
        nothing = None
        for part in self.parts[max(first - 1, 0) :]:
            untouched = all(at >= cursor.get(name, 0) for name, (at, _) in part.ranges.items())
            for block in self._blocks(part):
                rest = block if untouched else skip_before(block, cursor)
                if not begun and not _holds(rest):
                    if _holds(block) or block.flush:  # all of it had been read
                        nothing, ended = rest, block.flush
                    continue
                if not begun and nothing is not None and ended and rest is block:
                    yield nothing
                begun = True
                yield rest
        if not begun and nothing is not None and ended:
            yield nothing

    def _blocks(self, part: Part) -> Iterator[Batch]:
        return blocks_of(_table(part.path), self.schema, part.in_rows)

    def _seek(self, time: float) -> tuple[Cursor, int]:
        """The cursor of the first event at or after a time, and how many events stand before it."""
        cursor, events = dict(self.about.start), 0
        for part in self.parts:
            if part.latest < time:
                cursor |= part.after
                events += part.events
                continue
            for block in self._blocks(part):
                late = np.flatnonzero(block.time >= time)
                head = block[: late[0]] if len(late) else block
                cursor |= {name: after for name, (_, after) in ranges_of(head).items()}
                events += head.events
                if len(late):
                    return cursor, events
        latest = max((part.latest for part in self.parts), default=-math.inf)
        raise StreamError(
            f"stream.start: {time:.17g} s is after the last event of {self.path}, at {latest:.17g}"
        )


def timed(
    batches: Iterable[Batch],
    speed: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Batch]:
    """The batches in slices, none before its event time has come, which moves ``speed`` times as
    fast as the clock from the first event on. Event time never goes back. While nothing is due,
    blocks without anything in them come now and then."""
    begun: tuple[float, float] | None = None  # by the clock, and in event time
    latest = -math.inf
    for batch in batches:
        n = len(batch)
        if not n:
            yield batch
            continue
        times = np.maximum.accumulate(np.maximum(batch.time, latest))
        latest = float(times[-1])
        begun = begun or (clock(), float(times[0]))
        due = begun[0] + (times - begun[1]) / speed
        start = 0
        while start < n:
            until = max(float(due[start]) + SLICE_S, clock())
            stop = int(np.searchsorted(due, until, "right"))
            yield from pause(float(due[stop - 1]), batch, clock, sleep)
            yield replace(batch[start:stop], flush=batch.flush and stop == n)
            start = stop


def _holds(block: Batch) -> bool:
    return bool(len(block) or block.dead or block.arrivals)


def _table(path: Path) -> pa.Table:
    try:
        return pq.ParquetFile(path).read()
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from None
