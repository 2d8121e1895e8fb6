"""A category is the same whatever type holds it, and whichever way it comes."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.batch import Ragged
from streams.core.schema import MISSING_CATEGORY, Feature, Schema
from streams.decoding.categories import categories
from streams.decoding.decoder import Columns, Decoder
from streams.decoding.formats.base import Format, fields_of
from streams.decoding.formats.factory import make
from streams.decoding.formats.json import Json, JsonConfig
from streams.decoding.formats.json_cells import JsonArrays, JsonText, JsonTyped
from streams.files.config import RecordedConfig
from streams.files.stream import FileStream

SCHEMA = Schema((Feature("c", "categorical"), Feature("t", "text")), "classification")
FIELDS = fields_of(SCHEMA)[:1]
INT64 = st.integers(-(2**63), 2**63 - 1)
WHOLE_REALS = st.integers(-(2**53) + 1, 2**53 - 1).map(float)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
AVRO = {
    "type": "record",
    "name": "E",
    "fields": [{"name": "c", "type": ["null", "string", "long", "double", "boolean"]}],
}


def decoded(column: pa.Array) -> list[str]:
    """Return the categories of a column, as a learner gets them."""
    n = len(column)
    table = pa.RecordBatch.from_arrays([column, pa.array(["a"] * n)], ["c", "t"])
    batch = Decoder(SCHEMA, Columns())(table, np.zeros(n, np.int32), np.arange(n), np.zeros(n))
    assert not batch.dead
    assert isinstance(batch.x, dict)
    c = batch.x["c"]
    assert isinstance(c, Ragged)
    return c.texts()


def read(form: Format, messages: list[bytes]) -> list[str]:
    table, bad = form.read(messages)
    assert not bad
    return decoded(table.column("c"))


def requests(value: Any) -> Iterator[str]:
    """Yield the category of a request's value, for streams of each kind."""
    for kind in (Json, JsonArrays, JsonTyped, JsonText):
        form = kind(JsonConfig(kind="json"), FIELDS, Path())
        parsed = orjson.loads(orjson.dumps({"c": value}))
        table, bad = form.read_parsed([parsed], {})
        assert not bad
        yield from decoded(table.column("c"))


def messages(value: Any) -> Iterator[str]:
    """Yield the category of a value of a message, in each format that can hold it."""
    form = make(JsonConfig(kind="json"), FIELDS, Path())
    yield from read(form, [orjson.dumps({"c": value})])
    pytest.importorskip("fastavro")
    from streams.decoding.formats.avro import AvroConfig

    form = make(AvroConfig.model_validate({"kind": "avro", "schema": AVRO}), FIELDS, Path())
    yield from read(form, form.write([{"c": value}]))
    types = {int: "int64", float: "float64", bool: "bool"}
    if type(value) in types:
        from streams.decoding.formats.frames import FramesConfig

        config = FramesConfig(fields={"c": types[type(value)]})  # type: ignore[dict-item]
        form = make(config, FIELDS, Path())
        yield from read(form, form.write([{"c": value}]))


def ways(value: Any) -> set[str]:
    return {*decoded(pa.array([value])), *requests(value), *messages(value)}


@given(INT64)
def test_an_integer_is_its_digits(value: int) -> None:
    assert ways(value) == {str(value)}
    assert ways(str(value)) == {str(value)}


@given(WHOLE_REALS)
def test_a_real_that_is_whole_is_its_integer(value: float) -> None:
    assert ways(value) == {str(int(value))}
    if value:
        assert ways(f"{value:.1f}") == ways(f"{value:.0f}") == {str(int(value))}


@given(st.booleans())
def test_truth_is_its_word(value: bool) -> None:
    assert ways(value) == ways(str(value)) == ways(str(value).lower()) == {str(value).lower()}


@given(TEXTS)
def test_any_other_text_is_itself(value: str) -> None:
    kept = value
    whole = value.removesuffix(".0")
    if whole != value and whole.removeprefix("-").isascii() and whole.removeprefix("-").isdigit():
        kept = whole
    assert ways(value) == {kept}


