"""An event of a request is read as the stream reads it: same values, same fate, same reason."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import csv

from pipeline.models.recipe import Recipe
from pipeline.serving.left_out import LeftOut
from pipeline.serving.requests import (
    InvalidEventsError,
    PredictRequest,
    RequestReader,
    parse_list,
    png_of_zeros,
)
from pipeline.serving.responses import HTTPError
from streams.core.batch import Batch, Ragged
from streams.core.stream import Stream
from streams.decoding.formats.json import Json
from streams.files.config import RecordedConfig
from streams.files.stream import FileStream
from streams.integrations.river import RiverStream, RiverStreamConfig
from streams.kafka.config import KafkaConfig
from streams.kafka.stream import KafkaStream
from streams.recordings.manifest import RecordingManifest
from streams.recordings.stream import RecordingStream
from streams.scenarios.stream import ScenarioStream
from tests.support.fuzz import examples


def recipe_of(stream: Stream) -> Recipe:
    """The parts of a recipe that a request is read by, as they stand in a checkpoint."""
    schema = stream.schema
    made = {
        "features": [[f.name, f.kind, list(f.shape), f.missing] for f in schema.features],
        "task": schema.task,
        "classes": list(schema.classes),
        "id_type": stream.id_type,
        "dtype": stream.dtype,
        "json_layout": stream.json_layout(),
    }
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def png(shape: tuple[int, int, int], shade: int) -> str:
    file = io.BytesIO()
    pixels = np.full((shape[1], shape[2], shape[0]), shade, np.uint8)
    Image.fromarray(pixels.squeeze()).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def kafka(**changes: Any) -> KafkaStream:
    settings_ = {"kind": "kafka", "servers": "127.0.0.1:9", "topic": "t", "label": "y"}
    return KafkaStream(KafkaConfig.model_validate(settings_ | changes), Path())


MIXED = kafka(
    features={
        "numeric": ["n", "deep.er.n"],
        "categorical": ["c"],
        "text": ["deep.t"],
        "time": ["w"],
        "vector": {"v": 3},
        "image": {"p": [3, 2, 2]},
    },
    id="meta.id",
    time="meta.time",
    key="k",
    label={"column": "y", "classes": ["a", "b"]},
)
STREAMS = {
    "mixed": MIXED,
    "numbers": kafka(features={"numeric": ["n", "deep.er.n"]}, id="id", id_type="str"),
    "vector": kafka(features={"vector": {"v": 3}}, label={"column": "y", "type": "bool"}),
    "image": kafka(features={"image": {"p": [3, 2, 2]}}, label={"column": "y", "type": "int"}),
    "text": kafka(
        features={"text": ["deep.t"], "categorical": ["c"]},
        id="id",
        label={"column": "y", "task": "regression"},
        label_delay={"column": "due"},
    ),
}
GOOD: dict[str, Any] = {
    "n": 0.5,
    "deep": {"er": {"n": -3}, "t": "well"},
    "c": "red",
    "w": "2024-05-01T11:00:00+02:00",
    "v": [1, 2.5, -3e8],
    "p": png((3, 2, 2), 7),
    "meta": {"id": 5, "time": "2024-05-01T12:00:00Z"},
    "id": 5,
    "k": "x",
    "y": "a",
    "due": 3,
}
ODD = [
    *("null", "true", "false", "5", '"5"', "5.0", "-0.0", "1e400", "NaN", "-Infinity", "1e-400"),
    *("18446744073709551615", "18446744073709551616"),
    *("9223372036854775808", "-9223372036854775808"),
    *('""', '"é\\u0000"', '"\\ud800"', '"\\ud83d\\ude00"', '"nan"', '"1e3"', '"2024-05-01"'),
    *("[]", "[1,2,3]", "[1,2]", "[1,2,true]", '[1,2,"3"]', "[1,2,null]", "[[1,2,3]]", "{}"),
    *('{"n": 1}', '{"t": "a"}', '{"er": 5}', '{"er": {}}', '{"id": "7"}', '{"id": 7.0}'),
    *('{"id": 7.5, "time": 0}', '{"id": 7, "time": "soon"}', '{"id": 7, "time": 1e300}'),
    *(f'"{png((3, 2, 2), 9)}"', f'"{png((3, 3, 3), 9)}"', f'"{png((1, 2, 2), 9)}"', '"aGk="'),
    *('"aGk"', "[0,0,0,0,0,0,0,0,0,0,0,0]", '"a"', '"b"', '"c"', "1", "0", "0.1", "1" * 400),
    '"' + "long " * 30 + '"',
]
MORE_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["er", "n", "t", "id", "time", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
).map(lambda value: json.dumps(value).replace("Infinity", "1e999"))


@st.composite
def events(draw: st.DrawFn, ids: bool) -> bytes:
    """The bytes of an event: a good one, with some fields replaced, left out, or added."""
    cells = {name: json.dumps(value) for name, value in GOOD.items() if ids or name != "id"}
    for name in draw(st.lists(st.sampled_from([*cells, "extra"]), max_size=3)):
        odd = draw(st.sampled_from(ODD) | MORE_JSON | st.just(""))
        cells.pop(name, None)
        if odd:
            cells[name] = odd
    whole = "{" + ",".join(f"{json.dumps(name)}: {cell}" for name, cell in cells.items()) + "}"
    return draw(st.sampled_from([whole] * 12 + ODD[:12] + ["[]", "7 "])).encode()


def read_by_stream(stream: KafkaStream, event: bytes) -> tuple[Batch, str | None]:
    """The batch of one message, and why it is dead."""
    format_, decode, _ = stream.decoder.events
    table, bad = format_.read([event])
    n = table.num_rows
    batch = decode(table, np.zeros(n, np.int32), np.arange(n), np.zeros(n))
    reasons = [*(why for _, why in bad), *(dead.reason for dead in batch.dead)]
    return batch, reasons[0] if reasons else None


def read_by_server(reader: RequestReader, body: bytes) -> tuple[Batch | None, dict[int, str]]:
    """The batch of a request, or why which of its events cannot be read."""
    try:
        return reader.read(parse_list(body, 100, "events")).batch, {}
    except InvalidEventsError as error:
        return None, {detail["event"]: detail["reason"] for detail in error.details}


def same_features(one: Batch, other: Batch) -> bool:
    """Whether all features are equal, bit for bit."""
    if isinstance(one.x, np.ndarray):
        assert isinstance(other.x, np.ndarray)
        same = (one.x.dtype, one.x.shape) == (other.x.dtype, other.x.shape)
        return same and one.x.tobytes() == other.x.tobytes()
    assert isinstance(other.x, dict)
    assert one.x.keys() == other.x.keys()
    return all(_same_column(column, other.x[name]) for name, column in one.x.items())


def _same_column(one: Any, other: Any) -> bool:
    if isinstance(one, Ragged):
        return isinstance(other, Ragged) and one.texts() == other.texts()
    same = (one.dtype, one.shape) == (other.dtype, other.shape)
    return bool(same and one.tobytes() == other.tobytes())


def may_leave_out(stream: KafkaStream) -> set[str]:
    """The reasons of messages that lack what a request need not have."""
    format_, decode, _ = stream.decoder.events
    columns = decode.columns
    names = {columns.id and columns.id.column, columns.time, columns.key and columns.key.column}
    return {field.refuse("null") for field in format_.fields if field.name in names}


def check_same_fate(stream: KafkaStream, bodies: list[bytes]) -> list[str | None]:
    """Send the same bytes to both; return the reasons, None of an event that is alive."""
    reader = RequestReader(recipe_of(stream))
    read = [read_by_stream(stream, event) for event in bodies]
    reasons = [reason for _, reason in read]
    assume(not may_leave_out(stream).intersection(reasons))
    body = b"[" + b",".join(bodies) + b"]"
    unparsed = [reason for reason in reasons if reason and reason.startswith("no JSON")]
    if unparsed:
        with pytest.raises(HTTPError, match="not JSON") as refused:
            read_by_server(reader, body)
        assert refused.value.status == 400
        return reasons
    batch, wrong = read_by_server(reader, body)
    expected = {row: reason for row, reason in enumerate(reasons) if reason is not None}
    names = [feature.name for feature in stream.schema.features]
    known = {field.name for field in stream.decoder.events[0].fields} | {"id"}
    left_out = LeftOut(names, known, Json.states, nested=True)
    for row, event in enumerate(bodies):
        if row not in expected and (refused := left_out.reason(orjson.loads(event))):
            expected[row] = refused
    assert wrong == expected
    if batch is not None:
        whole = Batch.concat([one for one, _ in read]) if len(read) > 1 else read[0][0]
        assert same_features(batch, whole)
        if stream.has_ids:
            assert batch.ids.tolist() == whole.ids.tolist()
        if stream.has_time:
            assert batch.time.tobytes() == whole.time.tobytes()
    return reasons


@pytest.mark.parametrize("name", STREAMS)
@examples(1.5)
@given(data=st.data())
def test_reader_kafka_json_same_value_and_fate(name: str, data: st.DataObject) -> None:
    """The very bytes of messages, in a request. Without ids in the stream, ``id`` is a position
    that only the server reads."""
    stream = STREAMS[name]
    check_same_fate(stream, data.draw(st.lists(events(stream.has_ids), min_size=1, max_size=3)))


def recorded(**settings_: Any) -> RecordedConfig:
    return RecordedConfig.model_validate({"kind": "recorded", "label": "y"} | settings_)


def request_of(stream: Stream, event: Any) -> tuple[PredictRequest | None, str | None]:
    """What a request for one event is read as, or why it cannot be."""
    reader = RequestReader(recipe_of(stream))
    try:
        return reader.read(parse_list(json.dumps([event]).encode(), 10, "events")), None
    except InvalidEventsError as error:
        return None, error.details[0]["reason"]


def check_same_as_row(stream: FileStream, event: Any) -> str | None:
    """Compare an event with the first row of a file; return why it is dead, if it is."""
    (block,) = stream.read({}, 10)
    request, reason = request_of(stream, event)
    if request is None:
        assert [dead.reason for dead in block.dead] == [reason]
        return reason
    assert not block.dead
    assert same_features(request.batch, block)
    assert request.ids in ([None], block.ids.tolist(), [str(i) for i in block.ids.tolist()])
    return None


CSV_CELLS: list[tuple[Any, str, bool]] = [
    (0.5, "0.5", True),
    (5, "5", True),
    (-0.0, "-0.0", True),
    (1e-320, "1e-320", True),
    (2**64 - 1, "18446744073709551615", True),
    ("5", "5", True),
    ("1e3", "1e3", True),
    (" 7", " 7", True),
    ("", '""', True),
    (None, "", True),
    (True, "true", False),
    ("0x1F", "0x1F", False),
    ("nan", "nan", True),
    ("NA", "NA", True),
    ("nay", "nay", False),
]


@pytest.mark.parametrize(("value", "cell", "alive"), CSV_CELLS)
def test_reader_csv_number_is_read_as_its_text(value: Any, cell: str, alive: bool) -> None:
    Path("data.csv").write_text(f"n,c,y\n{cell},red,a\n")
    features: Any = {"numeric": ["n"], "categorical": ["c"]}
    stream = FileStream(recorded(path="data.csv", features=features), Path())
    reason = check_same_as_row(stream, {"n": value, "c": "red", "y": 7})
    assert (reason is None) == alive


@pytest.mark.parametrize(
    ("value", "cell"),
    [("a", "a"), (1, "1"), (1.0, "1.0"), (True, "true"), (None, ""), ("", '""'), (2**70, "")],
)
def test_reader_csv_category_is_read_as_its_text(value: Any, cell: str) -> None:
    if value == 2**70:  # a number beyond 64 bits is a float in JSON
        cell = orjson.dumps(float(value)).decode()
    Path("data.csv").write_text(f"n,c,y\n1,{cell},a\n")
    features: Any = {"numeric": ["n"], "categorical": ["c"]}
    check_same_as_row(
        FileStream(recorded(path="data.csv", features=features), Path()), {"n": 1, "c": value}
    )


@pytest.mark.parametrize("value", [0.5, 5, "5", "5x", True, None, "", 2**63, "2024-05-01"])
@pytest.mark.parametrize("kind", ["numeric", "categorical"])
def test_reader_parquet_cell_is_read_by_its_type(value: Any, kind: Any) -> None:
    column = pa.array([value], pa.uint64() if value == 2**63 else None)
    pq.write_table(pa.table({"f": column, "y": ["a"], "n": [1.0]}), "data.parquet")
    features: Any = {kind: ["f"]} | ({"numeric": ["n"]} if kind != "numeric" else {})
    stream = FileStream(recorded(path="data.parquet", features=features), Path())
    check_same_as_row(stream, {"f": value, "n": 1.0})


@pytest.mark.parametrize("value", [[1, 2.5], [1, True], [1], [1, None], None, 5, [[1], [2]]])
def test_reader_parquet_vector_is_read_by_its_type(value: Any) -> None:
    good = [[0.5, 1.5]]
    pq.write_table(pa.table({"v": good, "y": ["a"]}), "data.parquet")
    stream = FileStream(recorded(path="data.parquet"), Path())
    request, reason = request_of(stream, {"v": value})
    if value in ([1, 2.5], [1, True]):
        assert request is not None
        assert request.batch.x.tolist() == [[float(cell) for cell in value]]  # type: ignore[union-attr]
    else:
        assert reason is not None
        assert reason.endswith("expected a vector of 2 finite numbers")


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("feature", [False, True])
def test_reader_file_time_is_that_of_the_event(form: str, feature: bool) -> None:
    """As in the file, also where it is a feature too. An event without one has none."""
    table = pa.table({"at": ["01.05.2024 12:00"], "x": [1.5], "y": ["a"]})
    if form == "csv":
        csv.write_csv(table, "data.csv")
    else:
        pq.write_table(table, "data.parquet")
    features: Any = {"numeric": ["x"]} | ({"time": ["at"]} if feature else {})
    zone = {"time_format": "%d.%m.%Y %H:%M", "time_zone": "Europe/Vienna"}
    config = recorded(path=f"data.{form}", time="at", features=features, **zone)
    reader = RequestReader(recipe_of(FileStream(config, Path())))
    request = reader.read([{"x": 1, "at": "01.05.2024 12:00"}, {"x": 1}, {"x": 1, "at": None}])
    np.testing.assert_equal(request.batch.time, [1714557600.0, np.nan, np.nan])
    with pytest.raises(InvalidEventsError, match="1 of 1") as refused:
        reader.read([{"x": 1, "at": "soon"}])
    assert "column 'at' holds 'soon'; expected a time" in refused.value.details[0]["reason"]


def test_reader_of_a_stream_without_times_gives_none() -> None:
    reader = RequestReader(recipe_of(STREAMS["numbers"]))
    assert np.isnan(reader.read([{"n": 1, "deep": {"er": {"n": 2}}}]).batch.time).all()


def test_reader_file_id_column_names_the_event() -> None:
    """The file's own column of ids counts before ``id``, and other columns are ignored."""
    Path("data.csv").write_text("uid,x,y\n7,1,a\n8,2,b\n")
    stream = FileStream(recorded(path="data.csv", id="uid"), Path())
    reader = RequestReader(recipe_of(stream))
    events_: list[Any] = [{"x": 1, "uid": 7, "id": "no"}, {"x": 1, "id": "9"}, {"x": 1}]
    request = reader.read(events_)
    assert request.batch.ids.tolist() == [7, 9, -1]
    assert request.ids == [7, "9", None]
    assert request.named.tolist() == [True, True, False]
    with pytest.raises(InvalidEventsError) as refused:
        reader.read([{"x": 1, "uid": "seven", "id": 7}])
    assert refused.value.details == [
        {"event": 0, "reason": "column 'uid' holds 'seven'; expected an integer id"}
    ]


