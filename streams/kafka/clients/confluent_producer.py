"""An outbox by confluent-kafka."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from streams.core.errors import StreamError
from streams.core.live_stream import BrokerUnavailableError
from streams.kafka.clients.producer import LARGEST, QUIET_S, REACH_S, SEND_S, Message, Outbox
from streams.kafka.records import TopicPartition

log = logging.getLogger(__name__)


class Confluent(Outbox):
    """Options are librdkafka's; an underscore stands for a dot."""

    def __init__(self, servers: str, options: Mapping[str, Any]) -> None:
        try:
            import confluent_kafka
        except ImportError:
            raise StreamError(
                "stream.library: confluent-kafka is not installed: pip install "
                "'everlearn[confluent]', or leave library out"
            ) from None
        self._kafka = confluent_kafka
        self._servers = servers
        self._options = {name.replace("_", "."): value for name, value in options.items()}
        self._producer: Any = None

    def ends(self, topic: str) -> dict[TopicPartition, int]:
        with self._reader() as consumer:
            told = consumer.list_topics(topic, timeout=REACH_S).topics[topic]
            if told.error is not None or not told.partitions:
                raise StreamError(f"there is no topic {topic!r} at {self._servers}: create it")
            return {
                TopicPartition(topic, partition): self._bounds(
                    consumer, TopicPartition(topic, partition)
                )[1]
                for partition in sorted(told.partitions)
            }

    def since(self, ends: Mapping[TopicPartition, int]) -> Iterator[Message]:
        if not ends:
            return
        of = self._kafka.TopicPartition
        with self._reader() as consumer:
            bounds = {place: self._bounds(consumer, place) for place in ends}
            at = {
                place: end if bounds[place][0] <= end <= bounds[place][1] else bounds[place][0]
                for place, end in ends.items()
            }
            consumer.assign([of(*place, offset) for place, offset in at.items()])
            quiet = time.monotonic()
            while time.monotonic() - quiet < QUIET_S or any(
                at[place] < bounds[place][1] for place in at
            ):
                for record in consumer.consume(1000, 0.2):
                    if record.error() is not None:
                        raise self._kafka.KafkaException(record.error())
                    quiet = time.monotonic()
                    place = TopicPartition(record.topic(), record.partition())
                    at[place] = record.offset() + 1
                    headers = {name: value or b"" for name, value in record.headers() or ()}
                    yield Message(*place, record.key(), record.value(), headers)
                if time.monotonic() - quiet > 2 * REACH_S:
                    raise BrokerUnavailableError(f"no answer from Kafka at {self._servers}")

    def send(self, messages: Sequence[Message]) -> list[int]:
        large: list[int] = []
        failed: list[Any] = []
        sizes = (self._kafka.KafkaError.MSG_SIZE_TOO_LARGE, self._kafka.KafkaError.INVALID_MSG_SIZE)

        def done(i: int, error: Any) -> None:
            if error is None:
                return
            if error.code() in sizes:
                large.append(i)
            else:
                failed.append(error)

        with self._errors():
            try:
                self._producer = self._producer or self._kafka.Producer(
                    self._settings(
                        {
                            "acks": "all",
                            "enable.idempotence": True,
                            "message.max.bytes": LARGEST,
                            "delivery.timeout.ms": int(SEND_S * 800),
                            "request.timeout.ms": int(SEND_S * 400),
                        }
                    )
                )
                for i, m in enumerate(messages):
                    partition = {} if m.partition is None else {"partition": m.partition}
                    told = {"headers": m.headers} if m.headers else {}
                    self._producer.produce(
                        m.topic,
                        m.value,
                        m.key,
                        on_delivery=lambda error, _, i=i: done(i, error),
                        **partition,
                        **told,
                    )
                left = self._producer.flush(SEND_S)
                if failed:
                    raise self._kafka.KafkaException(failed[0])
                if left:
                    raise BrokerUnavailableError(f"no answer from Kafka at {self._servers}")
            except BaseException:
                self.close()  # or what is left in it would come there later
                raise
        return sorted(large)

    def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()

    @contextmanager
    def _reader(self) -> Iterator[Any]:
        with self._errors():
            settings = {
                "group.id": "everlearn-dead-letters",  # it must have one, and joins none
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
            consumer = self._kafka.Consumer(self._settings(settings))
            try:
                yield consumer
            finally:
                consumer.close()

    def _bounds(self, consumer: Any, place: TopicPartition) -> tuple[int, int]:
        found = consumer.get_watermark_offsets(self._kafka.TopicPartition(*place), timeout=REACH_S)
        if found is None:
            raise BrokerUnavailableError(f"no answer from Kafka at {self._servers}")
        return int(found[0]), int(found[1])

    def _settings(self, more: dict[str, Any]) -> dict[str, Any]:
        always = {
            "bootstrap.servers": self._servers,
            "allow.auto.create.topics": False,
            "logger": log,
        }
        return {**self._options, **always, **more}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What the library raises, as what it means."""
        try:
            yield
        except (self._kafka.KafkaException, BufferError) as error:
            told = error.args[0]
            code = told.code() if isinstance(told, self._kafka.KafkaError) else None
            kinds = self._kafka.KafkaError
            final = {
                kinds._INVALID_ARG,
                kinds._AUTHENTICATION,
                kinds.SASL_AUTHENTICATION_FAILED,
                kinds.TOPIC_AUTHORIZATION_FAILED,
            }
            what = " ".join(str(told).split())
            if code in final:
                raise StreamError(f"stream.client: {self._servers}: {what}") from None
            raise BrokerUnavailableError(
                f"no answer from Kafka at {self._servers} ({what})"
            ) from None
