"""Avro messages: what is read, what is bad, and which schemas fit which fields."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from streams.core.errors import StreamError
from streams.decoding.formats.avro import AvroConfig
from streams.decoding.formats.factory import Field, FieldKind, Format, make

fastavro = pytest.importorskip("fastavro")

EVENT = {
    "type": "record",
    "name": "Event",
    "namespace": "shop",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "x", "type": "float"},
        {"name": "y", "type": ["null", "string"], "default": None},
    ],
}
ID, X, Y = Field("id", "integer"), Field("x", "number"), Field("y", "text", required=False)


def avro(schema: Any, *fields: Field, framing: str = "plain", folder: Path = Path()) -> Format:
    config = AvroConfig.model_validate({"schema": schema, "framing": framing})
    return make(config, fields, folder)


def of(kind: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": "a", "type": kind}]}


def event(id: int, x: float, y: bytes | None) -> bytes:
    """By hand: zigzag varints, little-endian floats, the index of a union's branch."""
    assert -64 <= id < 64
    assert y is None or len(y) < 64
    zigzag = bytes([2 * id if id >= 0 else -2 * id - 1])
    return zigzag + struct.pack("<f", x) + (b"\0" if y is None else bytes([2, 2 * len(y)]) + y)


def test_records_are_read() -> None:
    form = avro(EVENT, ID, Y, X)
    table, bad = form.read([event(3, 0.5, "ä".encode()), event(-1, -2, None)])
    assert not bad
    assert table.schema.names == ["id", "y", "x"]
    assert table.schema.types == [pa.int64(), pa.string(), pa.float64()]
    assert table.to_pylist() == [{"id": 3, "y": "ä", "x": 0.5}, {"id": -1, "y": None, "x": -2.0}]
    assert form.dtype() == "float32"
    assert avro(of("double"), Field("a", "number")).dtype() == "float64"
    assert avro(of(["null", "float"]), Field("a", "number")).dtype() == "float32"


def test_bad_messages() -> None:
    good = event(3, 0.5, b"a")
    messages = [
        (None, "no value"),
        (b"", "no record 'shop.Event' of Avro: EOFError"),
        (good[:-1], "no record 'shop.Event' of Avro: EOFError"),
        (good + b"ab", "2 bytes are left over after a record 'shop.Event'"),
        (event(3, 0.5, b"\xff"), "no record 'shop.Event' of Avro: UnicodeDecodeError"),
        (good[:5] + b"\x08\x00", "no record 'shop.Event' of Avro: IndexError"),
        (event(3, float("nan"), b""), "column 'x' holds nan; expected a finite number"),
    ]
    values = [value for message, _ in messages for value in (message, good)]
    table, bad = avro(EVENT, ID, X, Y).read(values)
    assert bad == [(2 * i, why) for i, (_, why) in enumerate(messages)]
    assert table.to_pylist() == [{"id": 3, "x": 0.5, "y": "a"}] * len(messages)
    required = avro(EVENT, Field("y", "text")).read([event(3, 0.5, None)])
    assert required.bad == [(0, "column 'y' holds null; expected text")]


def test_the_framing_of_confluent() -> None:
    form = avro(EVENT, ID, framing="confluent")
    good = event(3, 0.5, b"a")
    messages = [b"\0\0\0\1\xff" + good, good, b"\0\0\0\0", b"\0\0\0\0\0"]
    table, bad = form.read([*messages])
    assert table.to_pylist() == [{"id": 3}]
    assert bad == [
        (1, "the first byte is 6; expected Confluent's magic byte 0"),
        (2, "4 bytes; expected Confluent's header of 5"),
        (3, "no record 'shop.Event' of Avro: EOFError"),
    ]
    form = avro(EVENT, ID, X, Y, framing="confluent")
    rows = [{"id": 3, "x": 0.5, "y": "a"}]
    assert form.write(rows) == [bytes(5) + good]
    assert form.read(form.write(rows)).table.to_pylist() == rows


@pytest.mark.parametrize(
    ("kind", "written", "value"),
    [
        ("long", b"\x06", 3.0),
        ("double", struct.pack("<d", 1.5), 1.5),
        ({"type": "long", "logicalType": "timestamp-millis"}, b"\xa0\x1f", 2.0),
        ({"type": "long", "logicalType": "timestamp-micros"}, b"\x80\x89\x7a", 1.0),
        ({"type": "int", "logicalType": "date"}, b"\x02", 86400.0),
        ("string", b"\x281970-01-02T00:00:00Z", 86400.0),
        (["null", {"type": "long", "logicalType": "timestamp-millis"}], b"\x02\xa0\x1f", 2.0),
    ],
)
def test_times(kind: Any, written: bytes, value: float) -> None:
    form = avro(of(kind), Field("a", "time"))
    assert form.read([written]).table.to_pylist() == [{"a": value}]
    if kind != "string":
        assert form.write([{"a": value}]) == [written]


