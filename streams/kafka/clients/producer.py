"""Messages sent to Kafka, and looked for there: what dead letters and messages sent anew need."""

from __future__ import annotations

import logging
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, ClassVar, NamedTuple

from streams.core.errors import StreamError
from streams.core.live_stream import BrokerUnavailableError
from streams.kafka.clients.errors import surface_connection_errors
from streams.kafka.clients.libraries import api_version, supports_transactions
from streams.kafka.records import TopicPartition

REACH_S = 10.0
"""How long a broker may take to answer a question before it counts as away."""
SEND_S = 15.0
"""How long messages may take until every replica has them."""
QUIET_S = 1.0
"""A topic of which nothing more comes for so long has been read to its end."""
LARGEST = 1 << 27
"""Bytes of a message that the broker is left to refuse."""

log = logging.getLogger(__name__)


class Message(NamedTuple):
    """One message; ``partition`` None: as its key has it."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]


class Outbox(ABC):
    """A producer and a reader of topics. To be used by one thread.

    Args:
        servers: ``host:port`` of some of the brokers, with commas between.
        options: ``stream.client`` of a job.

    Attributes:
        headers: whether messages may have headers there.

    All methods raise ``BrokerUnavailableError`` where no broker answers, and ``StreamError`` for
    what no waiting mends.
    """

    headers: bool = True

    @abstractmethod
    def __init__(self, servers: str, options: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def ends(self, topic: str) -> dict[TopicPartition, int]:
        """The position after the last message of each partition, or one before it."""

    @abstractmethod
    def since(self, ends: Mapping[TopicPartition, int]) -> Iterator[Message]:
        """All messages from there on, up to the end as it is now; what has been deleted is passed
        over."""

    @abstractmethod
    def send(self, messages: Sequence[Message]) -> list[int]:
        """Sends all; when it returns every replica has them, but those whose indices it gives: the
        broker found them too large. Where it raises, some may have come there."""

    @abstractmethod
    def close(self) -> None: ...


class KafkaPython(Outbox):
    """By kafka-python."""

    _reserved: ClassVar = frozenset(("bootstrap_servers", "client_id", "transactional_id"))

    def __init__(self, servers: str, options: Mapping[str, Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it reads a file of its own in a way that is going
            import kafka

        self._kafka = kafka
        self._servers = servers
        options = dict(options)
        version = api_version(options)
        if version is not None:
            options["api_version"] = version
        self.headers = supports_transactions(version)
        self._options = options
        self._producer: Any = None

    def ends(self, topic: str) -> dict[TopicPartition, int]:
        with self._reader() as consumer:
            partitions = consumer.partitions_for_topic(topic)
            if not partitions:
                raise StreamError(f"there is no topic {topic!r} at {self._servers}: create it")
            of = [self._kafka.TopicPartition(topic, p) for p in sorted(partitions)]
            return {
                TopicPartition(p.topic, p.partition): at
                for p, at in consumer.end_offsets(of).items()
            }

    def since(self, ends: Mapping[TopicPartition, int]) -> Iterator[Message]:
        if not ends:
            return
        with self._reader() as consumer:
            of = {place: self._kafka.TopicPartition(*place) for place in ends}
            first = consumer.beginning_offsets([*of.values()])
            last = consumer.end_offsets([*of.values()])
            consumer.assign([*of.values()])
            for place, at in ends.items():
                there = first[of[place]] <= at <= last[of[place]]
                consumer.seek(of[place], at if there else first[of[place]])
            quiet = time.monotonic()
            while time.monotonic() - quiet < QUIET_S or not all(
                consumer.position(partition) >= last[partition] for partition in of.values()
            ):
                for records in consumer.poll(200).values():
                    quiet = time.monotonic()
                    for record in records:
                        headers = {name: value or b"" for name, value in record.headers}
                        place = TopicPartition(record.topic, record.partition)
                        yield Message(*place, record.key, record.value, headers)
                if time.monotonic() - quiet > 2 * REACH_S:
                    raise BrokerUnavailableError(f"no answer from Kafka at {self._servers}")

    def send(self, messages: Sequence[Message]) -> list[int]:
        large: list[int] = []
        failure: Exception | None = None
        errors = self._kafka.errors
        with self._errors():
            self._producer = self._producer or self._made(self._kafka.KafkaProducer, acks="all")
            sent = []
            try:
                for message in messages:
                    sent.append(self._handed(message))  # noqa: PERF401 (those before a failure)
            except errors.KafkaError as error:
                failure = error
            # All are waited for, also where one has failed: what is given up here must not be sent
            # later. None takes longer than the producer's own limit.
            deadline = time.monotonic() + SEND_S
            for i, future in enumerate(sent):
                try:
                    future.get(max(0.0, deadline - time.monotonic()))
                except (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError):
                    large.append(i)
                except errors.KafkaError as error:
                    failure = failure or error
            if failure is not None:
                self.close()
                raise failure
        return large

    def _handed(self, m: Message) -> Any:
        headers = [*m.headers.items()] if self.headers else None
        return self._producer.send(
            m.topic, value=m.value, key=m.key, headers=headers, partition=m.partition
        )

    def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(self._kafka.errors.KafkaError):
                producer.close(timeout=1)

    @contextmanager
    def _reader(self) -> Iterator[Any]:
        consumer_of = self._kafka.KafkaConsumer
        with (
            self._errors(),
            closing(
                self._made(
                    consumer_of,
                    group_id=None,
                    enable_auto_commit=False,
                    auto_offset_reset="earliest",
                    max_partition_fetch_bytes=4 << 20,
                )
            ) as consumer,
        ):
            yield consumer

    def _made(self, cls: Any, **more: Any) -> Any:
        """A client of that class, with those of the options that it knows."""
        known = set(cls.DEFAULT_CONFIG) - self._reserved
        settings = {name: value for name, value in self._options.items() if name in known}
        if cls is self._kafka.KafkaProducer:
            more |= {
                "enable_idempotence": self.headers,  # both came with 0.11
                "max_request_size": LARGEST,
                "max_block_ms": int(REACH_S * 1000),
                "request_timeout_ms": int(SEND_S * 400),
                "delivery_timeout_ms": int(SEND_S * 800),
            }
        timeout = int(REACH_S * 1000)
        more |= {"bootstrap_timeout_ms": timeout, "allow_auto_create_topics": False}
        with surface_connection_errors():
            return cls(bootstrap_servers=self._servers.split(","), **settings | more)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What the library raises, as what it means."""
        errors = self._kafka.errors
        try:
            yield
        except StreamError:
            raise
        except (
            errors.SaslAuthenticationFailedError,
            errors.UnsupportedSaslMechanismError,
            errors.AuthorizationError,
            errors.UnsupportedVersionError,
            errors.KafkaConfigurationError,
            ValueError,
            TypeError,
            AssertionError,
        ) as error:
            raise StreamError(f"stream.client: {self._servers}: {_said(error)}") from None
        except (errors.KafkaError, OSError) as error:
            raise BrokerUnavailableError(
                f"no answer from Kafka at {self._servers} ({_said(error)})"
            ) from None


def outbox(library: str, servers: str, options: Mapping[str, Any]) -> Outbox:
    """An outbox by that library."""
    made: Mapping[str, Callable[[], type[Outbox]]] = {"kafka-python": lambda: KafkaPython}
    return made.get(library, _confluent)()(servers, options)


def _confluent() -> type[Outbox]:
    from streams.kafka.clients.confluent_producer import Confluent

    return Confluent


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
