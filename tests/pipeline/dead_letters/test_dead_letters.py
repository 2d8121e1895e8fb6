"""Dead letters: in the file and in the topic once, listed, sent again, and too many of them."""

from __future__ import annotations

import base64
import json
import random
import signal
import subprocess
import sys
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import yaml

from pipeline.dead_letters.file_writer import (
    KINDS,
    OTHER_REASONS,
    DeadLetterLog,
    DeadLetterRecord,
    read_dead_letters,
    reason_kind,
)
from pipeline.dead_letters.limit import DeadLetterLimit, TooManyDeadLettersError
from streams.core.batch import Batch, DeadLetter, Labels
from streams.core.stream_config import DeadLetters

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # kafka-python reads its own files in a way that is going
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition
    from kafka.admin import KafkaAdminClient, NewTopic

ROOT = Path(__file__).parents[3]
T0 = 1_700_000_000


# ---- the file


def test_log_letter_without_value_keeps_line_format(tmp_path: Path) -> None:
    file = DeadLetterLog(tmp_path)
    assert file.open(0)
    file.write([DeadLetter(0, 3, "column 'a' holds 'x'; expected a finite number", 7)])
    file.sync()
    text = (tmp_path / "dead.jsonl").read_bytes()
    assert text == (
        b'{"partition": 0, "offset": 3, "id": 7, '
        b"\"reason\": \"column 'a' holds 'x'; expected a finite number\"}\n"
    )
    assert file.bytes == len(text)
    file.close()


def test_log_labels_and_values_are_read_back(tmp_path: Path) -> None:
    file = DeadLetterLog(tmp_path)
    file.open(0)
    value = bytes(range(256))
    file.write(
        [DeadLetter(1, 5, "no", 1, value=value, label=True), DeadLetter(1, 6, "so", 2, value=b"")]
    )
    file.sync()
    one, two = read_dead_letters(file.path)
    assert one == DeadLetterRecord(1, 5, 1, "no", True, value, one.end)
    assert two == DeadLetterRecord(1, 6, 2, "so", False, b"", file.bytes)
    assert list(read_dead_letters(file.path, one.end)) == [two]
    assert list(read_dead_letters(file.path, 0, file.bytes - 1)) == [one]
    file.close()


def test_log_open_truncates_to_checkpoint(tmp_path: Path) -> None:
    first = DeadLetterLog(tmp_path)
    first.open(0)
    first.write([DeadLetter(0, 0, "a", 0)])
    kept = first.bytes
    first.write([DeadLetter(0, 1, "b", 1)])
    first.close()
    again = DeadLetterLog(tmp_path)
    assert again.open(kept)
    again.write([DeadLetter(0, 2, "c", 2)])
    again.close()
    assert [x.offset for x in read_dead_letters(again.path)] == [0, 2]
    longer = DeadLetterLog(tmp_path)
    assert not longer.open(10_000)  # it was, once
    longer.close()


def test_read_dead_letters_skips_broken_lines(tmp_path: Path) -> None:
    file = tmp_path / "dead.jsonl"
    good = b'{"partition": 0, "offset": 3, "id": 7, "reason": "r"}\n'
    broken = b'{"partition": 0, "offset": 3, "id": 7, "reason": "r", "value": "*"}\n'
    file.write_bytes(b"{\n[]\n" + broken + good + good[:-1])
    assert [x.end for x in read_dead_letters(file)] == [5 + len(broken) + len(good)]


@pytest.mark.parametrize(
    ("reason", "wanted"),
    [
        (
            "column 'a' holds 'x; y'; expected a finite number",
            "column 'a': expected a finite number",
        ),
        (
            "column 't' holds 9e9; expected a time at most 86400 s after that of the message, "
            "1700000000.000",
            "column 't': expected a time at most 86400 s after that of the message",
        ),
        ("no JSON: unexpected end of data: line 1 column 2 (char 1)", "no JSON"),
        ("the message holds [1]; expected a JSON object", "expected a JSON object"),
        (
            "1,001 bytes; expected at most 1,000 (stream.max_bytes)",
            "expected at most 1,000 (stream.max_bytes)",
        ),
        ("duplicate id 12: seen before within the last 9 events", "duplicate id"),
        ("time goes back: 1 is 3 s before 4, the latest seen", "time goes back"),
        (
            "time 2042-03-01T00:00:00Z is far ahead of those around it",
            "time is far ahead of those around it",
        ),
        ("time 1.7e12 is far ahead of those around it", "time is far ahead of those around it"),
        ("the row has 2 fields; expected 5: a; expected b, c", "expected 5 fields"),
        ("no value", "no value"),
    ],
)
def test_reason_kind_drops_message_content(reason: str, wanted: str) -> None:
    assert reason_kind(reason) == wanted