def test_reader_kafka_id_has_the_type_of_a_message() -> None:
    reader = RequestReader(recipe_of(STREAMS["numbers"]))
    event = {"n": 1, "deep": {"er": {"n": 2}}}
    assert reader.read([{**event, "id": "7"}]).ids == ["7"]
    with pytest.raises(InvalidEventsError) as refused:
        reader.read([{**event, "id": 7}])
    assert refused.value.details[0]["reason"] == "column 'id' holds 7; expected text"


FRAMES = {"kind": "frames", "fields": {"a.b": "float32", "p": ["uint8", 1, 2, 2], "y": "int8"}}


def test_reader_frames_take_plain_names_and_pixels() -> None:
    features = {"numeric": ["a.b"], "image": {"p": [1, 2, 2]}}
    label = {"column": "y", "type": "int"}
    stream = kafka(format=FRAMES, features=features, label=label)
    assert stream.dtype == "float32"
    file = png((1, 2, 2), 3)
    for image in ([[[3, 3], [3, 3]]], [3, 3, 3, 3], file):
        request, _ = request_of(stream, {"a.b": 0.1, "p": image, "y": 1})
        assert request is not None
        assert isinstance(request.batch.x, dict)
        assert request.batch.x["p"].tolist() == [[[[3, 3], [3, 3]]]]
    _, reason = request_of(stream, {"a.b": "0.1", "p": file})
    assert reason == "column 'a.b' holds '0.1'; expected a finite number"
    _, reason = request_of(stream, {"a.b": 1, "p": png((1, 3, 3), 3)})
    assert reason is not None
    assert "an image of 1x3x3; expected 4 integers from 0 to 255 (1x2x2)" in reason


