"""Runs on a current Kafka whose log is not one record an offset: transactions, compaction, deleted
records, topics made anew."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.kafka44 import COMPACTED, Kafka44

NAMES = itertools.count()


both = pytest.mark.parametrize("library", ["kafka-python", "confluent-kafka"])


@pytest.fixture
def library() -> str:
    """The client library, where a test does not run with both."""
    return "confluent-kafka"


@pytest.fixture
def topic() -> str:
    return f"log-{next(NAMES)}"


@pytest.fixture
def job(tmp_path: Path, kafka44: Kafka44, topic: str, library: str) -> Callable[..., Path]:
    """Writes a job on the topic; ``stream`` are its settings beside the usual ones."""

    def write(**stream: Any) -> Path:
        about = {
            "kind": "kafka",
            "servers": kafka44.servers,
            "topic": topic,
            "library": library,
            "features": {"numeric": ["a", "b"]},
            "id": "id",
            "label": {"column": "y", "classes": ["no", "yes"]},
            "stop": "latest",
            "linger": 0.05,
        }
        settings = {
            "name": "log",
            "seed": 1,
            "stream": about | stream,
            "learner": {
                "kind": "replay",
                "model": {"kind": "mlp", "hidden": [8]},
                "buffer": {"capacity": 100},
            },
        }
        file = tmp_path / "job.yaml"
        file.write_text(yaml.safe_dump(settings))
        return file

    return write


def rows(ids: Sequence[int]) -> Iterator[str]:
    """Events of these ids."""
    for i in ids:
        a = (i * 7919) % 13
        yield json.dumps({"id": i, "a": a / 13, "b": (i % 5) / 5, "y": "yes" if a > 6 else "no"})


def send_transactions(kafka: Kafka44, topic: str, size: int, ends: Sequence[bool]) -> None:
    """Send transactions of ``size`` events each, committed where True, else aborted."""
    for i, commit in enumerate(ends):
        kafka.transaction(topic, rows(range(size * i, size * (i + 1))), commit)


@both
def test_aborted_transactions_are_unread(
    kafka44: Kafka44, topic: str, job: Callable[..., Path], everlearn: Any, summary: Any
) -> None:
    kafka44.create(topic)
    send_transactions(kafka44, topic, 30, [True, True, False, True, False])
    everlearn("run", job(), "--run-dir", "run")
    done = summary(Path("run"))
    assert (done["finished"], done["events"], done["fates"]["learned"]) == (True, 90, 90)
    assert done["cursor"] == {"0": 123}  # 30 + 1, 30 + 1, 30 + 1, 30


@both
def test_compacted_topic_gives_the_latest_of_each_key(
    kafka44: Kafka44, topic: str, job: Callable[..., Path], everlearn: Any, summary: Any
) -> None:
    kafka44.create(topic, **COMPACTED)
    kafka44.send(topic, rows(range(200)), keys=[str(i % 50) for i in range(200)])
    kafka44.compact(topic, ("last", next(rows([200]))), records=51)
    everlearn("run", job(), "--run-dir", "run")
    assert summary(Path("run"))["fates"]["learned"] == 51


@pytest.mark.parametrize("gaps", ["refuse", True])
def test_gaps_refuse_stops_and_true_is_the_default(
    kafka44: Kafka44, topic: str, job: Callable[..., Path], everlearn: Any, gaps: Any, caplog: Any
) -> None:
    kafka44.create(topic)
    send_transactions(kafka44, topic, 5, [True, True])
    done = everlearn("run", job(gaps=gaps), "--run-dir", "run", code=int(gaps == "refuse"))
    refused = "partition 0: positions 5 to 5 were passed over" in done.err
    assert refused == (gaps == "refuse")
    assert ("gaps: true and false have no effect" in caplog.text) == (gaps is True)
