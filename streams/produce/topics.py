"""Finds or creates the topics that `everlearn produce` sends to."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import Any

from streams.core.errors import one_line
from streams.kafka.clients import timeouts
from streams.kafka.clients.libraries import import_kafka_python
from streams.produce.messages import ProduceError


def ensure_topics(servers: str, topics: Sequence[str], partitions: int | None) -> int:
    """Create the topics that do not exist, and return how many partitions they all have.

    Args:
        servers: ``host:port`` of some of the brokers, separated by commas.
        topics: their names.
        partitions: how many each is to have; None: all topics must exist.

    Raises:
        ProduceError: no broker answers, or a topic is missing or has another number of partitions.
    """
    kafka = import_kafka_python()
    _await_connection(servers)
    timeout = int(timeouts.BROKER_TIMEOUT_S * 1000)
    try:
        admin = kafka.KafkaAdminClient(
            bootstrap_servers=servers.split(","), bootstrap_timeout_ms=timeout
        )
    except (kafka.errors.KafkaError, OSError, ValueError) as error:
        raise ProduceError(
            f"--servers {servers}: no answer from Kafka ({one_line(error)})"
        ) from None
    try:
        counts = _partition_counts(admin, topics)
        missing = [topic for topic in topics if not counts[topic]]
        if missing and partitions is None:
            raise ProduceError(
                f"there is no topic {missing[0]!r} at {servers}: --partitions N creates it"
            )
        if missing:
            settings = {"num_partitions": partitions, "replication_factor": 1}
            admin.create_topics(dict.fromkeys(missing, settings), wait_for_metadata=True)
            counts |= dict.fromkeys(missing, partitions or 1)
    except kafka.errors.KafkaError as error:
        raise ProduceError(f"--servers {servers}: {one_line(error)}") from None
    finally:
        admin.close()
    expected = partitions or counts[topics[0]]
    for topic in topics:
        if counts[topic] != expected:
            raise ProduceError(
                f"the topic {topic!r} has {counts[topic]} partitions, not {expected}: an event and "
                "its label go to partitions of the same number"
            )
    return expected


def _await_connection(servers: str) -> None:
    """Wait until one of the brokers accepts a connection: kafka-python leaks sockets if none
    does."""
    end = time.monotonic() + timeouts.BROKER_TIMEOUT_S
    while True:
        for server in servers.split(","):
            host, _, port = server.strip().rpartition(":")
            if not host or not port.isdigit():
                raise ProduceError(f"--servers {servers}: expected HOST:PORT")
            try:
                socket.create_connection((host, int(port)), timeouts.BROKER_TIMEOUT_S).close()
                return
            except (OSError, OverflowError) as error:
                cause = one_line(error)
        if time.monotonic() > end:
            raise ProduceError(f"--servers {servers}: no answer from Kafka ({cause})")
        time.sleep(0.2)


def _partition_counts(admin: Any, topics: Sequence[str]) -> dict[str, int]:
    """Return the number of partitions of each topic, 0 for one that does not exist."""
    described = admin.describe_topics(list(topics))
    return {topic["name"]: len(topic["partitions"]) for topic in described}
