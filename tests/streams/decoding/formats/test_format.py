"""What all formats keep to, whatever a message holds."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from streams.core.errors import StreamError
from streams.decoding.formats.base import Field, FieldKind, Format, ParsedRecords
from streams.decoding.formats.factory import FORMATS, AnyFormatConfig, make
from tests.support.fuzz import examples

descriptors: Any = pytest.importorskip("google.protobuf.descriptor_pb2")

CONFIG: TypeAdapter[Any] = TypeAdapter(AnyFormatConfig)
FIELDS = (
    Field("id", "integer"),
    Field("time", "time"),
    Field("x", "number"),
    Field("v", "vector", (2,)),
    Field("b", "boolean"),
    Field("y", "number", required=False),
)
TEXTS = (Field("name", "text"), Field("in.key", "text", required=False))
ROWS = [
    {"id": i - 2, "time": 1.7e9 + i, "x": i / 4, "v": [i, -0.5], "b": i % 2 == 0, "y": float(i)}
    | {"name": "ä" * i, "in.key": "k"}
    for i in range(5)
]


def _avro() -> dict[str, Any]:
    inner = {"type": "record", "name": "In", "fields": [{"name": "key", "type": "string"}]}
    types = {
        "id": "long",
        "time": {"type": "long", "logicalType": "timestamp-millis"},
        "x": "float",
        "v": {"type": "array", "items": "double"},
        "b": "boolean",
        "y": ["null", "double"],
        "name": "string",
        "in": ["null", inner],
    }
    fields = [{"name": name, "type": kind} for name, kind in types.items()]
    return {"type": "record", "name": "Event", "fields": fields}


def _descriptor(file: Path) -> None:
    proto = descriptors.FieldDescriptorProto
    described = descriptors.FileDescriptorProto(name="e.proto", package="p", syntax="proto3")
    described.message_type.add(name="In").field.add(name="key", number=1, type=9, label=1)
    event = described.message_type.add(name="Event")
    event.oneof_decl.add(name="_y")
    for number, (name, kind) in enumerate(
        {"id": 3, "time": 1, "x": 2, "b": 8, "name": 9}.items(), start=1
    ):
        event.field.add(name=name, number=number, type=kind, label=proto.LABEL_OPTIONAL)
    event.field.add(name="v", number=6, type=1, label=proto.LABEL_REPEATED)
    event.field.add(name="y", number=7, type=1, label=1, oneof_index=0, proto3_optional=True)
    event.field.add(name="in", number=8, type=11, label=1, type_name=".p.In")
    file.write_bytes(descriptors.FileDescriptorSet(file=[described]).SerializeToString())


LAYOUT = {"id": "int64", "time": "float64", "x": "float32", "v": ["float32", 2], "b": "bool"}
SETTINGS: dict[str, dict[str, Any]] = {
    "json": {"kind": "json"},
    "frames": {"kind": "frames", "fields": LAYOUT | {"y": "float64"}},
    "avro": {"kind": "avro", "schema": _avro()},
    "avro-confluent": {"kind": "avro", "schema": _avro(), "framing": "confluent"},
    "protobuf": {"kind": "protobuf", "descriptor": "e.desc", "message": "p.Event"},
    "protobuf-confluent": {
        "kind": "protobuf",
        "descriptor": "e.desc",
        "message": "p.Event",
        "framing": "confluent",
    },
}


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Format]:
    pytest.importorskip("fastavro")
    folder = tmp_path_factory.mktemp("formats")
    _descriptor(folder / "e.desc")
    return {
        name: make(
            CONFIG.validate_python(spec), FIELDS + (() if name == "frames" else TEXTS), folder
        )
        for name, spec in SETTINGS.items()
    }


def by_itself(form: Format, messages: Sequence[bytes | None]) -> ParsedRecords:
    """What becomes of messages that are read one at a time."""
    alone = [form.read([message]) for message in messages]
    tables = [form.read([]).table, *(rows.table for rows in alone)]
    table = pa.Table.from_batches(tables).combine_chunks()
    bad = [(i, rows.bad[0][1]) for i, rows in enumerate(alone) if rows.bad]
    assert all(len(rows.bad) + rows.table.num_rows == 1 for rows in alone)
    return ParsedRecords(table, bad)


def check(form: Format, messages: Sequence[bytes | None]) -> ParsedRecords:
    """Reads messages, and checks that each is read as it is by itself."""
    together, alone = form.read(messages), by_itself(form, messages)
    assert together.bad == alone.bad
    assert pa.Table.from_batches([together.table]).equals(alone.table)
    for _, why in together.bad:
        assert len(why) < 250
        assert "\n" not in why
    return together


@st.composite
def mutated(draw: st.DrawFn, real: list[bytes]) -> bytes | None:
    """A real message, or what may have become of one."""
    message = draw(st.sampled_from(real))
    how = draw(st.sampled_from(["real", "flip", "cut", "twice", "splice", "random", "none"]))
    at = draw(st.integers(0, len(message)))
    if how == "flip":
        bits = bytearray(message)
        for bit in draw(st.lists(st.integers(0, len(bits) * 8 - 1), min_size=1, max_size=3)):
            bits[bit // 8] ^= 1 << bit % 8
        return bytes(bits)
    if how == "cut":
        return message[:at]
    if how == "twice":
        return message[:at] + message[draw(st.integers(0, at)) :]
    if how == "splice":
        other = draw(st.sampled_from(real))
        return message[:at] + other[draw(st.integers(0, len(other))) :]
    if how == "random":
        return draw(st.binary(max_size=100))
    return None if how == "none" else message


@pytest.mark.hypothesis
@pytest.mark.parametrize("name", SETTINGS)
def test_message_is_read_independently_of_others(name: str, formats: dict[str, Format]) -> None:
    form = formats[name]
    real = form.write(ROWS)

    @given(st.lists(mutated(real), max_size=12))
    @examples(1.0)
    def holds(messages: list[bytes | None]) -> None:
        check(form, messages)

    assert check(form, real).table.num_rows == len(real)
    holds()


TIMES = st.one_of(
    st.datetimes().map(str),
    st.datetimes(timezones=st.timezones()).map(lambda moment: moment.isoformat()),
    st.dates().map(str),
    st.from_regex(
        r"[ +-]?[0-9_]{1,12}([.:T-][0-9]{0,4}){0,4}(Z|[+-]0[0-9]:?[0-9]0)?", fullmatch=True
    ),
)
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(2**66), 2**66),
        st.floats(),
        st.text(max_size=5),
        TIMES,
        st.sampled_from(["iVA=", "AAA", "inf", "nan", "1e5", "0x1F", "0", 1e300, 2**53 + 1, 7.0]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abcd"), inner, max_size=2)
    ),
    max_leaves=4,
)
KINDS: dict[str, FieldKind] = {
    "a": "number",
    "b": "integer",
    "c": "boolean",
    "d": "text",
    "e": "vector",
    "f": "image",
    "g": "time",
    "a.b": "number",
    "c.d": "text",
}
SHAPES = {"vector": (2,), "image": (1, 2, 2)}


@pytest.mark.hypothesis
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("required", [True, False])
def test_value_is_read_independently_of_others(name: str, required: bool) -> None:
    kind = KINDS[name]
    form = make(
        CONFIG.validate_python({"kind": "json"}),
        [Field(name, kind, SHAPES.get(kind, ()), required)],
        Path(),
    )
    values = st.one_of(VALUES, TIMES, st.integers(), st.floats(), st.lists(st.floats(), max_size=3))

    @given(st.lists(st.dictionaries(st.just(name.split(".")[0]), values), max_size=8))
    @examples(0.6)
    def holds(objects: list[dict[str, Any]]) -> None:
        check(form, [json.dumps(found).encode() for found in objects])

    holds()


@pytest.mark.hypothesis
def test_times_are_read_independently_of_others() -> None:
    """Text of times is cast as a column where all of it is of one form."""
    form = make(CONFIG.validate_python({"kind": "json"}), [Field("t", "time")], Path())

    @given(st.lists(TIMES, min_size=1, max_size=6))
    @examples(3.0)
    def holds(times: list[str]) -> None:
        check(form, [json.dumps({"t": time}).encode() for time in times])

    holds()


def test_an_unknown_kind_is_refused() -> None:
    assert list(FORMATS) == ["json", "avro", "protobuf", "frames"]
    for wrong in ({"kind": "xml"}, {}, 3):
        with pytest.raises(ValidationError, match="'json', 'avro', 'protobuf', 'frames'"):
            CONFIG.validate_python(wrong)
    for kind in FORMATS:
        assert FORMATS[kind].Config.model_fields["kind"].default == kind


def test_a_column_is_one_thing() -> None:
    fields = [Field("x", "number"), Field("x", "text")]
    with pytest.raises(StreamError, match="column 'x' is to be two things"):
        make(CONFIG.validate_python({"kind": "json"}), fields, Path())


@pytest.mark.parametrize(
    ("name", "module"), [("avro", "fastavro"), ("protobuf", "google.protobuf.descriptor_pb2")]
)
def test_missing_package_error_names_the_extra(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    library = module.rpartition(".")[0].rpartition(".")[2] or module
    with pytest.raises(StreamError, match=rf"needs {library}.*pip install 'everlearn\[codecs\]'"):
        make(CONFIG.validate_python(SETTINGS[name]), FIELDS, Path())
