"""Events with missing values are learned, the same from every source, and exactly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.job import load
from pipeline.config.sections import ServeConfig
from pipeline.models.snapshot import InferenceModel
from pipeline.serving.app import ModelHolder, create_app
from pipeline.serving.labels import NoLabels
from pipeline.serving.requests import RequestReader
from pipeline.training.builder import Parts, build, state_digest
from streams.core.batch import Batch, Ragged
from streams.core.state_dict import copied
from streams.core.stream import Stream
from streams.files.config import RecordedConfig
from streams.files.stream import FileStream
from streams.kafka.config import KafkaConfig
from streams.kafka.stream import KafkaStream
from tests.support.fuzz import examples
from tests.support.http import served

ROOT = Path(__file__).parents[2]
CASE = ROOT.parent / "shared" / "cases" / "missing-text-and-category"

Table = dict[str, list[Any]]
KINDS = {"n": "numeric", "m": "numeric", "c": "categorical", "t": "text"}
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "numeric": st.floats(-1e6, 1e6) | st.integers(-9, 9).map(float),
    "categorical": st.sampled_from(["red", "", "gr,ün", '"', "<missing>"]),
    "text": st.sampled_from(["", "two words", "ein\nWört", "NA"]),
}


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Any null pattern over any mixture of numbers, categories and texts."""
    names = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, unique=True))
    n = draw(st.integers(1, 6))
    return {
        name: draw(st.lists(st.none() | CELLS[KINDS[name]], min_size=n, max_size=n))
        for name in names
    }


def features_of(table: Table) -> dict[str, list[str]]:
    return {kind: [name for name in table if KINDS[name] == kind] for kind in CELLS}


def from_csv(table: Table) -> Stream:
    rows = zip(*table.values(), ["a"] * len(next(iter(table.values()))), strict=True)
    lines = [",".join(map(_csv_cell, row)) for row in ([*table, "y"], *rows)]
    Path("data.csv").write_text("\n".join(lines) + "\n")
    return _files("data.csv", table)


def _csv_cell(value: Any) -> str:
    """An empty cell for a missing value, and quotes around texts, the empty one too."""
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"'
    return "" if value is None else repr(value)


def from_parquet(table: Table) -> Stream:
    types = {"numeric": pa.float64(), "categorical": pa.string(), "text": pa.string()}
    columns = {name: pa.array(cells, types[KINDS[name]]) for name, cells in table.items()}
    n = len(next(iter(table.values())))
    pq.write_table(pa.table({**columns, "y": ["a"] * n}), "data.parquet")
    return _files("data.parquet", table)


def _files(path: str, table: Table) -> Stream:
    config = {"kind": "recorded", "path": path, "label": "y", "features": features_of(table)}
    return FileStream(RecordedConfig.model_validate(config), Path())


def kafka(table: Table) -> KafkaStream:
    config = {"kind": "kafka", "servers": "127.0.0.1:9", "topic": "t", "label": "y"}
    return KafkaStream(
        KafkaConfig.model_validate({**config, "features": features_of(table)}), Path()
    )


def read_messages(stream: KafkaStream, table: Table, left_out: bool) -> Batch:
    format_, decode = stream.decoder.events[:2]
    rows = events_of(table, left_out)
    parsed = format_.read([orjson.dumps(row) for row in rows])
    assert not parsed.bad
    n = len(rows)
    return decode(parsed.table, np.zeros(n, np.int32), np.arange(n), np.zeros(n))


def events_of(table: Table, left_out: bool) -> list[dict[str, Any]]:
    rows = [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]
    first = next(iter(table))  # an event must state one of its features, if only as null
    return [
        {name: cell for name, cell in row.items() if cell is not None or name == first}
        if left_out
        else row
        for row in rows
    ]


def recipe_of(stream: Stream) -> dict[str, Any]:
    schema = stream.schema
    return {
        "features": [[f.name, f.kind, list(f.shape), f.missing] for f in schema.features],
        "task": schema.task,
        "classes": [],
        "id_type": "int",
        "dtype": stream.dtype,
        "json_layout": stream.json_layout(),
    }


