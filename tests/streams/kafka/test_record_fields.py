"""Fields of a record beside its value: key, headers, timestamp; in blocks, again, and by hand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from streams.core.batch import Batch
from streams.core.live_stream import ranges_of
from streams.kafka.config import KafkaConfig
from streams.kafka.records import RecordBatch, TopicPartition
from streams.kafka.stream import KafkaStream
from tests.support.kafka44 import Kafka44

Record = tuple[bytes | None, list[tuple[str, bytes | None]], int]
"""Key, headers and timestamp."""

OUTCOME = {"from": "header", "name": "outcome"}
NUMBERS = itertools.count()


def stream(library: str = "kafka-python", **changes: Any) -> KafkaStream:
    about: dict[str, Any] = {
        "kind": "kafka",
        "servers": "127.0.0.1:9",
        "topic": "t",
        "features": {"numeric": ["a"]},
        "id": {"from": "key"},
        "label": OUTCOME,
        "linger": 0.05,
        "library": library,
    }
    return KafkaStream(KafkaConfig.model_validate(about | changes), Path())


def block(records: Sequence[Record], first: int = 0, **changes: Any) -> Batch:
    kafka = stream(**changes)
    batch = RecordBatch(
        TopicPartition("t", 0),
        np.arange(first, first + len(records)),
        np.array([time for *_, time in records], np.int64),
        [b'{"a": 1}'] * len(records),
        [key for key, *_ in records],
        [headers for _, headers, _ in records],
    )
    return kafka.decoder(kafka._topics.merge([batch]))


def named(batch: Batch) -> list[tuple[int, str | None]]:
    assert batch.y is not None
    names = [*batch.classes, None]
    return [(i, names[y]) for i, y in zip(batch.ids.tolist(), batch.y.tolist(), strict=True)]


def test_block_reads_key_header_and_timestamp() -> None:
    records: list[Record] = [
        (b"17", [("outcome", b"up")], 5000),
        (b'"18"', [("outcome", b"down"), ("outcome", b'"up"')], 6000),
        (b"-3", [("other", b"x")], 7000),
        (None, [("outcome", b"up")], 8000),
        (b"\xff", [("outcome", b"up")], 9000),
        (b"4", [("outcome", b"up")], -1),
    ]
    batch = block(records, time={"from": "timestamp"})
    assert named(batch) == [(17, "up"), (18, "up"), (-3, None)]
    assert batch.time.tolist() == [5.0, 6.0, 7.0]
    assert [(d.offset, d.reason) for d in batch.dead] == [
        (3, "column 'message key' holds null; expected an integer id"),
        (4, "column 'message key' holds b'\\xff'; expected an integer id"),
        (5, "column 'message timestamp' holds null; expected a time (seconds, or ISO 8601)"),
    ]
    assert batch.dead[1].key == b"\xff"
    assert batch.dead[1].headers == (("outcome", b"up"),)


def test_block_field_of_a_json_key_is_an_id() -> None:
    place = {"from": "key", "name": "payload.id"}
    keys = [b'{"payload": {"id": 7}}', b'{"payload": 7}', b"{", b'{"payload": {"id": "8"}}']
    batch = block([(key, [], 0) for key in keys], id=place)
    assert batch.ids.tolist() == [7, 8]
    assert [d.offset for d in batch.dead] == [1, 2]


def test_block_text_key_equals_the_same_text_in_the_value() -> None:
    beside = block([(b"a b", [], 0)], id_type="str")
    kafka = stream(id="id", id_type="str")
    values: list[bytes | None] = [b'{"a": 1, "id": "a b"}']
    one = np.zeros(1, np.int64)
    inside = kafka.decoder(
        kafka._topics.merge([RecordBatch(TopicPartition("t", 0), one, one, values, [None], [()])])
    )
    assert beside.ids.tolist() == inside.ids.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": {"from": "header"}}, "from: header needs name"),
        ({"id": {"from": "keys"}}, "'key', 'header' or 'timestamp'"),
        ({"time": {"from": "timestamp", "name": "t"}}, "timestamp has no name"),
        ({"id": {"form": "key"}}, "did you mean 'from'"),
        ({"label": {"name": "outcome"}}, "name needs from: header"),
        ({"label": {"from": "header", "name": "y", "column": "y"}}, "one of column and from"),
    ],
)
def test_config_mistake_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        stream(**changes)


def test_config_is_stored_as_it_is_stated() -> None:
    config = stream().config
    stored = config.model_dump(mode="json")
    assert stored["id"] == {"from": "key", "name": None}
    assert stored["label"]["from"] == "header"
    assert KafkaConfig.model_validate(stored) == config


def test_layout_of_requests_has_plain_fields() -> None:
    layout = stream(key={"from": "header", "name": "user"}).json_layout()
    assert layout["id"] == "id"
    assert layout["columns"] == {"id": ["id", "int"], "key": ["user", "str"]}
    assert layout["fields"] == [["id", "integer", True], ["user", "text", True]]
    taken = stream(features={"numeric": ["id"]}).json_layout()
    assert taken["id"] is None


texts = st.one_of(
    st.none(),
    st.binary(max_size=4),
    st.integers(-9, 9).map(lambda i: str(i).encode()),
    st.integers(-9, 9).map(lambda i: json.dumps(str(i)).encode()),
)
headers_ = st.lists(st.tuples(st.sampled_from(["outcome", "x"]), texts), max_size=3)
records_ = st.lists(st.tuples(texts, headers_, st.integers(-1, 9)), max_size=8)


def expected(record: Record) -> tuple[int, str | None] | None:
    """Return the id and the label of a record by its rules; None: it is dead."""

    def text(value: bytes | None) -> str | None:
        if value is None:
            return None
        try:
            read = value.decode()
            quoted = json.loads(read) if read.startswith('"') else read
        except ValueError:
            return value.decode() if value.isascii() else None
        return quoted if isinstance(quoted, str) else read

    key, headers, _ = record
    id_ = text(key)
    if id_ is None or not id_.strip().lstrip("-+").isdigit():
        return None
    listed = [value for name, value in headers if name == "outcome"]
    return int(id_), text(listed[-1]) if listed else None


@given(records_, st.integers(0, 8))
def test_block_reads_each_record_alone(records: list[Record], cut: int) -> None:
    """A record is read by itself: blocks cut anywhere hold the same, and what cannot be is dead."""
    whole = block(records)
    parts = [block(records[:cut]), block(records[cut:], first=cut)]
    assert [pair for part in parts for pair in named(part)] == named(whole)
    assert [d.reason for part in parts for d in part.dead] == [d.reason for d in whole.dead]
    alive = {*whole.offset.tolist()}
    for offset, record in enumerate(records):
        pair = expected(record)
        if pair is None or (record[1] and pair[1] is None):
            continue  # unreadable, or a label that may be
        assert (offset in alive) == True, record  # noqa: E712
        assert named(whole)[sorted(alive).index(offset)] == pair


@pytest.fixture(params=["kafka-python", "confluent-kafka"])
def library(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_stream_reads_record_fields_and_again(kafka44: Kafka44, library: str) -> None:
    topic = f"record-fields-{next(NUMBERS)}"
    kafka44.create(topic, retention_ms=-1)  # of records of 1970
    for i in range(6):
        key = None if i == 4 else str(100 + i)
        kafka44.send(
            topic,
            [b'{"a": 0.5}' if i != 5 else b"{"],
            keys=[key],
            timestamp_ms=1000 * (i + 1),
            headers=[("outcome", b"no"), ("outcome", b"up" if i % 2 else b"down")],
        )
    kafka = stream(library, servers=kafka44.servers, topic=topic, time={"from": "timestamp"})
    batches = []
    with closing(kafka.read(kafka.start(), 100)) as blocks:  # type: ignore[type-var]
        for batch in blocks:
            batches.append(batch)
            if sum(b.events for b in batches) == 6:
                break
    read = [pair for b in batches for pair in named(b)]
    assert read == [(100, "down"), (101, "up"), (102, "down"), (103, "up")]
    assert [t for b in batches for t in b.time.tolist()] == [1, 2, 3, 4]
    dead = [d for b in batches for d in b.dead]
    assert [d.offset for d in dead] == [4, 5]
    assert (dead[1].value, dead[1].key) == (b"{", b"105")
    again = kafka.read_ranges({"0": (0, 6)})
    assert named(again) == read
    assert again.dead[1].headers == (("outcome", b"no"), ("outcome", b"up"))
    (whole,) = kafka.fetch_records([(TopicPartition(topic, 0), 5)]).values()
    assert (whole.key, whole.value, whole.headers) == (b"105", b"{", {"outcome": b"up"})
    assert ranges_of(again) == {"0": (0, 6)}
    kafka.close()
