"""A consumer over kafka-python: pure Python, TLS and SASL of every kind, also with old brokers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import numpy as np

from streams.core.errors import StreamError
from streams.core.settings import unknown
from streams.kafka.clients import timeouts
from streams.kafka.clients.access import Access
from streams.kafka.clients.consumer import NO_PARTS, Consumer, OnAssign, RecordParts
from streams.kafka.clients.errors import (
    OutOfRangeError,
    check_authorized,
    connect_within,
    kafka_python_errors,
    missing_topic_error,
    surface_connection_errors,
)
from streams.kafka.clients.libraries import (
    api_version,
    forbid_topic_creation,
    import_kafka_python,
    supports_transactions,
)
from streams.kafka.clients.oauth import without_oauth
from streams.kafka.records import RecordBatch, TopicPartition

log = logging.getLogger(__name__)


class KafkaPythonConsumer(Consumer):
    """Options are those of ``kafka.KafkaConsumer``."""

    _reserved: ClassVar = {
        "bootstrap_servers",
        "group_id",
        "enable_auto_commit",
        "auto_offset_reset",
        "key_deserializer",
        "value_deserializer",
        "consumer_timeout_ms",
    }

    def __init__(
        self, servers: str, group: str, options: Mapping[str, Any], parts: RecordParts = NO_PARTS
    ) -> None:
        kafka = import_kafka_python()
        self._access = Access.of(servers, options)
        options = without_oauth(options)
        known = set(kafka.KafkaConsumer.DEFAULT_CONFIG) - self._reserved
        if "group_protocol" in options:
            raise StreamError(
                "stream.client.group_protocol: kafka-python knows the classic protocol alone: "
                "state library: confluent-kafka, or leave it out"
            )
        for name in options:
            if name not in known:
                raise StreamError(f"stream.client: unknown option {unknown(name, sorted(known))}")
        settings = {
            "session_timeout_ms": 10_000,
            "heartbeat_interval_ms": 1_000,
            "bootstrap_timeout_ms": int(timeouts.BROKER_TIMEOUT_S * 1000),
            "max_partition_fetch_bytes": 4 << 20,
            "fetch_max_wait_ms": 50,  # a fetch that waits for idle partitions delays busy ones
            "metadata_max_age_ms": 60_000,  # new partitions are found within a minute
            **options,
        }
        settings["allow_auto_create_topics"] = False  # a misspelt name must not create a topic
        version = api_version(options)
        if version is not None:
            settings["api_version"] = version
        if supports_transactions(version):  # records of aborted transactions are not learned
            settings.setdefault("isolation_level", "read_committed")
        self._kafka = kafka
        self._servers = servers
        self._parts = parts
        with self._errors(), surface_connection_errors():
            create = partial(
                kafka.KafkaConsumer,
                bootstrap_servers=servers.split(","),
                group_id=group,
                enable_auto_commit=False,
                auto_offset_reset="none",
                **settings,
            )
            self._consumer = connect_within(create)
        forbid_topic_creation(self._consumer)
        self._subscribed = False

    def partitions_for_topic(self, topic: str) -> list[TopicPartition]:
        with self._errors():
            numbers = self._consumer.partitions_for_topic(topic)
            if not numbers:
                check_authorized(self._kafka, self._consumer, topic)
        if not numbers:
            raise missing_topic_error(topic, self._servers)
        return [TopicPartition(topic, number) for number in sorted(numbers)]

    def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        with self._errors():
            offsets = self._consumer.beginning_offsets(self._native(partitions), _broker_ms())
        return _by_partition(offsets)

    def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        with self._errors():
            offsets = self._consumer.end_offsets(self._native(partitions), _broker_ms())
        return _by_partition(offsets)

    def offsets_for_times(
        self, partitions: Sequence[TopicPartition], timestamp_ms: int
    ) -> dict[TopicPartition, int]:
        with self._errors():
            times = dict.fromkeys(self._native(partitions), timestamp_ms)
            results = self._consumer.offsets_for_times(times)
        offsets = {partition: result.offset for partition, result in results.items() if result}
        return self.end_offsets(partitions) | _by_partition(offsets)

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        with self._errors():
            self._consumer.assign(self._native(positions))
            for partition, position in positions.items():
                self._consumer.seek(self._kafka.TopicPartition(*partition), position)

    def subscribe(self, topics: Sequence[str], on_assign: OnAssign) -> None:
        consumer, native = self._consumer, self._kafka.TopicPartition

        class Listener(self._kafka.ConsumerRebalanceListener):  # type: ignore[misc, name-defined]
            def on_partitions_revoked(self, revoked: Any) -> None:
                pass

            def on_partitions_assigned(self, assigned: Any) -> None:
                positions = on_assign([TopicPartition(*partition) for partition in assigned])
                for partition, position in positions.items():
                    consumer.seek(native(*partition), position)

        self._subscribed = True
        with self._errors():
            consumer.subscribe(list(topics), listener=Listener())

    def poll(self, timeout: float, max_records: int) -> list[RecordBatch]:
        with self._errors():
            polled = self._consumer.poll(int(timeout * 1000), max_records=max_records)
        return [
            record_batch(TopicPartition(*p), records, self._parts)
            for p, records in polled.items()
            if records
        ]

    def at_high_watermark(self, partition: TopicPartition) -> bool:
        native = self._kafka.TopicPartition(*partition)
        try:
            with self._errors():
                end = self._consumer.highwater(native)
                return end is not None and self._consumer.position(native) >= end
        except self._kafka.errors.IllegalStateError:  # the partition was revoked
            return False

    def position(self, partition: TopicPartition) -> int:
        try:
            with self._errors():
                return self._consumer.position(self._kafka.TopicPartition(*partition)) or 0
        except self._kafka.errors.IllegalStateError:  # the partition was revoked
            return 0

    def commit(self, positions: Mapping[TopicPartition, int], timeout: float = 0.0) -> None:
        metadata = self._kafka.OffsetAndMetadata
        assigned = self._consumer.assignment() if self._subscribed else self._native(positions)
        offsets = {
            partition: metadata(positions[TopicPartition(*partition)], "", -1)
            for partition in assigned
            if tuple(partition) in positions
        }
        if offsets and timeout:
            with self._errors():
                self._consumer.commit(offsets, timeout_ms=int(timeout * 1000))
        elif offsets:
            self._consumer.commit_async(offsets, callback=_ignore)

    def close(self) -> None:
        try:
            self._consumer.close(autocommit=False, timeout_ms=1000)
        except self._kafka.errors.KafkaError:
            log.debug("a consumer did not close cleanly", exc_info=True)

    def _native(self, partitions: Sequence[TopicPartition] | Mapping[TopicPartition, int]) -> Any:
        """Return the partitions as the library's own tuples."""
        return [self._kafka.TopicPartition(*partition) for partition in partitions]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        errors = self._kafka.errors
        try:
            yield
        except errors.OffsetOutOfRangeError as error:
            raise OutOfRangeError(_by_partition(error.args[0])) from None
        except errors.LogTruncationError as error:
            divergent = error.divergent_offsets  # None: not even the broker knows from where on
            offsets = {p: getattr(at, "offset", 0) for p, at in divergent.items()}
            raise OutOfRangeError(_by_partition(offsets), is_truncated=True) from None
        except errors.IllegalStateError:  # a mistake of the caller, no trouble with a broker
            raise
        except Exception:
            with kafka_python_errors(self._kafka, self._access, "stream.servers: "):
                raise


def record_batch(
    partition: TopicPartition, records: Sequence[Any], parts: RecordParts = NO_PARTS
) -> RecordBatch:
    """Return the records of one partition, at least one, as columns."""
    n = len(records)
    first, last = records[0].offset, records[-1].offset
    offsets = (
        np.arange(first, last + 1)
        if last - first == n - 1
        else np.fromiter((record.offset for record in records), np.int64, n)
    )
    stamps = (
        -1 if (at := record.timestamp) is None else at for record in records
    )  # None: an old broker
    times = np.fromiter(stamps, np.int64, n)
    return RecordBatch(
        partition,
        offsets,
        times,
        [record.value for record in records],
        [record.key for record in records] if "keys" in parts else None,
        [record.headers or () for record in records] if "headers" in parts else None,
    )


def _by_partition(offsets: Mapping[Any, int]) -> dict[TopicPartition, int]:
    return {TopicPartition(*partition): offset for partition, offset in offsets.items()}


def _broker_ms() -> int:
    return int(timeouts.BROKER_TIMEOUT_S * 1000)


def _ignore(*_: Any) -> None:
    """Ignore the outcome of a commit: checkpoints hold the offsets that count."""
