"""What hands messages to Kafka, and sees to it that there are topics for them."""

from __future__ import annotations

import logging
import socket
import time
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from streams.core.errors import one_line
from streams.produce.messages import ProducedMessage, ProduceError

REACH_S = 10.0
"""How long a broker may take to answer before it counts as away."""
DELIVERY_S = 30.0
"""How long a message may take to be taken."""
CHUNKS_AHEAD = 4  # handed over and not yet taken: bounds the memory


class SendError(Exception):
    """Sending broke off: the message says why."""


class Sender(ABC):
    """Hands messages to Kafka, in the order of each partition."""

    @abstractmethod
    def send(self, messages: list[tuple[str, ProducedMessage]]) -> None:
        """Messages and their topics. Raises ``SendError`` once one was not taken."""

    @abstractmethod
    def finish(self) -> None:
        """Returns when all are taken; else raises ``SendError``."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of the connection, and of what was not taken."""


class KafkaPython(Sender):
    def __init__(self, servers: str) -> None:
        kafka = _kafka()
        self._errors = kafka.errors.KafkaError
        self._chunks: deque[list[Any]] = deque()
        self._producer = kafka.KafkaProducer(
            bootstrap_servers=servers.split(","),
            bootstrap_timeout_ms=int(REACH_S * 1000),
            linger_ms=20,
            batch_size=1 << 18,
            max_block_ms=int(REACH_S * 1000),
            request_timeout_ms=int(REACH_S * 1000),
            delivery_timeout_ms=int(DELIVERY_S * 1000),
            allow_auto_create_topics=False,
        )

    def send(self, messages: list[tuple[str, ProducedMessage]]) -> None:
        send = self._producer.send
        with self._failing():
            self._chunks.append(
                [send(topic, m.value, m.key, partition=m.partition) for topic, m in messages]
            )
            while len(self._chunks) > CHUNKS_AHEAD:
                self._settle()

    def finish(self) -> None:
        with self._failing():
            while self._chunks:
                self._settle()

    def close(self) -> None:
        with suppress(self._errors):
            self._producer.close(timeout=REACH_S)

    def _settle(self) -> None:
        for future in self._chunks.popleft():
            future.get(timeout=DELIVERY_S + REACH_S)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise SendError(one_line(error)) from None


class Confluent(Sender):
    def __init__(self, servers: str) -> None:
        from confluent_kafka import Producer

        self._failed: Any = None
        self._producer = Producer(
            {
                "bootstrap.servers": servers,
                "linger.ms": 20,
                "enable.idempotence": True,
                "message.timeout.ms": int(DELIVERY_S * 1000),
                "delivery.report.only.error": True,
                "queue.buffering.max.messages": 100_000,
            },
            logger=logging.getLogger("confluent_kafka"),
        )

    def send(self, messages: list[tuple[str, ProducedMessage]]) -> None:
        produce = self._producer.produce
        for topic, message in messages:
            while True:
                try:
                    produce(topic, message.value, message.key, message.partition, self._report)
                    break
                except BufferError:
                    self._poll(0.05)
        self._poll(0)

    def finish(self) -> None:
        left = self._producer.flush(DELIVERY_S + REACH_S)
        self._poll(0)
        if left:
            raise SendError(f"{left:,} messages were not taken in {DELIVERY_S:g} s")

    def close(self) -> None:
        self._producer.purge()
        self._producer.flush(REACH_S)

    def _poll(self, seconds: float) -> None:
        self._producer.poll(seconds)
        if self._failed is not None:
            raise SendError(self._failed.str())

    def _report(self, error: Any, message: Any) -> None:
        self._failed = self._failed or error


def prepare(servers: str, topics: list[str], partitions: int | None) -> int:
    """Sees to it that the topics are there; how many partitions they have."""
    kafka = _kafka()
    _reach(servers)
    try:
        admin = kafka.KafkaAdminClient(
            bootstrap_servers=servers.split(","), bootstrap_timeout_ms=int(REACH_S * 1000)
        )
    except (kafka.errors.KafkaError, OSError, ValueError) as error:
        raise ProduceError(
            f"--servers {servers}: no answer from Kafka ({one_line(error)})"
        ) from None
    try:
        counts = _counts(admin, topics)
        missing = [topic for topic in topics if not counts[topic]]
        if missing and partitions is None:
            raise ProduceError(
                f"there is no topic {missing[0]!r} at {servers}: --partitions N creates it"
            )
        if missing:
            wanted = {"num_partitions": partitions, "replication_factor": 1}
            admin.create_topics(dict.fromkeys(missing, wanted), wait_for_metadata=True)
            counts |= dict.fromkeys(missing, partitions or 1)
    except kafka.errors.KafkaError as error:
        raise ProduceError(f"--servers {servers}: {one_line(error)}") from None
    finally:
        admin.close()
    for topic in topics:
        if counts[topic] != (partitions or counts[topics[0]]):
            raise ProduceError(
                f"the topic {topic!r} has {counts[topic]} partitions, not "
                f"{partitions or counts[topics[0]]}: an event and its label go to partitions of "
                "one number"
            )
    return counts[topic]


def _reach(servers: str) -> None:
    """Waits until one of the brokers takes a connection: the library leaves sockets open where
    none does."""
    end = time.monotonic() + REACH_S
    why = ""
    while True:
        for server in servers.split(","):
            host, _, port = server.strip().rpartition(":")
            if not host or not port.isdigit():
                raise ProduceError(f"--servers {servers}: HOST:PORT is wanted")
            try:
                socket.create_connection((host, int(port)), REACH_S).close()
                return
            except (OSError, OverflowError) as error:
                why = one_line(error)
        if time.monotonic() > end:
            raise ProduceError(f"--servers {servers}: no answer from Kafka ({why})")
        time.sleep(0.2)


def _counts(admin: Any, topics: list[str]) -> dict[str, int]:
    """Partitions of each topic; 0: it is not there."""
    return {found["name"]: len(found["partitions"]) for found in admin.describe_topics(topics)}


def _kafka() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it reads its own files in a way that is going
        import kafka
        import kafka.errors
    return kafka
