"""Packed frames: what is read, what is bad, and which layouts fit which fields."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from streams.core.errors import StreamError
from streams.decoding.formats.factory import Field, Format, make
from streams.decoding.formats.frames import FramesConfig

EVENT = {"id": "int64", "time": "float64", "label": "int8", "x": ["float32", 3]}
FIELDS = [
    Field("id", "integer"),
    Field("time", "time"),
    Field("label", "integer"),
    Field("x", "vector", (3,)),
]


def frames(layout: dict[str, Any], *fields: Field) -> Format:
    return make(FramesConfig.model_validate({"fields": layout}), fields, Path())


def event(id: int, time: float, label: int, *x: float) -> bytes:
    return struct.pack("<qdb3f", id, time, label, *x)


def test_frames_are_read_as_they_are_packed() -> None:
    form = frames(EVENT, *FIELDS)
    table, bad = form.read([event(-7, 0.1, -1, 1, 2.5, -3), event(2**62, 2, 3, 4, 5, 6)])
    assert not bad
    assert table.schema.types == [
        pa.int64(),
        pa.float64(),
        pa.int8(),
        pa.list_(pa.float32(), 3),
    ]
    assert table.to_pylist() == [
        {"id": -7, "time": 0.1, "label": -1, "x": [1.0, 2.5, -3.0]},
        {"id": 2**62, "time": 2.0, "label": 3, "x": [4.0, 5.0, 6.0]},
    ]
    assert form.dtype() == "float32"
    assert form.read([]).table.schema.equals(table.schema)


def test_frames_read_every_type_and_named_fields_only() -> None:
    layout = {"a": "uint8", "b": "uint16", "c": "int16", "d": "uint32", "e": "int32", "f": "bool"}
    wanted = [Field("f", "boolean"), *(Field(name, "number") for name in "edcb")]
    message = struct.pack("<BHhIi?", 1, 2**16 - 1, -(2**15), 2**32 - 1, -(2**31), True)
    table, bad = frames(layout, *wanted).read([message])
    assert not bad
    assert table.to_pylist() == [
        {"f": True, "e": -(2**31), "d": 2**32 - 1, "c": -(2**15), "b": 2**16 - 1}
    ]
    assert frames(layout, *wanted).dtype() == "float64"


def test_bad_frames() -> None:
    good, nan = event(1, 1, 1, 1, 2, 3), math.nan
    messages = [
        None,
        good,
        good[:17],
        event(1, 1, 1, 1, nan, 3),
        b"",
        event(1, math.inf, 1, 1, nan, 3),
        good,
        good + b"\0",
    ]
    table, bad = frames(EVENT, *FIELDS).read(messages)
    assert table.num_rows == 2
    assert bad == [
        (0, "no value"),
        (2, "17 bytes; expected 29"),
        (3, "column 'x' holds [1.0, nan, 3.0]; expected a vector of 3 finite numbers"),
        (4, "0 bytes; expected 29"),
        (5, "column 'time' holds inf; expected a time (seconds, or ISO 8601)"),
        (7, "30 bytes; expected 29"),
    ]


def test_a_bool_is_0_or_1() -> None:
    table, bad = frames({"b": "bool"}, Field("b", "boolean")).read([b"\0", b"\2", b"\1", b"\xff"])
    assert table.column("b").to_pylist() == [False, True]
    assert bad == [
        (1, "column 'b' holds 2; expected true or false"),
        (3, "column 'b' holds 255; expected true or false"),
    ]


def test_frames_nan_is_null_if_optional() -> None:
    field = Field("y", "number", required=False)
    messages = [struct.pack("<f", y) for y in (1.5, math.nan, math.inf)]
    table, bad = frames({"y": "float32"}, field).read([*messages])
    assert table.column("y").to_pylist() == [1.5, None]
    assert bad == [(2, "column 'y' holds inf; expected a finite number")]


@pytest.mark.parametrize("stored", [["uint8", 12], ["uint8", 3, 2, 2]])
def test_images_are_pixels(stored: list[Any]) -> None:
    form = frames({"p": stored}, Field("p", "image", (3, 2, 2)))
    table, bad = form.read([bytes(range(12))])
    assert not bad
    assert table.column("p").to_pylist() == [list(range(12))]
    assert table.schema.field("p").type == pa.list_(pa.uint8(), 12)
    assert form.write([{"p": np.arange(12, dtype=np.uint8).reshape(3, 2, 2)}]) == [bytes(range(12))]


@pytest.mark.parametrize(
    ("layout", "field", "why"),
    [
        ({"b": "int8"}, Field("a", "number"), "fields: there is no field 'a': There are: b"),
        ({"a": "bool"}, Field("a", "number"), "fields.a: 'bool' is no number"),
        ({"a": "float32"}, Field("a", "integer"), "fields.a: 'float32' is no integer"),
        ({"a": "int8"}, Field("a", "boolean"), "fields.a: 'int8' is no boolean"),
        ({"a": "int64"}, Field("a", "text"), "fields.a: 'int64' is no text"),
        ({"a": ["float32", 2]}, Field("a", "number"), "is no number"),
        ({"a": ["float32", 2]}, Field("a", "vector", (3,)), "is no vector of 3"),
        ({"a": ["int8", 12]}, Field("a", "image", (3, 2, 2)), "is no image of 3x2x2"),
        ({"a": ["uint8", 12]}, Field("a", "image", (3, 3, 3)), "is no image of 3x3x3"),
    ],
)
def test_fields_not_in_the_schema_are_refused(
    layout: dict[str, Any], field: Field, why: str
) -> None:
    with pytest.raises(StreamError) as error:
        frames(layout, field)
    assert str(error.value).startswith("stream.format.fields")
    assert why in str(error.value)


@pytest.mark.parametrize(
    ("layout", "why"),
    [
        ({}, "what a frame holds is wanted"),
        ([1], "what a frame holds is wanted"),
        ({"a": "float"}, "a: unknown type 'float': did you mean 'float64'?"),
        ({"a": "text"}, "a: unknown type 'text'"),
        ({"a": 3}, "a: unknown type '3'"),
        ({"a": []}, "a: unknown type '[]'"),
        ({"": "int8"}, "'' is no name"),
        ({"a": ["int8", 0]}, "has no shape"),
        ({"a": ["int8", True]}, "has no shape"),
        ({"a": ["int8", 2, 2]}, "has no shape"),
        ({"a": ["int8", 2**40]}, "has no shape"),
    ],
)
def test_layouts_that_are_none(layout: Any, why: str) -> None:
    with pytest.raises(ValidationError) as error:
        FramesConfig.model_validate({"fields": layout})
    assert why in str(error.value)


def test_format_write_read_round_trip() -> None:
    form = frames(EVENT | {"more": ["int32", 2]}, *FIELDS)
    rows = [{"id": 1, "time": 0.5, "label": -128, "x": [1.0, 2.0, 0.5]}]
    (message,) = form.write(rows)
    assert message == event(1, 0.5, -128, 1, 2, 0.5) + bytes(8)
    assert form.read([message]).table.to_pylist() == rows
    assert form.write([]) == []
    label = Field("y", "number", required=False)
    assert math.isnan(struct.unpack("<d", frames({"y": "float64"}, label).write([{}])[0])[0])


@pytest.mark.parametrize("label", [128, 1.5, math.nan])
def test_frames_write_refuses_values_out_of_range(label: float) -> None:
    with pytest.raises(ValueError, match="column 'label': not all fit int8"):
        frames({"label": "int8"}, Field("label", "integer")).write([{"label": label}])
