"""A topic in which nothing comes any more: the lag is 0, and an alert says that it has gone silent;
on both runners, and without MLflow."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.storage.metric_log import Row, read_rows
from tests.support.brokers import make_topics
from tests.support.ray_processes import Driver, Place, until

pytest.importorskip("ray")
SILENCE = "system/seconds_since_last_message"


def send(servers: str, topic: str, n: int) -> None:
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=servers)
    for i in range(n):
        value = json.dumps({"a": i % 7, "y": "ud"[i % 2]}).encode()
        producer.send(topic, value, partition=i % 2).get(20)
    producer.close()


def last_row(folder: Path) -> Row | None:
    rows, _ = read_rows(folder / "metrics.jsonl", 0, 10**9)
    return rows[-1] if rows else None


def live_job(file: Path, servers: str, topic: str) -> Path:
    """A row of metrics every 1,000 events, of which there are far fewer."""
    stream = {"kind": "kafka", "servers": servers, "topic": topic, "label": "y", "linger": 0.05}
    stream |= {"features": {"numeric": ["a"]}, "batch_size": 8}
    alert = {"metric": f"{SILENCE}/{topic}", "above": 2, "for": {"seconds": 1}}
    track = {"every_events": 1000, "alerts": [alert]}
    learner = {"kind": "prior"}
    content = {"name": topic, "stream": stream, "learner": learner, "track": track}
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.mark.parametrize("runner", ["local", pytest.param("ray", marks=pytest.mark.soak)])
def test_run_on_a_silent_topic_says_so_and_has_no_lag(
    runner: str, broker: str, place: Place, tmp_path: Path
) -> None:
    topic, folder = f"quiet-{runner}-{os.getpid()}", tmp_path / "run"
    make_topics(broker, topic, partitions=2)
    job = live_job(tmp_path / "job.yaml", broker, topic)
    run = [sys.executable, "-m", "pipeline", "run", job, "--run-dir", folder]
    driver = Driver(place, *run, "--runner", runner)
    send(broker, topic, 301)
    until(lambda: (row := last_row(folder)) is not None and row.step == 301)
    row = last_row(folder)
    assert row is not None
    assert row.metrics["system/lag"] == 0
    names = {f"{SILENCE}/{topic}", *(f"{SILENCE}/{topic}/{part}" for part in (0, 1))}
    assert names <= row.metrics.keys()
    driver.says("is above 2 for 1 s at 301 events")
    send(broker, topic, 1)
    driver.says(f"alert over: {SILENCE}/{topic}")
    driver.process.send_signal(signal.SIGINT)
    driver.ends(1)
    assert driver.err.count("alert:") == 1
    last = last_row(folder)
    assert last is not None
    assert (last.step, last.metrics["system/lag"]) == (302, 0)
