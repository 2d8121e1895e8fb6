"""Producers deliver records to topics, and read them back."""

from __future__ import annotations

import threading
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streams.core.errors import StreamError
from streams.core.live_stream import BrokerUnavailableError
from streams.kafka.clients import timeouts
from streams.kafka.clients.factory import create_producer
from streams.kafka.clients.producer import Producer, ProducerRecord
from streams.kafka.records import TopicPartition

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # kafka-python reads its own files in a way that is going
    from kafka.admin import KafkaAdminClient, NewTopic


@pytest.fixture(params=["kafka-python", "confluent-kafka"])
def library(request: pytest.FixtureRequest) -> str:
    if request.param == "confluent-kafka":
        pytest.importorskip("confluent_kafka")
    return str(request.param)


@pytest.fixture
def producer(library: str, broker: str) -> Iterator[Producer]:
    producer = create_producer(library, broker, {})
    yield producer
    producer.close()


@pytest.fixture
def topic(broker: str) -> str:
    name = f"out-{uuid.uuid4().hex[:8]}"
    admin = KafkaAdminClient(bootstrap_servers=broker)
    admin.create_topics([NewTopic(name, 2, 1)])
    admin.close()
    return name


def messages(topic: str, *numbers: int) -> list[ProducerRecord]:
    return [ProducerRecord(topic, i % 2, b"%d" % i, b"v%d" % i, {"n": b"%d" % i}) for i in numbers]


def test_send_records_are_read_back(producer: Producer, topic: str) -> None:
    start = producer.end_offsets(topic)
    assert start == {TopicPartition(topic, 0): 0, TopicPartition(topic, 1): 0}
    sent = messages(topic, 0, 1, 2, 3, 4)
    assert producer.send(sent) == []
    assert sorted(producer.read_from(start), key=lambda m: m.key or b"") == sent
    assert producer.send(messages(topic, 5)) == []
    assert messages(topic, 5)[0] in [
        *producer.read_from(producer.end_offsets(topic)),
        *producer.read_from({TopicPartition(topic, 1): 2}),
    ]
    assert list(producer.read_from({})) == []


def test_send_key_without_value_is_read_back(producer: Producer, topic: str) -> None:
    start = producer.end_offsets(topic)
    assert producer.send([ProducerRecord(topic, None, b"k", None, {"left_out": b"x"})]) == []
    (found,) = producer.read_from(start)
    assert (found.key, found.value, found.headers) == (b"k", None, {"left_out": b"x"})


def test_read_from_deleted_offsets_skips_them(producer: Producer, topic: str) -> None:
    producer.send(messages(topic, 0, 1))
    found = list(
        producer.read_from({TopicPartition(topic, 0): 10_000, TopicPartition(topic, 1): 10_000})
    )  # of a topic made anew
    assert sorted(m.key or b"" for m in found) == [b"0", b"1"]


def test_end_offsets_missing_topic_raises(producer: Producer) -> None:
    with pytest.raises(StreamError, match="there is no topic 'none-such'"):
        producer.end_offsets("none-such")


@pytest.mark.parametrize("version", [0.9, "2.8", [2]])
def test_producer_api_version_no_list_raises(version: Any) -> None:
    with pytest.raises(
        StreamError, match=r"^stream\.client\.api_version: .* expected a list like \[0, 9\]"
    ):
        create_producer("kafka-python", "127.0.0.1:1", {"api_version": version})


def test_producer_broker_away_raises_unavailable(
    library: str, brokers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "BROKER_TIMEOUT_S", 0.5)
    monkeypatch.setattr(timeouts, "SEND_TIMEOUT_S", 1.5)
    producer = create_producer(library, f"127.0.0.1:{brokers.free_port()}", {})
    with pytest.raises(BrokerUnavailableError, match="no answer from Kafka at 127"):
        producer.end_offsets("t")
    with pytest.raises(BrokerUnavailableError, match="no answer from Kafka at 127"):
        producer.send(messages("t", 0))
    producer.close()


def test_enqueue_many_records_flush_delivers_all_in_order(
    library: str, broker: str, topic: str
) -> None:
    producer = create_producer(library, broker, {}, bulk=True)
    start = producer.end_offsets(topic)
    chunks = [messages(topic, *range(first, first + 100)) for first in range(0, 1000, 100)]
    for chunk in chunks:
        producer.enqueue(chunk)
    producer.flush()
    assert producer.delivered == 1000
    records = list(producer.read_from(start))
    producer.close()
    assert producer.delivered == 1000
    for partition in (0, 1):
        expected = [r for chunk in chunks for r in chunk if r.partition == partition]
        assert [r for r in records if r.partition == partition] == expected


def test_flush_broker_away_raises_unavailable(
    library: str, brokers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "BROKER_TIMEOUT_S", 0.5)
    monkeypatch.setattr(timeouts, "BULK_DELIVERY_TIMEOUT_S", 1.5)
    address = f"127.0.0.1:{brokers.free_port()}"
    producer = create_producer(library, address, {}, bulk=True)
    producer.flush()  # nothing was enqueued

    def deliver() -> None:
        producer.enqueue(messages("t", 0))
        producer.flush()

    with pytest.raises(BrokerUnavailableError, match="no answer from Kafka at 127"):
        deliver()
    assert producer.delivered == 0
    producer.close()


def test_close_broker_lost_stops_sending(
    library: str, brokers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "BROKER_TIMEOUT_S", 0.5)
    before = set(threading.enumerate())
    with brokers.tansu(tmp_path) as address:
        brokers.make_topics(address, "t")
        producer = create_producer(library, address, {}, bulk=True)
        producer.enqueue(messages("t", 0))
        producer.flush()
    producer.enqueue(messages("t", 2))  # its own limit of time is far longer
    producer.close()
    producer.close()
    assert producer.delivered == 1
    assert [t.name for t in set(threading.enumerate()) - before if t.is_alive()] == []
