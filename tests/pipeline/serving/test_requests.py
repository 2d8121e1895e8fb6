"""An event of a request is read as the stream reads it: same values, same fate, same reason."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.models.recipe import Recipe
from pipeline.serving.requests import InvalidEventsError, RequestReader
from pipeline.serving.responses import HTTPError, parse_list
from streams.core.batch import Batch, Ragged
from streams.core.stream import Stream
from streams.kafka.config import KafkaConfig
from streams.kafka.stream import KafkaStream


def recipe_of(stream: Stream) -> Recipe:
    """The parts of a recipe that a request is read by, as they stand in a checkpoint."""
    schema = stream.schema
    made = {
        "features": [[f.name, f.kind, list(f.shape)] for f in schema.features],
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
    format_, decode = stream.blocks.of_events
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
    format_, decode = stream.blocks.of_events
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
    assert wrong == {row: reason for row, reason in enumerate(reasons) if reason is not None}
    if batch is not None:
        whole = Batch.concat([one for one, _ in read]) if len(read) > 1 else read[0][0]
        assert same_features(batch, whole)
        if stream.has_ids:
            assert batch.ids.tolist() == whole.ids.tolist()
        if stream.has_time:
            assert batch.time.tobytes() == whole.time.tobytes()
    return reasons


@pytest.mark.parametrize("name", STREAMS)
@settings(max_examples=150)
@given(data=st.data())
def test_reader_kafka_json_same_value_and_fate(name: str, data: st.DataObject) -> None:
    """The very bytes of messages, in a request. Without ids in the stream, ``id`` is a position
    that only the server reads."""
    stream = STREAMS[name]
    check_same_fate(stream, data.draw(st.lists(events(stream.has_ids), min_size=1, max_size=3)))
