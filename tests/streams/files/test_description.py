"""The description of files agrees with what is then read of them."""

from __future__ import annotations

import tempfile
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.files.config import RecordedConfig
from streams.files.stream import FileStream, describe_data
from tests.support.fuzz import examples

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
TYPES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "int": (pa.int64(), st.integers(-(2**62), 2**62)),
    "small": (pa.uint8(), st.integers(0, 3)),
    "real": (pa.float64(), st.floats(-1e9, 1e9)),
    "truth": (pa.bool_(), st.booleans()),
    "word": (pa.string(), st.sampled_from(["a", "b", "é", "12 kg", "1,234.5", "x.png", ""])),
    "line": (pa.string(), st.text("ab 1,\"'é", max_size=12)),
    "code": (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["u", "v"])),
    "exact": (pa.decimal128(20, 2), st.integers(0, 10**6).map(lambda i: Decimal(i) / 100)),
    "moment": (pa.timestamp("ms", "UTC"), st.integers(0, 9).map(lambda i: EPOCH + timedelta(i))),
    "day": (pa.date32(), st.integers(0, 9).map(lambda i: date(2024, 1, 1 + i))),
    "list": (
        pa.list_(pa.float32()),
        st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2),
    ),
    "none": (pa.string(), st.none()),
}


@st.composite
def tables(draw: st.DrawFn, kinds: tuple[str, ...]) -> pa.Table:
    """A table of columns of some kinds with gaps, and a label."""
    n = draw(st.integers(1, 12))
    columns = {"x": pa.array(range(n), pa.int64())}
    for kind in draw(st.lists(st.sampled_from(kinds), unique=True)):
        type_, values = TYPES[kind]
        cells = draw(st.lists(st.none() | values, min_size=n, max_size=n))
        columns[kind] = pa.array(cells, type_)
    labels = st.sampled_from(["yes", "no", "Yes ", None])
    columns["label"] = pa.array(draw(st.lists(labels, min_size=n, max_size=n)), pa.string())
    return pa.table(columns)


def check(table: pa.Table, suffix: str) -> None:
    """Compare the description of a file of this table with what is read of it."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, f"a.{suffix}")
        if suffix == "csv":
            pyarrow.csv.write_csv(table, path)
        else:
            pq.write_table(table, path)
        config = RecordedConfig(kind="recorded", path=path.name, label="label")
        stream = FileStream(config, Path(name))
        described = stream.describe()
        (block,) = stream.read({}, 1000)
        assert all(line.isprintable() for line in describe_data(path).warnings)
    columns = {column.name: column for column in described.columns}
    assert [*columns] == table.column_names
    features = {feature.name: feature.kind for feature in stream.schema.features}
    for name, column in columns.items():
        nulls = table.column(name).null_count
        if suffix == "parquet":
            assert column.missing == round(nulls / len(table), 4)
        assert column.use.partition(" of ")[0] == features.get(name, column.use)
        assert (name in features) == (column.use not in ("label", "not used"))
        if column.use == "not used":
            assert column.missing == 1
            assert f"column {name!r} is empty" in "\n".join(described.warnings)
    if not block.dead:
        assert set(described.classes) == set(block.classes)
    assert all(line.isprintable() for line in described.warnings)


@examples(0.3)
@given(tables(tuple(TYPES)))
def test_description_of_any_parquet_agrees_with_reading(table: pa.Table) -> None:
    check(table, "parquet")


@examples(0.3)
@given(tables(tuple(kind for kind in TYPES if kind != "list")))
def test_description_of_any_csv_agrees_with_reading(table: pa.Table) -> None:
    check(table, "csv")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_description_of_labels_of_their_own(tmp_path: Path, suffix: str) -> None:
    """The columns of the label files are described beside those of the events."""
    events = pa.table({"i": [1, 2], "t": [0, 60], "x": [0.5, 0.25]})
    labels = pa.table({"i": [1, 2], "y": ["u", "v"], "t": [10, 70]})
    for name, table in (("a", events), ("l", labels)):
        if suffix == "csv":
            pyarrow.csv.write_csv(table, tmp_path / f"{name}.csv")
        else:
            pq.write_table(table, tmp_path / f"{name}.parquet")
    config = RecordedConfig(
        kind="recorded",
        path=f"a.{suffix}",
        id="i",
        time="t",
        labels={"path": f"l.{suffix}", "id": "i", "label": "y", "time": "t"},
    )
    described = FileStream(config, tmp_path).describe()
    uses = [(column.name, column.use) for column in described.columns]
    assert uses == [
        ("i", "id"),
        ("t", "time"),
        ("x", "numeric"),
        ("y", "label (in the label files)"),
        ("t", "label time (in the label files)"),
    ]
    assert described.classes == ("u", "v")
    assert "the first is 1970-01-01T00:00:00Z" in described.time