def test_reader_river_cell_is_read_by_its_type() -> None:
    pytest.importorskip("river")
    stream = RiverStream(
        RiverStreamConfig.model_validate({"kind": "river", "dataset": "Phishing"}), Path()
    )
    event = {feature.name: 1.0 for feature in stream.schema.features}
    first = stream.schema.features[0].name
    request, _ = request_of(stream, event | {first: True})
    assert request is not None
    assert np.asarray(request.batch.x).tolist() == [[1.0] * len(event)]


def test_reader_recipe_without_layout_reads_typed_cells() -> None:
    """The recipe of a checkpoint of before layouts."""
    recipe = recipe_of(STREAMS["numbers"])
    del recipe["json_layout"]
    reader = RequestReader({**recipe, "features": [["n", "numeric", []], ["a.b", "numeric", []]]})
    request = reader.read([{"n": "5", "a.b": True, "more": 1}])
    assert request.batch.x.tolist() == [[5.0, 1.0]]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [*STREAMS, "frames"])
def test_reader_example_can_be_read(name: str) -> None:
    """What the documentation shows as an event is one."""
    features = {"numeric": ["a.b"], "image": {"p": [1, 2, 2]}}
    label = {"column": "y", "type": "int"}
    frames = kafka(format=FRAMES, features=features, label=label)
    stream = frames if name == "frames" else STREAMS[name]
    reader = RequestReader(recipe_of(stream))
    assert len(reader.read([reader.example()]).batch) == 1
    schema = reader.event_schema()
    assert "id" in schema["properties"]
    if name == "mixed":
        deep = schema["properties"]["deep"]
        assert deep["required"] == []
        assert deep["properties"]["er"]["properties"]["n"] == {"type": ["number", "null"]}
    if name == "vector":
        assert schema["required"] == ["v"]