# ---- the limit


def rows(n: int, dead: Iterable[DeadLetter] = (), labels: Iterable[int] | None = None) -> Batch:
    column = np.arange(n)
    arrivals = None
    if labels is not None:
        before = np.array([*labels], np.int64)
        arrivals = Labels(before, before, before.astype(float), before, before, before)
    return Batch(
        column, column.astype(float), np.zeros((n, 1)), column, column, arrivals=arrivals,
        dead=tuple(dead),
    )  # fmt: skip


def limit(share: float, of: int) -> DeadLetterLimit:
    return DeadLetterLimit(
        DeadLetters(share=share, of=of), lambda partition, label: f"p{partition}"
    )


def dead(*before: int, label: bool = False) -> list[DeadLetter]:
    return [
        DeadLetter(0, 100 + i, f"no JSON: {i}", i, b, label=label) for i, b in enumerate(before)
    ]


def test_limit_share_exceeded_raises() -> None:
    some = limit(0.5, 4)
    some.add(rows(4, bad := dead(1, 2)), bad)  # . x . x . .
    with pytest.raises(
        TooManyDeadLettersError, match=r"3 of the last 4 events are dead \(3 x no JSON\)"
    ) as e:
        some.add(rows(1, bad := dead(0, 0, 0)), bad)  # [. . x x x]: 3 of the last 4 is too many
    assert "p0/102: no JSON: 2" in str(e.value)


def test_limit_is_independent_of_batch_size() -> None:
    marks = [False, True, True, False, False, True, False, True, False, True, True, False]

    def stops(size: int, share: float, of: int) -> int | None:
        """Events of the micro-batch that it stopped in, from its end."""
        some = limit(share, of)
        for start in range(0, len(marks), size):
            part = marks[start : start + size]
            before = [sum(not m for m in part[:i]) for i, m in enumerate(part) if m]
            bad = [DeadLetter(0, start + i, "r", 0, 0) for i, m in enumerate(part) if m]
            bad = [replace(d, insert_before=b) for d, b in zip(bad, before, strict=True)]
            try:
                some.add(rows(len(part) - len(bad), bad), bad)
            except TooManyDeadLettersError as error:
                return int(str(error).split("p0/")[1].split(":")[0])
        return None

    for of in range(1, 13):
        for share in (0.0, 0.3, 0.5, 0.7, 0.9, 1.0):
            slow = [
                i
                for i in range(len(marks))
                if marks[i] and share < 1 and sum(marks[max(0, i - of + 1) : i + 1]) > share * of
            ]
            wanted = slow[0] if slow else None
            assert {stops(size, share, of) for size in (1, 2, 3, 5, 12)} == {wanted}


def test_limit_counts_labels_apart() -> None:
    some = limit(0.5, 4)
    bad = dead(0, 0, label=True)
    some.add(rows(50, bad, [1, 2]), bad)  # x x . .
    bad = dead(0, 0, label=True)
    some.add(rows(50, bad), bad)  # . . x x
    bad = dead(0, label=True)
    with pytest.raises(TooManyDeadLettersError, match="3 of the last 4 labels"):
        some.add(rows(50, bad), bad)


def test_limit_counts_letters_of_the_trainer() -> None:
    some = limit(0.5, 2)
    with pytest.raises(TooManyDeadLettersError):
        some.add(rows(2), dead(0, 0))  # two came; both were set aside after


def test_limit_at_the_end_of_a_short_stream() -> None:
    """More than the share of all events, those of earlier runs too; a full window is no concern."""
    some = limit(0.5, 100)
    some.end(10, {"no JSON": 5})
    with pytest.raises(
        TooManyDeadLettersError,
        match=r"6 of all 10 events are dead \(4 x no JSON; 2 x no value\)",
    ):
        some.end(10, {"no JSON": 4, "no value": 2})
    some.end(100, {"no JSON": 99})
    limit(1, 100).end(10, {"no JSON": 10})
    bad = dead(0, 0, label=True)
    some.add(rows(5, bad, [1]), bad)
    with pytest.raises(TooManyDeadLettersError, match="2 of all 3 labels are dead"):
        some.end(10, {})


