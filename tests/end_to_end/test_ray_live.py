"""Live streams on Ray: whoever dies, every event has one fate, and every label is joined once."""

from __future__ import annotations

import json
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil
import pytest
import yaml
from kafka import KafkaConsumer, KafkaProducer

from tests.support.brokers import make_topics
from tests.support.ray_processes import Driver, Place, until

pytest.importorskip("ray")
PARTITIONS = 4
DELAY = 50  # events
Summary = dict[str, Any]

JOB = """
name: live
seed: 3
stream:
  kind: kafka
  servers: {servers}
  topic: {topic}
  features: {{numeric: [a, b, c]}}
  id: id
  labels: {{topic: {topic}-labels, id: id, label: label}}
  batch_size: 64
  linger: 0.05
  label_timeout_events: 400000
  id_window: 400000
learner:
  kind: replay
  model: {{kind: mlp, hidden: [16]}}
  optimizer: {{kind: adam, lr: 0.003}}
  buffer: {{capacity: 500}}
evaluate: {{probes: {{share: 0.02}}}}
checkpoint: {{every_events: 4000}}
"""


def write_job(file: Path, servers: str, topic: str, **stream: Any) -> Path:
    job = yaml.safe_load(JOB.format(servers=servers, topic=topic))
    job["stream"] |= stream
    file.write_text(yaml.safe_dump(job))
    return file


class Made:
    """Events and their labels, by number."""

    def __init__(self, events: int) -> None:
        self._x = np.random.default_rng(0).normal(size=(events, 3)).round(4)

    def event(self, i: int) -> bytes:
        a, b, c = self._x[i].tolist()
        return orjson.dumps({"id": i, "a": a, "b": b, "c": c})

    def label(self, i: int) -> bytes:
        a, b, _ = self._x[i].tolist()
        return orjson.dumps({"id": i, "label": "up" if a + b > 0 else "down"})


class Sender:
    """Sends events, and the label of each ``DELAY`` events later. While ``held`` is, nothing is on
    its way: a broker that dies then gets nothing twice."""

    def __init__(self, servers: str, topic: str, events: int, rate: float, **options: Any) -> None:
        self.held = threading.Lock()
        self.sent = 0
        self._made, self._events, self._rate = Made(events), events, rate
        self._servers, self._topic, self._options = servers, topic, options
        self._thread = threading.Thread(target=self._send)
        self._ended = threading.Event()

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _send(self) -> None:
        producer = KafkaProducer(
            bootstrap_servers=self._servers,
            enable_idempotence=False,  # of old brokers there is none
            max_in_flight_requests_per_connection=1,
            linger_ms=5,
            **self._options,
        )
        for start in range(0, self._events + DELAY, 500):
            with self.held:
                for i in range(start, min(start + 500, self._events + DELAY)):
                    if i >= DELAY:
                        told = self._made.label(i - DELAY)
                        partition = (i - DELAY) % PARTITIONS
                        producer.send(f"{self._topic}-labels", told, partition=partition)
                    if i < self._events:
                        one = self._made.event(i)
                        producer.send(self._topic, one, partition=i % PARTITIONS)
                producer.flush()
                self.sent = min(start + 500, self._events)
            if self._ended.wait(500 / self._rate):
                break
        producer.close()


def whole(found: Summary, events: int) -> None:
    """Every event has met one fate, every label its event."""
    assert found["finished"] is False  # it was stopped: a live stream has no end
    assert found["events"] == events
    assert sum(found["fates"].values()) == events
    assert found["fates"]["learned"] + found["fates"]["probe"] == events
    assert not any(count for name, count in found["labels"].items() if name != "early")
    partitions = {name: at for name, at in found["cursor"].items() if "/" not in name}
    labels = {name: at for name, at in found["cursor"].items() if "/" in name}
    assert sum(partitions.values()) == sum(labels.values()) == events


def learned(driver: Driver, folder: Path, messages: int, seconds: float) -> None:
    """Waits until so many messages have been read."""

    def read() -> bool:
        assert driver.running(), driver.err
        found, journal = 0, folder / "journal.jsonl"
        for line in journal.read_text().splitlines()[1:] if journal.exists() else ():
            with suppress(ValueError):  # it is being written
                found += sum(after - first for first, after in json.loads(line)["ranges"].values())
        return found >= messages

    until(read, seconds)


def command(place: Place, *more: object) -> Driver:
    return Driver(place, sys.executable, "-m", "pipeline", *more)


def stopped(driver: Driver, folder: Path, summary: Callable[[Path], Summary]) -> Summary:
    """Ends a run, as Ctrl-C does, once it had the time to learn what it has read."""
    until(lambda: driver.actor("trainer"))
    time.sleep(6.0)
    driver.process.terminate()
    driver.ends(1)
    return summary(folder)


def replayed(place: Place, recording: Path, summary: Callable[[Path], Summary]) -> Summary:
    """The recording, played back in one process."""
    folder = recording.with_name("replayed")
    command(place, "replay", recording, "--run-dir", folder).ends(0)
    return summary(folder)