def cells_of(batch: Batch, stream: Stream) -> dict[str, Any]:
    """The decoded columns by name: texts, or the bytes of numbers."""
    x = batch.x
    if isinstance(x, np.ndarray):
        names = [feature.name for feature in stream.schema.features]
        return {name: x[:, j].tobytes() for j, name in enumerate(names)}
    return {
        k: c.texts() if isinstance(c, Ragged) else np.asarray(c).tobytes() for k, c in x.items()
    }


@examples(0.3)
@given(tables())
def test_any_null_pattern_is_the_same_from_every_source(table: Table) -> None:
    """CSV, Parquet, messages with nulls or without the fields, and requests to their servers."""
    n = len(next(iter(table.values())))
    found = []
    for stream in (from_csv(table), from_parquet(table), kafka(table)):
        if isinstance(stream, KafkaStream):
            batches = [read_messages(stream, table, left_out) for left_out in (False, True)]
        else:
            batches = list(stream.read({}, 10))
        batches.append(RequestReader(recipe_of(stream)).read(events_of(table, False)).batch)
        for batch in batches:
            assert (len(batch), batch.dead) == (n, ())
            found.append(cells_of(batch, stream))
    assert all(cells == found[0] for cells in found)


LEARNERS: dict[str, dict[str, Any]] = {
    "replay": {"model": {"hidden": [8]}, "buffer": {"capacity": 30}, "replay_size": 8},
    "river": {"model": ["preprocessing.StandardScaler", "linear_model.LogisticRegression"]},
}


