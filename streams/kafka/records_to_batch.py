"""Decodes records to a batch of events, with labels and dead letters among them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from streams.core.batch import Array, Batch, DeadLetter, Ints, Labels, reject_rows
from streams.core.errors import StreamError
from streams.decoding.decoder import POSITION_BITS, Decoder
from streams.decoding.formats.factory import Format
from streams.kafka.record_fields import RecordFields
from streams.kafka.records import MergedRecords
from streams.kafka.tombstones import KeyReader, add_tombstones


class RecordReader(NamedTuple):
    """Parses values to a table, adds columns of what is beside them, and decodes the table."""

    format: Format
    decoder: Decoder
    beside: RecordFields = RecordFields()


class BlockDecoder:
    """Decodes records to batches; the fate of a record depends on that record alone.

    A record without a value is a tombstone.

    Args:
        events: reads records of events; kept as ``events``.
        labels: reads records of labels; kept as ``labels``.
        time_field: the field of event time, if there is one.
        max_future_seconds: how much later than its record's timestamp an event time may be.
        max_bytes: of a record's value.
        needs_timestamps: whether events are of no use without the timestamp of their record.
        keys: reads keys of records of labels; kept as ``keys``.
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
    ) -> None:
        self.keys = keys
        self.events = events
        self.labels = labels
        self._time_field = time_field
        self._max_future_seconds = max_future_seconds
        self._max_bytes = max_bytes
        self._needs_timestamps = needs_timestamps

    def __call__(self, records: MergedRecords) -> Batch:
        if None not in records.values:
            return self._decode_values(records)[0]
        others = np.flatnonzero([value is not None for value in records.values])
        batch, is_row = self._decode_values(records.take(others))
        rows_before = np.zeros(len(records.values) + 1, np.int64)
        rows_before[others + 1] = is_row
        return add_tombstones(batch, records, np.cumsum(rows_before)[:-1], self.keys)

    def _decode_values(self, records: MergedRecords) -> tuple[Batch, Array]:
        """Return records that have a value, and which of them are rows of the batch, (n,) bool."""
        label = records.label
        if not label.any():
            return self._decode_events(records)
        rows = np.flatnonzero(~label)
        events, alive = self._decode_events(records.take(rows))
        alive_before = np.zeros(len(rows) + 1, np.int64)  # live events before each event
        np.cumsum(alive, out=alive_before[1:])
        insert_before = alive_before[np.cumsum(~label)[label]]
        is_row = np.zeros(len(label), np.bool_)
        is_row[rows] = alive
        labels = records.take(np.flatnonzero(label))
        return self._add_labels(events, labels, insert_before), is_row

    def _decode_events(self, records: MergedRecords) -> tuple[Batch, Array]:
        """Return the events, and which of the records are alive, (n,) bool."""
        if self._needs_timestamps and (records.time < 0).any():
            raise StreamError(
                "stream.label_timeout_seconds: this broker keeps no timestamps: name a field of "
                "event time (stream.time)"
            )
        batch, alive = self._decode(records, self.events, label=False)
        if self._time_field is None or not len(batch):
            return batch, alive
        sent = records.time[alive] / 1000.0
        too_late = (batch.time > sent + self._max_future_seconds) & (sent >= 0)
        if too_late.any():
            reasons = [
                f"column {self._time_field!r} holds {t:.17g}; expected a time at most "
                f"{self._max_future_seconds:g} s after that of the message, {at:.3f}"
                for t, at in zip(
                    batch.time[too_late].tolist(), sent[too_late].tolist(), strict=True
                )
            ]
            batch = reject_rows(batch, too_late, reasons)
            alive[np.flatnonzero(alive)[too_late]] = False
            dead = _with_values(batch.dead, records)
            dead = sorted(dead, key=lambda d: records.row_at(d.partition, d.offset))
            batch = replace(batch, dead=tuple(dead))
        return batch, alive

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