@pytest.mark.parametrize(
    "texts",
    [["007", "7"], ["1.10", "1.1"], ["v1.0", "1"], ["TRUE", "true"], ["5.", "5"], ["1e3", "1000"]],
)
def test_different_texts_stay_apart(texts: list[str]) -> None:
    found = [ways(text) for text in texts]
    assert found == [{text} for text in texts]


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        (pa.array([5, None], pa.uint64()), ["5", None]),
        (pa.array([2**64 - 1], pa.uint64()), [str(2**64 - 1)]),
        (pa.array([5.0, float("nan"), None, 0.5], from_pandas=False), ["5", None, None, "0.5"]),
        (pa.array([5.0, 2.5], pa.float32()), ["5", "2.5"]),
        (pa.array(np.array([5.0, 2.5], np.float16)), ["5", "2.5"]),
        (pa.array([Decimal("5.00"), Decimal("5.50")]), ["5", "5.50"]),
        (pa.array([True, None]), ["true", None]),
        (pa.array(["5.0", None, "5"])[1:], [None, "5"]),
        (pa.nulls(2), [None, None]),
        (pa.array([[1]]), [None]),
    ],
)
def test_categories_of_types(column: pa.Array, wanted: list[str | None]) -> None:
    assert categories(column).to_pylist() == wanted


def test_protobuf_integers_are_categories(tmp_path: Path) -> None:
    descriptors = pytest.importorskip("google.protobuf.descriptor_pb2")
    from streams.decoding.formats.protobuf import ProtobufConfig

    kinds = {"a": 3, "b": 1, "c": 8, "d": 9}  # int64, double, bool, string
    file = descriptors.FileDescriptorProto(name="e.proto", syntax="proto3")
    message = file.message_type.add(name="E")
    for number, (name, kind) in enumerate(kinds.items(), 1):
        message.field.add(name=name, number=number, type=kind, label=1)
    whole = descriptors.FileDescriptorSet(file=[file])
    (tmp_path / "e.desc").write_bytes(whole.SerializeToString())
    config = ProtobufConfig(descriptor="e.desc", message="E")
    schema = Schema(tuple(Feature(name, "categorical") for name in kinds), "classification")
    form = make(config, fields_of(schema), tmp_path)
    rows = [{"a": 2**62 + 1, "b": 5.0, "c": True, "d": "5.0"}]
    table, bad = form.read(form.write(rows))
    assert not bad
    found = [decoded(column) for column in table.columns]
    assert found == [[str(2**62 + 1)], ["5"], ["true"], ["5"]]


def test_files_of_pandas_with_gaps_hold_the_same(tmp_path: Path) -> None:
    """Integers beside gaps are reals in Parquet and CSV of pandas."""
    reals = pa.array([5.0, float("nan"), 7.0, None], from_pandas=False)
    pq.write_table(pa.table({"c": reals, "y": ["u", "v"] * 2}), tmp_path / "a.parquet")
    with (tmp_path / "a.csv").open("w") as out:
        csv.writer(out).writerows([["c", "y"], ["5.0", "u"], ["", "v"], ["7.0", "u"], ["", "v"]])
    for name in ("a.parquet", "a.csv"):
        stated = {"path": name, "label": "y", "features": {"categorical": ["c"]}}
        stream = FileStream(RecordedConfig.model_validate({"kind": "recorded", **stated}), tmp_path)
        (batch,) = stream.read({}, 10)
        assert not batch.dead
        assert batch.x["c"].texts() == ["5", MISSING_CATEGORY, "7", MISSING_CATEGORY]


def test_a_value_of_json_that_is_no_category_is_refused() -> None:
    form = make(JsonConfig(kind="json"), FIELDS, Path())
    table, bad = form.read([json.dumps({"c": value}).encode() for value in ([1], {"a": 1}, None)])
    assert [row for row, _ in bad] == [0, 1]
    assert bad[0][1] == (
        "column 'c' holds [1]; expected a category: text, a number, or true or false"
    )
    assert decoded(table.column("c")) == [MISSING_CATEGORY]
