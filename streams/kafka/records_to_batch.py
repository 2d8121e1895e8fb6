"""Decodes records to a batch of events, with labels and dead letters among them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from streams.core.batch import (
    Array,
    Batch,
    DeadLetter,
    Floats,
    Ints,
    Labels,
    TimeStatus,
    reject_rows,
)
from streams.core.errors import StreamError
from streams.decoding.decoder import POSITION_BITS, Decoder
from streams.decoding.formats.factory import Format
from streams.decoding.time_reader import YEAR_5000, after_5000
from streams.kafka.record_fields import RecordFields
from streams.kafka.record_times import right_event_times
from streams.kafka.records import MergedRecords
from streams.kafka.tombstones import KeyReader, add_tombstones
from streams.times import iso


class RecordReader(NamedTuple):
    """Parses values to a table, adds columns of what is beside them, and decodes the table."""

    format: Format
    decoder: Decoder
    beside: RecordFields = RecordFields()


class BlockDecoder:
    """Decodes records to batches; the fate of a record depends on that record alone, and its time
    on those of its partition in the block.

    A record without a value is a tombstone.

    Args:
        events: reads records of events; kept as ``events``.
        labels: reads records of labels; kept as ``labels``.
        time_field: the field of event time, if there is one.
        max_future_seconds: how much later than its record's timestamp an event time may be.
        max_bytes: of a record's value.
        needs_timestamps: whether events are of no use without the timestamp of their record.
        keys: reads keys of records of labels; kept as ``keys``.
        lateness: seconds by which event time may step back.
    """

    def __init__(
        self,
        events: RecordReader,
        labels: RecordReader,
        time_field: str | None,
        max_future_seconds: float,
        max_bytes: int,
        needs_timestamps: bool = False,
        keys: KeyReader | None = None,
        lateness: float = 0.0,
    ) -> None:
        self.keys = keys
        self.events = events
        self.labels = labels
        self._time_field = time_field
        self._max_future_seconds = max_future_seconds
        self._max_bytes = max_bytes
        self._needs_timestamps = needs_timestamps
        self._lateness = lateness

    def __call__(self, records: MergedRecords, read_at: float | None = None) -> Batch:
        """Return the block of the records; ``read_at`` is the reader's clock when it was read, and
        ``records`` was merged with it."""
        batch = self._decode_block(records, read_at)
        ingestion_time = np.full(len(batch), read_at or 0.0, np.float64)
        return replace(batch, read_at=read_at, ingestion_time=ingestion_time)

    def _decode_block(self, records: MergedRecords, read_at: float | None) -> Batch:
        if None not in records.values:
            return self._decode_values(records, read_at)[0]
        others = np.flatnonzero([value is not None for value in records.values])
        batch, is_row = self._decode_values(records.take(others), read_at)
        rows_before = np.zeros(len(records.values) + 1, np.int64)
        rows_before[others + 1] = is_row
        return add_tombstones(batch, records, np.cumsum(rows_before)[:-1], self.keys)

    def _decode_values(self, records: MergedRecords, read_at: float | None) -> tuple[Batch, Array]:
        """Return records that have a value, and which of them are rows of the batch, (n,) bool."""
        label = records.label
        if not label.any():
            return self._decode_events(records, read_at)
        rows = np.flatnonzero(~label)
        events, alive = self._decode_events(records.take(rows), read_at)
        alive_before = np.zeros(len(rows) + 1, np.int64)  # live events before each event
        np.cumsum(alive, out=alive_before[1:])
        insert_before = alive_before[np.cumsum(~label)[label]]
        is_row = np.zeros(len(label), np.bool_)
        is_row[rows] = alive
        labels = records.take(np.flatnonzero(label))
        return self._add_labels(events, labels, insert_before), is_row

    def _decode_events(self, records: MergedRecords, read_at: float | None) -> tuple[Batch, Array]:
        """Return the events, and which of the records are alive, (n,) bool."""
        if self._needs_timestamps and (records.time < 0).any():
            raise StreamError(
                "stream.label_timeout_seconds: this broker keeps no timestamps: name a field of "
                "event time (stream.time)"
            )
        batch, alive = self._decode(records, self.events, label=False)
        sent: Floats = (records.time if records.sent is None else records.sent)[alive] / 1000.0
        if self._time_field is not None and len(batch):
            # A clock that is fast in the event is often that of its message too: what counts is
            # the timestamp by those around it.
            right = np.minimum(sent, records.time[alive] / 1000.0)
            future = (batch.time > right + self._max_future_seconds) & (sent >= 0)
            if future.any():
                batch = self._without_future(batch, alive, records, right, future)
                sent = sent[~future]
        return self._with_right_times(batch, alive, records, sent, read_at), alive

    def _without_future(
        self, batch: Batch, alive: Array, records: MergedRecords, sent: Floats, future: Array
    ) -> Batch:
        """Return the events whose time is not too far after that of their message.

        Args:
            batch: the events.
            alive: where these are among the records; the others are marked in it.
            records: the records.
            sent: the times of the messages.
            future: the events whose time is too far after.
        """
        reasons = []
        for time, at in zip(batch.time[future].tolist(), sent[future].tolist(), strict=True):
            reason = (
                f"column {self._time_field!r} holds {iso(time)}; expected a time at most "
                f"{self._max_future_seconds:g} s after that of the message, {iso(at)}"
            )
            if time > YEAR_5000 and self.events.decoder.times.unit == "s":
                reason += f"; it {after_5000(time)}"
            reasons.append(reason)
        batch = reject_rows(batch, future, reasons)
        alive[np.flatnonzero(alive)[future]] = False
        dead = _with_values(batch.dead, records)
        dead = sorted(dead, key=lambda d: records.row_at(d.partition, d.offset))
        return replace(batch, dead=tuple(dead))

    def _with_right_times(
        self,
        batch: Batch,
        alive: Array,
        records: MergedRecords,
        sent: Floats,
        read_at: float | None,
    ) -> Batch:
        """Return the events with their right times, and what is known of each."""
        if read_at is None:  # a block from before the journal had the reader's clock
            status = np.full(len(batch), TimeStatus.CONFIRMED, np.int8)
            return replace(batch, time_status=status)
        if self._time_field is None:
            known = np.empty(0, np.int8) if records.status is None else records.status
            return replace(batch, time_status=known[alive])
        time, status = right_event_times(batch.time, sent, batch.partition, read_at, self._lateness)
        return replace(batch, time=time, time_status=status)

    def _add_labels(self, events: Batch, records: MergedRecords, insert_before: Ints) -> Batch:
        """Return the events with the labels among them.

        ``insert_before`` (n,) is the row of the event that each label comes before.
        """
        labels, alive = self._decode(records, self.labels, label=True)
        dead = list(events.dead)
        for letter in labels.dead:
            row = records.row_at(letter.partition, letter.offset)
            dead.append(replace(letter, insert_before=int(insert_before[row])))
        dead.sort(key=lambda letter: letter.insert_before)
        batch = replace(events, dead=tuple(dead))
        if not len(labels):
            return batch
        assert labels.y is not None
        arrivals = Labels(
            labels.ids, labels.y, labels.time, labels.partition, labels.offset, insert_before[alive]
        )
        return replace(batch, arrivals=arrivals, classes=labels.classes)

    def _decode(
        self, records: MergedRecords, reader: RecordReader, label: bool
    ) -> tuple[Batch, Array]:
        """Return the decoded records, with dead letters, and which are alive, (n,) bool."""
        values, sizes = self._without_large(records.values)
        table, bad = reader.format.read(values)
        alive = np.ones(len(values), np.bool_)
        alive[[row for row, _ in bad]] = False
        alive_before = np.zeros(len(values) + 1, np.int64)
        np.cumsum(alive, out=alive_before[1:])
        unread: list[DeadLetter] = []
        for row, reason in bad:
            if row in sizes:
                reason = (
                    f"{sizes[row]:,} bytes; expected at most {self._max_bytes:,} (stream.max_bytes)"
                )
            partition, offset = int(records.partition[row]), int(records.offset[row])
            id_ = (partition << POSITION_BITS) + offset
            unread.append(DeadLetter(partition, offset, reason, id_, int(alive_before[row])))
        columns = (column[alive] for column in records[1:4])
        partitions, offsets, times = columns
        # Without a timestamp the time of a label is unknown; an event needs a time.
        sent = np.where(times < 0, np.nan if label else 0.0, times / 1000.0)
        table = reader.beside.add_to(table, records, alive)
        batch = reader.decoder(table, partitions, offsets, sent, unread)
        if batch.dead:
            dead = _with_values(batch.dead, records)
            batch = replace(batch, dead=tuple(replace(d, label=label) for d in dead))
            alive[[records.row_at(d.partition, d.offset) for d in dead]] = False
        return batch, alive

    def _without_large(
        self, values: list[bytes | None]
    ) -> tuple[list[bytes | None], dict[int, int]]:
        """Return the values with None for those that are too large, and the sizes of these."""
        if max(map(len, filter(None, values)), default=0) <= self._max_bytes:
            return values, {}
        sizes = {
            row: len(value)
            for row, value in enumerate(values)
            if value is not None and len(value) > self._max_bytes
        }
        return [None if row in sizes else value for row, value in enumerate(values)], sizes


def _with_values(dead: Iterable[DeadLetter], records: MergedRecords) -> list[DeadLetter]:
    return [
        letter if letter.value is not None else _with_record(letter, records) for letter in dead
    ]


def _with_record(letter: DeadLetter, records: MergedRecords) -> DeadLetter:
    row = records.row_at(letter.partition, letter.offset)
    return replace(
        letter,
        value=records.values[row],
        key=None if records.keys is None else records.keys[row],
        headers=() if records.headers is None else tuple(records.headers[row]),
    )
