"""What streams of event sequences share: events in the order of time, slices, and test users."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from streams.core.batch import Batch, Floats, Ints, Ragged
from streams.core.schema import Feature, Schema
from streams.core.stream import Cursor, JsonLayout, Stream
from streams.core.stream_config import SequenceConfig, StreamConfig
from streams.operators.features.sequences import Sequences
from streams.operators.next_of_key import NextOfKey

_TEST_BATCH = 1024


@dataclass(frozen=True, slots=True, eq=False)
class EventTable:
    """n events in the order of time.

    Attributes:
        time: (n,) seconds.
        user: (n,) int64.
        kind: (n,) int64 codes of types.
    """

    time: Floats
    user: Ints
    kind: Ints

    def __len__(self) -> int:
        return len(self.time)

    @classmethod
    def sorted_by_time(cls, time: Floats, user: Ints, kind: Ints) -> EventTable:
        """Return events in the order of their times; those at equal times keep theirs."""
        order = np.argsort(time, kind="stable")
        return cls(time[order], user[order], kind[order])

    def users_named(self) -> Ragged:
        """Return the users as texts: ``u7``."""
        return Ragged.of_text(f"u{user}" for user in self.user.tolist())


class SequenceStreamConfig(StreamConfig):
    """Settings of a stream of event sequences.

    Attributes:
        slices: parts of equal numbers of events, for evaluation: the segments of the stream.
    """

    slices: int = Field(8, ge=1, le=256)


class SequenceStream(Stream):
    """Events of users in the order of time: the label is the type of an event.

    The events of test users are not in the stream. ``task_test`` returns those of a slice of time,
    with their sequences and labels.

    Attributes:
        events: of the stream.
        test: events of test users.
        types: names of the types, in the order of their codes.
    """

    Config: ClassVar[type[StreamConfig]] = SequenceStreamConfig
    has_time = True
    has_segments = True
    domain_incremental = False
    types: tuple[str, ...]
    events: EventTable
    test: EventTable

    def __init__(self, config: SequenceStreamConfig, folder: Path) -> None:
        self.config = config
        self._load()
        self.class_count_hint = len(self.types)
        self.schema = Schema((Feature("user", "categorical"),), "classification", self.types)
        self._users = self.events.users_named()
        bounds = np.linspace(0, len(self.events), config.slices + 1).astype(np.int64)
        self._starts = bounds[:-1]

    @abstractmethod
    def _load(self) -> None:
        """Set ``events``, ``test`` and ``types``."""

    @property
    def tasks(self) -> int:
        """The number of slices."""
        return len(self._starts)

    @property
    def begins(self) -> tuple[tuple[int, int], ...]:
        """First row and number of each slice."""
        return tuple((int(start), i) for i, start in enumerate(self._starts))

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        for start in range(cursor.get("0", 0), len(self), block_size):
            yield self._batch(slice(start, min(start + block_size, len(self))))

    def _batch(self, rows: slice) -> Batch:
        offset = np.arange(rows.start, rows.stop)
        return Batch(
            offset,
            self.events.time[rows],
            {"user": self._users[rows]},
            np.zeros(len(offset), np.int32),
            offset,
            self.events.kind[rows],
            segment=np.searchsorted(self._starts, offset, side="right") - 1,
            classes=self.types,
        )

    def task_test(self, task: int) -> Batch:
        """Return the events of test users in the time of a slice that have a label, with ``y`` and
        ``wait`` of the next event, and with their sequences. Their ids are negative."""
        sequence = self.config.sequence
        assert isinstance(sequence, SequenceConfig)
        test, n = self.test, len(self.test)
        offset = np.arange(n)
        batch = Batch(
            -1 - offset,
            test.time,
            {"user": test.users_named()},
            np.full(n, -1, np.int32),
            offset,
            test.kind,
            segment=self._slices_of(test.time),
            classes=self.types,
        )
        operator = Sequences(sequence, self.schema)
        join = NextOfKey(sequence.horizon, 0.0, n + 1, segments=True)
        labelled = []
        for part in batch.micro_batches(_TEST_BATCH):
            pushed = join.push(operator.apply(part))
            if len(pushed.revealed):
                labelled.append(pushed.revealed.batch)
        rows = Batch.concat(labelled)
        assert rows.segment is not None
        mine = rows.take(rows.segment == task)
        return replace(mine, classes=self.types)

    def _slices_of(self, time: Floats) -> Ints:
        """Return the slice of each time (n,)."""
        first = self.events.time[self._starts[1:]]
        slices: Ints = np.searchsorted(first, time, side="right")
        return slices

    def json_layout(self) -> JsonLayout:
        return {"cells": "typed", "nested": False, "pixels": True, "id": None}

    def __len__(self) -> int:
        return len(self.events)