def test_reader_hints_at_names_that_do_not_fit() -> None:
    reader = RequestReader(recipe_of(STREAMS["numbers"]))
    with pytest.raises(InvalidEventsError) as refused:
        reader.read([{"n": 1, "deep.er.n": 2}, {"m": 1}, {"n": "1", "deep": {"er": {"n": 1}}}])
    literal, misspelt, wrong = refused.value.details
    assert literal["reason"] == "column 'deep.er.n' is left out"
    assert literal["hint"] == (
        'missing: \'deep.er.n\'; \'deep.er.n\' is a path: {"deep": {"er": {"n": ...}}} is wanted'
    )
    assert misspelt["hint"].startswith("missing: 'n', 'deep.er.n'; unknown column 'm'")
    assert misspelt["reason"] == "no feature is stated"
    assert wrong == {"event": 2, "reason": "column 'n' holds '1'; expected a finite number"}


@pytest.mark.parametrize(
    ("event", "refused"),
    [
        ({"temperature": None}, None),
        ({"temperature": 1}, None),
        (
            {"Load_1": 1, "temperature": 2},
            "column 'load_1' is left out, and nothing reads 'Load_1'",
        ),
        ({"load_1": 1, "temprature": 2}, "column 'temperature' is left out, and nothing reads"),
        ({"load_1": 1, "tempeartur": 2}, None),  # two letters off: it may be another field
        ({"load_1": 1, "tempeartures": 2}, None),
        ({"load_1": 1, "temperautre": 2}, "column 'temperature' is left out, and nothing reads"),
        ({"temperature": 1, "load_2": 2}, None),  # another column of a kind
        ({"load_1": 1, "temperatura": 2}, None),
        ({"temperature": 1, "load_1": None, "Load_1": 2}, None),
        ({"load_1": 1, "weather": "fine"}, None),
    ],
)
def test_reader_feature_left_out_is_missing_or_misspelt(event: Any, refused: str | None) -> None:
    reader = RequestReader(recipe_of(kafka(features={"numeric": ["load_1", "temperature"]})))
    if refused is None:
        batch = reader.read([event]).batch
        assert isinstance(batch.x, np.ndarray)
        given = [event.get(name) for name in ("load_1", "temperature")]
        np.testing.assert_array_equal(batch.x[0], np.array(given, np.float64))
        return
    with pytest.raises(InvalidEventsError) as error:
        reader.read([event])
    assert error.value.details[0]["reason"].startswith(refused)
    assert "did you mean" in error.value.details[0]["hint"]


