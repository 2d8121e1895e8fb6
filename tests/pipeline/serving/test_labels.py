"""Labels posted over HTTP are sent to the topic of a real broker, all or none, as the stream reads
them; and a served run learns them."""

from __future__ import annotations

import gc
import json
import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.config import job
from pipeline.config.sections import ServeConfig
from pipeline.serving import labels as module
from pipeline.serving.app import ModelHolder, create_app
from pipeline.serving.checkpoint_server import CheckpointServer
from pipeline.serving.labels import InvalidLabelsError, LabelProducer, NoLabels
from pipeline.serving.requests import parse_list
from pipeline.serving.responses import HTTPError
from streams.core.batch import Batch
from streams.kafka.clients import timeouts
from streams.kafka.clients.producer import ProducerRecord
from streams.kafka.config import KafkaConfig
from streams.kafka.records import MergedRecords
from streams.kafka.stream import KafkaStream
from tests.support import http
from tests.support.fuzz import examples
from tests.support.http import STUB, Stub, ask
from tests.support.ray_processes import Place, until

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # kafka-python reads its own files in a way that is going
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition

_numbers = count()


def stream(servers: str, topic: str, **changes: Any) -> KafkaStream:
    """Labels ``{id, y}`` on ``topic``, changed as asked."""
    labels = {"topic": topic, "id": "id", "label": "y"} | changes.pop("labels", {})
    config: dict[str, Any] = {
        "kind": "kafka",
        "servers": servers,
        "topic": f"{topic}-events",
        "features": {"numeric": ["x"]},
        "id": "id",
        "labels": labels,
    }
    return KafkaStream(KafkaConfig.model_validate(config | changes), Path())


@contextmanager
def serving(labels: LabelProducer | NoLabels, **limits: Any) -> Iterator[int]:
    """A port at which labels are taken; there is a model from the start."""
    models = ModelHolder(Stub())  # type: ignore[arg-type]
    app = create_app(models, STUB, ServeConfig(**limits), "stub", labels)
    with listening(app, "on") as port:
        yield port


@contextmanager
def listening(app: Any, lifespan: str) -> Iterator[int]:
    """A port at which the application answers, and leaves no thread of ours behind."""
    with http.listening(app, lifespan) as port:
        yield port
    assert not any(thread.name == "label-producer" for thread in threading.enumerate())


@pytest.fixture
def topic(brokers: Any, broker: str) -> str:
    """A topic of its own, of four partitions."""
    name = f"posted-{next(_numbers)}"
    brokers.make_topics(broker, name, partitions=4)
    return name


def messages(servers: str, topic: str, wanted: int) -> list[tuple[int, bytes, bytes]]:
    """Return partition, key and value of all that is there; wait for ``wanted``, and for more."""
    found = []
    with closing(KafkaConsumer(bootstrap_servers=servers)) as consumer:
        consumer.assign([TopicPartition(topic, p) for p in range(4)])
        consumer.seek_to_beginning()
        until = time.monotonic() + 10
        while time.monotonic() < until:
            came = [r for records in consumer.poll(200).values() for r in records]
            found += [(r.partition, r.key, r.value) for r in came]
            if not came and len(found) >= wanted:
                break
    return found


# What is taken.


def test_labels_are_partitioned_by_the_hash_of_their_ids(broker: str, topic: str) -> None:
    with serving(LabelProducer(stream(broker, topic))) as port:
        first = ask(port, "/labels", [{"id": i, "y": "no"} for i in range(40)])
        assert (first.status, first.body) == (202, {"accepted": 40})
        assert ask(port, "/labels", [{"y": "yes", "id": 7}]).body == {"accepted": 1}
        assert ask(port, "/labels", []).body == {"accepted": 0}
    there = messages(broker, topic, 41)
    said = [(json.loads(value)["id"], json.loads(value)["y"]) for _, _, value in there]
    assert sorted(said) == sorted([*((i, "no") for i in range(40)), (7, "yes")])
    assert [key for _, key, _ in there] == [str(i).encode() for i, _ in said]
    sevens = [(partition, json.loads(value)["y"]) for partition, key, value in there if key == b"7"]
    assert [y for _, y in sevens] == ["no", "yes"], "in the order in which they were answered"
    where: dict[int, set[int]] = {}
    with closing(KafkaProducer(bootstrap_servers=broker)) as other:
        for (partition, key, _), (i, _) in zip(there, said, strict=True):
            where.setdefault(i, set()).add(partition)
            where[i].add(other.send(topic, value=b"", key=key).get(10).partition)
    assert all(len(found) == 1 for found in where.values()), "where any other producer sends them"
    assert len(set.union(*where.values())) == 4


