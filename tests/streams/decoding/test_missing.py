"""Missing values by policy and kind, and what is wrong and not missing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from streams.core.batch import Batch, Ragged
from streams.core.errors import StreamError
from streams.core.schema import (
    MISSING_CATEGORY,
    Feature,
    FeatureKind,
    Missing,
    Schema,
    with_missing,
)
from streams.decoding.categories import EXPECTED
from streams.decoding.columns import column_of, missing_numbers
from streams.decoding.decoder import Columns, Decoder
from streams.decoding.formats.avro import Avro, AvroConfig
from streams.decoding.formats.base import Field, Format, fields_of
from streams.decoding.formats.frames import Frames, FramesConfig
from streams.decoding.formats.json import Json, JsonConfig

NAN = math.nan


def decode(features: tuple[Feature, ...], **table: Any) -> Batch:
    arrays = [
        column if isinstance(column, pa.Array) else column_of(column) for column in table.values()
    ]
    rows = pa.RecordBatch.from_arrays(arrays, list(table))
    n = rows.num_rows
    decoder = Decoder(Schema(features, "classification"), Columns())
    return decoder(rows, np.zeros(n, np.int32), np.arange(n), np.zeros(n))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1.0, None, NAN], pa.float64(), from_pandas=False),
        pa.array([1.0, None, NAN], pa.float32(), from_pandas=False),
        pa.array([1, None, None], pa.int64()),
        pa.array([True, None, None]),
        pa.array(["1", None, "NA"]),
        pa.array(["1", " nan ", "?"]).dictionary_encode(),
        pa.array([b"1", b"", b"NULL"]),
        pa.array(["1", "-", "#N/A"], pa.large_string()),
        pa.array([1, None, None], pa.decimal128(5, 2)),
    ],
    ids=lambda column: str(column.type),
)
@pytest.mark.parametrize(("policy", "value"), [(None, NAN), ("mean", NAN), ("zero", 0.0)])
@pytest.mark.parametrize("alone", [True, False])
def test_number_missing_is_imputed(
    column: pa.Array, policy: Missing | None, value: float, alone: bool
) -> None:
    feature = Feature("f", "numeric", missing=policy)
    other = {} if alone else {"c": ["u", "v", "w"]}
    others = () if alone else (Feature("c", "categorical"),)
    batch = decode((feature, *others), f=column, **other)
    assert not batch.dead
    x = batch.x[:, 0] if isinstance(batch.x, np.ndarray) else np.asarray(batch.x["f"])
    np.testing.assert_array_equal(x, [1, value, value])


def test_number_missing_has_one_pattern_of_bits() -> None:
    odd = np.frombuffer(np.uint64(0xFFF8000000000123).tobytes())
    batch = decode((Feature("f", "numeric"),), f=pa.array(odd))
    assert isinstance(batch.x, np.ndarray)
    assert batch.x.tobytes() == np.array([np.nan]).tobytes()


@pytest.mark.parametrize(
    ("kind", "policy", "column", "texts"),
    [
        ("categorical", None, ["a", None, ""], ["a", MISSING_CATEGORY, ""]),
        (
            "categorical",
            "category",
            pa.array(["a", None]).dictionary_encode(),
            ["a", MISSING_CATEGORY],
        ),
        ("categorical", None, pa.array([True, None]), ["true", MISSING_CATEGORY]),
        ("categorical", None, pa.array([7, None]), ["7", MISSING_CATEGORY]),
        ("text", None, ["a b", None, "NA"], ["a b", "", "NA"]),
        ("text", "zero", pa.array([None, None], pa.string()), ["", ""]),
        ("text", "category", ["a", None], ["a", MISSING_CATEGORY]),
    ],
)
def test_text_missing_is_a_category_or_empty(
    kind: FeatureKind, policy: Missing | None, column: Any, texts: list[str]
) -> None:
    batch = decode((Feature("f", kind, missing=policy),), f=column)
    assert not batch.dead
    assert isinstance(batch.x, dict)
    assert isinstance(batch.x["f"], Ragged)
    assert batch.x["f"].texts() == texts


def test_vector_or_image_missing_beside_others_is_zeros() -> None:
    v, i = Feature("v", "vector", (2,)), Feature("i", "image", (1, 1, 2))
    vectors: list[Any] = [[1, 2], None, [3]]
    pixels = pa.array([[7, 7], None, [1, 2]], pa.list_(pa.uint8()))
    batch = decode((v, i), v=vectors, i=pixels)
    assert [dead.offset for dead in batch.dead] == [2]
    assert isinstance(batch.x, dict)
    assert np.asarray(batch.x["v"]).tolist() == [[1, 2], [0, 0]]
    assert np.asarray(batch.x["i"])[:, 0, 0].tolist() == [[7, 7], [0, 0]]
    assert [dead.offset for dead in decode((v,), v=vectors).dead] == [1, 2]
    kept = decode((Feature("v", "vector", (2,), "zero"),), v=vectors)
    assert [dead.offset for dead in kept.dead] == [2]


@pytest.mark.parametrize("cell", ["abc", "inf", "1e999", "12a", "NaNa", "--", "0x1F", "tru"])
@pytest.mark.parametrize("policy", ["mean", "zero", "dead"])
def test_number_wrong_is_not_missing(cell: str, policy: Missing) -> None:
    batch = decode((Feature("f", "numeric", missing=policy),), f=["1", cell])
    assert [d.reason for d in batch.dead] == [
        f"column 'f' holds {cell!r}; expected a finite number"
    ]


def test_text_no_utf8_is_not_missing() -> None:
    for kind, expected in (("numeric", "a finite number"), ("categorical", EXPECTED)):
        batch = decode((Feature("f", kind),), f=[b"1", b"\xff"])  # type: ignore[arg-type]
        assert [d.reason for d in batch.dead] == [rf"column 'f' holds b'\xff'; expected {expected}"]


def test_missing_numbers_of_text() -> None:
    spelt = ["NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?", "-", "#N/A", "", " ", "<NA>"]
    assert missing_numbers(pa.array(spelt)).all()
    assert not missing_numbers(pa.array(["0", "x", "n", "nano", "- 1", "??"])).any()


def test_with_missing_refuses_what_does_not_suit() -> None:
    features = [Feature("n", "numeric"), Feature("c", "categorical"), Feature("t", "text")]
    assert [f.missing for f in with_missing(features, {"n": "zero"})] == ["zero", None, None]
    with pytest.raises(
        StreamError, match=r"stream\.missing: there is no feature 'nn': did you mean"
    ):
        with_missing(features, {"nn": "zero"})
    for name, policy in (("n", "category"), ("c", "mean"), ("c", "zero"), ("t", "mean")):
        with pytest.raises(
            StreamError, match=rf"stream\.missing\.{name}: '{policy}' does not suit"
        ):
            with_missing(features, {name: policy})  # type: ignore[dict-item]


MIXED = Schema(
    (
        Feature("n", "numeric"),
        Feature("c", "categorical"),
        Feature("t", "text"),
        Feature("v", "vector", (2,)),
        Feature("z", "numeric", missing="zero"),
        Feature("d", "numeric", missing="dead"),
    ),
    "classification",
)


def read(format_: Format, messages: list[bytes]) -> Batch:
    table, bad = format_.read(messages)
    n = table.num_rows
    batch = Decoder(MIXED, Columns())(table, np.zeros(n, np.int32), np.arange(n), np.zeros(n))
    assert not batch.dead, "the format finds what is wrong, and the decoder nothing more"
    assert [row for row, _ in bad] == [2]
    return batch


def check_mixed(batch: Batch) -> None:
    assert isinstance(batch.x, dict)
    np.testing.assert_array_equal(np.asarray(batch.x["n"]), [1, NAN])
    np.testing.assert_array_equal(np.asarray(batch.x["z"]), [4, 0])
    texts = [
        column.texts() for column in (batch.x["c"], batch.x["t"]) if isinstance(column, Ragged)
    ]
    assert texts == [["a", MISSING_CATEGORY], ["b", ""]]
    assert np.asarray(batch.x["v"]).tolist() == [[2, 3], [0, 0]]


def test_json_null_and_left_out_are_missing() -> None:
    format_ = Json(JsonConfig(), fields_of(MIXED), Path())
    whole = b'{"n": 1, "c": "a", "t": "b", "v": [2, 3], "z": 4, "d": 5}'
    null = b'{"n": null, "c": null, "t": null, "v": null, "z": null, "d": 5}'
    for gaps in (null, b'{"d": 5}'):  # of the others one is stated
        check_mixed(read(format_, [whole, gaps, b'{"n": 1}']))
    _, bad = format_.read([b'{"d": 5, "n": "1"}', b'{"d": 5, "v": [1]}', b'{"d": 5, "c": [1]}'])
    assert [reason.split(";")[0] for _, reason in bad] == [
        "column 'n' holds '1'",
        "column 'v' holds [1]",
        "column 'c' holds [1]",
    ]


def test_json_without_any_feature_is_of_another_kind() -> None:
    schema = Schema((Feature("a.b", "numeric"), Feature("c", "text")), "classification")
    format_ = Json(JsonConfig(), [*fields_of(schema), Field("y", "text", required=False)], Path())
    good = [b'{"c": null}', b'{"a": null}', b'{"a": {"b": null}, "y": null}']
    foreign = [b"{}", b'{"y": "u"}', b'{"a": {}}', b'{"a": {"c": 1}}']
    table, bad = format_.read([*foreign, *good])
    assert table.num_rows == len(good)
    assert bad == [(row, "no feature is stated") for row in range(len(foreign))]


def test_avro_null_is_missing() -> None:
    def union(kind: Any) -> list[Any]:
        return ["null", kind]

    kinds = {"n": "double", "c": "string", "t": "string", "z": "int", "d": "double"}
    fields = [{"name": name, "type": union(kind)} for name, kind in kinds.items()]
    fields.append({"name": "v", "type": union({"type": "array", "items": "float"})})
    schema = {"type": "record", "name": "Event", "fields": fields}
    config = AvroConfig.model_validate({"kind": "avro", "schema": schema})
    format_ = Avro(config, fields_of(MIXED), Path())
    rows: list[dict[str, Any]] = [
        {"n": 1.0, "c": "a", "t": "b", "v": [2.0, 3.0], "z": 4, "d": 5.0},
        {"n": NAN, "c": None, "t": None, "v": None, "z": None, "d": 5.0},
        {"n": None, "c": None, "t": None, "v": None, "z": None, "d": None},
    ]
    check_mixed(read(format_, format_.write(rows)))


def test_frames_nan_is_missing() -> None:
    schema = Schema((Feature("n", "numeric"), Feature("m", "numeric")), "classification")
    layout = {"n": "float32", "m": "float64"}
    config = FramesConfig.model_validate({"kind": "frames", "fields": layout})
    format_ = Frames(config, fields_of(schema), Path())
    table, bad = format_.read(format_.write([{"n": 1.0, "m": 2.0}, {"n": None}, {"n": math.inf}]))
    assert [reason for _, reason in bad] == ["column 'n' holds inf; expected a finite number"]
    assert table.to_pylist() == [{"n": 1.0, "m": 2.0}, {"n": None, "m": None}]