def test_log_counts_kinds_of_reason_and_bounds_them(tmp_path: Path) -> None:
    """Of events alone; after a resume too, of the lines that are kept."""
    log = DeadLetterLog(tmp_path)
    log.open(0)
    log.write(
        [DeadLetter(0, i, f"column 'a' holds {i}; expected a number", i, 0) for i in range(3)]
    )
    log.write(dead(0, label=True))
    kept = log.bytes
    log.write([DeadLetter(0, i, f"kind {i:03} of reason: x", i, 0) for i in range(100)])
    log.close()
    assert log.reasons["column 'a': expected a number"] == 3
    assert log.reasons.total() == 103
    assert log.reasons[OTHER_REASONS] == 100 - (KINDS - 1)
    assert len(log.reasons) == KINDS + 1
    log = DeadLetterLog(tmp_path)
    log.open(kept)
    log.close()
    assert log.reasons == {"column 'a': expected a number": 3}


# ---- runs


class Topics:
    """Topics of one test at a broker."""

    def __init__(self, servers: str, partitions: int = 2) -> None:
        self.servers = servers
        mark = uuid.uuid4().hex[:8]
        self.events, self.labels, self.dead = (f"{n}-{mark}" for n in ("ev", "lab", "dead"))
        admin = KafkaAdminClient(bootstrap_servers=servers)
        admin.create_topics(
            [
                NewTopic(self.events, partitions, 1),
                NewTopic(self.labels, partitions, 1),
                NewTopic(self.dead, 1, 1),
            ]
        )
        admin.close()
        self.producer = KafkaProducer(bootstrap_servers=servers, max_request_size=1 << 24)

    def event(self, value: bytes, i: int, partition: int = 0) -> tuple[int, int]:
        """Its partition and offset."""
        sent = self.producer.send(
            self.events, value, b"k", partition=partition, timestamp_ms=(T0 + i) * 1000
        )
        told = sent.get(10)
        return told.partition, told.offset

    def label(self, value: bytes, i: int, partition: int = 0) -> tuple[int, int]:
        sent = self.producer.send(
            self.labels, value, b"k", partition=partition, timestamp_ms=(T0 + i) * 1000
        )
        told = sent.get(10)
        return told.partition, told.offset

    def read(self, topic: str) -> list[Any]:
        """All that the topic holds."""
        consumer = KafkaConsumer(bootstrap_servers=self.servers)
        of = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)]
        consumer.assign(of)
        consumer.seek_to_beginning(*of)
        found, quiet = [], time.monotonic()
        while time.monotonic() - quiet < 1.0:
            for records in consumer.poll(200).values():
                found += records
                quiet = time.monotonic()
        consumer.close()
        return found

    def job(self, folder: Path, **stream: Any) -> Path:
        settings: dict[str, Any] = {
            "kind": "kafka",
            "servers": self.servers,
            "topic": self.events,
            "features": {"numeric": ["a", "b"]},
            "id": "id",
            "time": "t",
            "labels": {"topic": self.labels, "id": "id", "label": "y"},
            "lateness": 1e9,
            "max_bytes": 10_000,
            "dead_letters": {"topic": self.dead},
        }
        settings |= stream
        job = {
            "name": "dead",
            "seed": 1,
            "stream": settings,
            "learner": {
                "kind": "replay",
                "model": {"kind": "mlp", "hidden": [8]},
                "optimizer": {"kind": "adam", "lr": 0.01},
                "buffer": {"capacity": 100},
            },
            "checkpoint": {"every_events": 200},
        }
        file = folder / "job.yaml"
        file.write_text(yaml.safe_dump(job))
        return file


@pytest.fixture
def topics(broker: str) -> Iterator[Topics]:
    topics = Topics(broker)
    yield topics
    topics.producer.close()


def event(i: int, **more: Any) -> bytes:
    return orjson.dumps({"id": i, "t": T0 + i, "a": i % 7, "b": -(i % 3), **more})


def answer(i: int) -> bytes:
    return orjson.dumps({"id": i, "y": "odd" if i % 2 else "even"})


