"""Runs of jobs on topics of a real broker: killed, begun anew by the journal, and refused."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # kafka-python reads its own files in a way that is going
    from kafka import KafkaProducer
    from kafka.admin import KafkaAdminClient, NewTopic

ROOT = Path(__file__).parents[2]
T0 = 1_700_000_000
NAMES = itertools.count()
EVENTS = 4000


@pytest.fixture
def topics(broker: str) -> tuple[str, str]:
    names = tuple(f"run-{kind}-{next(NAMES)}-{os.getpid()}" for kind in ("ev", "lab"))
    admin = KafkaAdminClient(bootstrap_servers=broker)
    admin.create_topics([NewTopic(name, 3, 1) for name in names])
    admin.close()
    return names[0], names[1]


@pytest.fixture
def job(tmp_path: Path, broker: str, topics: tuple[str, str]) -> Callable[..., Path]:
    def write(**stream: Any) -> Path:
        about = {
            "kind": "kafka",
            "servers": broker,
            "topic": topics[0],
            "features": {"numeric": ["a", "b"]},
            "id": "id",
            "time": "t",
            "labels": {"topic": topics[1], "id": "id", "label": "y"},
            "batch_size": 16,
            "lateness": 100,
            "stop": "latest",
            "linger": 0.02,
        }
        job = {
            "name": "live",
            "seed": 1,
            "stream": {k: v for k, v in (about | stream).items() if v is not None},
            "learner": {
                "kind": "replay",
                "model": {"kind": "mlp", "hidden": [8]},
                "steps": 1,
                "buffer": {"capacity": 100},
            },
            "checkpoint": {"every_events": 400},
        }
        file = tmp_path / "job.yaml"
        file.write_text(yaml.safe_dump(job))
        return file

    return write


def send(servers: str, topics: tuple[str, str], first: int, n: int) -> None:
    """Events and, 30 events later, their labels; one of each in fifty is bad."""
    chance = np.random.default_rng(first)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        producer = KafkaProducer(bootstrap_servers=servers, linger_ms=5)
    for i in range(first, first + n):
        x = chance.normal(size=2).round(3).tolist()
        sent = {"id": i, "a": x[0], "b": x[1], "t": T0 + i / 10}
        value = b"{" if i % 50 == 7 else json.dumps(sent).encode()
        named = b"[]" if i % 50 == 9 else json.dumps({"id": i, "y": str(x[0] > 0)}).encode()
        moment = T0 * 1000 + i * 100
        producer.send(topics[0], value, partition=i % 3, timestamp_ms=moment)
        producer.send(topics[1], named, partition=i % 3, timestamp_ms=moment + 3000)
    producer.flush()
    for partition in range(3):  # a last batch of one: it is then known where the topics end
        i = first + n + partition
        sent = {"id": -i, "a": 0, "b": 0, "t": T0 + i / 10}
        for topic, last in zip(topics, (sent, {"id": -i, "y": "True"}), strict=True):
            value = json.dumps(last).encode()
            moment = T0 * 1000 + i * 100
            producer.send(topic, value, partition=partition, timestamp_ms=moment).get(10)
    producer.close()


def command(job: Path, folder: Path, *more: str) -> list[str]:
    run = [sys.executable, "-m", "pipeline", "run", str(job), "--run-dir", str(folder)]
    return [*run, "--runner", "local", *more]


@pytest.fixture
def run(
    everlearn: Callable[..., Any], summary: Callable[[Path], dict[str, Any]]
) -> Callable[..., dict[str, Any]]:
    """Runs a job in this process, to its end."""

    def run(job: Path, folder: Path, *more: str) -> dict[str, Any]:
        everlearn("run", job, "--run-dir", folder, "--runner", "local", *more)
        return summary(folder)

    return run


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name in ("events", "fates", "labels", "cursor", "state_digest"):
        assert one[name] == other[name], name


@pytest.mark.parametrize(
    "library", ["confluent-kafka", pytest.param("kafka-python", marks=pytest.mark.soak)]
)
def test_killed_and_begun_anew_by_the_journal(
    broker: str,
    topics: tuple[str, str],
    job: Callable[..., Path],
    tmp_path: Path,
    library: str,
    run: Callable[..., dict[str, Any]],
) -> None:
    if library == "confluent-kafka":
        pytest.importorskip("confluent_kafka")
    file, chance = job(library=library), random.Random(3)
    send(broker, topics, 0, EVENTS)
    killed, folder = 0, tmp_path / "killed"
    journal = folder / "journal.jsonl"
    for kills in range(3):
        process = subprocess.Popen(
            command(file, folder, *(["--resume"] if kills else [])),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 60
        grown = journal.stat().st_size if journal.exists() else 0
        checkpoints = len(list((folder / "checkpoints").glob("*")))
        while process.poll() is None:
            assert time.monotonic() < end
            if journal.exists() and (
                journal.stat().st_size > grown
                or len(list((folder / "checkpoints").glob("*"))) > checkpoints
            ):
                time.sleep(chance.uniform(0, 0.15))
                break
            time.sleep(0.005)
        killed += process.poll() is None
        process.kill()
        process.wait()
    assert killed >= 1
    found = run(file, folder, "--resume")
    assert found["finished"]
    assert found["events"] == EVENTS + 3
    assert found["fates"]["dead"] == EVENTS // 50
    by_journal = tmp_path / "by-journal"
    by_journal.mkdir()
    shutil.copy(journal, by_journal)
    other = "kafka-python" if library == "confluent-kafka" else None
    again = run(job(library=other), by_journal, "--resume")  # and by the other library
    same(found, again)
    assert again["resumed_from"] is None
    assert (by_journal / "dead.jsonl").read_bytes() == (folder / "dead.jsonl").read_bytes()
    assert (by_journal / "journal.jsonl").read_bytes() == journal.read_bytes()


def test_a_run_that_goes_on_with_what_came_meanwhile(
    broker: str,
    topics: tuple[str, str],
    job: Callable[..., Path],
    tmp_path: Path,
    run: Callable[..., dict[str, Any]],
) -> None:
    file = job(stop=None)
    send(broker, topics, 0, 200)
    first = run(file, tmp_path / "run", "--max-events", "150")
    assert 150 <= first["events"] < 203
    send(broker, topics, 203, 100)
    second = run(file, tmp_path / "run", "--resume", "--max-events", "306")
    assert second["events"] == 306
    assert sum(second["fates"].values()) + second["awaiting"] == 306


def test_nobody_there(everlearn: Any, job: Callable[..., Path], tmp_path: Path) -> None:
    file = job(servers="127.0.0.1:1", client={"bootstrap_timeout_ms": 500})
    began = time.monotonic()
    outcome = everlearn("run", file, "--run-dir", tmp_path / "run", "--runner", "local", code=2)
    assert "stream.servers: no answer from Kafka at 127.0.0.1:1" in outcome.err.replace("\n", " ")
    assert time.monotonic() - began < 12
    assert not (tmp_path / "run" / "journal.jsonl").exists()


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        ({"topic": "nowhere"}, "there is no topic 'nowhere'"),
        ({"client": {"seession_timeout_ms": 1}}, "stream.client: unknown option"),
        ({"client": {"sasl_plain_password": "${NOT_SET}"}}, "NOT_SET is not in the environment"),
        ({"format": {"kind": "avro", "schema": "none.avsc"}}, "stream.format.schema"),
        ({"format": {"kind": "yaml"}}, "stream.format"),
        ({"label": None, "labels": None}, "state the label's field"),
        ({"features": {"numeric": []}}, "no field is a feature"),
        ({"start": "yesterday"}, "earliest, latest, or a time"),
        ({"consumers": 2}, "assign: group"),
        ({"id": None}, "need the field id"),
    ],
)
def test_a_job_that_cannot_be_run(
    everlearn: Any, job: Callable[..., Path], tmp_path: Path, stream: dict[str, Any], said: str
) -> None:
    file = job(**stream)
    outcome = everlearn("run", file, "--run-dir", tmp_path / "run", "--runner", "local", code=2)
    assert said in " ".join(outcome.err.split())


def test_secrets_are_shown_nowhere(
    broker: str,
    topics: tuple[str, str],
    job: Callable[..., Path],
    everlearn: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THE_PASSWORD", "pa55w0rd-of-the-environment")
    client = {
        "sasl_plain_password": "${THE_PASSWORD}",
        "ssl_password": "pa55w0rd-in-the-job",
        "ssl_cafile": None,
    }
    send(broker, topics, 0, 30)
    folder = tmp_path / "run"
    store = tmp_path / "mlflow"
    file = job(client=client)
    about = yaml.safe_load(file.read_text())
    about["track"] = {"uri": f"sqlite:///{store}.db", "experiment": "live"}
    file.write_text(yaml.safe_dump(about))
    everlearn("run", file, "--run-dir", folder, "--runner", "local")
    shown = yaml.safe_load((folder / "job.yaml").read_text())["stream"]["client"]
    assert shown == client | {"ssl_password": "***"}
    for found in [*folder.rglob("*"), *tmp_path.glob("mlflow*"), *tmp_path.glob("mlruns/**/*")]:
        if found.is_file():
            assert b"pa55w0rd" not in found.read_bytes(), found


def test_another_job_is_refused_before_there_is_a_checkpoint(
    broker: str,
    topics: tuple[str, str],
    job: Callable[..., Path],
    tmp_path: Path,
    run: Callable[..., dict[str, Any]],
    everlearn: Callable[..., Any],
) -> None:
    send(broker, topics, 0, 300)
    folder = tmp_path / "run"
    run(job(), folder)
    shutil.rmtree(folder / "checkpoints")
    other = job(features={"numeric": ["b", "a"]})
    told = everlearn("run", other, "--run-dir", folder, "--runner", "local", "--resume", code=2).err
    assert "reading again what its journal says the run has read" in told
    assert "journal.jsonl is of another job" in told
    assert run(job(), folder, "--resume")["events"] == 303


def test_a_run_without_end_is_given_one(
    broker: str,
    topics: tuple[str, str],
    job: Callable[..., Path],
    tmp_path: Path,
    run: Callable[..., dict[str, Any]],
) -> None:
    send(broker, topics, 0, 300)
    file, folder = job(stop="never"), tmp_path / "run"
    assert not run(file, folder, "--max-events", "64")["finished"]
    found = run(file, folder, "--resume", "--set", "stream.stop=latest")
    assert found["finished"]
    assert found["events"] == 303


def test_a_checkpoint_from_time_to_time_however_few_events_come(
    broker: str,
    topics: tuple[str, str],
    job: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pipeline.config import job as jobs
    from pipeline.training import journaled_source
    from pipeline.training import run as runs

    send(broker, topics, 0, 300)
    monkeypatch.setattr(journaled_source.JournaledSource, "checkpoint_s", 0.0)
    loaded = jobs.load(job(), ["checkpoint={every_events: 100000, keep: 1000}"])
    often = runs.Run(loaded, tmp_path / "often", print).run()
    assert len([*(tmp_path / "often" / "checkpoints").iterdir()]) > 10
    monkeypatch.undo()
    (tmp_path / "seldom").mkdir()
    shutil.copy(tmp_path / "often" / "journal.jsonl", tmp_path / "seldom")
    seldom = runs.Run(loaded, tmp_path / "seldom", print).run(resume=True)
    same(often, seldom)
    assert len([*(tmp_path / "seldom" / "checkpoints").iterdir()]) == 1


def test_warm_start_outlives_a_kill_before_a_checkpoint(
    broker: str,
    topics: tuple[str, str],
    job: Callable[..., Path],
    tmp_path: Path,
    run: Callable[..., dict[str, Any]],
) -> None:
    send(broker, topics, 0, 300)
    file, folder = job(), tmp_path / "warm"
    run(file, tmp_path / "before")
    known = max((tmp_path / "before" / "checkpoints").iterdir())
    run(file, folder, "--warm-from", str(known))
    whole = json.loads((folder / "summary.json").read_text())
    for checkpoint in (folder / "checkpoints").iterdir():
        if int(checkpoint.name):  # as if it had been killed before these
            shutil.rmtree(checkpoint)
    same(run(file, folder, "--resume"), whole)
