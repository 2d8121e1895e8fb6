"""A producer over confluent-kafka (librdkafka)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from streams.core.errors import StreamError
from streams.core.live_stream import BrokerUnavailableError
from streams.kafka.clients import timeouts
from streams.kafka.clients.access import Access
from streams.kafka.clients.errors import (
    CONFLUENT_TOO_LARGE,
    confluent_errors,
    confluent_refusal,
    is_code,
    missing_topic_error,
    unavailable,
)
from streams.kafka.clients.libraries import confluent_log, import_confluent, librdkafka_options
from streams.kafka.clients.producer import (
    BULK_LINGER_MS,
    MAX_REQUEST_BYTES,
    Producer,
    ProducerRecord,
)
from streams.kafka.records import TopicPartition

NO_PARTITION = -1
"""The hash of the key chooses the partition."""


class ConfluentProducer(Producer):
    """Options are librdkafka's, with dots or underscores in their names."""

    def __init__(self, servers: str, options: Mapping[str, Any], bulk: bool = False) -> None:
        self._library = import_confluent()
        self._servers = servers
        self._access = Access.of(servers, options)
        self._options = librdkafka_options(options) | {"error_cb": self._on_error}
        self._refusal: StreamError | None = None  # why a broker refused the connection
        self._bulk = bulk
        self._producer: Any = None
        self._enqueued = 0
        self._failed = 0
        self._failure: Any = None  # the first error of a delivery of ``enqueue``

    def end_offsets(self, topic: str) -> dict[TopicPartition, int]:
        with self._errors(), self._consumer() as consumer:
            listed = consumer.list_topics(topic, timeout=timeouts.BROKER_TIMEOUT_S)
            metadata = listed.topics[topic]
            if metadata.error is not None:
                refusal = confluent_refusal(
                    self._library, metadata.error, self._access, "WRITE", topic
                )
                if refusal is not None:
                    raise refusal
            if metadata.error is not None or not metadata.partitions:
                raise missing_topic_error(topic, self._servers)
            partitions = [TopicPartition(topic, number) for number in sorted(metadata.partitions)]
            return {partition: self._bounds(consumer, partition)[1] for partition in partitions}

    def read_from(self, offsets: Mapping[TopicPartition, int]) -> Iterator[ProducerRecord]:
        if not offsets:
            return
        with self._errors(), self._consumer() as consumer:
            position, end = {}, {}
            for partition, offset in offsets.items():
                first, end[partition] = self._bounds(consumer, partition)
                position[partition] = offset if first <= offset <= end[partition] else first
            consumer.assign([self._library.TopicPartition(*p, at) for p, at in position.items()])
            arrived = time.monotonic()
            while time.monotonic() - arrived < timeouts.IDLE_TIMEOUT_S or any(
                position[partition] < end[partition] for partition in position
            ):
                for record in consumer.consume(1000, 0.2):
                    if record.error() is not None:
                        raise self._library.KafkaException(record.error())
                    arrived = time.monotonic()
                    partition = TopicPartition(record.topic(), record.partition())
                    position[partition] = record.offset() + 1
                    headers = {name: value or b"" for name, value in record.headers() or ()}
                    yield ProducerRecord(*partition, record.key(), record.value(), headers)
                if time.monotonic() - arrived > 2 * timeouts.BROKER_TIMEOUT_S:
                    raise unavailable(self._servers, self._access.hinted("timed out"))

    def send(self, records: Sequence[ProducerRecord]) -> list[int]:
        outcomes: dict[int, Any] = {}  # the errors, by index

        def on_delivery(i: int, error: Any, _: Any) -> None:
            if error is not None:
                outcomes[i] = error

        with self._errors(records[0].topic if records else ""):
            try:
                self._connect()
                for i, record in enumerate(records):
                    self._produce(record, partial(on_delivery, i))
                undelivered = self._producer.flush(timeouts.SEND_TIMEOUT_S)
                too_large = sorted(i for i, error in outcomes.items() if self._is_too_large(error))
                for i, error in outcomes.items():
                    if i not in too_large:
                        raise self._library.KafkaException(error)
                if undelivered:
                    raise unavailable(self._servers, self._access.hinted("timed out"))
            except BaseException:
                self.close()  # drops its queue, which would be sent later
                raise
        return too_large

    def enqueue(self, records: Sequence[ProducerRecord]) -> None:
        with self._errors():
            self._connect()
            produce = self._producer.produce
            for record in records:
                topic, partition, key, value, headers = record
                while True:
                    try:
                        if headers or partition is None:
                            self._produce(record, self._on_delivery)
                        else:  # the common case, for speed
                            produce(topic, value, key, partition, self._on_delivery)
                        break
                    except BufferError:  # the queue is full
                        self._poll(0.05)
            self._enqueued += len(records)
            self._poll(0)

    def flush(self) -> None:
        if self._producer is None:
            return
        timeout = timeouts.BULK_DELIVERY_TIMEOUT_S
        with self._errors():
            undelivered = self._producer.flush(timeout + timeouts.BROKER_TIMEOUT_S)
            self._poll(0)
            if undelivered:
                cause = f"{undelivered:,} messages were not delivered within {timeout:g} s"
                raise unavailable(self._servers, cause)

    @property
    def delivered(self) -> int:
        # Successful deliveries are not reported one by one, for speed.
        undelivered = 0 if self._producer is None else len(self._producer)
        return max(0, self._enqueued - self._failed - undelivered)

    def close(self) -> None:
        delivered = self.delivered
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            if self._bulk:
                producer.flush(timeouts.BROKER_TIMEOUT_S)  # reports what was dropped as failed
        self._enqueued = delivered + self._failed

    def _produce(self, record: ProducerRecord, on_delivery: Any) -> None:
        topic, partition, key, value, headers = record
        partition = NO_PARTITION if partition is None else partition
        if headers:
            self._producer.produce(topic, value, key, partition, on_delivery, headers=dict(headers))
        else:
            self._producer.produce(topic, value, key, partition, on_delivery)

    def _on_delivery(self, error: Any, _: Any) -> None:
        if error is not None:
            self._failed += 1
            self._failure = self._failure or error

    def _poll(self, timeout: float) -> None:
        """Receive delivery reports; raise the first error among them."""
        self._producer.poll(timeout)
        if self._failure is not None:
            raise self._library.KafkaException(self._failure)

    def _is_too_large(self, error: Any) -> bool:
        return is_code(self._library, error, CONFLUENT_TOO_LARGE)

    def _connect(self) -> None:
        if self._producer is None:
            settings = self._bulk_settings() if self._bulk else self._settings()
            self._producer = self._library.Producer(
                self._options | settings | {"bootstrap.servers": self._servers},
                logger=confluent_log,
            )

    @staticmethod
    def _settings() -> dict[str, Any]:
        return {
            "acks": "all",
            "enable.idempotence": True,
            "message.max.bytes": MAX_REQUEST_BYTES,
            "delivery.timeout.ms": int(timeouts.SEND_TIMEOUT_S * 800),
            "request.timeout.ms": int(timeouts.SEND_TIMEOUT_S * 400),
        }

    @staticmethod
    def _bulk_settings() -> dict[str, Any]:
        return {
            "enable.idempotence": True,
            "linger.ms": BULK_LINGER_MS,
            "delivery.timeout.ms": int(timeouts.BULK_DELIVERY_TIMEOUT_S * 1000),
            "delivery.report.only.error": True,
            "queue.buffering.max.messages": 100_000,
        }

    @contextmanager
    def _consumer(self) -> Iterator[Any]:
        settings = {
            "bootstrap.servers": self._servers,
            "allow.auto.create.topics": False,
            "group.id": "everlearn-dead-letters",  # required, but it joins none
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
        consumer = self._library.Consumer(self._options | settings, logger=confluent_log)
        try:
            yield consumer
        finally:
            consumer.close()

    def _bounds(self, consumer: Any, partition: TopicPartition) -> tuple[int, int]:
        """Return the first offset of a partition, and the one after the last."""
        native = self._library.TopicPartition(*partition)
        bounds = consumer.get_watermark_offsets(native, timeout=timeouts.BROKER_TIMEOUT_S)
        if bounds is None:
            raise unavailable(self._servers, self._access.hinted("timed out"))
        return int(bounds[0]), int(bounds[1])

    def _on_error(self, error: Any) -> None:
        """Note a refused connection; librdkafka calls this for errors of its own threads."""
        refusal = confluent_refusal(self._library, error, self._access, "WRITE")
        self._refusal = refusal or self._refusal

    @contextmanager
    def _errors(self, topic: str = "") -> Iterator[None]:
        try:
            with confluent_errors(self._library, self._access, right="WRITE", topic=topic):
                yield
        except (BrokerUnavailableError, SystemError):  # of an error in a callback of the library
            if self._refusal is not None:
                raise self._refusal from None
            raise