POISON: dict[str, tuple[bytes, str]] = {
    "bad JSON": (b'{"id": 1, "a": ', "no JSON: "),
    "wrong schema": (orjson.dumps({"id": 900, "t": T0, "q": 1}), "no feature is stated"),
    "wrong type": (event(901, a="high"), "column 'a' holds 'high'; expected a finite number"),
    "too large": (event(902, pad="x" * 20_000), "bytes; expected at most 10,000"),
    "absurd time": (event(903, t=9e15), "expected a time at most 600 s after"),
    "no object": (b"[1, 2]", "expected a JSON object"),
    "no text": (b"\xff\xfe\x00", "no JSON: "),
}


def dead_in(folder: Path) -> list[DeadLetterRecord]:
    return list(read_dead_letters(folder / "dead.jsonl"))


def same_as_the_file(topics: Topics, folder: Path) -> None:
    """The topic holds each letter of the file once, with its bytes and what is known of it."""
    there = topics.read(topics.dead)
    keys = Counter(record.key.decode() for record in there)
    assert set(keys.values()) <= {1}
    wanted = {}
    for letter in dead_in(folder):
        topic = topics.labels if letter.label else topics.events
        wanted[f"{topic}/{letter.partition}/{letter.offset}"] = letter
    assert set(keys) == set(wanted)
    for record in there:
        letter, headers = wanted[record.key.decode()], dict(record.headers)
        if letter.value is not None:
            assert record.value == letter.value
        assert headers["reason"].decode() == letter.reason
        assert headers["offset"] == str(letter.offset).encode()
        assert headers["label"] == (b"true" if letter.label else b"false")
        assert headers["job"] == b"dead"


def test_run_poison_is_in_file_and_topic_once(
    topics: Topics, everlearn: Callable[..., Any], tmp_path: Path, summary: Callable[..., Any]
) -> None:
    where, n = {}, 0
    for name, (value, _) in POISON.items():
        for _ in range(20):
            topics.event(event(n), n, n % 2)
            topics.label(answer(n), n, n % 2)
            n += 1
        where[name] = topics.event(value, n, n % 2)
    twice = topics.event(event(5, a=3.0), n, 0)  # a double, which the trainer finds
    bad_label = topics.label(b'{"id": 3}', n)
    topics.event(event(n), n, 0)
    topics.event(event(n + 1), n, 1)
    job, folder = topics.job(tmp_path, stop="latest"), tmp_path / "run"
    everlearn("run", job, "--run-dir", folder)
    found = {(x.label, x.partition, x.offset): x for x in dead_in(folder)}
    assert len(found) == len(dead_in(folder)) == len(POISON) + 2
    for name, (value, reason) in POISON.items():
        letter = found[(False, *where[name])]
        assert letter.value == value
        assert reason in letter.reason, name
    assert found[(True, *bad_label)].value == b'{"id": 3}'
    assert found[(False, *twice)].value is None
    assert "duplicate id 5" in found[(False, *twice)].reason
    fates = summary(folder)["fates"]
    assert fates["dead"] == len(POISON) + 1  # the label is none of the events
    same_as_the_file(topics, folder)
    (double,) = [r for r in topics.read(topics.dead) if b"duplicate" in dict(r.headers)["reason"]]
    assert double.value == event(5, a=3.0)  # read again from its topic


def fill(topics: Topics, start: int, stop: int, seed: int = 0) -> int:
    """Good ones and bad ones; how many of the events are bad."""
    chance = random.Random(seed)
    bad = 0
    sent = []
    for i in range(start, stop):
        value = event(i)
        if chance.random() < 0.15:
            value, bad = chance.choice(list(POISON.values()))[0], bad + 1
        stamp = {"partition": i % 2, "timestamp_ms": (T0 + i) * 1000}
        sent.append(topics.producer.send(topics.events, value, b"k", **stamp))
        note = b"?" if chance.random() < 0.05 else answer(i)
        sent.append(topics.producer.send(topics.labels, note, b"k", **stamp))
    for future in sent:
        future.get(20)
    return bad


