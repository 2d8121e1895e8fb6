"""Two versions of an Avro schema in one topic: resolved by name, or dead by name."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.kafka44 import Kafka44

fastavro = pytest.importorskip("fastavro", reason="pip install 'everlearn[codecs]'")

CASE = Path(__file__).parents[3] / "shared" / "cases" / "avro-reordered"
Everlearn = Callable[..., Any]
LIBRARIES = ("kafka-python", "confluent-kafka")


def schema(*fields: tuple[str, str]) -> dict[str, Any]:
    named = [{"name": name, "type": kind} for name, kind in fields]
    return {"type": "record", "name": "E", "fields": named}


FIELDS = (("id", "long"), ("a", "double"), ("b", "double"), ("label", "string"))
SCHEMAS = {1: schema(*FIELDS), 2: schema(FIELDS[0], FIELDS[2], FIELDS[1], FIELDS[3])}


@pytest.fixture
def topic(kafka44: Kafka44, request: pytest.FixtureRequest) -> str:
    """30 messages of schema 1, then 30 of schema 2, whose fields stand in another order."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    kafka44.create(name)
    values = []
    for i in range(60):
        id_, out = 1 if i < 30 else 2, io.BytesIO()
        out.write(b"\0" + id_.to_bytes(4, "big"))
        row = {"id": i, "a": 1 + i / 1000, "b": 1000.0 + i, "label": "AB"[i % 2]}
        fastavro.schemaless_writer(out, SCHEMAS[id_], row)
        values.append(out.getvalue())
    kafka44.send(name, values)
    return name


def job(folder: Path, kafka44: Kafka44, topic: str, **format_: Any) -> Path:
    for id_, declared in SCHEMAS.items():
        (folder / f"v{id_}.avsc").write_text(json.dumps(declared))
    if (CASE / "job.yaml").exists():
        text = (CASE / "job.yaml").read_text().replace("${SERVERS}", kafka44.servers)
        about = yaml.safe_load(text)
    else:
        about = {
            "name": "avro",
            "stream": {
                "kind": "kafka",
                "format": {"kind": "avro", "schema": "v1.avsc", "framing": "confluent"},
                "features": {"numeric": ["a", "b"]},
                "id": "id",
                "label": {"column": "label"},
                "stop": "latest",
            },
            "learner": {"kind": "no-change"},
        }
    about["stream"] |= {"servers": kafka44.servers, "topic": topic}
    about["stream"]["format"] |= format_
    about["stream"]["dead_letters"] = {"share": 1}
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(about))
    return file


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


@pytest.mark.parametrize("library", LIBRARIES)
def test_other_schema_without_ids_is_dead_by_name(
    tmp_path: Path, kafka44: Kafka44, topic: str, everlearn: Everlearn, library: str
) -> None:
    """The id of the first message holds for the whole run, also when it is resumed."""
    file, folder = job(tmp_path, kafka44, topic), tmp_path / "run"
    run = ("run", file, "--run-dir", folder, "--set", f"stream.library={library}")
    everlearn(*run, "--max-events", 20)
    everlearn(*run, "--resume")
    fates = summary(folder)["fates"]
    assert (fates["learned"], fates["dead"]) == (30, 30)
    reasons = {
        json.loads(line)["reason"] for line in (folder / "dead.jsonl").read_text().splitlines()
    }
    assert reasons == {
        "schema 2; this job reads by that of schema 1: state stream.format.schemas or registry"
    }
    whole = tmp_path / "whole"
    everlearn("record", file, "--to", tmp_path / "rec", "--run-dir", whole)
    everlearn("replay", tmp_path / "rec", "--run-dir", tmp_path / "again")
    digests = {summary(at)["state_digest"] for at in (folder, whole, tmp_path / "again")}
    assert len(digests) == 1


def test_first_schema_of_an_empty_topic_is_asked_for(
    tmp_path: Path, kafka44: Kafka44, everlearn: Everlearn
) -> None:
    kafka44.create("avro-empty")
    file = job(tmp_path, kafka44, "avro-empty")
    line = everlearn("run", file, "--run-dir", tmp_path / "run", code=2).line
    assert "no message of the topic 'avro-empty' states the id of its schema yet" in line


@pytest.mark.parametrize("library", LIBRARIES)
def test_schemas_by_id_are_resolved_by_name(
    tmp_path: Path, kafka44: Kafka44, topic: str, everlearn: Everlearn, library: str
) -> None:
    named = job(tmp_path, kafka44, topic, schemas={1: "v1.avsc", 2: "v2.avsc"})
    run = ("--run-dir", tmp_path / "run", "--set", f"stream.library={library}")
    everlearn("run", named, *run)
    assert summary(tmp_path / "run")["fates"]["learned"] == 60
