"""Columns to batches: values, kinds, and each way in which a row can be bad."""

from __future__ import annotations

import builtins
import io
import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from streams.core.batch import Batch, DeadLetter, Ragged
from streams.core.errors import StreamError
from streams.core.schema import Feature, FeatureKind, Schema
from streams.decoding.categories import EXPECTED
from streams.decoding.columns import column_of, numbers, seconds
from streams.decoding.decoder import Columns, Decoder, NamedColumn
from streams.decoding.images import image_shape

A = Feature("a", "numeric")
NEEDED = Feature("a", "numeric", missing="dead")
PARTITION, OFFSET = 2, 100


def decode(
    table: dict[str, Any],
    *features: Feature,
    columns: Columns = Columns(),  # noqa: B008
    task: Any = "classification",
    classes: tuple[Any, ...] = (),
    dtype: Any = np.float64,
    aside: tuple[DeadLetter, ...] = (),
) -> Batch:
    arrays = {k: v if isinstance(v, pa.Array) else column_of(v) for k, v in table.items()}
    rows = pa.RecordBatch.from_arrays(list(arrays.values()), list(arrays))
    n = rows.num_rows
    offset = np.arange(OFFSET, OFFSET + n)
    decoder = Decoder(Schema(features, task, classes), columns, dtype)
    return decoder(rows, np.full(n, PARTITION, np.int32), offset, offset + 0.5, aside)


def png(
    mode: str = "RGB", size: tuple[int, int] = (3, 2), form: str = "PNG", value: Any = 0
) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, value).save(out, form)
    return out.getvalue()


def named(batch: Batch) -> list[Any]:
    assert batch.y is not None
    return [None if code < 0 else batch.classes[code] for code in batch.y.tolist()]


# What is read


def test_numbers_become_one_matrix() -> None:
    batch = decode(
        {
            "a": [1, 2],
            "b": [True, False],
            "c": [Decimal("1.5"), Decimal("2")],
            "d": pa.array([0.5, 1.5], pa.float16()),
            "e": ["7", " +8e1 "],
            "f": pa.array([1, 2], pa.uint64()).dictionary_encode(),
            "g": [datetime(1970, 1, 2, tzinfo=UTC), datetime(1970, 1, 3, tzinfo=UTC)],
        },
        *(Feature(name, "numeric") for name in "abcdefg"),
    )
    assert isinstance(batch.x, np.ndarray)
    assert batch.x.flags.c_contiguous
    assert batch.x.dtype == np.float64
    assert batch.x.tolist() == [
        [1, 1, 1.5, 0.5, 7, 1, 86400],
        [2, 0, 2, 1.5, 80, 2, 172800],
    ]
    assert batch.dead == ()


def test_float32_stays() -> None:
    batch = decode({"a": pa.array([0.1, 0.2], pa.float32())}, A, dtype=np.float32)
    assert isinstance(batch.x, np.ndarray)
    assert batch.x.dtype == np.float32
    assert batch.x.shape == (2, 1)


def test_mixed_columns_become_a_mapping() -> None:
    batch = decode(
        {"a": pa.array([1.0, 2.0], pa.float32()), "c": ["x", "yé"], "t": [b"", b"long text"]},
        A,
        Feature("c", "categorical"),
        Feature("t", "text"),
    )
    assert isinstance(batch.x, dict)
    assert batch.x["a"].dtype == np.float64
    assert isinstance(batch.x["c"], Ragged)
    assert batch.x["c"].texts() == ["x", "yé"]
    assert batch.x["t"].texts() == ["", "long text"]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.large_list(pa.int64()), pa.list_(pa.float64(), 2)]
)
@pytest.mark.parametrize("skip", [0, 1])
def test_vectors(kind: pa.DataType, skip: int) -> None:
    column = pa.array([[9, 9], [1, 2], [3, 4]], kind)[skip:]
    batch = decode({"v": column}, Feature("v", "vector", (2,)))
    assert isinstance(batch.x, np.ndarray)
    assert batch.x.flags.c_contiguous
    assert batch.x.tolist() == [[9, 9], [1, 2], [3, 4]][skip:]


