"""A producer over kafka-python."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from functools import partial
from typing import Any, ClassVar

from streams.kafka.clients import timeouts
from streams.kafka.clients.access import Access
from streams.kafka.clients.errors import (
    KAFKA_PYTHON_TOO_LARGE,
    check_authorized,
    connect_within,
    kafka_python_errors,
    missing_topic_error,
    surface_connection_errors,
    unavailable,
)
from streams.kafka.clients.libraries import api_version, import_kafka_python, supports_transactions
from streams.kafka.clients.oauth import without_oauth
from streams.kafka.clients.producer import (
    BULK_LINGER_MS,
    MAX_REQUEST_BYTES,
    Producer,
    ProducerRecord,
)
from streams.kafka.records import TopicPartition

MAX_UNDELIVERED_CALLS = 4
"""``enqueue`` waits for the records of the calls before these; this bounds the memory."""


class KafkaPythonProducer(Producer):
    """Options are those of ``kafka.KafkaProducer`` and ``kafka.KafkaConsumer``."""

    _reserved: ClassVar = frozenset(("bootstrap_servers", "client_id", "transactional_id"))

    def __init__(self, servers: str, options: Mapping[str, Any], bulk: bool = False) -> None:
        self._kafka = import_kafka_python()
        self._servers = servers
        self._access = Access.of(servers, options)
        options = without_oauth(options)
        version = api_version(options)
        if version is not None:
            options["api_version"] = version
        self.supports_headers = supports_transactions(version)
        self._options = options
        self._bulk = bulk
        self._producer: Any = None
        self._undelivered: deque[list[Any]] = deque()  # futures, of each call of ``enqueue``
        self._delivered = 0

    def end_offsets(self, topic: str) -> dict[TopicPartition, int]:
        with self._errors(), self._consumer() as consumer:
            numbers = consumer.partitions_for_topic(topic)
            if not numbers:
                check_authorized(self._kafka, consumer, topic)
                raise missing_topic_error(topic, self._servers)
            native = [self._kafka.TopicPartition(topic, number) for number in sorted(numbers)]
            ends = consumer.end_offsets(native)
        return {TopicPartition(*partition): offset for partition, offset in ends.items()}

    def read_from(self, offsets: Mapping[TopicPartition, int]) -> Iterator[ProducerRecord]:
        if not offsets:
            return
        with self._errors(), self._consumer() as consumer:
            native = {self._kafka.TopicPartition(*p): offset for p, offset in offsets.items()}
            first = consumer.beginning_offsets([*native])
            last = consumer.end_offsets([*native])
            consumer.assign([*native])
            for partition, offset in native.items():
                exists = first[partition] <= offset <= last[partition]
                consumer.seek(partition, offset if exists else first[partition])
            arrived = time.monotonic()
            while time.monotonic() - arrived < timeouts.IDLE_TIMEOUT_S or not all(
                consumer.position(partition) >= last[partition] for partition in native
            ):
                for records in consumer.poll(200).values():
                    arrived = time.monotonic()
                    yield from map(_producer_record, records)
                if time.monotonic() - arrived > 2 * timeouts.BROKER_TIMEOUT_S:
                    raise unavailable(self._servers, self._access.hinted("timed out"))

    def send(self, records: Sequence[ProducerRecord]) -> list[int]:
        too_large: list[int] = []
        failure: Exception | None = None
        errors = self._kafka.errors
        refusals = tuple(getattr(errors, name) for name in KAFKA_PYTHON_TOO_LARGE)
        with self._errors():
            self._connect()
            futures = []
            try:
                for record in records:
                    futures.append(self._produce(record))  # noqa: PERF401 (keeps those before a failure)
            except errors.KafkaError as error:
                failure = error
            # Wait for all of them even if one fails: nothing that is given up here may be sent
            # later. None takes longer than the producer's own limit.
            deadline = time.monotonic() + timeouts.SEND_TIMEOUT_S
            for i, future in enumerate(futures):
                try:
                    future.get(max(0.0, deadline - time.monotonic()))
                except refusals:
                    too_large.append(i)
                except errors.KafkaError as error:
                    failure = failure or error
            if failure is not None:
                self.close()
                raise failure
        return too_large

    def enqueue(self, records: Sequence[ProducerRecord]) -> None:
        with self._errors():
            self._connect()
            send = self._producer.send  # called without _produce, for speed
            self._undelivered.append(
                [
                    send(
                        topic,
                        value,
                        key,
                        [*headers.items()] if headers and self.supports_headers else None,
                        partition,
                    )
                    for topic, partition, key, value, headers in records
                ]
            )
            while len(self._undelivered) > MAX_UNDELIVERED_CALLS:
                self._await_oldest()

    def flush(self) -> None:
        with self._errors():
            while self._undelivered:
                self._await_oldest()

    @property
    def delivered(self) -> int:
        return self._delivered

    def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            producer.close(timeout=timeouts.BROKER_TIMEOUT_S if self._bulk else 1)
        except self._kafka.errors.KafkaError:
            # It waits for its records first, and raises before it stops the thread that sends
            # them: what is given up here could be delivered later.
            producer._sender.force_close()
            with suppress(self._kafka.errors.KafkaError):
                producer.close(timeout=1)

    def _await_oldest(self) -> None:
        timeout = timeouts.BULK_DELIVERY_TIMEOUT_S + timeouts.BROKER_TIMEOUT_S
        for future in self._undelivered.popleft():
            future.get(timeout=timeout)
            self._delivered += 1

    def _produce(self, record: ProducerRecord) -> Any:
        topic, partition, key, value, headers = record
        listed = [*headers.items()] if headers and self.supports_headers else None
        return self._producer.send(topic, value=value, key=key, headers=listed, partition=partition)

    def _connect(self) -> None:
        if self._producer is None:
            settings = self._bulk_settings() if self._bulk else self._settings()
            self._producer = self._create_client(self._kafka.KafkaProducer, **settings)

    def _settings(self) -> dict[str, Any]:
        return {
            "acks": "all",
            "enable_idempotence": self.supports_headers,  # both came with Kafka 0.11
            "max_request_size": MAX_REQUEST_BYTES,
            "max_block_ms": int(timeouts.BROKER_TIMEOUT_S * 1000),
            "request_timeout_ms": int(timeouts.SEND_TIMEOUT_S * 400),
            "delivery_timeout_ms": int(timeouts.SEND_TIMEOUT_S * 800),
        }

    @staticmethod
    def _bulk_settings() -> dict[str, Any]:
        return {
            "linger_ms": BULK_LINGER_MS,
            "batch_size": 1 << 18,
            "max_block_ms": int(timeouts.BROKER_TIMEOUT_S * 1000),
            "request_timeout_ms": int(timeouts.BROKER_TIMEOUT_S * 1000),
            "delivery_timeout_ms": int(timeouts.BULK_DELIVERY_TIMEOUT_S * 1000),
        }

    def _consumer(self) -> AbstractContextManager[Any]:
        return closing(
            self._create_client(
                self._kafka.KafkaConsumer,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                max_partition_fetch_bytes=4 << 20,
            )
        )

    def _create_client(self, client: Any, **settings: Any) -> Any:
        """Return a client of that class, with those of the options that it knows."""
        known = set(client.DEFAULT_CONFIG) - self._reserved
        options = {name: value for name, value in self._options.items() if name in known}
        always = {
            "bootstrap_servers": self._servers.split(","),
            "bootstrap_timeout_ms": int(timeouts.BROKER_TIMEOUT_S * 1000),
            "allow_auto_create_topics": False,
        }
        with surface_connection_errors():
            return connect_within(partial(client, **options | settings | always))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with kafka_python_errors(self._kafka, self._access, right="WRITE"):
            yield


def _producer_record(record: Any) -> ProducerRecord:
    headers = {name: value or b"" for name, value in record.headers}
    return ProducerRecord(record.topic, record.partition, record.key, record.value, headers)