def start(job: Path, folder: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline", "run", str(job), "--run-dir", str(folder), *more]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("times", [2, pytest.param(6, marks=pytest.mark.soak)])
def test_run_killed_letters_are_in_topic_once(
    topics: Topics, tmp_path: Path, summary: Callable[..., Any], times: int
) -> None:
    n = 3000
    bad = fill(topics, 0, n)
    job, folder = topics.job(tmp_path), tmp_path / "run"
    chance = random.Random(4)
    kills = 0
    for _ in range(times):
        process = start(job, folder, "--max-events", str(n), "--rate", "1500", "--resume-if-begun")
        state = folder / "dead-topic.json"
        before = state.read_text() if state.exists() else ""
        deadline = time.monotonic() + 60
        while (
            process.poll() is None and time.monotonic() < deadline
        ):  # while letters are on the way
            if state.exists() and state.read_text() != before:
                break
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.15))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills >= times - 1
    process = start(job, folder, "--max-events", str(n), "--resume-if-begun")
    _, told = process.communicate(timeout=100)
    assert process.returncode == 0, told
    assert summary(folder)["fates"]["dead"] == bad > 300
    assert sum(not x.label for x in dead_in(folder)) == bad
    same_as_the_file(topics, folder)


def test_run_too_many_dead_stops_then_resumes(
    topics: Topics, everlearn: Callable[..., Any], tmp_path: Path, summary: Callable[..., Any]
) -> None:
    for i in range(100):
        topics.event(event(i), i, i % 2)
        topics.label(answer(i), i, i % 2)
    for i in range(100, 180):
        topics.event(event(i, a="x") if i % 10 else b"{", i, i % 2)
    for i in range(180, 250):
        topics.event(event(i), i, i % 2)
    limits = {"topic": topics.dead, "share": 0.5, "of": 100}
    job, folder = topics.job(tmp_path, dead_letters=limits), tmp_path / "run"
    common = ("run", job, "--run-dir", folder, "--max-events", 250)
    stopped = everlearn(*common, code=1)
    assert "51 of the last 100 events are dead" in stopped.line
    assert "x column 'a': expected a finite number; " in stopped.line
    assert "x no JSON), as " + topics.events in stopped.line
    assert "stream.dead_letters.share" in stopped.line
    assert "--resume" in stopped.line
    assert len(dead_in(folder)) >= 51
    same_as_the_file(topics, folder)
    everlearn(*common, "--resume", "--set", "stream.dead_letters.share=0.9")
    assert summary(folder)["events"] == 250
    assert summary(folder)["fates"]["dead"] == 80 == len(dead_in(folder))
    same_as_the_file(topics, folder)


def test_command_lists_and_reinjects(
    topics: Topics, everlearn: Callable[..., Any], tmp_path: Path, summary: Callable[..., Any]
) -> None:
    n = 40
    for i in range(n):
        topics.event(event(i), i, i % 2)
        topics.label(answer(i), i, i % 2)
    large = [topics.event(event(n + i, pad="x" * 20_000), n, i) for i in range(2)]
    topics.event(b"\x1b[31m{", n, 0)
    double = topics.event(event(3), n, 1)
    for i in range(2):
        topics.label(answer(n + i), n, i)
    job, folder = topics.job(tmp_path), tmp_path / "run"
    common = ("run", job, "--run-dir", folder)
    everlearn(*common, "--max-events", n + 4)

    shown = everlearn("dead-letters", folder)
    assert f"{topics.events}/0/{large[0][1]}" in shown.out
    assert "4 in all, the last 4 of them shown" in shown.out
    assert "\x1b" not in shown.out
    assert "duplicate id" in shown.out
    assert "not kept" in shown.out
    some = everlearn("dead-letters", folder, "--reason", "MAX_BYTES", "--json", "--limit", 1)
    (entry,) = map(json.loads, some.out.splitlines())
    assert entry["position"].startswith(f"{topics.events}/")
    assert entry["place"] == entry["position"], "the former name stays"
    assert base64.b64decode(entry["value"]) in {event(n + i, pad="x" * 20_000) for i in range(2)}

    again = ("dead-letters", folder, "--inject", "--reason", "max_bytes")
    assert "2 messages would be sent again" in everlearn(*again, "--dry-run").out
    assert len(topics.read(topics.events)) == n + 4
    assert "2 messages were sent again" in everlearn(*again).out
    assert "0 messages were sent again (2 were sent before)" in everlearn(*again).out
    messages = topics.read(topics.events)
    assert len(messages) == n + 6
    new = [m for m in messages if dict(m.headers).get("everlearn-reinjected")]
    assert {m.key for m in new} == {b"k"}
    assert sorted((m.partition, m.value) for m in new) == [
        (i, event(n + i, pad="x" * 20_000)) for i in range(2)
    ]
    # They are learned once the job takes as many bytes.
    everlearn(*common, "--max-events", n + 6, "--resume", "--set", "stream.max_bytes=100_000")
    fates = summary(folder)["fates"]
    assert fates["dead"] == 4
    assert fates["learned"] + summary(folder)["awaiting"] == n + 2
    assert summary(folder)["labels"].get("stray", 0) == 0

    # The bytes of one that died in the trainer are read from its topic.
    place = f"{topics.events}/1/{double[1]}"
    assert "1 messages were sent again" in everlearn(
        "dead-letters", folder, "--inject", "--at", place
    ).out  # fmt: skip
    assert topics.read(topics.events)[-1].value == event(3) or event(3) in [
        m.value for m in topics.read(topics.events) if m.headers
    ]
    # All of them, less those that were before.
    told = everlearn("dead-letters", folder, "--inject", "--all").out
    assert "1 messages were sent again (3 were sent before)" in told


