"""Protobuf messages: what is read, what is bad, and which types fit which fields."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from streams.core.errors import StreamError
from streams.decoding.formats.factory import Field, FieldKind, Format, make
from streams.decoding.formats.protobuf import ProtobufConfig

descriptors: Any = pytest.importorskip("google.protobuf.descriptor_pb2")
timestamps: Any = pytest.importorskip("google.protobuf.timestamp_pb2")

TYPES = descriptors.FieldDescriptorProto
SIMPLE = ["int64", "float", "double", "bool", "string", "bytes", "uint64", "sint32"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds ``e.desc`` with ``shop.Event``: a field for each type, numbered from 1, named by it;
    then repeated floats ``v``, an optional int32 ``o``, a message ``m`` with an int32 ``i``, a
    timestamp ``t``, an enum ``e`` and repeated messages ``r``."""
    file = descriptors.FileDescriptorProto(name="e.proto", package="shop", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    inner = file.message_type.add(name="Inner")
    inner.field.add(name="i", number=1, type=TYPES.TYPE_INT32, label=TYPES.LABEL_OPTIONAL)
    file.enum_type.add(name="E").value.add(name="ZERO", number=0)
    event = file.message_type.add(name="Event")
    event.oneof_decl.add(name="_o")

    def add(name: str, kind: str, label: int = TYPES.LABEL_OPTIONAL, **more: Any) -> None:
        number, code = len(event.field) + 1, TYPES.Type.Value(f"TYPE_{kind.upper()}")
        event.field.add(name=name, number=number, type=code, label=label, **more)

    for kind in SIMPLE:
        add(kind, kind)
    add("v", "float", TYPES.LABEL_REPEATED)
    add("o", "int32", oneof_index=0, proto3_optional=True)
    add("m", "message", type_name=".shop.Inner")
    add("t", "message", type_name=".google.protobuf.Timestamp")
    add("e", "enum", type_name=".shop.E")
    add("r", "message", TYPES.LABEL_REPEATED, type_name=".shop.Inner")
    time = descriptors.FileDescriptorProto()
    timestamps.DESCRIPTOR.CopyToProto(time)
    files = descriptors.FileDescriptorSet(file=[time, file])
    (tmp_path / "e.desc").write_bytes(files.SerializeToString())
    (tmp_path / "alone.desc").write_bytes(
        descriptors.FileDescriptorSet(file=[file]).SerializeToString()
    )
    return tmp_path


def protobuf(folder: Path, *fields: Field, **changes: Any) -> Format:
    settings = {"descriptor": "e.desc", "message": "shop.Event"} | changes
    return make(ProtobufConfig.model_validate(settings), fields, folder)


def test_messages_are_read(folder: Path) -> None:
    form = protobuf(folder, Field("int64", "integer"), Field("v", "vector", (2,)))
    vector = struct.pack("<2f", 0.5, -1)
    packed = b"\x08\x07" + b"\x4a\x08" + vector  # field 1, varint 7; field 9, 8 bytes
    single = b"\x4d" + vector[:4] + b"\x4d" + vector[4:] + b"\x98\x06\x01"  # and unknown field 99
    table, bad = form.read([packed, single])
    assert not bad
    assert table.schema.types == [pa.int64(), pa.list_(pa.float64(), 2)]
    assert table.to_pylist() == [{"int64": 7, "v": [0.5, -1.0]}, {"int64": 0, "v": [0.5, -1.0]}]
    assert form.dtype() == "float32"
    double = [Field("float", "number"), Field("double", "number")]
    assert protobuf(folder, *double).dtype() == "float64"


def test_bad_messages(folder: Path) -> None:
    fields = [Field("v", "vector", (1,)), Field("uint64", "integer"), Field("string", "text")]
    vector = b"\x4d" + struct.pack("<f", 1)
    nan = b"\x4d" + struct.pack("<f", float("nan"))
    no = "no message 'shop.Event' of Protobuf"
    messages = [
        (None, "no value"),
        (b"\xff", no),
        (vector[:-1], no),
        (vector + b"\x2a\x05ab", no),
        (vector + b"\x2a\x01\xff", no),
        (vector + b"\x5b" * 5000, no),
        (b"", "column 'v' holds null; expected a vector of 1 finite numbers"),
        (nan, "column 'v' holds [nan]; expected a vector of 1 finite numbers"),
        (
            vector + b"\x38" + b"\xff" * 9 + b"\x01",
            f"column 'uint64' holds {2**64 - 1}; expected an integer that fits in 64 bits",
        ),
    ]
    values = [value for message, _ in messages for value in (message, vector)]
    table, bad = protobuf(folder, *fields).read(values)
    assert bad == [(2 * i, why) for i, (_, why) in enumerate(messages)]
    assert table.to_pylist() == [{"v": [1.0], "uint64": 0, "string": ""}] * len(messages)


def test_protobuf_field_with_presence_may_be_missing(folder: Path) -> None:
    fields = [Field(name, "integer", required=False) for name in ("o", "m.i", "e")]
    messages = [b"", b"\x50\x00", b"\x5a\x00", b"\x5a\x02\x08\x03"]
    rows = protobuf(folder, *fields).read([*messages]).table.to_pylist()
    assert rows == [
        {"o": None, "m.i": None, "e": 0},
        {"o": 0, "m.i": None, "e": 0},
        {"o": None, "m.i": 0, "e": 0},
        {"o": None, "m.i": 3, "e": 0},
    ]
    assert protobuf(folder, Field("o", "integer")).read([b""]).bad == [
        (0, "column 'o' holds null; expected an integer that fits in 64 bits")
    ]


def test_protobuf_feature_may_be_missing(folder: Path) -> None:
    """Without presence a scalar is its default; a vector without values is missing."""
    fields = [
        Field("o", "number", required=False),
        Field("m.i", "number", required=False),
        Field("int64", "number", required=False),
        Field("double", "number", required=False),
        Field("v", "vector", (2,), required=False),
    ]
    nan = b"\x19" + struct.pack("<d", float("nan"))
    short = b"\x4d" + struct.pack("<f", 1)
    table, bad = protobuf(folder, *fields).read([b"", b"\x50\x05" + nan, short])
    assert table.to_pylist() == [
        {"o": None, "m.i": None, "int64": 0, "double": 0, "v": None},
        {"o": 5, "m.i": None, "int64": 0, "double": None, "v": None},
    ]
    assert bad == [(2, "column 'v' holds [1.0]; expected a vector of 2 finite numbers")]


def test_times(folder: Path) -> None:
    form = protobuf(folder, Field("t", "time", required=False))
    half = b"\x62\x08\x08\x01\x10\x80\xca\xb5\xee\x01"  # 1 s, 500,000,000 ns
    assert form.read([half, b"\x62\x00", b""]).table.column("t").to_pylist() == [1.5, 0.0, None]
    assert form.write([{"t": 1.5}, {"t": None}]) == [half, b""]
    assert form.read(form.write([{"t": -0.25}])).table.to_pylist() == [{"t": -0.25}]
    text = protobuf(folder, Field("string", "time"))
    assert text.read([b"\x2a\x0a1970-01-02"]).table.to_pylist() == [{"string": 86400.0}]


NO_INDEXES = "no indexes of the message's type after Confluent's header"


@pytest.mark.parametrize(
    ("header", "bad"),
    [
        (b"\0\0\0\0\1\0", None),
        (b"\0\0\0\0\1\2\0", None),
        (b"\0\0\0\0\1\4\2\xac\2", None),  # two indexes, 1 and 150
        (b"\0\0\0\0\1", NO_INDEXES),
        (b"\0\0\0\0\1\6\2\2", NO_INDEXES),
        (b"\0\0\0\0\1" + b"\xff" * 20, NO_INDEXES),
        (
            b"\0\0\0\0\1\xfe\xff\xff\x7f",
            NO_INDEXES,
        ),
        (b"\7\0\0\0\1\0", "the first byte is 7; expected Confluent's magic byte 0"),
        (b"\0\0", "2 bytes; expected Confluent's header of 5"),
    ],
)
def test_the_framing_of_confluent(folder: Path, header: bytes, bad: str | None) -> None:
    form = protobuf(folder, Field("int64", "integer"), framing="confluent")
    message = b"" if bad else b"\x08\x07"
    rows = form.read([header + message])
    assert rows.bad == ([(0, bad)] if bad else [])
    assert rows.table.to_pylist() == ([] if bad else [{"int64": 7}])
    assert form.write([{"int64": 7}]) == [b"\0\0\0\0\0\0\x08\x07"]


def test_format_write_read_round_trip(folder: Path) -> None:
    values: dict[str, tuple[FieldKind, Any]] = {
        "int64": ("integer", -(2**63)),
        "float": ("number", 0.5),
        "double": ("number", 0.1),
        "bool": ("boolean", True),
        "string": ("text", "ä"),
        "bytes": ("image", b"\x89P"),
        "sint32": ("number", -3),
        "v": ("vector", [1.0, 2.0]),
        "o": ("integer", 0),
        "m.i": ("integer", 4),
        "t": ("time", 1.7e9 + 0.25),
    }
    shapes = {"bytes": (1, 2, 2), "v": (2,)}
    fields = [Field(name, kind, shapes.get(name, ())) for name, (kind, _) in values.items()]
    row = {name: value for name, (_, value) in values.items()}
    form = protobuf(folder, *fields)
    table, bad = form.read(form.write([row]))
    assert (table.to_pylist(), bad) == ([row], [])


@pytest.mark.parametrize(
    ("field", "why"),
    [
        (
            Field("flot", "number"),
            "'shop.Event' has no field 'flot': did you mean 'float'?",
        ),
        (Field("bool", "number"), "'bool' is bool, which is no number"),
        (Field("double", "integer"), "which is no integer"),
        (Field("int64", "text"), "which is no text"),
        (Field("v", "number"), "'v' is repeated float, which is no number"),
        (Field("float", "vector", (1,)), "which is no vector"),
        (Field("m", "number"), "'m' is message, which is no number"),
        (Field("m.j", "number"), "message 'shop.Inner' has no field 'j'"),
        (Field("r.i", "number"), "'i' of 'r.i' is to be found in what is no message"),
        (Field("float.i", "number"), "'i' of 'float.i' is to be found in what is no message"),
    ],
)
def test_fields_not_in_the_schema_are_refused(folder: Path, field: Field, why: str) -> None:
    with pytest.raises(StreamError) as error:
        protobuf(folder, field)
    assert str(error.value).startswith("stream.format.message: ")
    assert why in str(error.value)


def test_descriptors_that_cannot_be_read(folder: Path) -> None:
    (folder / "bad.desc").write_bytes(b"\xff")
    for file, why in [
        ("bad.desc", "protoc --include_imports"),
        ("alone.desc", r"timestamp.proto.*protoc --include_imports"),
        ("none.desc", "No such file"),
    ]:
        with pytest.raises(StreamError, match=rf"^stream.format.descriptor: .*{file}: .*{why}"):
            protobuf(folder, descriptor=file)
    with pytest.raises(StreamError, match=r"no message 'shop.Evnt': did you mean 'shop.Event'\?"):
        protobuf(folder, message="shop.Evnt")
