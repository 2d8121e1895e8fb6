"""What a job file may leave out."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.config.default_learner import default_settings
from pipeline.config.defaults import changed, name_of, with_defaults
from pipeline.config.errors import JobError
from pipeline.config.job import check, load
from pipeline.training.builder import build
from tests.conftest import Outcome

TABLE = "amount,shop,state\n" + "".join(
    f"{row % 7},{'ab'[row % 2]},{['no', 'yes'][row % 2]}\n" for row in range(60)
)
STREAM: dict[str, Any] = {"path": "orders.csv", "label": "state", "label_delay": {"events": 2}}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job that names a file and its label."""
    (tmp_path / "orders.csv").write_text(TABLE)
    file = tmp_path / "orders 2024.yaml"
    file.write_text(yaml.safe_dump({"stream": STREAM}))
    return file


def test_a_job_of_path_and_label_runs(
    job: Path, everlearn: Callable[..., Outcome], tmp_path: Path
) -> None:
    everlearn("run", job, "--run-dir", tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["job"], summary["fates"]["learned"]) == ("orders-2024", 60)
    stored = yaml.safe_load((tmp_path / "run" / "job.yaml").read_text())
    assert stored["stream"]["kind"] == "recorded"
    assert changed(stored["learner"], default_settings()) == stored["learner"]


def test_the_default_learner_is_the_same_as_written_out(job: Path) -> None:
    bare = load(job)
    stream = {**STREAM, "aggregates": "auto"}
    job.write_text(yaml.safe_dump({"stream": stream, "learner": default_settings()}))
    written = load(job)
    assert bare.fingerprint() == written.fingerprint()
    assert bare.raw["learner"] == default_settings()


@pytest.mark.parametrize("learner", [None, {"steps": 2}, "finetune", {"kind": "finetune"}])
def test_aggregates_are_automatic_with_the_default_learner(job: Path, learner: Any) -> None:
    job.write_text(yaml.safe_dump({"stream": STREAM, "learner": learner}))
    default = learner is None or ("kind" not in learner and learner != "finetune")
    assert load(job).job.stream.aggregates == ("auto" if default else None)
    job.write_text(yaml.safe_dump({"stream": {**STREAM, "aggregates": "none"}, "learner": learner}))
    assert load(job).job.stream.aggregates == "none"


def test_the_job_is_the_same_on_another_machine(job: Path) -> None:
    loaded = load(job)
    again = check(loaded.raw, Path("elsewhere.yaml"), loaded.folder)
    assert again.values() == loaded.values()


@pytest.mark.parametrize(
    ("learner", "kind", "lr"),
    [
        (None, "replay", 0.001),
        ("finetune", "finetune", 0.001),
        ({"kind": "finetune"}, "finetune", 0.001),
        ({"optimizer": {"lr": 0.1}}, "replay", 0.1),
        ({"optimizer": {"kind": "sgd", "lr": 0.1}}, "replay", 0.1),
    ],
)
def test_a_learner_may_be_left_out_or_changed(
    job: Path, learner: Any, kind: str, lr: float
) -> None:
    job.write_text(yaml.safe_dump({"stream": STREAM, "learner": learner}))
    settings: Any = load(job).job.learner
    assert (settings.kind, settings.optimizer.lr) == (kind, lr)


def test_overrides_reach_into_the_default_learner(job: Path) -> None:
    settings: Any = load(job, ["learner.model.hidden=[4]", "learner.steps=3"]).job.learner
    assert (settings.kind, settings.model.hidden, settings.steps) == ("replay", (4,), 3)
    assert settings.buffer.capacity == default_settings()["buffer"]["capacity"]
    other: Any = load(job, ["learner.kind=finetune"]).job.learner
    assert other.kind == "finetune"
    job.write_text(yaml.safe_dump({"stream": STREAM, "learner": "finetune"}))
    settings = load(job, ["learner.steps=3"]).job.learner
    assert (settings.kind, settings.steps) == ("finetune", 3)


def test_a_part_of_another_kind_replaces_the_whole() -> None:
    old = {"model": {"kind": "mlp", "hidden": [4], "activation": "tanh"}, "steps": 1}
    assert changed(old, {"model": {"hidden": [8]}})["model"] == {
        "kind": "mlp",
        "hidden": [8],
        "activation": "tanh",
    }
    assert changed(old, {"model": {"kind": "conv"}}) == {"model": {"kind": "conv"}, "steps": 1}
    assert old["model"]["hidden"] == [4]


