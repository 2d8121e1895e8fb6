"""Fetches records of all partitions of a stream, and hands them out in blocks, in one order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from streams.core.stream import Cursor
from streams.kafka.clients.consumer import Consumer
from streams.kafka.config import KafkaConfig
from streams.kafka.records import PartitionBuffers, RecordBatch, TopicPartition, Topics

IDLE_POLL_S = 0.2
"""A reader gets an empty block after so long without a record."""
IDLE_PARTITION_TIMEOUT_S = 1.0
"""How long to wait for a partition that is behind, to keep the order of timestamps."""
METADATA_REFRESH_S = 60.0
"""How often to look for new partitions."""


class Fetcher:
    """Reads from a cursor on, over one consumer.

    Args:
        consumer: gets its assignment here; the caller closes it.
        topics: of the stream.
        config: of the stream: ``linger`` and ``assign``.
        cursor: where to read from; the caller advances it by what it was given.
        commit: called before each poll, to commit what there is to commit.
    """

    def __init__(
        self,
        consumer: Consumer,
        topics: Topics,
        config: KafkaConfig,
        cursor: Cursor,
        commit: Callable[[Consumer], None],
    ) -> None:
        self._consumer = consumer
        self._topics = topics
        self._config = config
        self._cursor = cursor
        self._commit = commit
        self._buffers = PartitionBuffers(topics, ())  # replaced at each rebalance

    def blocks(self, size: int) -> Iterator[tuple[list[RecordBatch], bool]]:
        """Yield about ``size`` records at a time, and whether to flush: nothing follows for now.

        Where nothing arrives, yield no records now and then. Never return.
        """
        self._assign()
        oldest = refreshed = time.monotonic()  # oldest: when the first buffered record arrived
        flushed = True  # whether all records that were yielded have been flushed
        while True:
            self._commit(self._consumer)
            if time.monotonic() - refreshed > METADATA_REFRESH_S:
                refreshed = time.monotonic()
                self._add_new_partitions()
            waiting = len(self._buffers) > 0
            fetched = self._fetch(size, waiting or not flushed)
            now = time.monotonic()
            oldest = oldest if waiting else now
            for batch in fetched:
                self._buffers.add(batch)
            if not len(self._buffers):
                yield [], not flushed
                flushed = True
                continue
            full = self._buffers.fills_block(size)
            complete = set(filter(self._consumer.at_high_watermark, self._buffers.partitions))
            if self._must_wait(size, now - oldest, full, bool(fetched), complete):
                continue
            batches = self._buffers.take(size, complete)
            oldest = now
            flushed = not full and not len(self._buffers)
            yield batches, flushed

    def read_up_to(self, partition: TopicPartition) -> int:
        """Return the offset up to which all records of a partition were yielded; 0: unknown."""
        if partition in self._buffers.empty:
            return self._consumer.position(partition)
        return 0

    def _fetch(self, size: int, lingering: bool) -> list[RecordBatch]:
        """Poll if the buffers have room; wait for the first record unless a block is full."""
        if not self._buffers.has_room(size):
            return []
        timeout = min(self._config.linger, IDLE_POLL_S) if lingering else IDLE_POLL_S
        return self._consumer.poll(0.0 if self._buffers.fills_block(size) else timeout, size)

    def _must_wait(
        self, size: int, age: float, full: bool, fetched: bool, complete: set[TopicPartition]
    ) -> bool:
        """Return whether to wait for more records before a block is taken.

        Args:
            size: records of a block.
            age: seconds since the first buffered record arrived.
            full: whether the buffers fill a block.
            fetched: whether the last poll returned records.
            complete: partitions at their high watermark.
        """
        linger, buffers = self._config.linger, self._buffers
        behind = buffers.empty - complete
        if behind and age < linger + IDLE_PARTITION_TIMEOUT_S and buffers.has_room(size):
            return True
        lingered = age >= linger and (not fetched or len(complete) == len(buffers.partitions))
        return not (full or lingered)

    def _assign(self) -> None:
        """Assign all partitions to the consumer, or let it join its group."""
        if self._config.assign == "group":
            self._consumer.subscribe(self._topics.names, self._on_assign)
        else:
            partitions = partitions_of(self._consumer, self._topics)
            self._consumer.assign(self._on_assign(partitions))

    def _on_assign(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Begin anew with these partitions; return the position to read each from."""
        self._buffers = PartitionBuffers(self._topics, partitions)
        keys = {partition: self._topics.cursor_key(partition) for partition in partitions}
        new = [partition for partition, key in keys.items() if key not in self._cursor]
        first = self._consumer.beginning_offsets(new) if new else {}
        return {
            partition: self._cursor.get(key, first.get(partition, 0))
            for partition, key in keys.items()
        }

    def _add_new_partitions(self) -> None:
        """Assign partitions that were created meanwhile; a group does so by itself."""
        partitions = set(partitions_of(self._consumer, self._topics))
        if self._config.assign == "all" and partitions - set(self._buffers.partitions):
            self._assign()


def partitions_of(consumer: Consumer, topics: Topics) -> list[TopicPartition]:
    """Return the partitions of all topics."""
    return [p for topic in topics.names for p in consumer.partitions_for_topic(topic)]
