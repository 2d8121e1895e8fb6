"""A consumer over confluent-kafka (librdkafka): several times as fast as kafka-python."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from streams.core.errors import StreamError
from streams.kafka.clients import timeouts
from streams.kafka.clients.access import Access
from streams.kafka.clients.consumer import NO_PARTS, Consumer, OnAssign, RecordParts
from streams.kafka.clients.errors import (
    CONFLUENT_RETRIABLE,
    OutOfRangeError,
    confluent_errors,
    confluent_refusal,
    is_code,
    missing_topic_error,
)
from streams.kafka.clients.libraries import confluent_log, import_confluent, librdkafka_options
from streams.kafka.records import RecordBatch, TopicPartition

log = logging.getLogger(__name__)

_EARLIEST, _LATEST = -2, -1  # special timestamps of a lookup by time


class ConfluentConsumer(Consumer):
    """Options are librdkafka's, with dots or underscores in their names."""

    _defaults: ClassVar[dict[str, Any]] = {
        "session.timeout.ms": 10_000,
        "heartbeat.interval.ms": 1_000,
        "max.partition.fetch.bytes": 4 << 20,
        "fetch.queue.backoff.ms": 10,  # else it pauses for a second whenever its queue is full
        "reconnect.backoff.max.ms": 1_000,
        "topic.metadata.refresh.interval.ms": 60_000,
    }

    def __init__(
        self, servers: str, group: str, options: Mapping[str, Any], parts: RecordParts = NO_PARTS
    ) -> None:
        library = import_confluent()
        reserved = {
            "bootstrap.servers": servers,
            "metadata.broker.list": servers,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "allow.auto.create.topics": False,
        }
        chosen = librdkafka_options(options)
        for name in chosen:
            if name in reserved:
                raise StreamError(f"stream.client: {name!r} cannot be set: everlearn sets it")
        del reserved["metadata.broker.list"]  # an alias of the first
        defaults = dict(self._defaults)
        self._incremental = chosen.get("group.protocol") == "consumer"
        if self._incremental:  # KIP-848: the broker's settings hold
            for name in ("session.timeout.ms", "heartbeat.interval.ms"):
                del defaults[name]
        settings = defaults | chosen | reserved | {"error_cb": self._on_error}
        self._access = Access.of(servers, options)
        self._group = group
        self._library = library
        self._servers = servers
        self._parts = parts
        self._refusal: StreamError | None = None  # why a broker refused the connection
        self._positions: dict[TopicPartition, int] = {}  # of assigned partitions: the next offset
        self._assignments = 0  # counts them
        with self._errors():
            self._consumer = library.Consumer(settings, logger=confluent_log)
            try:
                self._consumer.list_topics(timeout=timeouts.BROKER_TIMEOUT_S)
            except library.KafkaException:
                self._consumer.poll(0)  # calls error_cb
                self._consumer.close()
                raise

    def partitions_for_topic(self, topic: str) -> list[TopicPartition]:
        with self._errors():
            listed = self._consumer.list_topics(topic, timeout=timeouts.BROKER_TIMEOUT_S)
            metadata = listed.topics[topic]
            if metadata.error is not None and not self._is(
                metadata.error, ("UNKNOWN_TOPIC_OR_PART",)
            ):
                if final := self._refused(metadata.error, topic):
                    raise final
                raise self._library.KafkaException(metadata.error)
        if not metadata.partitions:
            raise missing_topic_error(topic, self._servers)
        return [TopicPartition(topic, number) for number in sorted(metadata.partitions)]

    def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return self._look_up(partitions, _EARLIEST)

    def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return self._look_up(partitions, _LATEST)

    def offsets_for_times(
        self, partitions: Sequence[TopicPartition], timestamp_ms: int
    ) -> dict[TopicPartition, int]:
        offsets = self._look_up(partitions, max(timestamp_ms, 0))
        none = [partition for partition, offset in offsets.items() if offset < 0]
        return offsets | self.end_offsets(none)

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        with self._errors():
            self._consumer.assign(self._start(positions))

    def subscribe(self, topics: Sequence[str], on_assign: OnAssign) -> None:
        def assigned(consumer: Any, partitions: Sequence[Any]) -> None:
            new = [TopicPartition(p.topic, p.partition) for p in partitions]
            if self._incremental:
                self._replace(consumer, on_assign, {*self._positions, *new})
            else:
                consumer.assign(self._start(on_assign(new)))

        def revoked(consumer: Any, partitions: Sequence[Any]) -> None:
            if self._incremental:
                gone = {TopicPartition(p.topic, p.partition) for p in partitions}
                self._replace(consumer, on_assign, {*self._positions} - gone)
            else:
                self._start({})
                on_assign([])
                consumer.unassign()

        with self._errors():
            self._consumer.subscribe(
                list(topics), on_assign=assigned, on_revoke=revoked, on_lost=revoked
            )

    def _replace(self, consumer: Any, on_assign: OnAssign, partitions: Set[TopicPartition]) -> None:
        """Read these partitions of the group, each anew from the position of its cursor."""
        old = [self._library.TopicPartition(*partition) for partition in self._positions]
        native = self._start(on_assign(sorted(partitions)))
        if old:
            consumer.incremental_unassign(old)
        if native:
            consumer.incremental_assign(native)

    def poll(self, timeout: float, max_records: int) -> list[RecordBatch]:
        by_partition: dict[tuple[str, int], list[Any]] = {}
        with self._errors():
            for record in self._consume(timeout, max_records):
                if record.error() is None:
                    partition = record.topic(), record.partition()
                    by_partition.setdefault(partition, []).append(record)
                else:
                    self._on_error_record(record)
        return [
            self._record_batch(TopicPartition(*partition), records)
            for partition, records in by_partition.items()
            if partition in self._positions
        ]

    def at_high_watermark(self, partition: TopicPartition) -> bool:
        with self._errors():
            native = self._library.TopicPartition(*partition)
            watermarks = self._consumer.get_watermark_offsets(native, cached=True)
        return watermarks is not None and 0 <= watermarks[1] <= self._positions.get(partition, -1)

    def position(self, partition: TopicPartition) -> int:
        return self._positions.get(partition, 0)

    def commit(self, positions: Mapping[TopicPartition, int], timeout: float = 0.0) -> None:
        ours = {p: at for p, at in positions.items() if timeout or p in self._positions}
        try:
            if ours:
                self._consumer.commit(offsets=self._native(ours.items()), asynchronous=not timeout)
        except self._library.KafkaException:
            log.debug("positions were not committed", exc_info=True)

    def close(self) -> None:
        try:
            self._consumer.close()
        except self._library.KafkaException:
            log.debug("a consumer did not close cleanly", exc_info=True)

    def _consume(self, timeout: float, max_records: int) -> list[Any]:
        """Return what was fetched already; else wait for one record, and return what came with it.

        After a wait, records from before a rebalance are dropped: they come again.
        """
        records = self._consumer.consume(max_records, 0)
        if records or not timeout:
            return list(records)
        first = self._consumer.consume(1, timeout)
        before = self._assignments
        more = self._consumer.consume(max_records - 1, 0) if first and max_records > 1 else []
        return list(first + more if before == self._assignments else more)

    def _start(self, positions: Mapping[TopicPartition, int]) -> list[Any]:
        """Note a new assignment, and return it as the library's own partitions."""
        self._positions = dict(positions)
        self._assignments += 1
        return self._native(positions.items())

    def _look_up(
        self, partitions: Sequence[TopicPartition], timestamp_ms: int
    ) -> dict[TopicPartition, int]:
        if not partitions:
            return {}
        with self._errors():
            results = self._consumer.offsets_for_times(
                self._native((partition, timestamp_ms) for partition in partitions),
                timeout=timeouts.BROKER_TIMEOUT_S,
            )
            for result in results:
                if result.error is not None:
                    raise self._library.KafkaException(result.error)
        return {TopicPartition(r.topic, r.partition): r.offset for r in results}

    def _record_batch(self, partition: TopicPartition, records: list[Any]) -> RecordBatch:
        n, first, last = len(records), records[0].offset(), records[-1].offset()
        self._positions[partition] = last + 1
        offsets = (
            np.arange(first, last + 1)
            if last - first == n - 1
            else np.array([record.offset() for record in records], np.int64)
        )
        times = np.array([record.timestamp()[1] for record in records], np.int64)
        return RecordBatch(
            partition,
            offsets,
            times,
            [record.value() for record in records],
            [record.key() for record in records] if "keys" in self._parts else None,
            [record.headers() or () for record in records] if "headers" in self._parts else None,
        )

    def _on_error_record(self, record: Any) -> None:
        """Handle an event that the library returns instead of a record."""
        error, partition = record.error(), TopicPartition(record.topic(), record.partition())
        if self._is(error, ("_PARTITION_EOF",)):
            if partition in self._positions:
                end = max(self._positions[partition], record.offset())
                self._positions[partition] = end
        elif self._is(error, ("_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE")):
            position = self._positions.get(partition, record.offset())
            raise OutOfRangeError({partition: position})
        elif self._is(error, ("_LOG_TRUNCATION",)):
            position = self._positions.get(partition, record.offset())
            raise OutOfRangeError({partition: position}, is_truncated=True)
        elif final := self._refused(error, partition.topic or ""):
            raise final
        elif not self._is(error, CONFLUENT_RETRIABLE):
            raise self._library.KafkaException(error)

    def _on_error(self, error: Any) -> None:
        """Note a refused connection; librdkafka calls this for errors of its own threads."""
        log.debug("%s", error)
        self._refusal = self._refused(error) or self._refusal

    def _native(self, positions: Iterable[tuple[TopicPartition, int]]) -> list[Any]:
        """Return the positions as the library's own partitions."""
        return [self._library.TopicPartition(*partition, at) for partition, at in positions]

    def _refused(self, error: Any, topic: str = "") -> StreamError | None:
        """Return the error for what a retry cannot fix."""
        name = self._group if self._is(error, ("GROUP_AUTHORIZATION_FAILED",)) else topic
        return confluent_refusal(self._library, error, self._access, name=name)

    def _is(self, error: Any, names: Sequence[str]) -> bool:
        return is_code(self._library, error, names)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._library.KafkaException as error:
            if self._refusal is not None:
                raise self._refusal from None
            with confluent_errors(self._library, self._access, "stream.servers: "):
                raise error from None
        except StreamError:
            raise
        except Exception:
            with confluent_errors(self._library, self._access, "stream.servers: "):
                raise
