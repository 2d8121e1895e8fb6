"""Avro messages of several schemas: each is read by its own, and resolved to that of the job."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.errors import StreamError
from streams.core.live_stream import BrokerUnavailableError
from streams.decoding.formats.avro import AvroConfig
from streams.decoding.formats.factory import Field, Format, make
from streams.decoding.formats.json import JsonConfig
from tests.support.brokers import free_port

fastavro = pytest.importorskip("fastavro", reason="pip install 'everlearn[codecs]'")

V1 = [("id", "long"), ("a", "double"), ("b", "double")]
ID, A, B = Field("id", "integer"), Field("a", "number"), Field("b", "number")


def record(fields: list[Any], name: str = "E") -> dict[str, Any]:
    named = [f if isinstance(f, dict) else {"name": f[0], "type": f[1]} for f in fields]
    return {"type": "record", "name": name, "fields": named}


def message(id_: int, schema: dict[str, Any], row: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    out.write(b"\0" + id_.to_bytes(4, "big"))
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), row)
    return out.getvalue()


def avro(*fields: Field, **config: Any) -> Format:
    return make(AvroConfig.model_validate(config), fields, Path())


def test_message_of_another_order_is_read_by_name() -> None:
    v1, v2 = record(V1), record([V1[0], V1[2], V1[1]])
    form = avro(ID, A, B, schema=v1, schemas={1: v1, 2: v2})
    row = {"id": 3, "a": 1.5, "b": 1000.0}
    table, bad = form.read([message(1, v1, row), message(2, v2, row), message(3, v2, row)])
    assert table.to_pylist() == [row, row]
    assert bad == [(2, "schema 3; this job knows 1, 2")]


def test_schema_of_the_lowest_id_is_the_job_s() -> None:
    v1 = record(V1)
    v2 = record([*V1, {"name": "c", "type": "int", "default": 0}])
    form = avro(ID, A, schemas={2: v2, 1: v1})
    row = {"id": 3, "a": 1.5}
    wide = message(2, v2, {**row, "b": 0.0, "c": 1})
    assert form.read([wide]).table.to_pylist() == [row]
    whole = avro(ID, A, B, schemas={2: v2, 1: v1})
    written = whole.write([{"id": 3, "a": 1.5, "b": 0.0}])
    assert [value[:5] for value in written] == [b"\0\0\0\0\1"]


def test_messages_without_stated_ids_are_of_the_noted_one() -> None:
    v1 = record(V1)
    form = avro(ID, A, B, schema=v1, framing="confluent")
    assert form.needs_schema_id
    row = {"id": 3, "a": 1.5, "b": 1000.0}
    assert not form.read([message(7, v1, row)]).bad
    form.schema_id = 7
    table, bad = form.read([message(8, v1, row), message(7, v1, row)])
    assert table.to_pylist() == [row]
    assert bad == [
        (
            0,
            "schema 8; this job reads by that of schema 7: state stream.format.schemas or registry",
        )
    ]


def test_times_have_the_unit_that_they_were_written_with() -> None:
    def at(logic: str | None, kind: str = "long") -> dict[str, Any]:
        return record([("at", {"type": kind, "logicalType": logic} if logic else kind)])

    kinds = [("timestamp-millis", 2000), ("timestamp-micros", 2_000_000), (None, 2000)]
    schemas = {i: at(logic) for i, (logic, _) in enumerate(kinds)}
    form = avro(Field("at", "time"), schema=schemas[0], schemas=schemas)
    values = [message(i, schemas[i], {"at": at}) for i, (_, at) in enumerate(kinds)]
    assert form.read(values).table.column("at").to_pylist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (record([V1[0]]), r"it has no field 'a', and that has no default"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, "no record"),
        ("nowhere.avsc", "No such file"),
    ],
)
def test_schema_that_cannot_be_resolved_is_refused(other: Any, why: str) -> None:
    with pytest.raises(StreamError, match=rf"^stream\.format\.schemas\.2: .*{why}"):
        avro(ID, A, schema=record(V1), schemas={2: other})


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({}, "state schema"),
        ({"schema": record(V1), "framing": "plain", "schemas": {1: "a"}}, "framing: confluent"),
        ({"schema": record(V1), "registry": {"ulr": "x"}}, "state url"),
        ({"schema": record(V1), "registry": {"url": "http://u:${P}@x"}}, "must be the whole"),
    ],
)
def test_config_mistake_is_named(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        AvroConfig.model_validate(config)


def test_config_secrets_of_a_registry_are_masked() -> None:
    options = {"url": "http://u:p@x", "basic_auth_user_info": "u:p", "ssl_key_password": "${P}"}
    config = AvroConfig.model_validate({"schema": record(V1), "registry": options})
    assert config.model_dump(mode="json")["registry"] == {
        "url": "http://***@x",
        "basic_auth_user_info": "***",
        "ssl_key_password": "${P}",
    }


def test_registry_that_is_away_is_no_fault_of_a_message() -> None:
    pytest.importorskip("authlib", reason="pip install 'everlearn[registry]'")
    v1 = record(V1)
    form = avro(ID, schema=v1, schemas={1: v1}, registry=f"http://127.0.0.1:{free_port()}")
    row = {"id": 3, "a": 1.5, "b": 1000.0}
    assert not form.read([message(1, v1, row)]).bad
    with pytest.raises(BrokerUnavailableError, match="no answer from the schema registry"):
        form.read([message(2, v1, row)])


def test_json_after_the_header_of_confluent() -> None:
    form = make(JsonConfig(framing="confluent"), [ID], Path())
    good = b"\0\0\0\0\7" + b'{"id": 3}'
    table, bad = form.read([good, b'{"id": 3}', None])
    assert table.to_pylist() == [{"id": 3}]
    assert [row for row, _ in bad] == [1, 2]
    assert form.read(form.write([{"id": 3}])).table.to_pylist() == [{"id": 3}]


# ---- any pair of schemas, by the rules of Avro written out

PROMOTED = {
    "int": ["int", "long", "float", "double"],
    "long": ["long", "float", "double"],
    "float": ["float", "double"],
    "double": ["double"],
    "string": ["string"],
}
VALUES = {
    "int": st.integers(-(2**20), 2**20),
    "long": st.integers(-(2**50), 2**50),
    "float": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "string": st.text(max_size=4),
}
NAMES = ["f0", "f1", "f2", "f3"]


@st.composite
def evolutions(draw: st.DrawFn) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
    """Return a writer's schema, a reader's, a row as it is written, and as it is to be read."""
    writer, reader, row, read = [], [], {}, {}
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1)):
        kind = draw(st.sampled_from([*PROMOTED]))
        nullable = draw(st.booleans())
        row[name] = draw(st.none() | VALUES[kind]) if nullable else draw(VALUES[kind])
        writer.append((name, ["null", kind] if nullable else kind))
        if draw(st.booleans()):
            continue  # the reader has it no more
        target = draw(st.sampled_from(PROMOTED[kind]))
        field: dict[str, Any] = {"name": name, "type": ["null", target] if nullable else target}
        if draw(st.booleans()):
            field |= {"name": f"new_{name}", "aliases": [name]}
        value = row[name]
        real = target in ("float", "double") and value is not None
        read[field["name"]] = float(value) if real else value
        reader.append(field)
    for name in draw(st.lists(st.sampled_from(["g0", "g1"]), unique=True, min_size=not reader)):
        read[name] = draw(st.integers(0, 9))
        reader.append({"name": name, "type": "long", "default": read[name]})
    reader = draw(st.permutations(reader))
    return record(writer), record(reader), row, read


@given(evolutions())
def test_any_evolution_reads_by_the_rules_of_avro(
    evolution: tuple[Any, Any, dict[str, Any], dict[str, Any]],
) -> None:
    """Fields by name or alias in any order, removed, added with a default, and promoted."""
    writer, reader, row, read = evolution
    kinds: dict[str, Any] = {"string": "text"}
    fields = []
    for stated in reader["fields"]:
        kind = stated["type"][1] if isinstance(stated["type"], list) else stated["type"]
        fields.append(Field(stated["name"], kinds.get(kind, "number"), required=False))
    form = avro(*fields, schema=reader, schemas={2: writer})
    table, bad = form.read([message(2, writer, row)])
    assert not bad
    assert table.to_pylist() == [read]