def test_labels_time_left_out_is_now(broker: str, topic: str) -> None:
    kafka = stream(broker, topic, id_type="str", labels={"time": "at.known", "label": "a.y"})
    given = [
        {"id": "p", "a.y": "b", "at.known": "1970-01-01T00:02:00Z"},
        {"id": "q", "a.y": "b", "at.known": 2.5},
        {"id": "r", "a.y": "b"},
        {"id": "s", "a.y": "b", "at.known": None},
    ]
    before = time.time()
    with serving(LabelProducer(kafka)) as port:
        assert ask(port, "/labels", given).status == 202
    after = time.time()
    found = {key: json.loads(value) for _, key, value in messages(broker, topic, 4)}
    assert found[b"p"] == {"id": "p", "a": {"y": "b"}, "at": {"known": 120.0}}
    assert found[b"q"]["at"] == {"known": 2.5}
    assert before <= found[b"r"]["at"]["known"] == found[b"s"]["at"]["known"] <= after


@pytest.mark.parametrize("library", ["kafka-python", "confluent-kafka"])
def test_labels_concurrent_posts_arrive_exactly_once(broker: str, topic: str, library: str) -> None:
    if library == "confluent-kafka":
        pytest.importorskip("confluent_kafka", reason="pip install 'everlearn[confluent]'")
    labels = LabelProducer(stream(broker, topic, library=library))
    with serving(labels) as port, ThreadPoolExecutor(16) as pool:
        posts = [[{"id": 100 * k + i, "y": "a"} for i in range(50)] for k in range(32)]
        replies = list(pool.map(lambda given: ask(port, "/labels", given), posts))
    assert [reply.status for reply in replies] == [202] * 32
    ids = [int(key) for _, key, _ in messages(broker, topic, 1600)]
    assert sorted(ids) == [100 * k + i for k in range(32) for i in range(50)]


AVRO = {
    "type": "record",
    "name": "Label",
    "fields": [
        {"name": "id", "type": "int"},
        {"name": "y", "type": {"type": "enum", "name": "Y", "symbols": ["a", "b"]}},
    ],
}


FRAMES = {"kind": "frames", "fields": {"id": "int32", "y": "int8"}}
OF_FORMATS = [
    ({"kind": "avro", "schema": "label.avsc"}, None, "b", b"\xfe\xff\xff\xff\x0f\x02", (1, "c")),
    (FRAMES, {"type": "int"}, 3, b"\xff\xff\xff\x7f\x03", (2**31, 3)),
]


@pytest.mark.parametrize(
    ("format_", "label", "y", "wanted", "bad"), OF_FORMATS, ids=["avro", "frames"]
)
def test_labels_beyond_the_types_of_the_format_are_refused(
    format_: Any, label: Any, y: Any, wanted: bytes, bad: tuple[int, Any]
) -> None:
    if format_["kind"] == "avro":
        pytest.importorskip("fastavro", reason="pip install 'everlearn[avro]'")
    Path("label.avsc").write_text(json.dumps(AVRO))
    kafka = stream("127.0.0.1:9", "t", labels={"format": format_}, label=label)
    with closing(LabelProducer(kafka)) as labels:
        (message,) = labels.messages([{"id": 2**31 - 1, "y": y}])
        assert message.key == b"2147483647"
        assert message.value == wanted
        given = [{"id": 1, "y": y}, {"id": bad[0], "y": bad[1]}, {"id": 3, "y": y}]
        with pytest.raises(InvalidLabelsError, match="1 of 3 labels cannot be read") as refused:
            labels.messages(given)
        (detail,) = refused.value.details
        assert detail["label"] == 1
        assert f"no message of {format_['kind']} holds it" in detail["reason"]