@pytest.mark.parametrize(
    ("stream", "kind"),
    [
        ({"path": "a.csv"}, "recorded"),
        ({"servers": "h:1", "topic": "t"}, "kafka"),
        ({"kind": "recording", "path": "r"}, "recording"),
        ({"label": "y"}, None),
    ],
)
def test_the_kind_of_a_stream_follows_from_its_keys(
    stream: dict[str, Any], kind: str | None
) -> None:
    assert with_defaults({"stream": stream}, Path("a.yaml"))["stream"].get("kind") == kind


def test_a_stream_without_kind_and_path_is_refused(job: Path) -> None:
    job.write_text("stream: {label: y}\n")
    with pytest.raises(JobError, match="stream: expected a mapping with a kind or a path, got"):
        load(job)
    job.write_text("name: x\n")
    with pytest.raises(JobError, match=r"stream: expected a mapping .*, got nothing"):
        load(job)


def test_a_misspelt_kind_of_learner_is_an_unknown_key(job: Path) -> None:
    job.write_text(yaml.safe_dump({"stream": STREAM, "learner": {"knd": "replay"}}))
    with pytest.raises(JobError, match="unknown key 'knd': did you mean 'kind'"):
        load(job)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("taxi.yaml", "taxi"),
        ("my job (2).yaml", "my-job-2"),
        ("_x.yaml", "x"),
        ("überall.yaml", "job-überall"),
        ("日本 2.yaml", "job-日本-2"),
        ("+.yaml", "job"),
        ("v1.2.yaml", "v1.2"),
    ],
)
def test_name_of_makes_a_name_of_any_file(file: str, name: str) -> None:
    assert name_of(Path(file)) == name
    loaded = {"stream": {"kind": "scenario", "name": "split-digits"}}
    assert check(loaded, Path(file), Path()).job.name == name


def test_a_dry_run_shows_the_learner_with_its_settings(
    job: Path, everlearn: Callable[..., Outcome]
) -> None:
    out = everlearn("run", job, "--dry-run").out
    assert "learner: replay {model: {kind: mlp" in " ".join(out.split())
    shown = json.loads(everlearn("inspect", job, "--json").out)
    assert changed(shown["learner"], default_settings()) == shown["learner"]


@pytest.mark.parametrize("kind", ["text", "vector", "image"])
def test_the_default_learner_takes_a_lone_column(
    tmp_path: Path, everlearn: Callable[..., Outcome], kind: str
) -> None:
    rng = np.random.default_rng(0)
    column = {
        "text": lambda: pa.array([f"some words of row {row}" for row in range(40)]),
        "vector": lambda: pa.array(rng.random((40, 3)).tolist()),
        "image": lambda: pa.array([_png(rng) for _ in range(40)]),
    }[kind]()
    pq.write_table(pa.table({"x": column, "y": ["a", "b"] * 20}), tmp_path / "t.parquet")
    job = tmp_path / "t.yaml"
    job.write_text("stream: {path: t.parquet, label: y}\n")
    assert build(load(job)).stream.schema.features[0].kind == kind
    everlearn("run", job, "--run-dir", tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["fates"]["learned"] == 40


def _png(rng: np.random.Generator) -> bytes:
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    image.fromarray(rng.integers(0, 255, (4, 4), np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("stream", "size"),
    [
        ({}, 32),
        ({"label_delay": None}, 32),
        ({"label_delay": {"events": 0}}, 32),
        ({"label_delay": {"events": 48}}, 48),
        ({"label_delay": {"events": 5000}}, 128),
        ({"label_delay": {"seconds": 3600}}, 64),
        ({"labels": {"path": "labels.csv"}, "label_delay": None}, 64),
        ({"label_delay": {"events": 5000}, "batch_size": 8}, 8),
    ],
)
def test_micro_batch_is_as_long_as_labels_are_late(stream: dict[str, Any], size: int) -> None:
    """The rates of the learner grow with its root; an explicit learner has the usual size."""
    raw = {"stream": {**STREAM, **stream}}
    data = with_defaults(raw, Path("taxi.yaml"))
    assert data["stream"]["batch_size"] == size
    assert data["learner"]["optimizer"]["lr"] == pytest.approx(0.001 * (size / 32) ** 0.5, rel=0.05)
    explicit = with_defaults({**raw, "learner": {"kind": "replay"}}, Path("taxi.yaml"))
    assert explicit["stream"].get("batch_size") == stream.get("batch_size")
