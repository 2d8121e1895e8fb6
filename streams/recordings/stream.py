"""The stream of a recording: the events, labels and dead letters of a live run, in the same order.

A recording is a folder. ``recording.json`` describes the stream, and each ``part-*.parquet`` holds
consecutive blocks (``table.py``) and is named by the number of the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import field_validator

from streams.core.batch import Batch
from streams.core.description import StreamDescription, describe_schema, with_examples
from streams.core.errors import StreamError
from streams.core.live_stream import ranges_of, reached, skip_before, truncate_at
from streams.core.stream import Cursor, DataIdentity, JsonLayout, Stream
from streams.core.stream_config import StreamConfig
from streams.decoding.time_reader import TimeReader
from streams.operators.pacing import throttle_by_event_time
from streams.recordings.manifest import Part, RecordingManifest, parts
from streams.recordings.parts_read import PartsRead
from streams.recordings.table import blocks_of

SAMPLED_EVENTS = 1_000
"""Events of a recording that its description is from."""


class RecordingConfig(StreamConfig):
    """Settings of the stream of a recording.

    Attributes:
        path: its folder, relative to the job file's folder, else to the current directory.
        speed: ``max``, or a factor: how many times as fast as its events happened.
        start: an event time (ISO 8601, or seconds). Reading begins at the first event of that time
            or later. Labels of earlier events are read too, and match no event.
        stop: ``end``: read all of it. ``run``: stop where the recorded run was stopped, if it was.
    """

    runtime_only_keys: ClassVar[frozenset[str]] = StreamConfig.runtime_only_keys | {"speed", "stop"}
    location_keys: ClassVar[frozenset[str]] = frozenset(("path",))

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
        return None if start is None else TimeReader().parse(start)


class RecordingStream(Stream):
    """The parts of a recording that exist when the stream is made."""

    kind = "recording"
    Config = RecordingConfig
    has_identity = True

    def __init__(self, config: RecordingConfig, folder: Path) -> None:
        self.config = config
        path = Path(config.path).expanduser()
        self.path = folder / path if (folder / path).exists() else path.absolute()
        self.manifest = manifest = RecordingManifest.read(self.path)
        self.schema = manifest.schema_
        self.has_ids = manifest.has_ids
        self.has_time = manifest.has_time
        self.has_arrivals = manifest.has_arrivals
        self.gapless = manifest.gapless
        self.interleaved_partitions = manifest.interleaved_partitions
        self.id_type = manifest.id_type
        self.time_zone = manifest.fingerprint.get("stream.time_zone")
        self.dtype = manifest.dtype
        self.parts = parts(self.path)
        self._parts_read = PartsRead(self.path)
        self._stop = manifest.cursor if config.stop == "run" and not manifest.finished else None
        self.open_end = self._stop is not None
        self._origin, self._skipped_events = dict(manifest.start), 0
        if config.start is not None:
            assert isinstance(config.start, float)
            self._origin, self._skipped_events = self._seek(config.start)

    def describe(self) -> StreamDescription:
        described = replace(
            describe_schema(self.kind, self.schema),
            sources=(f"{self.path}, {len(self):,} events recorded",),
            time="as it was recorded",
        )
        first = next(self._read(self._origin, SAMPLED_EVENTS), None)
        return described if first is None else with_examples(described, first)

    def json_layout(self) -> JsonLayout:
        """Return the layout of the live stream, as far as the recording knows it: it has no other
        fields than the features, the id and the time."""
        live = self.manifest.fingerprint
        frames = live.get("stream.format.kind") == "frames"
        beside = live.get("stream.id.from") and (live.get("stream.id.name") or "id")
        own = live.get("stream.id", beside)
        layout: JsonLayout = {"cells": "json", "nested": not frames, "pixels": frames, "id": own}
        if (time := live.get("stream.time")) is not None:
            layout["columns"] = {"time": time}
            features = {feature[0] for feature in self.manifest.features}
            layout["fields"] = [] if time in features else [[time, "time", True]]
        times = {name: live.get(f"stream.time_{name}") for name in ("unit", "zone", "format")}
        if any(times.values()):
            layout["times"] = times
        return layout

    def origin(self) -> Cursor:
        return dict(self._origin)

    def identity(self, cursor: Cursor) -> DataIdentity:
        """Return the fingerprints of the parts up to that in which the cursor is."""
        read = [
            any(cursor.get(name, 0) > start for name, (start, _) in part.ranges.items())
            for part in self.parts
        ]
        count = max((i + 1 for i, one in enumerate(read) if one), default=0)
        return self._parts_read.identity(self.parts[self._first_part(self._origin) : count])

    def verify_identity(self, identities: Sequence[DataIdentity], cursor: Cursor) -> None:
        self._parts_read.verify(identities, self.parts)

    def __len__(self) -> int:
        events = sum(part.events for part in self.parts)
        if self._stop is not None and self.manifest.events is not None:
            events = self.manifest.events
        return max(events - self._skipped_events, 0)

    def seek(self, time: float) -> Cursor:
        return self._seek(time)[0]

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        batches = self._read(cursor or self._origin, block_size)
        speed = self.config.speed
        return batches if speed == "max" else throttle_by_event_time(batches, float(speed))

    def _read(self, cursor: Cursor, size: int) -> Iterator[Batch]:
        for block in self._up_to_stop(cursor):
            n = len(block)
            for start in range(0, max(n - size, 0), size):
                yield block[start : start + size]
            last = block[(n - 1) // size * size :] if n > size else block
            yield replace(last, flush=block.flush)

    def _up_to_stop(self, cursor: Cursor) -> Iterator[Batch]:
        """Yield the blocks from a cursor to the stop."""
        if self._stop is None:
            yield from self._from_cursor(cursor)
            return
        cursor = dict(cursor)
        for block in self._from_cursor(cursor):
            yield (block := truncate_at(block, self._stop))
            cursor |= {name: stop for name, (_, stop) in ranges_of(block).items()}
            if reached(cursor, self._stop):
                return

    def _from_cursor(self, cursor: Cursor) -> Iterator[Batch]:
        """Yield the blocks from a cursor on. A flush right before the cursor is given once more:
        the reading before this one may not have reached it, and a second one changes nothing."""
        begun = flushed = False
        last_read = None  # what is left of the last block before the cursor: no rows
        for part in self.parts[self._first_part(cursor) :]:
            unread = all(start >= cursor.get(name, 0) for name, (start, _) in part.ranges.items())
            for block in self._blocks(part):
                rest = block if unread else skip_before(block, cursor)
                if not begun and rest.is_empty:
                    if not block.is_empty or block.flush:  # all of it was read before
                        last_read, flushed = rest, block.flush
                    continue
                if not begun and last_read is not None and flushed and rest is block:
                    yield last_read
                begun = True
                yield rest
        if not begun and last_read is not None and flushed:
            yield last_read

    def _first_part(self, cursor: Cursor) -> int:
        """Return the number of the part that a reading from a cursor opens first: that before the
        first with unread positions."""
        read = [reached(cursor, part.end) for part in self.parts]
        return max((read.index(False) if False in read else len(read)) - 1, 0)

    def _blocks(self, part: Part) -> Iterator[Batch]:
        return blocks_of(self._parts_read.table(part), self.schema, part.in_rows)

    def _seek(self, time: float) -> tuple[Cursor, int]:
        """Return the cursor of the first event at or after a time, and the events before it."""
        cursor, events = dict(self.manifest.start), 0
        for part in self.parts:
            if part.latest < time:
                cursor |= part.end
                events += part.events
                continue
            for block in self._blocks(part):
                rows = np.flatnonzero(block.time >= time)
                head = block[: rows[0]] if len(rows) else block
                cursor |= {name: stop for name, (_, stop) in ranges_of(head).items()}
                events += head.events
                if len(rows):
                    return cursor, events
        latest = max((part.latest for part in self.parts), default=-math.inf)
        raise StreamError(
            f"stream.start: {time:.17g} s is after the last event of {self.path}, at {latest:.17g}"
        )
