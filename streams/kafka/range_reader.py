"""Reads ranges of records that were read before, and finds the last record of a partition."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from streams.core.errors import StreamChangedError, StreamError
from streams.core.live_stream import BrokerUnavailableError
from streams.decoding.formats.extras import no_header, schema_id
from streams.kafka.clients.consumer import Consumer
from streams.kafka.records import BLOCK_BYTES, RecordBatch, TopicPartition

POLL_TIMEOUT_S = 0.2
MAX_POLL_RECORDS = 10_000
MAX_SKIP_RECORDS = 5000
"""Records ahead of the wanted one up to which reading on is faster than a seek."""
MAX_SURPLUS_BYTES = 2 * BLOCK_BYTES
"""Bytes, roughly, of early records that are kept until they are wanted."""
LAST_RECORD_TIMEOUT_S = 5.0
"""A partition that delivers nothing for so long, though its broker answers, has no more records."""

OffsetRanges = Mapping[TopicPartition, tuple[int, int]]
"""For each partition, the first offset and the one after the last."""


class RangeReader:
    """Reads ranges over one connection.

    Consecutive ranges are read without a seek, which takes confluent-kafka half a second.

    Args:
        consumer: ``close`` closes it.
        servers: for error messages.

    Attributes:
        consumer: the connection.
    """

    def __init__(self, consumer: Consumer, servers: str) -> None:
        self.consumer = consumer
        self._servers = servers
        # Of each partition, the records that came and were not wanted yet:
        self._buffers: dict[TopicPartition, list[RecordBatch]] = {}
        self._start: dict[TopicPartition, int] = {}  # the offset where they begin
        self._position: dict[TopicPartition, int] = {}  # where they end, and reading continues
        self._bytes: dict[TopicPartition, int] = {}  # their size
        self._assigned: set[TopicPartition] = set()

    def __call__(self, ranges: OffsetRanges, timeout: float) -> list[RecordBatch]:
        """Return the records of the ranges.

        Raise ``BrokerUnavailableError`` if nothing arrives for ``timeout`` seconds; another call
        resumes where this one stopped. Raise ``StreamError`` if the records are deleted.
        """
        self._seek(ranges)
        deadline = time.monotonic() + timeout
        while missing := {p for p, (_, end) in ranges.items() if self._position[p] < end}:
            for batch in self.consumer.poll(POLL_TIMEOUT_S, MAX_POLL_RECORDS):
                self._add(batch)
                if batch.partition in missing:
                    deadline = time.monotonic() + timeout
            if time.monotonic() > deadline:
                raise self._timeout_error(ranges, missing)
            others = self._assigned - missing
            if others and sum(self._bytes[partition] for partition in others) > MAX_SURPLUS_BYTES:
                self._unassign(others, ranges)
        batches = [
            batch for p, (first, end) in ranges.items() for batch in self._take(p, first, end)
        ]
        return [batch for batch in batches if batch.values]

    def close(self) -> None:
        self.consumer.close()

    def _seek(self, ranges: OffsetRanges) -> None:
        """Make the consumer read the ranges, beside what it reads already."""
        changed = False
        for partition, (first, end) in ranges.items():
            position = self._position.get(partition, -1)
            start = self._start.get(partition, first + 1)
            if not start <= first <= position + MAX_SKIP_RECORDS:
                self._reset(partition, first)
                changed = True
            elif partition not in self._assigned and position < end:
                changed = True
        if changed:
            self._assign(self._position)

    def _reset(self, partition: TopicPartition, first: int) -> None:
        self._start[partition] = self._position[partition] = first
        self._buffers[partition], self._bytes[partition] = [], 0

    def _assign(self, partitions: Iterable[TopicPartition]) -> None:
        self._assigned = set()  # until the call succeeds
        positions = {partition: self._position[partition] for partition in partitions}
        self.consumer.assign(positions)
        self._assigned = set(positions)

    def _add(self, batch: RecordBatch) -> None:
        partition = batch.partition
        if partition not in self._assigned:
            return
        first = int(np.searchsorted(batch.offset, self._position[partition]))
        batch = batch.rows(slice(first, None))
        if batch.values:
            self._buffers[partition].append(batch)
            self._position[partition] = int(batch.offset[-1]) + 1
            self._bytes[partition] += batch.bytes

    def _take(self, partition: TopicPartition, first: int, end: int) -> list[RecordBatch]:
        """Remove the buffered records before ``end``; return those from ``first`` on."""
        taken, rest = [], []
        for batch in self._buffers[partition]:
            low, high = np.searchsorted(batch.offset, (first, end)).tolist()
            taken.append(batch.rows(slice(low, high)))
            if high < len(batch.values):
                rest.append(batch.rows(slice(high, None)))
        self._buffers[partition], self._start[partition] = rest, end
        self._bytes[partition] = sum(batch.bytes for batch in rest)
        return taken

    def _unassign(self, partitions: Collection[TopicPartition], ranges: OffsetRanges) -> None:
        """Stop reading these partitions for now, and drop their records outside the ranges."""
        for partition in partitions:
            if partition not in ranges:
                del self._start[partition], self._position[partition]
                del self._buffers[partition], self._bytes[partition]
                continue
            first, end = ranges[partition]
            kept = [batch for batch in self._take(partition, first, end) if batch.values]
            self._reset(partition, first)
            self._buffers[partition], self._position[partition] = kept, end
            self._bytes[partition] = sum(batch.bytes for batch in kept)
        self._assign(self._assigned - set(partitions))

    def _timeout_error(
        self, ranges: OffsetRanges, missing: Collection[TopicPartition]
    ) -> StreamError:
        """Return why nothing arrives. Raise ``BrokerUnavailableError`` if no broker answers."""
        partitions = sorted(missing)
        ends = self.consumer.end_offsets(partitions)
        for partition in partitions:
            topic, number = partition
            if ends[partition] < ranges[partition][1]:
                return StreamChangedError(
                    f"the topic {topic!r} ends at offset {ends[partition]} of partition {number}, "
                    f"and this run has read it up to {ranges[partition][1]}: it was deleted and "
                    "made anew, or its log was truncated"
                )
        names = ", ".join(f"{topic}/{number}" for topic, number in partitions)
        return BrokerUnavailableError(
            f"stream.servers: {self._servers} does not deliver again what was read of {names}"
        )


def last_record_ends(
    consumer: Consumer, partitions: Collection[TopicPartition]
) -> dict[TopicPartition, int]:
    """Return the offset after the last record that can be read of each partition.

    Where a partition has none, return its beginning offset. The last offsets of a partition may
    hold no records: they end transactions, were aborted, or were compacted away.
    """
    first = consumer.beginning_offsets([*partitions])
    end = consumer.end_offsets([*partitions])
    after_last, step = dict(first), 1
    unknown = {partition for partition in partitions if end[partition] > first[partition]}
    while unknown:
        begin = {partition: max(first[partition], end[partition] - step) for partition in unknown}
        last = _last_offsets(consumer, {p: (at, end[p]) for p, at in begin.items()})
        after_last |= {partition: at + 1 for partition, at in last.items()}
        unknown = {p for p in unknown - set(last) if begin[p] > first[p]}
        step *= 8
    return after_last


def _last_offsets(consumer: Consumer, ranges: OffsetRanges) -> dict[TopicPartition, int]:
    """Return the offset of the last record of each range that has one."""
    consumer.assign({partition: first for partition, (first, _) in ranges.items()})
    last: dict[TopicPartition, int] = {}
    unread, deadline = set(ranges), time.monotonic() + LAST_RECORD_TIMEOUT_S
    while unread:
        for batch in consumer.poll(POLL_TIMEOUT_S, MAX_POLL_RECORDS):
            end = ranges[batch.partition][1]
            if n := int(np.searchsorted(batch.offset, end)):
                last[batch.partition] = int(batch.offset[n - 1])
            if batch.offset[-1] >= end - 1:
                unread.discard(batch.partition)
            deadline = time.monotonic() + LAST_RECORD_TIMEOUT_S
        unread -= {partition for partition in unread if consumer.at_high_watermark(partition)}
        if unread and time.monotonic() > deadline:
            consumer.end_offsets([*unread])  # raises if no broker answers
            break
    return last


def first_schema_id(
    consumer: Consumer, topic: str, positions: Mapping[TopicPartition, int], timeout: float
) -> int:
    """Return the schema id of the first message of a topic that states one.

    Messages from the positions on come first, else those before them. Raise ``StreamError`` if
    there is none.
    """
    partitions = consumer.partitions_for_topic(topic)
    first, end = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
    for partition in partitions:
        at = positions.get(partition, first[partition])
        at = at if at < end[partition] else first[partition]
        if at >= end[partition]:
            continue
        consumer.assign({partition: at})
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and not consumer.at_high_watermark(partition):
            for batch in consumer.poll(POLL_TIMEOUT_S, MAX_POLL_RECORDS):
                for value in batch.values:
                    if value is not None and no_header(value) is None:
                        return schema_id(value)
    raise StreamError(
        f"stream.format: no message of the topic {topic!r} states the id of its schema yet: state "
        "schemas, as in {1: event.avsc}, or registry"
    )
