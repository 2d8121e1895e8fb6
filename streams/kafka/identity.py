"""Whether topics are still those that a run has read, and hold what it has not read yet.

A topic that is deleted and made anew has another id. Where brokers have no ids, and where a log was
truncated, the last record that was read tells: it is read again, and its hash is compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b

import numpy as np

from streams.core.batch import ReadMark, ReadMarks
from streams.core.errors import StreamChangedError
from streams.core.live_stream import BrokerUnavailableError, another_record_error
from streams.core.stream import Cursor
from streams.kafka.clients.consumer import Consumer
from streams.kafka.clients.errors import OutOfRangeError
from streams.kafka.fetcher import partitions_of
from streams.kafka.records import RecordBatch, TopicPartition, Topics

POLL_TIMEOUT_S = 0.2
MAX_POLL_RECORDS = 500
MAX_SURPLUS_RECORDS = 5000
"""Records beside the wanted ones after which reading is narrowed to these."""
RECORD_TIMEOUT_S = 5.0
"""A partition that delivers nothing for so long, though its broker answers, has no more records."""
SHOWN = 3
"""Partitions that a message names."""


def digest(batch: RecordBatch, row: int) -> str:
    """Return a hash of a record: its offset, timestamp and value."""
    value = batch.values[row]
    place = f"{batch.offset[row]} {batch.time[row]} {value is None} "
    return blake2b(place.encode() + (value or b""), digest_size=8).hexdigest()


class ReadPositions:
    """Keeps how far each partition of a stream has been read.

    Args:
        topics: of the stream.
    """

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._last: dict[TopicPartition, ReadMark] = {}

    def add(
        self, batches: Iterable[RecordBatch], read_up_to: Callable[[TopicPartition], int]
    ) -> ReadMarks | None:
        """Add the records of a block, in offset order in each partition; return its marks.

        None: no partition was read on.

        Args:
            batches: the records; empty between blocks.
            read_up_to: returns the offset up to which all records of a partition were read.
        """
        changed: dict[str, ReadMark] = {}
        ordered = True
        batches = list(batches)
        for batch in batches:
            ordered &= bool(batch.time[0] >= 0 and (np.diff(batch.time) >= 0).all())
            last = int(batch.offset[-1])
            position = max(last + 1, read_up_to(batch.partition))
            self._note(changed, batch.partition, ReadMark(last, digest(batch, -1), position))
        if not batches:
            for partition, mark in self._last.items():
                if (position := read_up_to(partition)) > mark.position:
                    self._note(changed, partition, mark._replace(position=position))
        return ReadMarks(changed, ordered) if changed else None

    def _note(self, marks: dict[str, ReadMark], partition: TopicPartition, mark: ReadMark) -> None:
        marks[self._topics.cursor_key(partition)] = self._last[partition] = mark


def verify(
    consumer: Consumer, topics: Topics, marks: Mapping[str, ReadMark], cursor: Cursor
) -> Cursor:
    """Check that the partitions hold what is to be read, after what was read.

    Args:
        consumer: gets assignments here.
        topics: of the stream.
        marks: how far each partition was read.
        cursor: where reading is to go on; not after the marks.

    Returns:
        The first offset of each partition.

    Raises:
        StreamChangedError: if not.
        BrokerUnavailableError: there is no answer.
    """
    there = partitions_of(consumer, topics)
    wanted = {topics.topic_partition(key): at for key, at in cursor.items()}
    for partition in wanted:
        if partition not in there:
            raise StreamChangedError(
                f"the topic {partition.topic!r} has no partition {partition.partition} any more, "
                "which this run has read: it was deleted and made anew"
            )
    first = consumer.beginning_offsets(there)
    for key, mark in marks.items():
        partition = topics.topic_partition(key)
        if mark.offset < wanted.get(partition, 0) < mark.position:
            wanted[partition] = mark.position  # nothing lies between
    lost = {p: (at, first[p]) for p, at in wanted.items() if first.get(p, at) > at}
    if lost:
        raise _lost_error(lost)
    by_partition = {topics.topic_partition(key): mark for key, mark in marks.items()}
    _check_records(consumer, {p: m for p, m in by_partition.items() if m.offset >= first[p]})
    return topics.cursor(first)


def out_of_range_error(consumer: Consumer, error: OutOfRangeError) -> StreamChangedError:
    """Return why partitions do not hold the offsets to read from. Raise ``StreamError``."""
    positions, partitions = error.positions, [*error.positions]
    if error.is_truncated:
        (topic, number), at = next(iter(positions.items()))
        return StreamChangedError(
            f"the log of {topic}/{number} was truncated (from about offset {at} on): what this run "
            "has read of it is no longer there"
        )
    first, end = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
    lost = {p: (at, first[p]) for p, at in positions.items() if first[p] > at}
    if lost:
        return _lost_error(lost)
    (topic, number), at = next(iter(positions.items()))
    return StreamChangedError(
        f"the topic {topic!r} ends at offset {end[topic, number]} of partition {number}, and this "  # type: ignore[index]
        f"run has read it up to {at}: it was deleted and made anew, or its log was truncated"
    )


def _lost_error(lost: Mapping[TopicPartition, tuple[int, int]]) -> StreamChangedError:
    """Return the error for deleted records.

    ``lost``: for each partition the first offset that is lost, and the first that is left.
    """
    total = sum(left - at for at, left in lost.values())
    places = [
        f"{topic}/{number}: {at}" + (f" to {left - 1}" if left - at > 1 else "")
        for (topic, number), (at, left) in sorted(lost.items())
    ]
    more = f", and of {len(places) - SHOWN} more partitions" if len(places) > SHOWN else ""
    return StreamChangedError(
        f"records that this run has not learned were deleted, by retention or by hand: {total:,} "
        f"offset{'s' if total > 1 else ''} ({'; '.join(places[:SHOWN])}{more})"
    )


def _check_records(consumer: Consumer, marks: Mapping[TopicPartition, ReadMark]) -> None:
    """Raise ``StreamChangedError`` where another record is at the offset of a mark.

    There may be none: it was compacted away.
    """
    try:
        found = _read_records(consumer, {p: mark.offset for p, mark in marks.items()})
    except OutOfRangeError as error:
        raise out_of_range_error(consumer, error) from None
    for (topic, number), record in found.items():
        mark = marks[TopicPartition(topic, number)]
        if digest(record, 0) != mark.digest:
            raise another_record_error(f"{topic}/{number}", mark.offset)


def _read_records(
    consumer: Consumer, offsets: Mapping[TopicPartition, int]
) -> dict[TopicPartition, RecordBatch]:
    """Return the record at each of these offsets, where there is one."""
    found: dict[TopicPartition, RecordBatch] = {}
    unread, surplus = set(offsets), 0
    if unread:
        consumer.assign(offsets)
    deadline = time.monotonic() + RECORD_TIMEOUT_S
    while unread:
        for batch in consumer.poll(POLL_TIMEOUT_S, MAX_POLL_RECORDS):
            surplus += len(batch.values)
            if batch.partition in unread:
                deadline = time.monotonic() + RECORD_TIMEOUT_S
                unread.remove(batch.partition)
                if batch.offset[0] == offsets[batch.partition]:
                    found[batch.partition] = batch.rows(slice(1))
        unread -= {partition for partition in unread if consumer.at_high_watermark(partition)}
        if unread and surplus > MAX_SURPLUS_RECORDS:
            consumer.assign({partition: offsets[partition] for partition in unread})
            surplus = 0
        if unread and time.monotonic() > deadline:
            consumer.end_offsets([*unread])  # raises if no broker answers
            names = ", ".join(f"{topic}/{number}" for topic, number in sorted(unread)[:SHOWN])
            raise BrokerUnavailableError(f"Kafka does not deliver again what was read of {names}")
    return found