@pytest.mark.soak
def test_whoever_is_killed_a_live_run_is_its_recording(
    broker: str, place: Place, summary: Callable[[Path], Summary], tmp_path: Path
) -> None:
    events, topic, chance = 12_000, "kills", random.Random(3)
    make_topics(broker, topic, f"{topic}-labels", partitions=PARTITIONS)
    job = write_job(tmp_path / "job.yaml", broker, topic)
    folder, recording = tmp_path / "run", tmp_path / "recording"
    words = ("record", job, "--to", recording, "--runner", "ray", "--run-dir", folder)
    with Sender(broker, topic, events, rate=1500):
        driver = command(place, *words)
        for victim in ("source", "trainer", "driver", "trainer", "source"):
            learned(driver, folder, 1000, 60)
            time.sleep(chance.uniform(0.5, 1.5))
            if victim == "driver":
                driver.kill()
                driver = command(place, *words, "--resume")
                driver.says("resumed after")
                continue
            process = until(partial(driver.actor, victim))
            with suppress(psutil.NoSuchProcess):
                process.kill()
        learned(driver, folder, 2 * events, 90)
        found = stopped(driver, folder, summary)
    assert found["resumed_from"]
    whole(found, events)
    again = replayed(place, recording, summary)
    assert again["state_digest"] == found["state_digest"]
    assert again["fates"] == found["fates"]


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets
def test_25_kills_of_all_there_is(
    brokers: Any, place: Place, summary: Callable[[Path], Summary], tmp_path: Path
) -> None:
    """With the broker among the killed, and consumers that come and go."""
    events, topic, chance, kills = 200_000, "soak", random.Random(11), 0
    with brokers.apache_kafka_09(tmp_path / "kafka", tmp_path / "package") as kafka:
        for name in (topic, f"{topic}-labels"):
            kafka.create(name, PARTITIONS)
        old = {"api_version": [0, 9], "session_timeout_ms": 6000, "max_poll_interval_ms": 6000}
        job = write_job(
            tmp_path / "job.yaml", kafka.servers, topic, assign="group", consumers=2, client=old
        )
        folder, recording = tmp_path / "run", tmp_path / "recording"
        words = ("record", job, "--to", recording, "--runner", "ray", "--run-dir", folder)
        with Sender(kafka.servers, topic, events, 700, api_version=(0, 9)) as sender:
            driver = command(place, *words)
            learned(driver, folder, 1000, 90)
            while kills < 25:
                time.sleep(chance.uniform(1.0, 8.0))
                victim = chance.choice(["source", "trainer", "driver", "broker", "consumer"])
                if victim == "broker":
                    with sender.held:
                        kafka.kill()
                        time.sleep(chance.uniform(0.0, 5.0))
                        kafka.start()
                elif victim == "driver":
                    driver.kill()
                    driver = command(place, *words, "--resume")
                    driver.says("resumed after")
                elif victim == "consumer":  # one of the group that is not ours, for a while
                    with consuming(kafka.servers, topic):
                        time.sleep(10)
                    continue
                elif (process := driver.actor(victim)) is not None:
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
                else:
                    continue
                kills += 1
                assert driver.running(), driver.err
            until(lambda: sender.sent == events, 600)
            learned(driver, folder, 2 * events, 300)
            found = stopped(driver, folder, summary)
        whole(found, events)
        again = replayed(place, recording, summary)
        assert again["state_digest"] == found["state_digest"]
        assert again["fates"] == found["fates"]


SLOW = """
import time
from pathlib import Path

from learners.rehearsal.replay import Replay

HERE = Path({folder!r})


class Slow(Replay):
    kind = "slow"

    def learn(self, revealed):
        super().learn(revealed)
        if (HERE / "slow").exists():
            time.sleep(0.2)  # some hundred times what it takes
"""


@pytest.mark.soak
@pytest.mark.parametrize("seconds", [8, 60])
def test_a_slow_learner_holds_the_source_back(
    broker: str,
    place: Place,
    summary: Callable[[Path], Summary],
    database: Path,
    tmp_path: Path,
    seconds: int,
) -> None:
    events, topic = 3000 * seconds, f"slow-{seconds}"
    make_topics(broker, topic, f"{topic}-labels", partitions=PARTITIONS)
    shutil.copy(database, place.path / "mlflow.db")
    (tmp_path / "lazy.py").write_text(SLOW.format(folder=str(tmp_path)))
    file = write_job(tmp_path / "job.yaml", broker, topic)
    job = yaml.safe_load(file.read_text())
    job["learner"]["kind"] = "lazy:Slow"
    job["track"] = {"uri": f"sqlite:///{place.path}/mlflow.db", "every_events": 100}
    file.write_text(yaml.safe_dump(job))
    folder = tmp_path / "run"
    memory: dict[str, list[float]] = {"source": [], "trainer": []}
    with Sender(broker, topic, events, rate=3000):
        driver = command(place, "run", file, "--runner", "ray", "--run-dir", folder)
        learned(driver, folder, 4000, 60)
        (tmp_path / "slow").touch()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for name, found in memory.items():
                process = until(partial(driver.actor, name))
                found.append(process.memory_info().rss / 1e6)
            time.sleep(0.5)
        (tmp_path / "slow").unlink()
        learned(driver, folder, 2 * events, 120)
        done = stopped(driver, folder, summary)
    whole(done, events)
    for name, found in memory.items():
        first, last = max(found[: len(found) // 3]), max(found[-len(found) // 3 :])
        assert last < first + 60, (name, found)  # megabytes; what waits is 24,000 events and more
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lag = [row["metrics"].get("system/lag", 0) for row in rows]
    assert max(lag) > 500 * seconds  # it was told
    assert lag[-1] < 1000, lag[-5:]


@contextmanager
def consuming(servers: str, topic: str) -> Iterator[None]:
    """Another member of the job's consumer group, which takes its share and tells nobody."""
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=servers,
        group_id="live",
        api_version=(0, 9),
        session_timeout_ms=6000,
        max_poll_interval_ms=6000,
        enable_auto_commit=False,
    )
    ended = threading.Event()

    def poll() -> None:
        while not ended.is_set():
            consumer.poll(200)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        consumer.close()