def test_labels_regression_target_must_be_a_number() -> None:
    with closing(LabelProducer(stream("127.0.0.1:9", "t", label={"task": "regression"}))) as labels:
        (message,) = labels.messages([{"id": 1, "y": 2}])
        assert json.loads(message.value or b"") == {"id": 1, "y": 2.0}
        with pytest.raises(InvalidLabelsError) as refused:
            labels.messages([{"id": 1, "y": "2"}])
    assert refused.value.details[0]["reason"] == "column 'y' holds '2'; expected a finite number"


# What the stream reads, and what is read here, is the same.

ODD = [
    *("null", "true", "5", '"5"', "5.0", "5.5", "-0.0", "1e400", "NaN", "18446744073709551615"),
    *("9223372036854775807", '""', '"a"', '"b"', '"\\ud800"', '"é"', "[]", "[1]", "{}", "1e300"),
]
OF_LABEL = [f'{{"y": {cell}}}' for cell in ODD]
OF_TIME = [f'{{"known": {cell}}}' for cell in [*ODD, '"2024-05-01T12:00:00Z"', "7", '"soon"']]
CELLS = {"id": ODD, "a": ODD + 3 * OF_LABEL, "at": ODD + 3 * OF_TIME}
LABELS = {
    "classes": ({"classes": ["a", "b"]}, "int"),
    "booleans": ({"type": "bool"}, "str"),
    "targets": ({"task": "regression"}, "int"),
}


@pytest.mark.parametrize("name", LABELS)
@examples(2)
@given(st.fixed_dictionaries({name: st.sampled_from(cells) for name, cells in CELLS.items()}))
def test_labels_same_value_and_fate_as_messages(name: str, cells: dict[str, str]) -> None:
    """The bytes of a message, posted: the message that is sent for it is read as the same label.

    A time that is left out is now, which is where a message is dead.
    """
    label, id_type = LABELS[name]
    names = {"label": "a.y", "time": "at.known"}
    kafka = stream("127.0.0.1:9", "t", labels=names, label=label, id_type=id_type)
    body = "{" + ",".join(f'"{name}": {cell}' for name, cell in cells.items()) + "}"
    direct = _read_label(kafka, body.encode())
    reasons = [dead.reason for dead in direct.dead]
    assume(reasons != ["column 'at.known' holds null; expected a time (seconds, or ISO 8601)"])
    if reasons and reasons[0].startswith("no JSON"):
        with pytest.raises(HTTPError, match="not JSON"):
            parse_list(f"[{body}]".encode(), 10, "labels")
        return
    with closing(LabelProducer(kafka)) as labels:
        given_labels = parse_list(f"[{body}]".encode(), 10, "labels")
        if reasons:
            with pytest.raises(InvalidLabelsError) as refused:
                labels.messages(given_labels)
            assert [detail["reason"] for detail in refused.value.details] == reasons
            return
        (message,) = labels.messages(given_labels)
    posted = _read_label(kafka, message.value or b"")
    assert not reasons
    assert not posted.dead
    assert posted.arrivals is not None
    assert direct.arrivals is not None
    assert posted.classes == direct.classes
    for column in ("ids", "y", "time"):
        one, other = getattr(posted.arrivals, column), getattr(direct.arrivals, column)
        assert one.tobytes() == other.tobytes(), column


def _read_label(kafka: KafkaStream, value: bytes) -> Batch:
    one = np.zeros(1, np.int64)
    return kafka.decoder(
        MergedRecords(np.ones(1, np.bool_), one.astype(np.int32), one, one, [value])
    )


# What is refused.

