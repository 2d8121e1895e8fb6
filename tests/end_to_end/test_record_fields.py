"""An id in the key and a label in a header: learned, recorded, replayed and sent again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.support.kafka44 import Kafka44

Everlearn = Callable[..., Any]
N = 300


@pytest.fixture
def events(tmp_path: Path) -> Path:
    file = tmp_path / "events.parquet"
    columns = {
        "number": [1000 + i for i in range(N)],
        "at": [float(i) for i in range(N)],
        "a": [(i * 7919 % 13) / 13 for i in range(N)],
        "outcome": ["yes" if i * 7919 % 13 > 6 else "no" for i in range(N)],
    }
    pq.write_table(pa.table(columns), file)
    return file


@pytest.fixture
def job(tmp_path: Path, kafka44: Kafka44) -> Callable[..., Path]:
    def write(topic: str, **stream: Any) -> Path:
        about = {
            "kind": "kafka",
            "servers": kafka44.servers,
            "topic": topic,
            "features": {"numeric": ["a"]},
            "time": "at",
            "stop": "latest",
            "linger": 0.02,
        }
        job = {
            "name": topic,
            "seed": 1,
            "stream": about | stream,
            "learner": {
                "kind": "replay",
                "model": {"kind": "mlp", "hidden": [4]},
                "optimizer": {"kind": "adam", "lr": 0.01},
                "buffer": {"capacity": 50},
            },
        }
        file = tmp_path / f"{topic}.yaml"
        file.write_text(yaml.safe_dump(job))
        return file

    return write


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def test_record_fields_learn_as_fields_of_the_value(
    tmp_path: Path, kafka44: Kafka44, events: Path, job: Callable[..., Path], everlearn: Everlearn
) -> None:
    """The state is that of the same events with id and label in the value, also when replayed."""
    send = ("produce", events, "--servers", kafka44.servers, "--time", "at", "--partitions", 1)
    send = (*send, "--id", "number", "--label", "outcome")
    everlearn(*send, "--topic", "inside")
    beside = ("--key", "number", "--header", "outcome", "--topic", "beside", "--fast")
    everlearn(*send, *beside)
    inside = job("inside", id="number", label="outcome")
    everlearn("run", inside, "--run-dir", tmp_path / "inside")
    places = {"id": {"from": "key"}, "label": {"from": "header", "name": "outcome"}}
    one = job("beside", **places)
    everlearn("record", one, "--to", tmp_path / "rec", "--run-dir", tmp_path / "beside")
    everlearn("replay", tmp_path / "rec", "--run-dir", tmp_path / "again")
    said = [summary(tmp_path / name) for name in ("inside", "beside", "again")]
    assert [s["fates"]["learned"] for s in said] == [N] * 3
    assert len({s["state_digest"] for s in said}) == 1
    other = job("beside", **places, library="confluent-kafka")
    everlearn("run", other, "--run-dir", tmp_path / "other")
    assert summary(tmp_path / "other")["state_digest"] == said[0]["state_digest"]


def test_dead_letter_sent_again_keeps_key_and_headers(
    tmp_path: Path, kafka44: Kafka44, job: Callable[..., Path], everlearn: Everlearn
) -> None:
    """A message that is dead for its size is learned once it is sent again, by its key."""
    topic = "again-with-key"
    kafka44.create(topic)
    value = json.dumps({"a": 1, "at": 1, "pad": "x" * 500}).encode()
    headers = [("outcome", b"yes"), ("trace", b"\x01")]
    kafka44.send(topic, [value], keys=["7"], headers=headers)
    places = {"id": {"from": "key"}, "label": {"from": "header", "name": "outcome"}}
    file = job(topic, **places, max_bytes=100, dead_letters={"share": 1})
    run = ("run", file, "--run-dir", tmp_path / "run")
    everlearn(*run)
    assert summary(tmp_path / "run")["fates"]["dead"] == 1
    everlearn("dead-letters", tmp_path / "run", "--inject", "--all")
    (_, first, _), (_, second, again) = kafka44.read(topic)
    assert (first, second, again) == (b"7", b"7", value)
    everlearn("run", file, "--run-dir", tmp_path / "new", "--set", "stream.max_bytes=1000")
    fates = summary(tmp_path / "new")["fates"]
    assert (fates["learned"], fates["dead"]) == (1, 1)  # the second is a duplicate of the first
    dead = json.loads((tmp_path / "new" / "dead.jsonl").read_text())
    assert dead["reason"].startswith("duplicate id")
