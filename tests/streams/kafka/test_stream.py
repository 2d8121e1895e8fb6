"""Topics of a real broker, read by either library: each record once, and ranges read again as they
were."""

from __future__ import annotations

import gc
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from streams.core.batch import Batch
from streams.core.errors import StreamError
from streams.core.live_stream import BrokerUnavailableError, Ranges, ranges_of, reached
from streams.kafka import fetcher, range_reader
from streams.kafka import stream as module
from streams.kafka.clients import timeouts
from streams.kafka.clients.confluent_consumer import ConfluentConsumer
from streams.kafka.clients.errors import OutOfRangeError
from streams.kafka.clients.factory import create_consumer
from streams.kafka.clients.kafka_python_consumer import KafkaPythonConsumer, record_batch
from streams.kafka.config import KafkaConfig
from streams.kafka.records import RecordBatch, TopicPartition
from streams.kafka.stream import KafkaStream

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # kafka-python reads its own files in a way that is going
    from kafka import KafkaConsumer, KafkaProducer
    from kafka.admin import KafkaAdminClient, NewTopic

FEATURES = {"numeric": ["a"]}
LABELS = {"id": "id", "label": "y"}


@pytest.fixture(params=["kafka-python", "confluent-kafka"])
def library(request: pytest.FixtureRequest) -> str:
    if request.param == "confluent-kafka":
        pytest.importorskip("confluent_kafka", reason="pip install 'everlearn[confluent]'")
    return str(request.param)


class Topic:
    """A topic of its own: where it is, and what sends to it."""

    def __init__(self, servers: str, producer: Any, name: str) -> None:
        self.servers = servers
        self.name = name
        self._producer = producer

    def send(self, partition: int, *values: bytes | None, time: int = 1000) -> None:
        for value in values:  # batches of one: it is then known where the topic ends
            self._producer.send(
                self.name, value=value, key=b"k", partition=partition, timestamp_ms=time
            ).get(10)


@pytest.fixture(scope="module")
def producer(broker: str) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        producer = KafkaProducer(bootstrap_servers=broker, linger_ms=0)
    yield producer
    producer.close()


NAMES = itertools.count()


@pytest.fixture
def topic(broker: str, producer: Any) -> Callable[..., Topic]:
    def create(partitions: int = 2) -> Topic:
        name = f"kafka-{next(NAMES)}-{os.getpid()}"
        admin = KafkaAdminClient(bootstrap_servers=broker)
        admin.create_topics([NewTopic(name, partitions, 1)])
        admin.close()
        return Topic(broker, producer, name)

    return create


def stream(events: Topic, library: str, labels: Topic | None = None, **changes: Any) -> KafkaStream:
    about: dict[str, Any] = {
        "kind": "kafka",
        "servers": events.servers,
        "topic": events.name,
        "features": FEATURES,
        "id": "id",
        "library": library,
        "linger": 0.05,
    }
    if labels is None:
        about["label"] = "y"
    else:
        about["labels"] = {"topic": labels.name, **LABELS}
    return KafkaStream(KafkaConfig(**(about | changes)), Path())


def event(i: int, a: Any = None, **more: Any) -> bytes:
    return json.dumps({"id": i, "a": i / 2 if a is None else a, "y": "up", **more}).encode()


def label(i: int) -> bytes:
    return json.dumps({"id": i, "y": ("up", "down")[i % 2]}).encode()


def contents(batch: Batch) -> Any:
    """Return all that a block holds."""
    a = batch.arrivals
    labels = None
    if a is not None:
        names = [batch.classes[code] for code in a.y]
        assert a.withdrawn is None
        own = [n for n in a.__slots__ if n not in ("y", "withdrawn")]
        labels = [getattr(a, n).tolist() for n in own] + [names]
    columns = ("ids", "time", "x", "partition", "offset")
    return [getattr(batch, n).tolist() for n in columns], labels, batch.dead


def read(
    kafka: KafkaStream,
    until: Mapping[str, int],
    cursor: Mapping[str, int] | None = None,
    size: int = 10,
) -> list[Batch]:
    """Blocks up to a position."""
    at = dict(kafka.start() if cursor is None else cursor)
    found, end = [], time.monotonic() + 30
    with closing(kafka.read(at, size)) as blocks:  # type: ignore[type-var]
        for block in blocks:
            assert time.monotonic() < end, (at, until)
            ranges = ranges_of(block)
            for name, (first, after) in ranges.items():
                assert first == at.get(name, first), "something was lost, or came twice"
                at[name] = after
            if ranges or block.flush:
                found.append(block)
            if reached(at, until):
                return found
    raise AssertionError("reading never ends")


