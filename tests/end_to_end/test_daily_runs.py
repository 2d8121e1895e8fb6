"""A run of a topic that has ended goes on to what is its end now, and is exact."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.kafka44 import Kafka44

NAMES = count()
Everlearn = Callable[..., Any]
Summary = Callable[[Path], dict[str, Any]]
EXACT = ("state_digest", "fates", "cursor", "events")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(first: int, stop: int) -> list[bytes]:
    def row(i: int) -> dict[str, Any]:
        a = i * 7919 % 13
        return {"id": i, "a": a / 13, "b": (i % 5) / 5, "y": "yes" if a > 6 else "no"}

    return [json.dumps(row(i)).encode() for i in range(first, stop)]


@pytest.fixture(params=["kafka-python", "confluent-kafka"])
def job(kafka44: Kafka44, request: pytest.FixtureRequest) -> Path:
    topic = f"daily-{os.getpid()}-{next(NAMES)}"
    kafka44.create(topic)
    stream = {
        "kind": "kafka",
        "library": request.param,
        "servers": kafka44.servers,
        "topic": topic,
        "features": {"numeric": ["a", "b"]},
        "id": "id",
        "label": {"column": "y", "classes": ["no", "yes"]},
        "label_delay": {"events": 20},
    }
    learner = {"kind": "replay", "model": {"kind": "mlp", "hidden": [8]}}
    learner |= {"buffer": {"capacity": 100}}
    file = Path("job.yaml")
    file.write_text(
        yaml.safe_dump({"name": topic, "seed": 1, "stream": stream, "learner": learner})
    )
    return file


def test_a_topic_is_learned_daily_as_its_journal_says(
    kafka44: Kafka44, job: Path, everlearn: Everlearn, summary: Summary
) -> None:
    topic = yaml.safe_load(job.read_text())["name"]
    latest = ("--set", "stream.stop=latest")
    kafka44.send(topic, rows(0, 400))
    everlearn("run", job, "--run-dir", "daily", *latest)
    assert sum(summary(Path("daily"))["fates"].values()) == 400  # none is awaited any more
    done = everlearn("run", job, "--run-dir", "daily", "--resume", *latest)
    assert "has nothing new" in done.err
    for first, stop in ((400, 410), (410, 700)):
        kafka44.send(topic, rows(first, stop))
        everlearn("run", job, "--run-dir", "daily", "--resume", *latest)
        assert summary(Path("daily"))["events"] == stop
    Path("whole").mkdir()
    shutil.copy("daily/journal.jsonl", "whole")  # a run that never ended in between
    everlearn("run", job, "--run-dir", "whole", "--resume", *latest)
    assert Path("daily/journal.jsonl").read_bytes() == Path("whole/journal.jsonl").read_bytes()
    one, other = summary(Path("daily")), summary(Path("whole"))
    assert [one[name] for name in EXACT] == [other[name] for name in EXACT]


def test_a_topic_is_read_to_exactly_so_many_events(
    kafka44: Kafka44, job: Path, everlearn: Everlearn, summary: Summary
) -> None:
    topic = yaml.safe_load(job.read_text())["name"]
    kafka44.send(topic, rows(0, 1000))
    for stop in (500, 501, 700):
        resume = () if stop == 500 else ("--resume",)
        everlearn("run", job, "--run-dir", "cut", "--max-events", stop, *resume)
        cut = summary(Path("cut"))
        assert cut["events"] == sum(cut["fates"].values()) + cut["awaiting"] == stop
        assert cut["cursor"] == {"0": stop}
    everlearn("run", job, "--run-dir", "whole", "--max-events", 700)
    one, other = summary(Path("cut")), summary(Path("whole"))
    assert [one[name] for name in EXACT] == [other[name] for name in EXACT]