def job_of(learner: str, n: int, seed: int, standardise: bool) -> Path:
    """A job over a file whose numbers are missing from some event on, and often."""
    rng = np.random.default_rng(seed)
    x = rng.normal(5, 2, (n, 3))
    y = np.where(x.sum(1) > 15, "a", "b")
    x[n // 4 :][rng.random((n - n // 4, 3)) < 0.3] = np.nan
    columns = {f"x{j}": pa.array(x[:, j], from_pandas=True) for j in range(3)}
    pq.write_table(pa.table({**columns, "y": y}), "runs.parquet")
    job: dict[str, Any] = {
        "name": "gaps",
        "seed": 1,
        "stream": {"kind": "recorded", "path": "runs.parquet", "label": "y", "batch_size": 8},
        "learner": {"kind": learner, **LEARNERS[learner]},
        "evaluate": {"probes": {"share": 0.1}},
    }
    job["stream"]["label_delay"] = {"events": 3}
    if standardise:
        job["stream"]["standardise"] = {"half_life": 50}
    Path("job.yaml").write_text(yaml.safe_dump(job))
    return Path("job.yaml")


def run(parts: Parts, block: int, stop: int | None = None) -> Parts:
    """Learn to the end, or to the first micro-batch after ``stop`` events."""
    blocks = parts.reader.blocks(parts.loop.ledger.cursor(), block)
    for batch in parts.reader.batches(blocks):
        parts.loop.step(batch)
        if stop is not None and parts.loop.events >= stop:
            return parts
    parts.loop.finish(8)
    return parts


@pytest.mark.parametrize(("learner", "standardise"), [("replay", False), ("river", True)])
@examples(0.08)
@given(
    seed=st.integers(0, 99),
    block=st.integers(1, 60),
    stop=st.integers(0, 59),
)
def test_gaps_any_block_and_any_resume_one_digest(
    learner: str, standardise: bool, seed: int, block: int, stop: int
) -> None:
    job = load(job_of(learner, 60, seed, standardise))
    whole = run(build(job), 4096)
    first = run(build(job), block, stop)
    second = build(job)
    second.load(copied(first.state()))
    run(second, max(block // 2, 1))
    states = [copied(parts.state()) for parts in (whole, second)]
    assert state_digest(states[0]) == state_digest(states[1])
    fates = whole.loop.ledger.fates()
    assert fates["dead"] == 0
    assert fates["learned"] + fates["probe"] == 60


@pytest.mark.parametrize("learner", LEARNERS)
def test_server_answers_gaps_as_the_loop_predicts(learner: str) -> None:
    parts = run(build(load(job_of(learner, 100, 3, standardise=True))), 64)
    model = InferenceModel(json.loads(json.dumps(parts.recipe)), parts.snapshot({}))
    events: list[dict[str, Any]] = [
        {"x0": None, "x1": 4.0, "x2": None},
        {"x1": 4.0},
        {"x0": 9.0, "x2": 1},
    ]
    x = np.array([[np.nan, 4, np.nan], [np.nan, 4, np.nan], [9, np.nan, 1]])
    offset = np.arange(3)
    batch = Batch(offset, offset / 1.0, x, np.zeros(3, np.int32), offset)
    for operator in parts.loop.operators:
        batch = operator.view(batch)
    expected = parts.loop.learner.predict(batch)
    assert expected.proba is not None
    app = create_app(ModelHolder(model), parts.recipe, ServeConfig(), "gaps", NoLabels("none"))
    with served(app) as client:
        answer = client.answer(events)
        assert client.predict([{"id": 1}]).status == 422
    np.testing.assert_allclose(answer["probabilities"], expected.proba, rtol=1e-6)


def learned_all(summary: dict[str, Any], n: int) -> bool:
    fates = summary["fates"]
    return bool(fates["dead"] == 0 and fates["learned"] + fates["probe"] == n)


@pytest.mark.skipif(not CASE.exists(), reason="the cases are not on this machine")
def test_case_missing_text_and_category(
    everlearn: Callable[..., Any], summary: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> None:
    for name in ("a.csv", "job.yaml"):
        shutil.copy(CASE / name, tmp_path)
    everlearn("run", tmp_path / "job.yaml", "--run-dir", tmp_path / "run")
    found = summary(tmp_path / "run")
    assert learned_all(found, 400)
    assert 0.9 < found["metrics"]["online/accuracy"] < 1


def test_parquet_gaps_of_every_type_are_learned(
    everlearn: Callable[..., Any], summary: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> None:
    """Booleans, categories as dictionaries, integers, decimals as text, vectors beside others."""
    n = 80
    rng = np.random.default_rng(0)

    def gaps(values: list[Any], kind: pa.DataType | None = None) -> pa.Array:
        keep = rng.random(n) > 0.3
        cells = [v if k else None for v, k in zip(values, keep, strict=True)]
        return pa.array([values[0], *cells[1:]], kind)

    table = pa.table(
        {
            "flag": gaps([bool(i % 3) for i in range(n)]),
            "shop": gaps(["abc"[i % 3] for i in range(n)]).dictionary_encode(),
            "count": gaps(list(range(n)), pa.int32()),
            "price": gaps([f"{i}.5" for i in range(n)]),
            "note": gaps([f"note {i}" for i in range(n)], pa.large_string()),
            "y": ["uv"[i % 2] for i in range(n)],
        }
    )
    pq.write_table(table, tmp_path / "data.parquet")
    job = {
        "name": "types",
        "stream": {"kind": "recorded", "path": "data.parquet", "label": "y"},
        "learner": {"kind": "finetune", "model": {"hidden": [8]}},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    everlearn("run", tmp_path / "job.yaml", "--run-dir", tmp_path / "run")
    assert learned_all(summary(tmp_path / "run"), n)


def test_missing_policy_that_does_not_fit_stops_before_the_start(
    everlearn: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "data.csv").write_text("x,c,y\n" + "1,u,a\n2,v,b\n" * 4)
    job = {
        "name": "policies",
        "stream": {"kind": "recorded", "path": "data.csv", "label": "y"},
        "learner": {"kind": "no-change"},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    for setting, reason in (
        ("{c: mean}", "stream.missing.c: 'mean' does not suit a feature of kind categorical"),
        ("{xx: zero}", "stream.missing: there is no feature 'xx'"),
        ("{y: zero}", "stream.missing: there is no feature 'y'"),
        ("{x: often}", "stream.missing.x"),
    ):
        outcome = everlearn(
            "run", tmp_path / "job.yaml", "--set", f"stream.missing={setting}", code=2
        )
        assert reason in outcome.err
        assert len(outcome.err.strip().splitlines()) == 1