def test_images_from_bytes_structs_and_pixels() -> None:
    red = png("RGB", value=(255, 0, 1))
    feature = Feature("i", "image", (3, 2, 3))
    structs = pa.array([{"bytes": red, "path": "p"}, {"bytes": png("L", value=7), "path": None}])
    for column in (pa.array([red, png("L", value=7)]), structs):
        batch = decode({"i": column}, feature)
        assert isinstance(batch.x, np.ndarray)
        assert batch.x.shape == (2, 3, 2, 3)
        assert batch.x.dtype == np.uint8
        assert batch.x[0, :, 1, 2].tolist() == [255, 0, 1]
        assert batch.x[1, :, 0, 0].tolist() == [7, 7, 7]
    pixels = pa.array([list(range(18))], pa.list_(pa.uint8(), 18))
    batch = decode({"i": pixels}, feature)
    assert isinstance(batch.x, np.ndarray)
    assert batch.x.ravel().tolist() == list(range(18))
    assert image_shape(png("P")) == (3, 2, 3)
    assert image_shape(png("L", form="JPEG")) == (1, 2, 3)
    assert image_shape(b"GIF89a") is None


def test_images_without_pillow_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_pillow(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "PIL":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    data = png()
    monkeypatch.setattr(builtins, "__import__", no_pillow)
    with pytest.raises(StreamError, match=r"pip install 'everlearn\[vision\]'"):
        decode({"i": [data]}, Feature("i", "image", (3, 2, 3)))


def test_ids() -> None:
    ints = decode({"a": [1, 2], "i": [5, -6]}, A, columns=Columns(id=NamedColumn("i", "int")))
    assert ints.ids.tolist() == [5, -6]
    big = pa.array([2**64 - 1, 1], pa.uint64())
    assert decode(
        {"a": [1, 2], "i": big}, A, columns=Columns(id=NamedColumn("i", "int"))
    ).ids.tolist() == [
        -1,
        1,
    ]
    texts = decode({"a": [1, 2], "i": ["é", "12"]}, A, columns=Columns(id=NamedColumn("i", "str")))
    expected = [xxhash.xxh3_64_intdigest(t.encode()) for t in ("é", "12")]
    assert [i % 2**64 for i in texts.ids.tolist()] == expected
    numbers = decode({"a": [1], "i": [12]}, A, columns=Columns(id=NamedColumn("i", "str")))
    assert numbers.ids[0] == texts.ids[1]
    none = decode({"a": [1]}, A)
    assert none.ids.tolist() == [(PARTITION << 40) + OFFSET]
    assert none.time.tolist() == [OFFSET + 0.5]


TIMES = ["1.5", "2020-01-01", "2020-01-01T00:00:00Z", "2020-01-01 00:00:00.123456+02:00", "x", ""]
NUMBERS = ["1", "-2.5e3", "+4", " 5 ", "0x1F", "1_000", "1e400", "nan", "x", "", "007", "9" * 30]


@settings(deadline=None)
@given(st.lists(st.sampled_from(TIMES), min_size=1), st.lists(st.sampled_from(NUMBERS), min_size=1))
def test_cell_is_read_independently_of_others(times: list[str], reals: list[str]) -> None:
    np.testing.assert_array_equal(
        seconds(pa.array(times)), [seconds(pa.array([t]))[0] for t in times]
    )
    np.testing.assert_array_equal(
        numbers(pa.array(reals)), [numbers(pa.array([r]))[0] for r in reals]
    )
    columns = Columns(id=NamedColumn("i", "int"))
    together = decode({"a": [0] * len(reals), "i": reals}, A, columns=columns)
    alone = [decode({"a": [0], "i": [r]}, A, columns=columns) for r in reals]
    assert together.ids.tolist() == [i for b in alone for i in b.ids.tolist()]
    assert [d.reason for d in together.dead] == [d.reason for b in alone for d in b.dead]


@pytest.mark.parametrize(
    ("column", "kind", "names"),
    [
        (["b", None, "a", "b"], "str", ["b", None, "a", "b"]),
        (pa.array(["b", None, "a"]).dictionary_encode(), "str", ["b", None, "a"]),
        ([3, None, 1], "int", [3, None, 1]),
        ([3.0, None, 1.0], "int", [3, None, 1]),
        (["3", None, "007"], "int", [3, None, 7]),
        ([True, None, False], "bool", [True, None, False]),
        (["true", None, "0"], "bool", [True, None, False]),
        (["1.5", None, "2"], "float", [1.5, None, 2.0]),
        ([1, None], "str", ["1", None]),
    ],
)
def test_classes(column: Any, kind: Any, names: list[Any]) -> None:
    n = len(column)
    batch = decode({"a": [0] * n, "y": column}, A, columns=Columns(label=NamedColumn("y", kind)))
    assert named(batch) == names
    assert [type(v) for v in named(batch)] == [type(v) for v in names]
    assert batch.classes == tuple(dict.fromkeys(v for v in names if v is not None))


def test_class_of_a_dead_row_is_not_shown() -> None:
    batch = decode(
        {"a": [1, None, 2], "y": ["b", "x", "a"]}, NEEDED, columns=Columns(label=NamedColumn("y"))
    )
    assert batch.classes == ("b", "a")
    assert named(batch) == ["b", "a"]


def test_stated_classes_keep_their_codes() -> None:
    columns = Columns(label=NamedColumn("y", "int"))
    batch = decode({"a": [0, 0, 0], "y": [2, None, 1]}, A, columns=columns, classes=(1, 2))
    assert batch.y is not None
    assert batch.y.tolist() == [1, -1, 0]
    assert batch.classes == (1, 2)


def test_regression_due_key_and_segment() -> None:
    columns = Columns(
        label=NamedColumn("y"),
        due="d",
        key=NamedColumn("k"),
        segment=NamedColumn("s", "int"),
        time="t",
    )
    batch = decode(
        {
            "a": [1, 2],
            "y": [0.5, None],
            "d": [9, None],
            "k": ["u", "u"],
            "s": [4, None],
            "t": [7, 8],
        },
        A,
        columns=columns,
        task="regression",
    )
    assert batch.y is not None
    assert batch.due is not None
    assert batch.key is not None
    assert batch.segment is not None
    np.testing.assert_array_equal(batch.y, [0.5, math.nan])
    np.testing.assert_array_equal(batch.due, [9, math.nan])
    assert batch.key[0] == batch.key[1]
    assert batch.segment.tolist() == [4, -1]
    assert batch.time.tolist() == [7, 8]


def test_chunked_and_empty_tables_are_decoded() -> None:
    table = pa.table({"a": pa.chunked_array([[1.0], [2.0]])})
    decoder = Decoder(Schema((A,), "classification"), Columns())
    offset = np.arange(2)
    batch = decoder(table, np.zeros(2, np.int32), offset, offset / 1.0)
    assert isinstance(batch.x, np.ndarray)
    assert batch.x.tolist() == [[1], [2]]
    none = decode(
        {"v": pa.array([], pa.list_(pa.float64())), "t": pa.array([], pa.string())},
        Feature("v", "vector", (3,)),
        Feature("t", "text"),
    )
    assert isinstance(none.x, dict)
    assert none.x["v"].shape == (0, 3)  # type: ignore[union-attr]
    assert len(none.x["t"]) == 0


# What is set aside: row 1 of three; the reason names the column, what it holds, what was expected

FINITE = "a finite number"
WHEN = "a time (seconds, or ISO 8601)"
VECTOR = "a vector of 2 finite numbers"
PICTURE = "a PNG or JPEG of 3x2x3"
LONG = "x" * 100


def floats(*values: Any) -> pa.Array:
    return pa.array(values, pa.float64(), from_pandas=False)


@pytest.mark.parametrize(
    ("column", "kind", "held", "expected"),
    [
        pytest.param(["1", "oops", "2"], "numeric", "'oops'", FINITE, id="text for a number"),
        pytest.param(["1", LONG, "2"], "numeric", f"'{'x' * 56}...", FINITE, id="long text"),
        pytest.param(["1", "", "2"], "numeric", "''", FINITE, id="empty text"),
        pytest.param(["1", "1e999", "2"], "numeric", "'1e999'", FINITE, id="overflow"),
        pytest.param([b"1", b"\xff", b"2"], "numeric", r"b'\xff'", FINITE, id="no UTF-8"),
        pytest.param(floats(1, None, 2), "numeric", "null", FINITE, id="null"),
        pytest.param(floats(1, math.nan, 2), "numeric", "nan", FINITE, id="NaN"),
        pytest.param(floats(1, math.inf, 2), "numeric", "inf", FINITE, id="inf"),
        pytest.param(floats(1, -math.inf, 2), "numeric", "-inf", FINITE, id="-inf"),
        pytest.param([1, None, 2], "numeric", "null", FINITE, id="null integer"),
        pytest.param([[1, 2], [3], [4, 5]], "vector", "[3]", VECTOR, id="short vector"),
        pytest.param([[1, 2], [], [4, 5]], "vector", "[]", VECTOR, id="empty vector"),
        pytest.param([[1, 2], None, [4, 5]], "vector", "null", VECTOR, id="null vector"),
        pytest.param([[1, 2], [3, None], [4, 5]], "vector", "[3, None]", VECTOR, id="null inside"),
        pytest.param(
            [[1.0, 2], [3, math.nan], [4, 5]], "vector", "[3.0, nan]", VECTOR, id="NaN inside"
        ),
        pytest.param(
            pa.array([[1, 2], None, [4, 5]], pa.list_(pa.float64(), 2)),
            "vector",
            "null",
            VECTOR,
            id="null vector of fixed size",
        ),
        pytest.param(["a", None, "b"], "categorical", "null", EXPECTED, id="null category"),
        pytest.param(["a", None, "b"], "text", "null", "text", id="null text"),
        pytest.param([b"a", b"\xff\xfe", b"b"], "text", r"b'\xff\xfe'", "text", id="text no UTF-8"),
        pytest.param(
            [png(), b"no image", png()],
            "image",
            "8 bytes that are no PNG or JPEG",
            PICTURE,
            id="no image",
        ),
        pytest.param(
            [png(), png()[:44], png()], "image", "a broken image of 44 bytes", PICTURE, id="cut off"
        ),
        pytest.param(
            [png(), png(size=(3, 3)), png()], "image", "an image of 3x3x3", PICTURE, id="too high"
        ),
        pytest.param(
            [png(), png("L", size=(2, 2)), png()],
            "image",
            "an image of 1x2x2",
            PICTURE,
            id="grey and too narrow",
        ),
        pytest.param(
            [png(), png("RGBA"), png()], "image", "an image of 4x2x3", PICTURE, id="channels"
        ),
        pytest.param([png(), None, png()], "image", "no image bytes", PICTURE, id="null image"),
        pytest.param(
            [{"bytes": png()}, {"bytes": None}, {"bytes": png()}],
            "image",
            "no image bytes",
            PICTURE,
            id="path only",
        ),
        pytest.param(
            pa.array([[0] * 18, [7] * 3, [0] * 18], pa.list_(pa.uint8())),
            "image",
            "[7, 7, 7]",
            "18 uint8 values (3x2x3)",
            id="too few pixels",
        ),
        pytest.param(
            pa.array([[0] * 18, [None] + [0] * 17, [0] * 18], pa.list_(pa.uint8())),
            "image",
            "[None, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]",
            "18 uint8 values (3x2x3)",
            id="null pixel",
        ),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_bad_feature(column: Any, kind: FeatureKind, held: str, expected: str, alone: bool) -> None:
    shapes: dict[str, tuple[int, ...]] = {"vector": (2,), "image": (3, 2, 3)}
    feature = Feature("f", kind, shapes.get(kind, ()), "dead")
    others = () if alone else (Feature("other", "categorical"),)
    table = {"f": column, "other": ["u", "v", "w"]}
    batch = decode(table, feature, *others)
    reason = f"column 'f' holds {held}; expected {expected}"
    position = (PARTITION << 40) + OFFSET + 1
    assert batch.dead == (DeadLetter(PARTITION, OFFSET + 1, reason, position, 1),)
    assert batch.offset.tolist() == [OFFSET, OFFSET + 2]
    x = batch.x if isinstance(batch.x, np.ndarray) else batch.x["f"]
    assert len(x) == 2
    whole = decode(
        {k: [*v[:1], *v[2:]] if isinstance(v, list) else v.take([0, 2]) for k, v in table.items()},
        feature,
        *others,
    )
    good = whole.x if isinstance(whole.x, np.ndarray) else whole.x["f"]
    if isinstance(x, Ragged):
        assert isinstance(good, Ragged)
        assert x.texts() == good.texts()
    else:
        np.testing.assert_array_equal(x, good)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("role", "column", "held", "expected"),
    [
        ("id", ["5", None, "6"], "null", "an integer id"),
        ("id", ["5", "five", "6"], "'five'", "an integer id"),
        ("id", ["5", "9" * 19, "6"], f"'{'9' * 19}'", "an integer id"),
        ("id", floats(5, 5.5, 6), "5.5", "an integer id"),
        ("time", [1, None, 2], "null", WHEN),
        ("time", ["1", "noon", "2"], "'noon'", WHEN),
        ("time", ["2020-01-01", "2020-13-01", "2020-01-02"], "'2020-13-01'", WHEN),
        ("time", floats(1, math.nan, 2), "nan", WHEN),
        ("time", floats(1, math.inf, 2), "inf", WHEN),
        ("due", ["1", "noon", "2"], "'noon'", f"{WHEN}, or nothing"),
        ("key", ["u", None, "v"], "null", "a key"),
        ("int", ["1", "one", "2"], "'one'", "a class of type int"),
        ("int", ["1", "9" * 25, "2"], f"'{'9' * 25}'", "a class of type int"),
        ("int", pa.array([1, 2**63, 2], pa.uint64()), str(2**63), "a class of type int"),
        ("int", floats(1, math.nan, 2), "nan", "a class of type int"),
        ("float", floats(1, math.inf, 2), "inf", "a class of type float"),
        ("bool", ["true", "maybe", "false"], "'maybe'", "a class of type bool"),
        ("str", [b"a", b"\xff", b"b"], r"b'\xff'", "a class of type str"),
        ("real", floats(1, math.nan, 2), "nan", FINITE),
        ("real", floats(1, math.inf, 2), "inf", FINITE),
        ("real", ["1", "much", "2"], "'much'", FINITE),
        (
            "stated",
            ["a", "c", "b"],
            "'c'",
            "one of the stated classes ('a', 'b'): add it to classes, or leave classes out",
        ),
    ],
)
def test_bad_id_time_or_label(role: str, column: Any, held: str, expected: str) -> None:
    columns = {
        "id": Columns(id=NamedColumn("c", "int")),
        "time": Columns(time="c"),
        "due": Columns(due="c"),
        "key": Columns(key=NamedColumn("c")),
        "real": Columns(label=NamedColumn("c")),
        "stated": Columns(label=NamedColumn("c")),
    }.get(role) or Columns(label=NamedColumn("c", role))  # type: ignore[arg-type]
    batch = decode(
        {"a": [0, 0, 0], "c": column},
        A,
        columns=columns,
        task="regression" if role == "real" else "classification",
        classes=("a", "b") if role == "stated" else (),
    )
    reason = f"column 'c' holds {held}; expected {expected}"
    position = (PARTITION << 40) + OFFSET + 1
    assert batch.dead == (DeadLetter(PARTITION, OFFSET + 1, reason, position, 1),)
    assert batch.offset.tolist() == [OFFSET, OFFSET + 2]


def test_dead_row_has_its_own_id_and_first_reason() -> None:
    batch = decode(
        {"a": [1, None], "t": [1, None], "i": [7, 8]},
        A,
        columns=Columns(id=NamedColumn("i", "int"), time="t"),
    )
    assert [(d.id, d.reason) for d in batch.dead] == [
        (8, f"column 't' holds null; expected {WHEN}")
    ]


def test_many_dead_rows_keep_their_insert_position() -> None:
    batch = decode({"a": [None, 1.0, None, None, 2.0, None]}, NEEDED)
    assert [(d.offset - OFFSET, d.insert_before) for d in batch.dead] == [
        (0, 0),
        (2, 1),
        (3, 1),
        (5, 2),
    ]


def test_dead_letters_aside_keep_their_insert_position() -> None:
    aside = tuple(DeadLetter(PARTITION, 50 + b, "malformed", 0, b) for b in (0, 1, 2, 3))
    batch = decode({"a": [1.0, None, 2.0]}, NEEDED, aside=aside)
    assert [(d.offset, d.insert_before) for d in batch.dead] == [
        (50, 0),
        (51, 1),
        (OFFSET + 1, 1),
        (52, 1),
        (53, 2),
    ]


def test_column_of_wrong_type_or_missing_is_dead() -> None:
    for column in ([[1]], [{"q": 1}], [None], pa.array([5], pa.duration("s"))):
        for feature in (NEEDED, Feature("a", "vector", (2,)), Feature("a", "image", (1, 1, 1))):
            assert len(decode({"a": column}, feature).dead) == 1
    assert decode({"b": [1]}, NEEDED).dead[0].reason == f"column 'a' holds null; expected {FINITE}"
