"""``everlearn inspect`` and ``run --dry-run``: what a job reads, before anything starts."""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient

Everlearn = Callable[..., Any]

ROWS = """id,when,kind,size,note,due,label
1,2024-05-01T00:00:00Z,a,1.5,one word,,yes
2,2024-05-01T00:01:00Z,b,,another one,,no
3,2024-05-01T00:02:00Z,a,2.5,a third,,yes
4,2024-05-01T00:03:00Z,b,3.5,and more,,no
"""
JOB = """
name: seen
stream:
  kind: recorded
  path: rows.csv
  id: id
  time: when
  label: label
  features: {categorical: [kind], numeric: [size], text: [note]}
learner: {kind: replay, model: {kind: mlp, hidden: [4]}, optimizer: {kind: adam, lr: 0.01}}
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text(ROWS)
    file = tmp_path / "seen.yaml"
    file.write_text(JOB)
    return file


def test_inspect_job_shows_every_column(job: Path, everlearn: Everlearn) -> None:
    """The table has a row for each column: use, encoding, missing share, examples."""
    shown = everlearn("inspect", job).out
    rows = {
        cells[0]: cells[1:]
        for line in shown.splitlines()
        if line.startswith("│")
        for cells in [[cell.strip() for cell in line.strip("│").split("│")]]
    }
    assert list(rows) == ["id", "when", "kind", "size", "note", "due", "label"]
    assert rows["kind"] == ["categorical", "an embedding for each value", "0.0%", "2", "a, b"]
    assert rows["size"][0] == "numeric"
    assert rows["size"][2] == "25.0% (mean)"
    assert rows["due"][0] == "not used"
    assert "label: classification; 2 classes in the sample: 'yes', 'no'" in shown
    assert "the first is 2024-05-01T00:00:00Z" in shown


def test_inspect_json_has_what_the_table_has(job: Path, everlearn: Everlearn) -> None:
    described = json.loads(everlearn("inspect", job, "--json").out)
    columns = {column["name"]: column for column in described["columns"]}
    assert columns["size"]["missing"] == 0.25
    assert columns["label"]["use"] == "label"
    assert described["task"] == "classification"
    assert described["classes"] == ["yes", "no"]
    assert described["warnings"] == []


def test_dry_run_writes_nothing(job: Path, everlearn: Everlearn, tmp_path: Path) -> None:
    """A dry run shows the same and leaves no run folder; a run shows it once."""
    before = sorted(tmp_path.iterdir())
    assert everlearn("run", job, "--dry-run").out == everlearn("inspect", job).out
    assert sorted(tmp_path.iterdir()) == before
    assert everlearn("run", job).err.count("seen: what it reads") == 1


def test_inspect_data_takes_columns_for_features(
    job: Path, everlearn: Everlearn, tmp_path: Path
) -> None:
    described = json.loads(everlearn("inspect", tmp_path / "rows.csv", "--json").out)
    assert described["task"] is None
    assert {column["use"] for column in described["columns"]} >= {"numeric", "categorical"}


def test_inspect_bad_job_exits_with_two(job: Path, everlearn: Everlearn, tmp_path: Path) -> None:
    job.write_text(JOB.replace("time: when", "time: then"))
    assert "has no column 'then'" in everlearn("inspect", job, code=2).line
    assert "no file" in everlearn("inspect", tmp_path / "none.csv", code=2).line


KAFKA = """
name: live
stream:
  kind: kafka
  servers: {servers}
  topic: {topic}
  features: {{numeric: [size], categorical: [kind]}}
  id: id
  label: label
learner: {{kind: no-change}}
"""


def test_inspect_topic_samples_and_commits_nothing(
    everlearn: Everlearn, tmp_path: Path, broker: str
) -> None:
    """Examples are from the first messages; without a broker the table says what the job states."""
    topic = f"inspect-{uuid.uuid4().hex[:8]}"
    (tmp_path / "good.csv").write_text("id,kind,size,label\n1,a,1.5,u\n2,b,2.5,v\n3,a,3.5,u\n")
    (tmp_path / "bad.csv").write_text("id,kind,size,label\n4,b,high,v\n")
    for file in ("good.csv", "bad.csv"):
        sent = ("--servers", broker, "--topic", topic, "--partitions", 1, "--id", "id")
        everlearn("produce", file, *sent, "--label", "label")
    job = tmp_path / "live.yaml"
    job.write_text(KAFKA.format(servers=broker, topic=topic))
    described = json.loads(everlearn("inspect", job, "--json").out)
    columns = {column["name"]: column for column in described["columns"]}
    assert columns["kind"]["use"] == "categorical"
    assert columns["kind"]["examples"] == ["a", "b"]
    assert columns["id"]["use"] == "id"
    assert described["sampled"] == 4
    (warning,) = described["warnings"]
    assert warning.startswith("1 of the first 4 events are dead")
    admin = KafkaAdminClient(bootstrap_servers=broker)
    assert "live" not in str(admin.list_groups())
    admin.close()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    job.write_text(KAFKA.format(servers=nobody, topic=topic))
    away = everlearn("inspect", job)
    assert "no message was sampled" in away.err
    assert "│ kind" in away.out


@pytest.mark.parametrize(
    ("setting", "place", "names"),
    [
        ("class_weight={yess: 5, no: 2}", "class_weight", "yess"),
        ("decision={rule: cost, costs: {yes: {none: 3}}}", "decision", "none"),
        ("decision={rule: f1, positive: maybe}", "decision", "maybe"),
        ("class_weight={yes: 5}", "", ""),
        ("class_weight=balanced", "", ""),
        ("decision={rule: argmax}", "", ""),
    ],
)
def test_class_that_the_sample_lacks_is_warned_of(
    job: Path, everlearn: Everlearn, setting: str, place: str, names: str
) -> None:
    said = everlearn("inspect", job, "--json", "--set", f"learner.{setting}").out
    warned = [line for line in json.loads(said)["warnings"] if "names the class" in line]
    assert len(warned) == bool(place)
    if place:
        assert warned[0].startswith(f"learner.{place} names the class {names!r}, which is not in")