def test_command_interrupted_injection_resumes(
    topics: Topics, everlearn: Callable[..., Any], tmp_path: Path
) -> None:
    for i in range(10):
        topics.event(b"%d{" % i, i, i % 2)
    job, folder = topics.job(tmp_path), tmp_path / "run"
    everlearn("run", job, "--run-dir", folder, "--max-events", 10)
    all_of_them = ("dead-letters", folder, "--inject", "--all")
    assert "10 messages were sent again" in everlearn(*all_of_them).out
    # Killed before it was written down: they are found in the topic.
    journal = folder / "injected.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    journal.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    assert "0 messages were sent again (10 were sent before)" in everlearn(*all_of_them).out
    assert len(topics.read(topics.events)) == 20
    # Killed after some had come: the others follow.
    sending = json.loads(lines[1])
    one = [*sending["sending"]]
    other = {"sending": [*one, f"{topics.events}/0/999"], "ends": sending["ends"]}
    journal.write_bytes(lines[0] + json.dumps(other).encode() + b"\n")
    assert "0 messages were sent again (10 were sent before)" in everlearn(*all_of_them).out
    assert len(topics.read(topics.events)) == 20


def test_run_missing_dead_letter_topic_is_refused(
    topics: Topics, everlearn: Callable[..., Any], tmp_path: Path
) -> None:
    job = topics.job(tmp_path, dead_letters={"topic": f"none-{uuid.uuid4().hex}"})
    outcome = everlearn("run", job, "--run-dir", tmp_path / "run", "--max-events", 1, code=2)
    assert "stream.dead_letters.topic: there is no topic 'none-" in outcome.line
    job = topics.job(tmp_path, dead_letters={"topic": topics.labels})
    outcome = everlearn("run", job, "--run-dir", tmp_path / "run", "--max-events", 1, code=2)
    assert "dead_letters.topic: must not be a topic that the job reads" in outcome.line


def test_command_bad_options_are_refused(everlearn: Callable[..., Any], tmp_path: Path) -> None:
    def refused(*args: object) -> str:
        line: str = everlearn("dead-letters", *args, code=2).line
        return line

    assert "no run here" in refused(tmp_path)
    rows = "".join(f"{i},{i % 2}\n" for i in range(50)) + "x,1\n"
    (tmp_path / "rows.csv").write_text("a,y\n" + rows)
    stream = {"kind": "recorded", "path": "rows.csv", "label": "y", "features": {"numeric": ["a"]}}
    job = tmp_path / "job.yaml"
    learner = {"kind": "no-change"}
    job.write_text(yaml.safe_dump({"name": "rows", "stream": stream, "learner": learner}))
    run = tmp_path / "run"
    everlearn("run", job, "--run-dir", run)
    shown = everlearn("dead-letters", run).out
    assert "0/50" in shown
    assert "column 'a': expected a finite number" in shown
    assert "stream.kind 'recorded'" in refused(run, "--inject", "--all")
    assert "say which" in refused(run, "--inject")
    assert "say which" in refused(run, "--inject", "--all", "--reason", "x")
    assert "no such dead letter" in refused(run, "--at", "0/49")
    assert "go with --inject" in refused(run, "--dry-run")
    assert "lists nothing" in refused(run, "--inject", "--all", "--json")
    told = everlearn(
        "run", job, "--run-dir", tmp_path / "other", "--set", "stream.dead_letters.share=0", code=1
    ).line
    assert "1 of the last 1,000 events are dead" in told
