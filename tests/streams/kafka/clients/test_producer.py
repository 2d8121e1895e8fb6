"""What is sent to topics, and found there."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from streams.core.errors import StreamError
from streams.core.live_stream import BrokerUnavailableError
from streams.kafka.clients.producer import Message, Outbox, outbox

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # kafka-python reads its own files in a way that is going
    from kafka.admin import KafkaAdminClient, NewTopic


@pytest.fixture(params=["kafka-python", "confluent-kafka"])
def library(request: pytest.FixtureRequest) -> str:
    if request.param == "confluent-kafka":
        pytest.importorskip("confluent_kafka")
    return str(request.param)


@pytest.fixture
def box(library: str, broker: str) -> Iterator[Outbox]:
    box = outbox(library, broker, {})
    yield box
    box.close()


@pytest.fixture
def topic(broker: str) -> str:
    name = f"out-{uuid.uuid4().hex[:8]}"
    admin = KafkaAdminClient(bootstrap_servers=broker)
    admin.create_topics([NewTopic(name, 2, 1)])
    admin.close()
    return name


def messages(topic: str, *numbers: int) -> list[Message]:
    return [Message(topic, i % 2, b"%d" % i, b"v%d" % i, {"n": b"%d" % i}) for i in numbers]


def test_what_was_sent_is_found(box: Outbox, topic: str) -> None:
    start = box.ends(topic)
    assert start == {(topic, 0): 0, (topic, 1): 0}
    sent = messages(topic, 0, 1, 2, 3, 4)
    assert box.send(sent) == []
    assert sorted(box.since(start), key=lambda m: m.key or b"") == sent
    assert box.send(messages(topic, 5)) == []
    assert messages(topic, 5)[0] in [*box.since(box.ends(topic)), *box.since({(topic, 1): 2})]
    assert list(box.since({})) == []


def test_by_key_without_value(box: Outbox, topic: str) -> None:
    start = box.ends(topic)
    assert box.send([Message(topic, None, b"k", None, {"left_out": b"x"})]) == []
    (found,) = box.since(start)
    assert (found.key, found.value, found.headers) == (b"k", None, {"left_out": b"x"})


def test_positions_that_are_gone_are_passed_over(box: Outbox, topic: str) -> None:
    box.send(messages(topic, 0, 1))
    found = list(box.since({(topic, 0): 10_000, (topic, 1): 10_000}))  # of a topic made anew
    assert sorted(m.key or b"" for m in found) == [b"0", b"1"]


def test_a_topic_that_is_not_there(box: Outbox) -> None:
    with pytest.raises(StreamError, match="there is no topic 'none-such'"):
        box.ends("none-such")


@pytest.mark.parametrize("version", [0.9, "2.8", [2]])
def test_a_version_that_is_no_list(version: Any) -> None:
    with pytest.raises(
        StreamError, match=r"^stream\.client\.api_version: .* expected a list like \[0, 9\]"
    ):
        outbox("kafka-python", "127.0.0.1:1", {"api_version": version})


def test_nobody_there(library: str, brokers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("streams.kafka.clients.producer", "streams.kafka.clients.confluent_producer"):
        monkeypatch.setattr(f"{module}.REACH_S", 0.5)
        monkeypatch.setattr(f"{module}.SEND_S", 1.5)
    box = outbox(library, f"127.0.0.1:{brokers.free_port()}", {})
    with pytest.raises(BrokerUnavailableError, match="no answer from Kafka at 127"):
        box.ends("t")
    with pytest.raises(BrokerUnavailableError, match="no answer from Kafka at 127"):
        box.send(messages("t", 0))
    box.close()