BAD: list[tuple[Any, int, str]] = [
    (b"", 400, "not JSON"),
    (b'[{"id": 1, "y": NaN}]', 400, "not JSON"),
    (b"[" * 4000, 400, "not JSON"),
    ({"id": 1, "y": "no"}, 422, "a JSON list of labels is wanted"),
    ([7], 422, "the message holds 7; expected a JSON object"),
    ([None], 422, "the message holds null; expected a JSON object"),
    ([{}], 422, "missing: 'id', 'y'"),
    ([{"id": 1}], 422, "missing: 'y'"),
    ([{"id": 1}], 422, "column 'y' holds null; expected text"),
    ([{"id": 1, "label": "no"}], 422, "unknown field 'label'"),
    ([{"id": 1, "y": "no", "time": 1.0}], 422, "unknown field 'time'"),
    ([{"id": None, "y": "no"}], 422, "column 'id' holds null; expected an integer"),
    ([{"id": "1", "y": "no"}], 422, "column 'id' holds '1'; expected an integer"),
    ([{"id": True, "y": "no"}], 422, "column 'id' holds True; expected an integer"),
    ([{"id": 2**63, "y": "no"}], 422, "expected an integer that fits in 64 bits"),
    ([{"id": 10**400, "y": "no"}], 400, "not JSON"),
    ([{"id": 1, "y": None}], 422, "column 'y' holds null; expected text"),
    ([{"id": 1, "y": 1}], 422, "column 'y' holds 1; expected text"),
    ([{"id": 1, "y": {"y": "no"}}], 422, "expected text"),
    ([{"id": 1, "y": "maybe"}], 422, "expected one of the stated classes ('no', 'yes')"),
    ([{"id": 1, "y": "No "}], 422, "it differs from 'no' only in spaces and case"),
    ([{"id": 1, "y": "no"}] * 21, 413, "21 labels given; at most 20"),
    (b"[" + b" " * 5000 + b"]", 413, "5002 bytes given; at most 5,000"),
]


def test_labels_one_bad_label_refuses_the_request(broker: str, topic: str) -> None:
    kafka = stream(broker, topic, label={"classes": ["no", "yes"]}, max_bytes=100)
    good = {"id": 1, "y": "yes"}
    with serving(LabelProducer(kafka), max_events=20, max_bytes=5000) as port:
        for body, status, reason in BAD:
            reply = ask(port, "/labels", body)
            assert reply.status == status, (body, reply)
            said = [reply.body["error"]]
            for detail in reply.body["details"]:
                said += [detail["reason"], detail.get("hint", "")]
            assert any(reason in text for text in said), (body, reply)
            if status == 422 and isinstance(body, list):
                reply = ask(port, "/labels", [good, *body, good])
                assert reply.status == 422
                assert reply.body["error"] == "1 of 3 labels cannot be read"
                assert [detail["label"] for detail in reply.body["details"]] == [1]
        reply = ask(port, "/labels", [{"id": i, "y": "maybe"} for i in range(15)])
        assert reply.body["error"] == "15 of 15 labels cannot be read; the first 10 are listed"
        assert [detail["label"] for detail in reply.body["details"]] == [*range(10)]
        assert ask(port, "/labels", [{"id": 9, "y": "yes"}]).status == 202
    assert [key for _, key, _ in messages(broker, topic, 1)] == [b"9"]


def test_labels_too_large_for_the_stream_are_refused() -> None:
    kafka = stream("127.0.0.1:9", "t", id_type="str", max_bytes=50)
    with closing(LabelProducer(kafka)) as labels:
        assert labels.messages([{"id": "a", "y": "b" * 20}])
        with pytest.raises(InvalidLabelsError) as refused:
            labels.messages([{"id": "a", "y": "b" * 50}])
    assert "expected at most 50 (stream.max_bytes)" in refused.value.details[0]["reason"]