def test_reader_required_feature_is_dead_without_a_value() -> None:
    """``missing: dead`` is for requests too, and a missing value counts as the job says."""
    features = {"numeric": ["n", "z"], "categorical": ["c"]}
    stream = kafka(features=features, missing={"n": "dead", "z": "zero"})
    reader = RequestReader(recipe_of(stream))
    batch = reader.read([{"n": 1}]).batch
    assert isinstance(batch.x, dict)
    assert np.asarray(batch.x["z"]).tolist() == [0]
    assert isinstance(batch.x["c"], Ragged)
    assert batch.x["c"].texts() == ["<missing>"]
    assert reader.event_schema()["required"] == ["n"]
    with pytest.raises(InvalidEventsError) as refused:
        reader.read([{"z": 1}, {"n": None, "z": 1}])
    reason = "column 'n' holds null; expected a finite number"
    assert [detail["reason"] for detail in refused.value.details] == [reason] * 2
    assert refused.value.details[0]["hint"] == "missing: 'n'"


def test_reader_scenario_pixels_are_lists_or_files() -> None:
    recipe = {
        "features": [["image", "image", [1, 2, 2]]],
        "task": "classification",
        "classes": [],
        "id_type": "int",
        "dtype": "float64",
        "json_layout": ScenarioStream.json_layout(None),  # type: ignore[arg-type]
    }
    reader = RequestReader(recipe)
    pixels = [[[9, 9], [9, 9]]]
    request = reader.read([{"image": pixels}, {"image": png((1, 2, 2), 9)}, {"image": [9] * 4}])
    assert request.batch.x.tolist() == [pixels] * 3  # type: ignore[union-attr]


