"""A real schema registry: messages are read by the schema that their id names there."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streams.decoding.formats.avro import AvroConfig
from streams.decoding.formats.factory import Field, make
from tests.support.schema_registry import register, schema_registry

fastavro = pytest.importorskip("fastavro", reason="pip install 'everlearn[codecs]'")

V1 = {
    "type": "record",
    "name": "E",
    "fields": [{"name": n, "type": "double"} for n in ("a", "b")],
}
V2 = {**V1, "fields": [{"name": n, "type": "double"} for n in ("b", "c", "a")]}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with schema_registry() as url:
        yield url


def message(id_: int, schema: Any, row: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    out.write(b"\0" + id_.to_bytes(4, "big"))
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), row)
    return out.getvalue()


def test_registry_resolves_ids_and_knows_no_others(url: str) -> None:

    row = {"a": 1.5, "b": 2.5, "c": 0.0}
    values = [message(register(url, "topic-value", v), v, row) for v in (V1, V2)]
    fields = [Field("a", "number"), Field("b", "number")]
    config = AvroConfig.model_validate({"schema": V1, "registry": url})
    form = make(config, fields, Path())
    table, bad = form.read([*values, message(99, V1, {"a": 0.0, "b": 0.0}), *values])
    assert table.to_pylist() == [{"a": 1.5, "b": 2.5}] * 4
    assert bad == [(2, f"schema 99; {url} has no schema of Avro of that id")]


def test_registry_resolves_references(url: str) -> None:
    inner = {"type": "record", "name": "In", "fields": [{"name": "x", "type": "double"}]}
    register(url, "in", inner)
    outer = {"type": "record", "name": "Out", "fields": [{"name": "in", "type": "In"}]}
    reference = {"name": "In", "subject": "in", "version": 1}
    id_ = register(url, "out", outer, [reference])
    whole = {"type": "record", "name": "Out", "fields": [{"name": "in", "type": inner}]}
    config = AvroConfig.model_validate({"schema": whole, "registry": url})
    form = make(config, [Field("in.x", "number")], Path())
    table, bad = form.read([message(id_, whole, {"in": {"x": 2.5}})])
    assert (table.to_pylist(), bad) == ([{"in.x": 2.5}], [])


def test_registry_schema_without_a_needed_field_is_named(url: str) -> None:
    narrow = {**V1, "name": "N", "fields": [{"name": "b", "type": "double"}]}
    id_ = register(url, "narrow", narrow)
    config = AvroConfig.model_validate({"schema": V1, "registry": url})
    form = make(config, [Field("a", "number")], Path())
    ((_, why),) = form.read([message(id_, narrow, {"b": 1.0})]).bad
    assert why == (
        f"schema {id_} of {url}: not readable as the job's schema: it has no field 'a', and that "
        "has no default"
    )