def test_no_labels_reason_says_where_labels_come_from(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    inline = {
        "kind": "kafka",
        "servers": "127.0.0.1:9",
        "topic": "events",
        "features": {"numeric": ["x"]},
        "label": "y",
    }
    learner = {"kind": "prior"}
    changes = {"stream": inline, "learner": learner, "serve": {"port": 0}}
    for file, reason in (
        (write_job("elec2.yaml"), "labels come with the stream of kind 'recorded'"),
        (write_job("inline.yaml", **changes), "labels come in the messages of the events"),
    ):
        with serving(module.label_producer(job.load(file))) as port:
            reply = ask(port, "/labels", [{"id": 1, "y": "no"}])
            assert reply.status == 409
            assert reply.body["error"].startswith(reason)
            assert "stream.labels" in reply.body["error"]
            assert reply.body["details"] == []
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    with listening(CheckpointServer(folder, ServeConfig(), print), "off") as port:
        reply = ask(port, "/labels", [{"id": 1, "y": "no"}])
        assert reply.status == 409
        assert (
            "post labels to the server of a run that serves while it learns" in reply.body["error"]
        )


def test_docs_name_the_fields_of_labels() -> None:
    kafka = stream(
        "127.0.0.1:9", "t", labels={"time": "at"}, label={"type": "int", "classes": [3, 5]}
    )
    with serving(LabelProducer(kafka)) as port:
        found = ask(port, "/openapi.json").body["paths"]["/labels"]["post"]
    content = found["requestBody"]["content"]["application/json"]
    label = content["schema"]["items"]
    assert content["schema"]["maxItems"] == 1000
    assert label["required"] == ["id", "y"]
    assert label["properties"]["id"] == {"type": "integer"}
    assert label["properties"]["y"] == {"enum": [3, 5]}
    assert label["properties"]["at"]["type"] == ["number", "string"]
    assert {"202", "400", "409", "413", "422", "500", "503"} == found["responses"].keys()
    with closing(LabelProducer(kafka)) as labels:
        assert labels.messages(content["example"])


# A broker that is away.


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.CRITICAL, "kafka")  # records keep what they are about alive
    monkeypatch.setattr(module, "WAIT_S", 1.0)
    monkeypatch.setattr(timeouts, "BROKER_TIMEOUT_S", 2.0)
    monkeypatch.setattr(timeouts, "SEND_TIMEOUT_S", 3.0)
    yield
    gc.collect()  # kafka-python leaves sockets open that have reached nobody


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # kafka-python's
@pytest.mark.usefixtures("_impatient")
def test_labels_broker_away_is_503_until_it_returns(brokers: Any, tmp_path: Path) -> None:
    at = brokers.free_port()
    kafka = stream(f"127.0.0.1:{at}", "labels")
    given = [{"id": 1, "y": "no"}]
    with serving(LabelProducer(kafka)) as port:
        with brokers.tansu(tmp_path, at) as servers:
            brokers.make_topics(servers, "labels", partitions=4)
            until(lambda: ask(port, "/labels", given).status == 202)
        reply = ask(port, "/labels", given)
        assert reply.status == 503
        assert reply.headers["retry-after"] == "5"
        assert reply.seconds < 3
        assert "some labels may have been taken; post all again" in reply.body["error"]
        assert ask(port, "/labels", [{"id": 1}]).status == 422, "it is told at once all the same"
        with ThreadPoolExecutor(4) as pool:
            posts = [pool.submit(ask, port, "/labels", given) for _ in range(4)]
            asked = [ask(port, "/predict", [{"x": 1}]) for _ in range(20)]
            assert [reply.status for reply in asked] == [200] * 20
            assert max(reply.seconds for reply in asked) < 0.5
            assert [post.result().status for post in posts] == [503] * 4
        with brokers.tansu(tmp_path, at) as servers:
            brokers.make_topics(servers, "labels", partitions=4)
            until(lambda: ask(port, "/labels", [{"id": 2, "y": "no"}]).status == 202)
            keys = {key for _, key, _ in messages(servers, "labels", 1)}
    assert b"2" in keys


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # kafka-python's
@pytest.mark.usefixtures("_impatient")
def test_labels_beyond_the_queue_are_refused(brokers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 5)
    kafka = stream(f"127.0.0.1:{brokers.free_port()}", "labels")
    given = [{"id": i, "y": "no"} for i in range(3)]
    with serving(LabelProducer(kafka)) as port, ThreadPoolExecutor(6) as pool:
        replies = [*pool.map(lambda _: ask(port, "/labels", given), range(6))]
    assert [reply.status for reply in replies] == [503] * 6
    crowded = "3 labels are waiting to be sent, so none of these was"
    refused = [reply for reply in replies if reply.body["error"] == crowded]
    # One is being sent and one waits; or the first two are sent at once, and so on.
    assert len(refused) >= 3
    assert all(reply.headers["retry-after"] == "5" for reply in refused)