@pytest.fixture
def filled(topic: Callable[..., Topic]) -> tuple[Topic, Topic, dict[str, int]]:
    """Events on three partitions and labels on two, bad ones among them, and where they end."""
    events, labels = topic(3), topic(2)
    chance = np.random.default_rng(0)
    for i in range(60):
        at = int(chance.integers(0, 40))
        bad = {7: b"{", 20: b"", 21: event(21, "x"), 40: None}
        events.send(i % 3, bad.get(i, event(i)), time=at * 1000)
        labels.send(i % 2, b"[]" if i == 11 else label(i), time=(at + 3) * 1000)
    return events, labels, {"0": 20, "1": 20, "2": 20, "labels/0": 30, "labels/1": 30}


def test_read_ranges_gives_each_block_again(
    filled: tuple[Topic, Topic, dict[str, int]], library: str
) -> None:
    events, labels, end = filled
    kafka = stream(events, library, labels)
    assert kafka.start() == dict.fromkeys(end, 0)
    blocks = read(kafka, end)
    ids = sorted(i for block in blocks for i in block.ids.tolist())
    assert ids == sorted(set(range(60)) - {7, 20, 21, 40})
    named = [i for b in blocks if b.arrivals is not None for i in b.arrivals.ids.tolist()]
    assert sorted(named) == sorted(set(range(60)) - {11})
    dead = sorted((d.label, d.partition, d.offset, d.value) for b in blocks for d in b.dead)
    assert dead[:3] == [(False, 0, 7, event(21, "x")), (False, 1, 2, b"{"), (False, 2, 6, b"")]
    assert dead[3:] == [(True, 1, 5, b"[]")]
    deleted = [b.tombstones for b in blocks if b.tombstones is not None]
    assert [(t.partition.tolist(), t.offset.tolist()) for t in deleted] == [([1], [13])]
    again = stream(events, library, labels)
    for block in blocks:
        assert contents(again.read_ranges(ranges_of(block), block.read_at)) == contents(block)
    whole: Ranges = {name: (0, after) for name, after in end.items()}
    assert sum(len(b) for b in blocks) == len(again.read_ranges(whole))
    assert contents(again.read_ranges(whole)) == contents(
        stream(events, "kafka-python", labels).read_ranges(whole)
    )
    assert len(again.read_ranges({})) == 0


@pytest.mark.parametrize("offset", [1, 19])
def test_read_from_cursor_starts_there(
    filled: tuple[Topic, Topic, dict[str, int]], library: str, offset: int
) -> None:
    events, labels, end = filled
    cursor = dict.fromkeys(end, offset)
    blocks = read(stream(events, library, labels), end, cursor, size=7)
    deleted = sum(len(b.tombstones) for b in blocks if b.tombstones is not None)
    assert sum(b.events for b in blocks) + deleted == 3 * (20 - offset)


def test_read_idle_topic_flushes_once(topic: Callable[..., Topic], library: str) -> None:
    events = topic(2)
    kafka = stream(events, library)
    events.send(0, event(0), event(1))
    blocks: list[Batch] = []
    with closing(kafka.read({"0": 0, "1": 0}, 100)) as reading:  # type: ignore[type-var]
        while sum(map(len, blocks)) < 2 or not blocks[-1].flush:
            blocks.append(next(reading))
        assert sum(b.flush for b in blocks) >= 1
        idle = [next(reading) for _ in range(2)]
        assert not any(len(b) or b.flush for b in idle)
        started = time.monotonic()
        events.send(1, event(2))
        while not len(block := next(reading)):
            pass
        assert block.ids.tolist() == [2]
        assert time.monotonic() - started < 3


def test_start_stop_and_end_cursors(topic: Callable[..., Topic], library: str) -> None:
    events = topic(2)
    events.send(0, event(0), event(1), event(2))
    assert stream(events, library).start() == {"0": 0, "1": 0}
    assert stream(events, library, start="latest").start() == {"0": 3, "1": 0}
    assert not stream(events, library).bounded
    kafka = stream(events, library, stop="latest")
    assert kafka.stop() == {"0": 3, "1": 0}
    events.send(1, event(3))
    assert kafka.end() == {"0": 3, "1": 1}  # by the connection that it holds
    kafka.close()
    assert kafka.end() == {"0": 3, "1": 1}
    kafka.close()


