"""Records arrive exactly once, wherever the publisher breaks off between intent and outcome."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from pipeline.dead_letters.publisher import IdempotentPublisher, Offsets
from streams.core.live_stream import BrokerUnavailableError
from streams.kafka.clients.producer import Producer, ProducerRecord
from streams.kafka.records import TopicPartition

DEAD = TopicPartition("dead", 0)


class MemoryProducer(Producer):
    """A topic in memory, whose connection breaks after ``limit`` records."""

    def __init__(self, *_: Any) -> None:
        self.topic: list[ProducerRecord] = []
        self.limit: int | None = None
        self.reads = 0

    def end_offsets(self, topic: str) -> Offsets:
        return {TopicPartition(topic, 0): len(self.topic)}

    def read_from(self, offsets: Mapping[TopicPartition, int]) -> Iterator[ProducerRecord]:
        self.reads += 1
        yield from self.topic[offsets[DEAD] :]

    def send(self, records: Sequence[ProducerRecord]) -> list[int]:
        too_large = []
        for i, record in enumerate(records):
            if self.limit == 0:
                raise BrokerUnavailableError("away")
            if len(record.value or b"") > 9:
                too_large.append(i)
                continue
            self.limit = None if self.limit is None else self.limit - 1
            self.topic.append(record)
        return too_large

    def enqueue(self, records: Sequence[ProducerRecord]) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        raise NotImplementedError

    @property
    def delivered(self) -> int:
        return 0

    def close(self) -> None:
        pass


def record(id_: str, sender: bytes = b"us", value: bytes = b"v") -> ProducerRecord:
    return ProducerRecord("dead", None, id_.encode(), value, {"run": sender})


def id_of(record: ProducerRecord) -> str | None:
    return (record.key or b"").decode() if record.headers["run"] == b"us" else None


def publish(publisher: IdempotentPublisher, ids: Sequence[str]) -> list[str]:
    return publisher.send({id_: record(id_) for id_ in publisher.missing(ids)})


@pytest.mark.parametrize("sent", range(5))
def test_publisher_crash_during_send_each_record_once(sent: int) -> None:
    producer, ids = MemoryProducer(), ["a", "b", "c", "d"]
    publisher = IdempotentPublisher(producer, id_of)
    intent = publisher.begin(["dead"])
    producer.limit = sent
    if sent < len(ids):
        with pytest.raises(BrokerUnavailableError):
            publish(publisher, ids)
    else:
        assert publish(publisher, ids) == []
    producer.topic.append(record("a", sender=b"others"))
    producer.limit = None
    restarted = IdempotentPublisher(producer, id_of)
    restarted.recover(intent)
    assert publish(restarted, ids) == []
    ours = [id_ for r in producer.topic if (id_ := id_of(r)) is not None]
    assert sorted(ours) == ids


def test_publisher_after_begin_reads_nothing() -> None:
    producer = MemoryProducer()
    publisher = IdempotentPublisher(producer, id_of)
    publisher.recover(publisher.begin(["dead"]))
    assert publish(publisher, ["a"]) == []
    assert publisher.begin(["dead", "dead"]) == {DEAD: 1}
    assert publish(publisher, ["b"]) == []
    assert producer.reads == 1


def test_publisher_too_large_record_returns_its_id() -> None:
    producer = MemoryProducer()
    publisher = IdempotentPublisher(producer, id_of)
    records = {"a": record("a"), "b": record("b", value=b"x" * 10), "c": record("c")}
    assert publisher.send(records) == ["b"]
    assert publisher.send({}) == []
    assert [r.key for r in producer.topic] == [b"a", b"c"]
