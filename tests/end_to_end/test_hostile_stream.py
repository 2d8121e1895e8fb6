"""A live stream of all that goes wrong at once gives one state, and leaves honest events alone.

Two topics: events in Avro of two schema versions, labels in JSON. Among the honest events are
broken and empty messages, clocks that are a day or two centuries fast, repeated ids and nulls; one
partition falls silent. Among the labels are broken ones, corrections and withdrawals.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fastavro
import numpy as np
import pytest
import yaml

from tests.support.brokers import make_topics
from tests.support.ray_processes import Place

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # kafka-python reads its own files in a deprecated way
    from kafka import KafkaProducer

ROOT = Path(__file__).parents[2]
NUMBERS = itertools.count()
T0 = 1_700_000_000.0
HONEST = 1200
DAY = 86_400.0
YEAR_2204 = 7_389_000_000.0
NULLABLE = {"a": ["null", "double"], "b": ["null", "double"], "c": ["null", "string"]}
VERSIONS = {
    1: [("id", "long"), ("t", "double"), *NULLABLE.items()],
    2: [
        *(("c", NULLABLE["c"]), ("more", "int"), ("b", NULLABLE["b"]), ("t", "double")),
        *(("a", NULLABLE["a"]), ("id", "long")),
    ],
}


class Message(NamedTuple):
    """One message; ``honest``: it stays in the stream without hostile ones."""

    labels: bool
    partition: int
    value: bytes | None
    stamp: float
    honest: bool = True
    key: bytes = b"k"


def schema_of(version: int) -> dict[str, Any]:
    fields = [{"name": name, "type": kind} for name, kind in VERSIONS[version]]
    return {"type": "record", "name": "Event", "fields": fields}


SCHEMAS = {version: fastavro.parse_schema(schema_of(version)) for version in VERSIONS}


def avro(version: int, **event: Any) -> bytes:
    out = io.BytesIO(struct.pack(">bI", 0, version))
    out.seek(0, io.SEEK_END)
    fastavro.schemaless_writer(out, SCHEMAS[version], {"more": 7, **event})
    return out.getvalue()


def label(id_: int, y: str) -> bytes:
    return json.dumps({"id": id_, "y": y}).encode()


def messages() -> Iterator[Message]:
    """Yield the stream in the order of sending."""
    chance = np.random.default_rng(5)
    for i in range(HONEST):
        now = T0 + i / 10
        a, b = chance.normal(size=2).round(3).tolist()
        y = "up" if a + b > 0 else "down"
        event = {
            "id": i,
            "t": now,
            "a": None if i % 11 == 3 else a,
            "b": None if i % 13 == 5 else b,
            "c": None if i % 5 == 2 else y if i % 3 else "other",
        }
        partition = 2 if i < 6 else i % 2
        sent = avro(1 + i % 2, **event)
        yield Message(False, partition, sent, now)
        yield from hostile_events(i, partition, now, event, sent)
        if i % 40 == 11:  # corrected while it waits, and after
            yield Message(True, i % 2, label(i, "down" if y == "up" else "up"), now + 3)
        yield Message(True, i % 2, label(i, y), now + 3)
        if i % 60 == 31:
            yield Message(True, i % 2, label(i, "down"), now + 4)
        yield from hostile_labels(i, now)
    yield from ends()


def hostile_events(
    i: int, partition: int, now: float, event: dict[str, Any], sent: bytes
) -> Iterator[Message]:
    def bad(value: bytes | None, stamp: float = now) -> Message:
        return Message(False, partition, value, stamp, honest=False)

    ahead, far = {"t": now + DAY, "id": 10_000 + i}, {"t": YEAR_2204, "id": 20_000 + i}
    if i % 50 == 7:
        yield bad(sent[:9])
    if i % 50 == 13:
        yield bad(None)
    if i % 50 == 17:
        yield bad(sent)
    if i % 100 == 21:
        yield bad(avro(1, **event | ahead), now + DAY)
    if i % 100 == 23:
        yield bad(avro(2, **event | ahead))
    if i % 200 == 33:
        yield bad(avro(1, **event | far))
    if i % 200 == 37:
        yield bad(avro(2, **event | far), YEAR_2204)
    if i % 100 == 41:
        yield bad(struct.pack(">bI", 0, 9) + sent[5:])


def hostile_labels(i: int, now: float) -> Iterator[Message]:
    def bad(value: bytes | None, stamp: float = now + 3, key: bytes = b"k") -> Message:
        return Message(True, i % 2, value, stamp, honest=False, key=key)

    if i % 50 == 9:
        yield bad(b'{"id": ')
    if i % 50 == 19:
        yield bad(None, key=str(30_000 + i).encode())
    if i % 100 == 29:
        yield bad(label(40_000 + i, "up"), YEAR_2204)


def ends() -> Iterator[Message]:
    """Yield a last message for each partition: it is then known where the topics end."""
    for partition in range(3):
        now = T0 + HONEST / 10 + partition / 10
        event = {"id": 50_000 + partition, "t": now, "a": 0.0, "b": 0.0, "c": "end"}
        yield Message(False, partition, avro(1, **event), now)
    for partition in range(2):
        yield Message(True, partition, label(50_000 + partition, "up"), now + 3)


def send(servers: str, topic: str, sent: list[Message]) -> str:
    """Send the messages to new topics; return the topic of events."""
    make_topics(servers, topic, partitions=3)
    make_topics(servers, f"{topic}-labels", partitions=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        producer = KafkaProducer(bootstrap_servers=servers, linger_ms=5)
    for at, message in enumerate(sent):
        if at == len(sent) - 5:
            producer.flush()
        future = producer.send(
            f"{topic}-labels" if message.labels else topic,
            message.value,
            key=message.key,
            partition=message.partition,
            timestamp_ms=round(message.stamp * 1000),
        )
        if at >= len(sent) - 5:
            future.get(10)
    producer.close()
    return topic


@pytest.fixture(scope="module")
def hostile(broker: str) -> str:
    return send(broker, f"hostile-{os.getpid()}", list(messages()))


@pytest.fixture(scope="module")
def honest(broker: str) -> str:
    return send(broker, f"honest-{os.getpid()}", [m for m in messages() if m.honest])


NETWORK = {
    "kind": "replay",
    "model": {"kind": "mlp", "hidden": [8]},
    "steps": 1,
    "buffer": {"capacity": 100},
}
PER_EVENT = {"kind": "river", "model": ["tree.HoeffdingTreeClassifier"]}


@pytest.fixture
def job(tmp_path: Path, broker: str) -> Callable[..., Path]:
    for version in VERSIONS:
        (tmp_path / f"v{version}.avsc").write_text(json.dumps(schema_of(version)))

    def write(topic: str, learner: dict[str, Any] = NETWORK, **stream: Any) -> Path:
        settings = {
            "kind": "kafka",
            "servers": broker,
            "topic": topic,
            "format": {
                "kind": "avro",
                "framing": "confluent",
                "schema": "v1.avsc",
                "schemas": {1: "v1.avsc", 2: "v2.avsc"},
            },
            "features": {"numeric": ["a", "b"], "categorical": ["c"]},
            "id": "id",
            "time": "t",
            "labels": {
                "topic": f"{topic}-labels",
                "id": "id",
                "label": "y",
                "format": {"kind": "json"},
            },
            "label_timeout_seconds": 30,
            "lateness": 1,
            "batch_size": 16,
            "stop": "latest",
            "linger": 0.02,
        }
        about = {
            "name": "hostile",
            "seed": 1,
            "stream": settings | stream,
            "learner": learner,
            "checkpoint": {"every_events": 200},
        }
        file = tmp_path / f"job-{next(NUMBERS)}.yaml"
        file.write_text(yaml.safe_dump(about))
        return file

    return write


@pytest.fixture
def run(
    everlearn: Callable[..., Any], summary: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """Runs a command without Ray in a run folder of this test, and returns its summary."""

    def command(name: str, what: Path, folder: str, *flags: object) -> dict[str, Any]:
        everlearn(name, what, "--run-dir", tmp_path / folder, "--runner", "local", *flags)
        return summary(tmp_path / folder)

    return command


@pytest.fixture(params=["confluent-kafka", "kafka-python"])
def file(request: pytest.FixtureRequest, hostile: str, job: Callable[..., Path]) -> Path:
    """A job on the hostile topics, for each library."""
    return job(hostile, library=request.param)


def test_hostile_events_leave_honest_ones_alone(
    hostile: str, honest: str, job: Callable[..., Path], run: Callable[..., dict[str, Any]]
) -> None:
    """An event-by-event learner predicts, and scores, the same as without the hostile ones."""
    among, alone = (run("run", job(topic, PER_EVENT), topic) for topic in (hostile, honest))
    assert alone["fates"]["learned"] == HONEST + 2, alone
    assert among["fates"]["learned"] == alone["fates"]["learned"]
    assert alone["fates"]["dead"] == 0
    for fate in ("expired", "unlabelled", "probe"):
        assert among["fates"][fate] == alone["fates"][fate], fate
    assert among["tombstones"] == {"events": HONEST // 50, "labels": HONEST // 50}
    assert max(among["dead_reasons"].values()) >= HONEST // 50
    assert len(among["dead_reasons"]) == 4, among["dead_reasons"]
    for name in ("corrected", "late"):
        assert among["labels"][name] == alone["labels"][name], name
    scores = [name for name in alone["metrics"] if name.startswith("online/")]
    assert "online/accuracy" in scores
    for name in scores:
        assert among["metrics"][name] == alone["metrics"][name], name


def digest(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: summary[name] for name in ("events", "fates", "labels", "state_digest")}


@pytest.fixture
def reference(
    hostile: str, job: Callable[..., Path], run: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    return digest(run("run", job(hostile), "whole"))


def test_hostile_stream_recorded_and_replayed_gives_one_state(
    file: Path, run: Callable[..., dict[str, Any]], reference: dict[str, Any], tmp_path: Path
) -> None:
    recording = tmp_path / "recording"
    assert digest(run("record", file, "run", "--to", recording)) == reference
    assert digest(run("replay", recording, "again")) == reference


def test_hostile_stream_cut_and_resumed_gives_one_state(
    file: Path, run: Callable[..., dict[str, Any]], reference: dict[str, Any]
) -> None:
    run("run", file, "cut", "--max-events", 160)
    for events in (496, 1008, 10**9):
        done = run("run", file, "cut", "--resume", "--max-events", events)
    assert digest(done) == reference


@pytest.mark.soak
def test_hostile_stream_killed_and_resumed_gives_one_state(
    file: Path, run: Callable[..., dict[str, Any]], reference: dict[str, Any], tmp_path: Path
) -> None:
    folder, chance = tmp_path / "killed", random.Random(3)
    kills = 0
    for attempt in range(12):
        shown = [*(["--resume"] if (folder / "journal.jsonl").exists() else [])]
        command = [sys.executable, "-m", "pipeline", "run", str(file), "--run-dir", str(folder)]
        process = subprocess.Popen(
            [*command, "--runner", "local", *shown],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline, grown = time.monotonic() + 60, size(folder)
        while process.poll() is None and size(folder) == grown:
            assert time.monotonic() < deadline, attempt
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.3))
        kills += process.poll() is None
        process.kill()
        process.wait()
        if kills == 4:
            break
    assert kills >= 2
    assert digest(run("run", file, "killed", "--resume")) == reference


def size(folder: Path) -> int:
    """The bytes and the checkpoints that a run has written."""
    journal, checkpoints = folder / "journal.jsonl", folder / "checkpoints"
    grown = journal.stat().st_size if journal.exists() else 0
    return grown + (len([*checkpoints.iterdir()]) if checkpoints.exists() else 0)


@pytest.mark.soak
def test_hostile_stream_on_ray_gives_one_state(
    file: Path,
    summary: Callable[[Path], dict[str, Any]],
    reference: dict[str, Any],
    place: Place,
    tmp_path: Path,
) -> None:
    place.run(file, tmp_path / "ray").ends()
    assert digest(summary(tmp_path / "ray")) == reference
    shutil.rmtree(tmp_path / "ray")