def test_start_time_looks_up_offsets(
    topic: Callable[..., Topic], library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def offsets_for_times(
        self: Any, partitions: Sequence[TopicPartition], timestamp_ms: int
    ) -> dict[TopicPartition, int]:
        asked.append(timestamp_ms)  # the broker of these tests keeps no times
        return dict.fromkeys(partitions, 7)

    events = topic(2)
    kafka = stream(events, library, start="2024-05-01T00:00:00.5Z")
    monkeypatch.setattr(type(kafka._connect()), "offsets_for_times", offsets_for_times)
    assert kafka.start() == {"0": 7, "1": 7}
    assert asked == [1_714_521_600_500]


def test_read_two_event_topics(topic: Callable[..., Topic], library: str) -> None:
    one, other = topic(1), topic(2)
    one.send(0, event(0), event(1), time=3000)
    other.send(1, event(2), time=1000)
    kafka = stream(one, library, topic=[one.name, other.name])
    end = {"0": 2, "65536": 0, "65537": 1}
    assert kafka.start() == dict.fromkeys(end, 0)
    assert kafka.end() == end
    kafka.close()
    assert sorted(i for b in read(kafka, end) for i in b.ids.tolist()) == [0, 1, 2]
    again = kafka.read_ranges({"0": (0, 2), "65537": (0, 1)})
    assert again.ids.tolist() == [2, 0, 1]
    assert again.partition.tolist() == [65537, 0, 0]


def test_read_missing_topic_raises(broker: str, producer: Any, library: str) -> None:
    none = Topic(broker, producer, "nowhere")
    with pytest.raises(StreamError, match=rf"^there is no topic 'nowhere' at {broker}: create it"):
        stream(none, library).start()
    with pytest.raises(StreamError, match="there is no topic 'nowhere'"):
        next(iter(stream(none, library).read({}, 10)))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # kafka-python's
def test_broker_away_raises_and_read_waits(
    library: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(timeouts, "BROKER_TIMEOUT_S", 0.7)
    kafka = stream(Topic("127.0.0.1:1", None, "t"), library)
    began = time.monotonic()
    for call in (kafka.start, kafka.end, lambda: kafka.read_ranges({"0": (0, 1)})):
        with pytest.raises(
            BrokerUnavailableError, match=r"stream\.servers: no answer .* 127\.0\.0\.1:1 \("
        ):
            call()
    block = next(iter(kafka.read({"0": 0}, 10)))  # waits, and says that it does
    assert len(block) == 0
    assert time.monotonic() - began < 8
    assert capfd.readouterr() == ("", "")

    gc.collect()


@pytest.mark.parametrize(
    ("client", "said"),
    [
        ({"seession_timeout_ms": 1}, "seession.timeout.ms"),
        ({"group_id": "x"}, "group.id"),
        ({"bootstrap_servers": "x"}, "bootstrap.servers"),
        ({"enable_auto_commit": True}, "enable.auto.commit"),
        ({"session_timeout_ms": "soon"}, "session.timeout.ms|int"),
    ],
)
def test_client_unknown_or_reserved_option_raises(
    broker: str, library: str, client: dict[str, Any], said: str
) -> None:
    kafka = stream(Topic(broker, None, "t"), library, client=client)
    with pytest.raises(StreamError, match=rf"^stream\.client: .*({said})".replace("_", ".")) as e:
        kafka.start()
    assert not isinstance(e.value, BrokerUnavailableError)


def test_read_ranges_missing_records_raises(
    topic: Callable[..., Topic], library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = topic(1)
    events.send(0, event(0))
    monkeypatch.setattr(module, "REREAD_TIMEOUT_S", 0.5)
    kafka = stream(events, library)
    gone = (
        rf"^the topic .{events.name}. ends at offset 1 of partition 0, and this .* up to 2: it was"
    )
    with pytest.raises(StreamError, match=gone) as caught:
        kafka.read_ranges({"0": (0, 2)})
    assert not isinstance(caught.value, BrokerUnavailableError)
    assert kafka.read_ranges({"0": (0, 1)}).ids.tolist() == [0]
    monkeypatch.setattr(
        type(kafka._connect()), "end_offsets", lambda _, partitions: dict.fromkeys(partitions, 9)
    )
    with pytest.raises(BrokerUnavailableError, match=rf"does not deliver again .* {events.name}/0"):
        kafka.read_ranges({"0": (0, 2)})
    events.send(0, event(1))
    assert kafka.read_ranges({"0": (0, 2)}).ids.tolist() == [0, 1]  # goes on where it was
    kafka.close()


def assigned(
    kafka: KafkaStream, monkeypatch: pytest.MonkeyPatch
) -> list[dict[TopicPartition, int]]:
    """Record what its consumers are assigned from now on."""
    kind, assignments = type(kafka._connect()), []
    assign = kind.assign

    def noted(self: Any, positions: Mapping[TopicPartition, int]) -> None:
        assignments.append(dict(positions))
        assign(self, positions)

    monkeypatch.setattr(kind, "assign", noted)
    return assignments


def test_read_ranges_consecutive_needs_no_seek(
    topic: Callable[..., Topic], library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = topic(2)
    for i in range(40):
        events.send(i % 2, event(i))
    kafka = stream(events, library)
    assignments = assigned(kafka, monkeypatch)
    for i in range(0, 18, 2):  # turns, gaps, and both at once
        assert kafka.read_ranges({"0": (i, i + 2)}).ids.tolist() == [2 * i, 2 * i + 2]
        assert kafka.read_ranges({"1": (i + 1, i + 2)}).ids.tolist() == [2 * i + 3]
    assert sorted(kafka.read_ranges({"0": (18, 20), "1": (19, 20)}).ids.tolist()) == [36, 38, 39]
    assert assignments[0] == {TopicPartition(events.name, 0): 0}
    assert assignments[1][TopicPartition(events.name, 1)] == 1
    assert len(assignments) == 2
    assert kafka.read_ranges({"0": (3, 4)}).ids.tolist() == [6]  # back
    assert len(assignments) == 3
    kafka.close()


def test_range_reader_surplus_stays_bounded(
    topic: Callable[..., Topic], library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = topic(2)
    for i in range(20):
        events.send(0, event(i))
    events.send(1, event(20))
    monkeypatch.setattr(range_reader, "MAX_SURPLUS_BYTES", 0)
    monkeypatch.setattr(module, "REREAD_TIMEOUT_S", 0.3)
    kafka = stream(events, library)
    assignments = assigned(kafka, monkeypatch)
    monkeypatch.setattr(
        type(kafka._connect()), "end_offsets", lambda _, partitions: dict.fromkeys(partitions, 9)
    )
    both = {"0": (2, 4), "1": (0, 2)}
    for _ in range(5):
        with pytest.raises(BrokerUnavailableError):
            kafka.read_ranges(both)
    assert assignments[-1] == {
        TopicPartition(events.name, 1): assignments[-1][TopicPartition(events.name, 1)]
    }
    sent = threading.Timer(0.2, events.send, (1, event(21)))
    sent.start()
    until_given: list[int] = []
    while not until_given:
        with suppress(BrokerUnavailableError):
            until_given = kafka.read_ranges(both).ids.tolist()
    sent.join()
    assert sorted(until_given) == [2, 3, 20, 21]
    monkeypatch.setattr(module, "REREAD_TIMEOUT_S", 10.0)
    assert kafka.read_ranges({"0": (4, 20)}).ids.tolist() == list(range(4, 20))
    kafka.close()


def test_stop_after_transaction_is_last_record(topic: Callable[..., Topic], library: str) -> None:
    """Of a partition the end of a transaction is the last, and of one nothing else ever was."""
    events = topic(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sending = KafkaProducer(bootstrap_servers=events.servers, transactional_id=events.name)
    with closing(sending):
        sending.init_transactions()
        sending.begin_transaction()
        for i in range(5):
            sending.send(events.name, event(i), partition=0, timestamp_ms=1000)
        sending.commit_transaction()
    events.send(1, event(5), event(6))
    kafka = stream(events, library, stop="latest")
    assert kafka.end() == {"0": 6, "1": 2, "2": 0}
    assert kafka.stop() == {"0": 5, "1": 2, "2": 0}
    blocks = read(kafka, kafka.stop())
    assert sorted(i for block in blocks for i in block.ids.tolist()) == list(range(7))
    kafka.close()


def test_last_record_ends_searches_back() -> None:
    """Far back, nowhere, and with others coming meanwhile: by a consumer that is made for it."""
    held = {"far": [*range(3, 7)], "none": [], "busy": [*range(90)]}
    end = {"far": 60, "none": 70, "busy": 80}
    sought: list[dict[str, int]] = []

    class Made:
        def beginning_offsets(
            self, partitions: Sequence[TopicPartition]
        ) -> dict[TopicPartition, int]:
            return dict.fromkeys(partitions, 2)

        def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
            return {partition: end[partition[0]] for partition in partitions}

        def assign(self, positions: Mapping[TopicPartition, int]) -> None:
            sought.append({topic: at for (topic, _), at in positions.items()})
            self.at = dict(positions)

        def poll(self, timeout: float, most: int) -> list[RecordBatch]:
            pieces = []
            for partition, at in self.at.items():
                offset = np.array([o for o in held[partition[0]] if o >= at], np.int64)
                if len(offset):
                    pieces.append(RecordBatch(partition, offset, offset, [b"v"] * len(offset)))
            self.at = {}
            return pieces

        def at_high_watermark(self, partition: TopicPartition) -> bool:
            return partition[0] != "busy"

    found = range_reader.last_record_ends(Made(), [(topic, 0) for topic in held])  # type: ignore[arg-type]
    assert found == {("far", 0): 7, ("none", 0): 2, ("busy", 0): 80}
    assert sought == [
        {"far": 59, "none": 69, "busy": 79},
        {"far": 52, "none": 62},
        {"far": 2, "none": 6},
        {"none": 2},
    ]


def test_client_wrong_option_value_names_the_option(
    broker: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**client: Any) -> str:
        with pytest.raises(StreamError) as caught:
            stream(Topic(broker, None, "t"), library, client=client).start()
        assert not isinstance(caught.value, BrokerUnavailableError)
        return str(caught.value)

    started = time.monotonic()
    protocols = "PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"
    assert refused(security_protocol="FOO") == (
        f"stream.client.security_protocol: 'FOO': expected one of {protocols}"
    )
    monkeypatch.setenv("PROTOCOL", "foo")
    assert "'foo'" in refused(security_protocol="${PROTOCOL}")
    file = "ssl_cafile" if library == "kafka-python" else "ssl.ca.location"
    assert refused(security_protocol="SSL", **{file: "/no/such"}) == (
        f"stream.client.{file}: there is no file '/no/such'"
    )
    if library == "kafka-python":
        for version in (0.9, "2.8"):
            assert refused(api_version=version) == (
                f"stream.client.api_version: {version!r} given; expected a list like [0, 9]"
            )
        said = refused(security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLIAN")
        assert said.startswith(
            "stream.client.sasl_mechanism: unknown mechanism 'PLIAN': did you mean 'PLAIN'?"
        )
    assert time.monotonic() - started < 5


def test_consumer_refused_sasl_names_the_cause(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "BROKER_TIMEOUT_S", 1.5)
    client = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "SCRAM-SHA-256"}
    client |= {"sasl_plain_username": "u", "sasl_plain_password": "hunter2"}
    with pytest.raises(StreamError, match=r"^stream\.client: .*UnsupportedSaslMech") as caught:
        create_consumer("kafka-python", broker, "g", client)
    assert not isinstance(caught.value, BrokerUnavailableError)
    assert "hunter2" not in str(caught.value)


def test_config_client_masks_secrets_refuses_partial_variable() -> None:
    def made(client: Any) -> KafkaConfig:
        return stream(Topic("x:1", None, "t"), "kafka-python", client=client).config

    client = {"proxy_url": "socks5://u:hunter2@h:1", "socks5_proxy": "http://h:1", "a": 1}
    client |= {"sasl_plain_password": "x", "ssl_password": "${KEY}"}
    assert made(client).model_dump(mode="json")["client"] == {
        "proxy_url": "socks5://***@h:1",
        "socks5_proxy": "http://h:1",
        "a": 1,
        "sasl_plain_password": "***",
        "ssl_password": "${KEY}",
    }
    for wrong, said in (
        ({"sasl_plain_password": "x${FOO}"}, r"sasl_plain_password: \$\{NAME\} must be the whole"),
        ("sasl_plain_password=hunter2", "expected a mapping of options"),
    ):
        with pytest.raises(ValidationError, match=said) as caught:
            made(wrong)
        assert caught.value.errors()[0]["type"] == "value_error"  # a job shows no input of such


def test_read_new_partition_is_found(
    topic: Callable[..., Topic], library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This broker adds none: one is hidden for a while."""
    events = topic(2)
    events.send(0, event(0))
    events.send(1, event(1))
    monkeypatch.setattr(fetcher, "METADATA_REFRESH_S", 0.1)
    kafka = stream(events, library)
    kind = type(kafka._connect())
    partitions_for_topic, hidden = kind.partitions_for_topic, [True]

    def visible(self: Any, topic: str) -> list[TopicPartition]:
        found = partitions_for_topic(self, topic)
        return found[:1] if hidden else found

    monkeypatch.setattr(kind, "partitions_for_topic", visible)
    assert kafka.start() == {"0": 0}
    ids: list[int] = []
    with closing(kafka.read({"0": 0}, 10)) as blocks:  # type: ignore[type-var]
        while ids != [0]:
            ids += next(blocks).ids.tolist()
        hidden.clear()
        while ids != [0, 1]:
            ids += next(blocks).ids.tolist()
        events.send(0, event(2))
        while ids != [0, 1, 2]:
            ids += next(blocks).ids.tolist()


def test_consumer_deleted_position_raises_out_of_range_error() -> None:
    """The broker of these tests deletes nothing; what either library says then is known."""
    from kafka import TopicPartition
    from kafka.errors import OffsetOutOfRangeError

    consumer = object.__new__(KafkaPythonConsumer)
    import kafka

    consumer._kafka = kafka
    consumer._servers = "s:1"
    gone = r"^the topic does not hold the offset to read from \(t/3 at 17\)"
    with pytest.raises(OutOfRangeError, match=gone), consumer._errors():
        raise OffsetOutOfRangeError({TopicPartition("t", 3): 17})
    confluent_kafka = pytest.importorskip("confluent_kafka")
    other = object.__new__(ConfluentConsumer)
    other._library, other._servers, other._refusal = confluent_kafka, "s:1", ""
    other._positions = {TopicPartition("t", 3): 17}

    class Message:
        def error(self) -> Any:
            return confluent_kafka.KafkaError(confluent_kafka.KafkaError._AUTO_OFFSET_RESET)

        def topic(self) -> str:
            return "t"

        def partition(self) -> int:
            return 3

        def offset(self) -> int:
            return 17

    with pytest.raises(OutOfRangeError, match=gone):
        other._on_error_record(Message())


def test_commit_offsets_are_visible_to_the_group(topic: Callable[..., Topic], library: str) -> None:
    events = topic(2)
    events.send(0, event(0), event(1), event(2))
    kafka = stream(events, library, group=f"of-{events.name}")
    with closing(kafka.read({"0": 0, "1": 0}, 10)) as blocks:  # type: ignore[type-var]
        next(blocks)
        kafka.commit({"0": 2, "1": 0})
        from kafka import TopicPartition

        with closing(member(events.servers, f"of-{events.name}")) as other:
            end = time.monotonic() + 10
            while other.committed(TopicPartition(events.name, 0)) != 2:
                assert time.monotonic() < end
                next(blocks)


def test_close_commits_last_offsets(topic: Callable[..., Topic], library: str) -> None:
    events = topic(1)
    events.send(0, event(0), event(1))
    kafka = stream(events, library, group=f"of-{events.name}")
    read(kafka, {"0": 2})
    kafka.commit({"0": 2})
    kafka.close()
    from kafka import TopicPartition

    with closing(member(events.servers, f"of-{events.name}")) as other:
        assert other.committed(TopicPartition(events.name, 0)) == 2
    away = stream(Topic("127.0.0.1:1", None, "t"), library)
    away.commit({"0": 2})
    started = time.monotonic()
    away.close()
    assert time.monotonic() - started < module.FINAL_COMMIT_TIMEOUT_S + 1


def test_consumer_unassigned_partition_not_at_watermark(
    topic: Callable[..., Topic], library: str
) -> None:
    events = topic(2)
    with closing(create_consumer(library, events.servers, "g", {})) as consumer:
        consumer.assign({TopicPartition(events.name, 0): 0})
        assert not consumer.at_high_watermark(TopicPartition(events.name, 1))


def test_record_batch_missing_timestamp_is_minus_one() -> None:
    class Record:
        def __init__(self, offset: int, timestamp: int | None) -> None:
            self.offset, self.timestamp, self.value = offset, timestamp, b""

    found = record_batch(TopicPartition("t", 0), [Record(4, 7), Record(5, None), Record(6, 9)])
    assert found.time.tolist() == [7, -1, 9]


def member(servers: str, group: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KafkaConsumer(
            bootstrap_servers=servers,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=6000,
            heartbeat_interval_ms=500,
        )


@contextmanager
def another(topic: Topic, group: str) -> Iterator[None]:
    """Another member of the group, which reads with it, and commits nothing."""
    done = threading.Event()
    joined = threading.Event()

    def go() -> None:
        with closing(member(topic.servers, group)) as other:
            other.subscribe([topic.name])
            while not done.is_set():
                other.poll(100)
                if other.assignment():
                    joined.set()

    thread = threading.Thread(target=go)
    thread.start()
    try:
        assert joined.wait(20)
        yield
    finally:
        done.set()
        thread.join(20)


def test_read_rebalance_each_record_once(topic: Callable[..., Topic], library: str) -> None:
    """What another has read meanwhile and never passed on is read, once, as soon as it has gone."""
    events, group = topic(4), f"group-{next(NAMES)}-{os.getpid()}"
    for i in range(8):
        events.send(i % 4, event(i))
    kafka = stream(events, library, assign="group", group=group)
    at: dict[str, int] = kafka.start()
    ids: list[int] = []
    stop, said = threading.Event(), []

    def go() -> None:
        try:
            with closing(kafka.read(at, 10)) as blocks:  # type: ignore[type-var]
                for block in blocks:
                    for name, (first, after) in ranges_of(block).items():
                        assert first == at[name], (name, first, at)
                        at[name] = after
                    ids.extend(block.ids.tolist())
                    if stop.is_set():
                        return
        except BaseException as error:  # assignments in the test
            said.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    try:
        until(lambda: len(ids) == 8 or said)
        with another(events, group):
            for i in range(8, 24):
                events.send(i % 4, event(i))
            until(lambda: len(ids) >= 12 or said)
            assert len(ids) < 24
        until(lambda: len(ids) == 24 or said)
    finally:
        stop.set()
        thread.join(20)
    assert said == []
    assert sorted(ids) == list(range(24))


def until(holds: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_consumer_confluent_not_installed_raises() -> None:
    code = (
        "import sys; sys.modules['confluent_kafka'] = None\n"
        "from streams.kafka.clients.factory import create_consumer\n"
        "create_consumer('confluent-kafka', 'localhost:1', 'g', {})"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "streams.core.errors.StreamError: stream.library: confluent-kafka is not installed: pip "
        "install 'everlearn[confluent]', or use kafka-python"
    )


def test_consumer_assign_poll_and_offsets(topic: Callable[..., Topic], library: str) -> None:
    """What streams and others count on."""
    events = topic(2)
    partitions = [TopicPartition(events.name, 0), TopicPartition(events.name, 1)]
    for i in range(5):
        events.send(0, event(i), time=i)
    events.send(1, None)
    with closing(create_consumer(library, events.servers, "g", {})) as consumer:
        assert consumer.partitions_for_topic(events.name) == partitions
        assert consumer.beginning_offsets(partitions) == dict.fromkeys(partitions, 0)
        assert consumer.end_offsets(partitions) == {partitions[0]: 5, partitions[1]: 1}
        assert consumer.beginning_offsets([]) == consumer.end_offsets([]) == {}
        consumer.assign({partitions[0]: 2, partitions[1]: 0})
        assert not consumer.at_high_watermark(partitions[0])
        came = gather(consumer, 4)
        assert came[partitions[0]] == [(2, 2, event(2)), (3, 3, event(3)), (4, 4, event(4))]
        assert came[partitions[1]] == [(0, 1000, None)]
        assert all(consumer.at_high_watermark(partition) for partition in partitions)
        consumer.assign({partitions[0]: 1})  # anew, elsewhere
        assert gather(consumer, 2, most=2) == {partitions[0]: [(1, 1, event(1)), (2, 2, event(2))]}
        assert not consumer.at_high_watermark(partitions[0])


def gather(consumer: Any, n: int, most: int = 100) -> dict[TopicPartition, list[Any]]:
    found: dict[TopicPartition, list[Any]] = {}
    end = time.monotonic() + 10
    while sum(map(len, found.values())) < n:
        assert time.monotonic() < end, found
        for batch in consumer.poll(0.1, most):
            assert batch.offset.dtype == batch.time.dtype == np.int64
            rows = zip(batch.offset.tolist(), batch.time.tolist(), batch.values, strict=True)
            found.setdefault(batch.partition, []).extend(rows)
    return found