@pytest.mark.parametrize(
    ("kind", "field", "shape", "value"),
    [
        ({"type": "array", "items": "float"}, "vector", (2,), [0.5, -1.0]),
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, "text", (), "B"),
        ("boolean", "boolean", (), True),
        ("bytes", "image", (1, 2, 2), b"\x89P"),
        ({"type": "fixed", "name": "F", "size": 2}, "image", (1, 2, 2), b"\x89P"),
        (["null", "int", "double"], "number", (), 1.5),
        ("long", "integer", (), -(2**63)),
    ],
)
def test_format_write_read_round_trip(
    kind: Any, field: FieldKind, shape: tuple[int, ...], value: Any
) -> None:
    form = avro(of(kind), Field("a", field, shape))
    messages = form.write([{"a": value}])
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(of(kind)), {"a": value})
    assert messages == [out.getvalue()]
    assert form.read(messages).table.to_pylist() == [{"a": value}]


def test_a_vector_of_another_length() -> None:
    form = avro(of({"type": "array", "items": "int"}), Field("a", "vector", (2,)))
    assert form.read([b"\x02\x02\x00"]).bad == [
        (0, "column 'a' holds [1]; expected a vector of 2 finite numbers")
    ]


def test_avro_dots_are_a_path() -> None:
    inner = {"type": "record", "name": "In", "fields": [{"name": "b", "type": "int"}]}
    form = avro(of(["null", inner]), Field("a.b", "number", required=False))
    table, bad = form.read([b"\x02\x06", b"\x00"])
    assert table.to_pylist() == [{"a.b": 3.0}, {"a.b": None}]
    assert not bad
    assert form.write([{"a.b": 3}]) == [b"\x02\x06"]
    with pytest.raises(StreamError, match=r"'b' of 'a.b' is to be found in something that is no"):
        avro(of("int"), Field("a.b", "number"))


def test_a_schema_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "event.avsc").write_text(json.dumps(EVENT))
    form = avro("event.avsc", ID, folder=tmp_path)
    assert form.read([event(3, 0.5, b"a")]).table.to_pylist() == [{"id": 3}]
    (tmp_path / "event.avsc").write_text("{")
    with pytest.raises(StreamError, match=r"stream.format.schema: .*event.avsc: no JSON: "):
        avro("event.avsc", ID, folder=tmp_path)
    with pytest.raises(StreamError, match=r"stream.format.schema: .*none.avsc: No such file"):
        avro("none.avsc", ID, folder=tmp_path)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"a": 1},
        {"type": "recrd"},
        {"type": "record"},
        {"type": "record", "name": "R", "fields": 5},
        {"type": "record", "name": "R", "fields": [{"name": "a", "type": "flot"}]},
        {"type": "array", "items": "int"},
    ],
)
def test_schemas_that_are_none(schema: Any) -> None:
    with pytest.raises(StreamError, match=r"^stream.format.schema: no (schema of Avro|record)"):
        avro(schema, ID)


@pytest.mark.parametrize(
    ("kind", "field", "why"),
    [
        ("int", Field("b", "number"), "record 'R' has no field 'b': "),
        ("boolean", Field("a", "number"), "'a' is 'boolean', which is no number"),
        ("double", Field("a", "integer"), "which is no integer"),
        ("int", Field("a", "boolean"), "which is no boolean"),
        ("null", Field("a", "number"), "which is no number"),
        (["int", "string"], Field("a", "number"), "which is no number"),
        ({"type": "array", "items": "string"}, Field("a", "vector", (2,)), "which is no vector"),
        ("float", Field("a", "vector", (2,)), "which is no vector"),
        ("bytes", Field("a", "text"), "which is no text"),
        ({"type": "int", "logicalType": "time-millis"}, Field("a", "time"), "which is no time"),
        (
            ["long", {"type": "int", "logicalType": "date"}],
            Field("a", "time"),
            "in more than one unit",
        ),
    ],
)
def test_fields_not_in_the_schema_are_refused(kind: Any, field: Field, why: str) -> None:
    with pytest.raises(StreamError) as error:
        avro(of(kind), field)
    assert str(error.value).startswith("stream.format.schema: ")
    assert why in str(error.value)


NOTHING = {"type": "record", "name": "N", "fields": [{"name": "n", "type": "null"}]}


@pytest.mark.parametrize("items", ["null", NOTHING, {"type": "fixed", "name": "F", "size": 0}])
def test_arrays_of_nothing_are_refused(items: Any) -> None:
    """Ten bytes of such an array can say that it holds 2**62 values."""
    with pytest.raises(StreamError, match="values that take no bytes"):
        avro(of({"type": "array", "items": items}))
    avro(of({"type": "array", "items": ["null", "int"]}))


def test_avro_recursive_records_are_refused() -> None:
    """The parser goes down as deep as the message says, and the process with it."""
    schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": ["null", "R"]}]}
    with pytest.raises(StreamError, match="record 'R' may hold itself"):
        avro(schema)
    twice = {"type": "record", "name": "S", "fields": [{"name": "a", "type": "int"}]}
    fields = [{"name": "a", "type": twice}, {"name": "b", "type": "S"}]
    form = avro({"type": "record", "name": "R", "fields": fields}, Field("b.a", "number"))
    assert form.read([b"\x02\x04"]).table.to_pylist() == [{"b.a": 2.0}]