@pytest.mark.parametrize(("format_", "nested"), [("json", True), ("frames", False)])
def test_recording_layout_is_that_of_the_live_stream(format_: str, nested: bool) -> None:
    stream = object.__new__(RecordingStream)
    fingerprint = {"stream.format.kind": format_, "stream.id": "uid"}
    stream.manifest = RecordingManifest.model_construct(fingerprint=fingerprint)
    layout = stream.json_layout()
    assert layout == {"cells": "json", "nested": nested, "pixels": not nested, "id": "uid"}


@pytest.mark.parametrize("feature", [False, True])
def test_recording_reads_times_as_the_live_stream(feature: bool) -> None:
    features: Any = {"numeric": ["n"], "time": ["w", "at"] if feature else ["w"]}
    changes = {"features": features, "time": "at", "time_unit": "ms", "time_zone": "Europe/Vienna"}
    live = kafka(**changes)
    recording = object.__new__(RecordingStream)
    recording.manifest = RecordingManifest.model_construct(
        fingerprint={f"stream.{key}": value for key, value in changes.items()},
        features=tuple((f.name, f.kind, f.shape, f.missing) for f in live.schema.features),
    )
    event = {"n": 1, "w": 1714557600000, "at": "2024-05-01T12:00:01"}
    recipe = recipe_of(live)
    read = [
        RequestReader({**recipe, "json_layout": stream.json_layout()}).read([event]).batch
        for stream in (live, recording)
    ]
    assert same_features(*read)
    assert read[0].time.tolist() == read[1].time.tolist() == [1714557601.0]
    assert isinstance(read[1].x, dict)
    assert np.asarray(read[1].x["w"]).tolist() == [1714557600.0]


def test_reader_without_pillow_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    reader = RequestReader(recipe_of(STREAMS["image"]))
    with pytest.raises(HTTPError, match="images need Pillow, which is not installed") as refused:
        reader.read([{"p": png_of_zeros((3, 2, 2))}])
    assert refused.value.status == 500


def test_png_of_zeros_is_read_as_one() -> None:
    for shape in ((1, 2, 3), (3, 2, 2), (4, 1, 5)):
        pixels = Image.open(io.BytesIO(base64.b64decode(png_of_zeros(shape))))
        assert (len(pixels.getbands()), pixels.height, pixels.width) == shape
        assert not np.asarray(pixels).any()