class Picky:
    """A broker that takes no message over three bytes, and its time over the first."""

    def __init__(self, *_: Any) -> None:
        self.go_on = threading.Event()
        self.sent: list[int] = []

    def send(self, messages: Sequence[ProducerRecord]) -> list[int]:
        assert self.go_on.wait(60)
        self.sent.append(len(messages))
        return [i for i, message in enumerate(messages) if len(message.value or b"") > 3]

    def close(self) -> None:
        pass


def test_sender_reports_each_request_of_a_batch() -> None:
    box = Picky()
    sender = module._Sender(lambda: box)

    def put(*values: bytes) -> Any:
        return sender.put([ProducerRecord("t", None, b"k", value, {}) for value in values])

    first = put(b"a")
    until(first.running)
    given_up, fine, large = put(b"bbbb"), put(b"c", b"cc"), put(b"d", b"ddddd", b"ddd", b"dddd")
    assert given_up.cancel()
    box.go_on.set()
    assert [first.result(60), fine.result(60), large.result(60)] == [[], [], [1, 3]]
    assert box.sent == [1, 6]
    sender.close()


# A whole run.


def test_served_run_learns_posted_labels(
    brokers: Any, broker: str, place: Place, summary: Callable[[Path], Any], tmp_path: Path
) -> None:
    name = f"posted-run-{next(_numbers)}"
    brokers.make_topics(broker, f"{name}-events", name, partitions=2)
    made = {
        "name": "posted",
        "seed": 1,
        "stream": {
            "kind": "kafka",
            "servers": broker,
            "topic": f"{name}-events",
            "features": {"vector": {"x": 2}},
            "encoder": {"kind": "random-features", "dimension": 8},  # by an actor, and the server
            "id": "id",
            "label": {"classes": ["no", "yes"]},
            "labels": {"topic": name, "id": "id", "label": "y"},
            "batch_size": 20,
        },
        "learner": {"kind": "prior"},
        "serve": {"port": 0},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(made))
    folder = tmp_path / "run"
    driver = place.run(tmp_path / "job.yaml", folder, "--max-events", 120)
    with closing(KafkaProducer(bootstrap_servers=broker)) as producer:

        def produce(first: int, after: int) -> None:
            for i in range(first, after):
                value = json.dumps({"id": i, "x": [i / 10, 1]}).encode()
                producer.send(f"{name}-events", value, partition=i % 2)
            producer.flush()

        produce(0, 100)
        port = int(driver.says(r"serving at http://127\.0\.0\.1:(\d+)/predict")[1])
        assert ask(port, "/openapi.json").body["paths"]["/labels"]["post"]["requestBody"]
        given = [{"id": i, "y": "yes" if i % 4 else "no"} for i in range(100)]
        assert ask(port, "/labels", [*given, {"id": 1, "y": "maybe"}]).status == 422
        for _ in range(2):  # whoever is in doubt posts again
            reply = ask(port, "/labels", given)
            assert (reply.status, reply.body) == (202, {"accepted": 100})
        until(lambda: ask(port, "/model").body.get("model_version"))
        said = ask(port, "/predict", [{"x": [1.0, 1.0]}]).body
        assert said["predictions"] == ["yes"]
        produce(100, 120)
        driver.ends()
    found = summary(folder)
    assert found["events"] == 120
    assert found["fates"]["learned"] == 100
    assert found["fates"]["dead"] == 0
    assert found["labels"]["duplicate"] == 100
    assert place.left() == []
