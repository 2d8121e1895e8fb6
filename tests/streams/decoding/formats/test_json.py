"""JSON messages: what is read, and each way in which one can be bad."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from streams.decoding.formats.factory import Field, FieldKind, ParsedRecords, make
from streams.decoding.formats.json import JsonConfig


def read(messages: list[bytes | None], *fields: Field) -> ParsedRecords:
    return make(JsonConfig(), fields, Path()).read(messages)


def cell(text: str, kind: FieldKind, shape: tuple[int, ...] = (), required: bool = True) -> Any:
    """What becomes of {"a": text}: the value, or the reason why it is bad."""
    rows = read([b'{"a": %s}' % text.encode()], Field("a", kind, shape, required))
    assert len(rows.bad) + rows.table.num_rows == 1
    return rows.bad[0][1] if rows.bad else rows.table.column("a")[0].as_py()


def test_columns_have_the_types_of_their_kinds() -> None:
    image = base64.b64encode(b"\x89PNG").decode()
    message = b'{"n": 1, "i": 2, "b": true, "t": "x", "v": [1, 2.5], "p": "%s", "s": 3}'
    fields = [
        Field("n", "number"),
        Field("i", "integer"),
        Field("b", "boolean"),
        Field("t", "text"),
        Field("v", "vector", (2,)),
        Field("p", "image", (3, 2, 2)),
        Field("s", "time"),
    ]
    table, bad = read([message % image.encode()], *fields)
    assert not bad
    assert table.schema.names == ["n", "i", "b", "t", "v", "p", "s"]
    assert table.schema.types == [
        pa.float64(),
        pa.int64(),
        pa.bool_(),
        pa.string(),
        pa.list_(pa.float64(), 2),
        pa.binary(),
        pa.float64(),
    ]
    values = {"n": 1.0, "i": 2, "b": True, "t": "x", "v": [1.0, 2.5], "p": b"\x89PNG", "s": 3.0}
    assert table.to_pylist() == [values]
    assert read([], *fields).table.schema.types == table.schema.types


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("number", "-0.5e2", -50.0),
        ("number", "18446744073709551616", 2.0**64),
        ("number", "9007199254740993", 9007199254740992.0),  # 2**53 + 1, rounded
        ("integer", "-9223372036854775808", -(2**63)),
        ("integer", "9007199254740993", 2**53 + 1),
        ("integer", "7.0", 7),
        ("integer", "1e3", 1000),
        ("boolean", "false", False),
        ("text", '"\\u00e4\\n"', "ä\n"),
        ("text", '"7"', "7"),
        ("text", '"\\u0000"', "\0"),
        ("time", "1.5", 1.5),
        ("time", '"1.5"', 1.5),
        ("time", '"1970-01-02T00:00:00Z"', 86400.0),
        ("time", '"1970-01-02 01:00:00.25+01:00"', 86400.25),
        ("time", '"1969-12-31"', -86400.0),
    ],
)
def test_values(kind: FieldKind, text: str, value: Any) -> None:
    found = cell(text, kind)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("kind", "text", "held"),
    [
        ("number", "true", "True"),
        ("number", '"1"', "'1'"),
        ("number", "null", "null"),
        ("number", "[1]", "[1]"),
        ("number", "{}", "{}"),
        ("integer", "1.5", "1.5"),
        ("integer", "1e17", "1e+17"),
        ("integer", "9223372036854775808", "9223372036854775808"),
        ("integer", "false", "False"),
        ("integer", '"7"', "'7'"),
        ("boolean", "1", "1"),
        ("boolean", '"true"', "'true'"),
        ("text", "7", "7"),
        ("text", "true", "True"),
        ("text", "null", "null"),
        ("time", '"yesterday"', "'yesterday'"),
        ("time", '"inf"', "'inf'"),
        ("time", "true", "True"),
        ("time", "[1]", "[1]"),
    ],
)
def test_bad_values(kind: FieldKind, text: str, held: str) -> None:
    expected = {
        "number": "a finite number",
        "integer": "an integer that fits in 64 bits",
        "boolean": "true or false",
        "text": "text",
        "time": "a time (seconds, or ISO 8601)",
    }
    assert cell(text, kind) == f"column 'a' holds {held}; expected {expected[kind]}"


@pytest.mark.parametrize("text", ["[1, 2]", "[true, 2, 3]", '[1, "2", 3]', "[1, null, 3]", "7"])
def test_bad_vectors(text: str) -> None:
    held = text.replace("true", "True").replace('"', "'").replace("null", "None")
    why = f"column 'a' holds {held}; expected a vector of 3 finite numbers"
    assert cell(text, "vector", (3,)) == why


def test_bad_vectors_among_good_ones_are_dead() -> None:
    """Three vectors of 1, 2 and 3 hold as many numbers as three of 2."""
    messages = [b'{"a": [1]}', b'{"a": [2, 3]}', b'{"a": [4, 5, 6]}']
    table, bad = read([*messages], Field("a", "vector", (2,)))
    assert table.column("a").to_pylist() == [[2.0, 3.0]]
    assert [i for i, _ in bad] == [0, 2]


def test_a_bad_image() -> None:
    assert cell('"*"', "image", (3, 2, 2)) == (
        "column 'a' holds '*'; expected the bytes of a PNG or JPEG of 3x2x2"
    )
    assert cell("7", "image", (1, 2, 2)).startswith("column 'a' holds 7; expected")


@pytest.mark.parametrize("kind", ["number", "integer", "boolean", "text", "time"])
def test_optional_field_may_be_null_or_missing_not_wrong(kind: FieldKind) -> None:
    field = Field("a", kind, required=False)
    table, bad = read([b'{"a": null}', b"{}", b'{"a": [1]}'], field)
    assert table.column("a").to_pylist() == [None, None]
    assert [i for i, _ in bad] == [2]
    assert read([b"{}", b'{"a": null}'], Field("a", kind)).table.num_rows == 0


def test_optional_vector_and_image_may_be_null() -> None:
    fields = [Field("v", "vector", (2,), False), Field("p", "image", (1, 1, 1), False)]
    table, bad = read([b'{"v": [1, 2]}', b"{}", b'{"p": "iVA="}'], *fields)
    assert table.column("v").to_pylist() == [[1.0, 2.0], None, None]
    assert table.column("p").to_pylist() == [None, None, b"\x89P"]
    assert not bad


def test_json_messages_not_objects_are_bad() -> None:
    messages = [
        (None, "no value"),
        (b"", "no JSON: "),
        (b'{"a": 1', "no JSON: "),
        (b'{"a": NaN}', "no JSON: "),
        (b'{"a": 1e999}', "no JSON: "),
        (b'{"a": 1} 2', "no JSON: "),
        (b'{"a": "\\ud800"}', "no JSON: "),
        (b'{"a": "\xff"}', "no JSON: "),
        (b'\xef\xbb\xbf{"a": 1}', "no JSON: "),
        (b"[" * 100_000, "no JSON: "),
        (b'{"a":' * 100_000, "no JSON: "),
        (b"9" * 100_000, "no JSON: "),
        (b"[1]", "the message holds [1]; expected a JSON object"),
        (b'"a"', "the message holds 'a'; expected a JSON object"),
        (b"null", "the message holds null; expected a JSON object"),
    ]
    good = b'{"a": 1}'
    values = [value for message, _ in messages for value in (message, good)]
    table, bad = read(values, Field("a", "number"))
    assert table.num_rows == len(messages)
    assert [i for i, _ in bad] == list(range(0, 2 * len(messages), 2))
    for (message, start), (_, why) in zip(messages, bad, strict=True):
        assert why.startswith(start), message
        assert len(why) < 150
        assert "\n" not in why


def test_first_bad_field_gives_the_reason() -> None:
    fields = [Field("a", "number"), Field("b", "text")]
    (_, why), (_, other) = read([b'{"a": true, "b": 1}', b'{"a": 1, "b": 1}'], *fields).bad
    assert why == "column 'a' holds True; expected a finite number"
    assert other == "column 'b' holds 1; expected text"


def test_long_and_deep_values_are_shown_short() -> None:
    assert len(cell('"%s"' % ("x" * 10_000), "number")) < 120
    assert len(cell("[" * 900 + "]" * 900, "number")) < 120
    assert len(cell("[" + "1," * 10_000 + "1]", "number")) < 120


def test_json_dots_are_a_path() -> None:
    fields = [Field("a.b", "number"), Field("c", "number", required=False)]
    messages = [
        b'{"a": {"b": 1}, "c": 2}',
        b'{"a": 5}',
        b'{"a": {"b": null}}',
        b"{}",
        b'{"a": {"b": {"b": 1}}}',
        b'{"a.b": 1}',
    ]
    table, bad = read([*messages], *fields)
    assert table.to_pylist() == [{"a.b": 1.0, "c": 2.0}]
    assert [why.removesuffix("; expected a finite number") for _, why in bad] == [
        "column 'a.b' holds {'a': 5}",
        "column 'a.b' holds null",
        "column 'a.b' holds null",
        "column 'a.b' holds {'b': 1}",
        "column 'a.b' holds null",
    ]
    assert read([b'{"a": {"a": 3}}'], Field("a.a", "number")).table.num_rows == 1


def test_json_repeated_key_last_value_counts() -> None:
    assert read([b'{"a": "x", "a": 2}'], Field("a", "number")).table.to_pylist() == [{"a": 2.0}]


def test_format_write_read_round_trip() -> None:
    fields = [
        Field("id", "integer"),
        Field("in.x", "number"),
        Field("in.v", "vector", (2,)),
        Field("b", "boolean"),
        Field("t", "text"),
        Field("p", "image", (1, 1, 1)),
        Field("s", "time"),
        Field("y", "number", required=False),
    ]
    row = {"id": 2**60 + 1, "in.x": 0.1, "in.v": [1.0, -2.5], "b": True, "t": 'ä"', "p": b"\0\xff"}
    rows = [row | {"s": 1.7e9 + 0.1, "y": None}, row | {"s": 0.0, "y": 2.0}]
    form = make(JsonConfig(), fields, Path())
    numpy = {"in.v": np.array([1.0, -2.5]), "id": np.int64(2**60 + 1)}
    messages = form.write([rows[0], rows[1] | numpy])
    begin = b'{"id":1152921504606846977,"in":{"x":0.1,"v":[1.0,-2.5]},"b":true'
    assert messages[1].startswith(begin)
    table, bad = form.read(messages)
    assert (table.to_pylist(), bad) == (rows, [])
    assert form.read(form.write([row | {"s": 1.0}])).table.column("y").to_pylist() == [None]
    assert form.dtype() == "float64"
