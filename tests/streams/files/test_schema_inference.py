"""What a column and a label are taken for where a job does not state it."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streams.core.errors import StreamError
from streams.files.config import RecordedConfig
from streams.files.stream import FileStream


def recorded(folder: Path, path: str, **settings: Any) -> FileStream:
    config = RecordedConfig(kind="recorded", path=path, **{"label": "y", **settings})
    return FileStream(config, folder)


def csv(path: Path, text: str) -> None:
    path.write_text(text)


def parquet(path: Path, columns: dict[str, Any]) -> None:
    pq.write_table(pa.table(columns), path)


def test_empty_vectors_before_others_shape_none(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"v": [[], [1.0, 2.0], [3.0, 4.0]], "y": ["u", "v", "u"]})
    (feature,) = recorded(tmp_path, "a.parquet").schema.features
    assert (feature.kind, feature.shape) == ("vector", (2,))


def test_empty_column_is_left_out_of_features(tmp_path: Path) -> None:
    """Also where the job lists it without a kind; a stated kind keeps it."""
    csv(tmp_path / "a.csv", "a,b,y\n1,,u\n2,,v\n")
    for stated in (None, ["a", "b"]):
        stream = recorded(tmp_path, "a.csv", features=stated)
        assert [feature.name for feature in stream.schema.features] == ["a"]
    stream = recorded(tmp_path, "a.csv", features={"numeric": ["a", "b"]})
    assert [feature.name for feature in stream.schema.features] == ["a", "b"]


def test_nan_among_whole_float_labels_leaves_classes(tmp_path: Path) -> None:
    labels = pa.array([0.0, 1.0, math.nan, None] * 10, pa.float64(), from_pandas=False)
    parquet(tmp_path / "a.parquet", {"x": [1.5] * 40, "y": labels})
    stream = recorded(tmp_path, "a.parquet")
    assert stream.schema.task == "classification"
    (batch,) = stream.read({}, 100)
    assert batch.classes == (0, 1)
    assert (batch.y >= 0).sum() == 20
    assert [letter.offset for letter in batch.dead] == [*range(2, 40, 4)]
    assert batch.dead[0].reason == "column 'y' holds nan; expected a class of type int"


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        ([1.0, 2.0, 3.0] * 5, "classification"),
        ([1.0, 2.0], "classification"),
        ([float(i) for i in range(20)] * 2, "classification"),
        ([float(i) for i in range(21)] * 2, "regression"),
        ([float(i) for i in range(8)], "regression"),
        ([1.0, 2.5], "regression"),
        (list(range(300)), "classification"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_whole_float_label_is_classes_if_few(
    tmp_path: Path, labels: list[Any], task: str, suffix: str
) -> None:
    if suffix == "csv":
        csv(tmp_path / "a.csv", "\n".join(["a,y", *(f"1,{label}" for label in labels)]) + "\n")
    else:
        parquet(tmp_path / "a.parquet", {"a": [1] * len(labels), "y": labels})
    assert recorded(tmp_path, f"a.{suffix}").schema.task == task


def decimals(values: list[Any], precision: int, scale: int = 0) -> pa.Array:
    numbers = [None if value is None else Decimal(value) for value in values]
    return pa.array(numbers, pa.decimal128(precision, scale))


@pytest.mark.parametrize("scale", [0, 3])
def test_decimal_ids_are_exact_integers(tmp_path: Path, scale: int) -> None:
    """As integers of 64 bits, beyond the integers that a real number holds."""
    ids = [2**53 + 1, 2**62 + 3, -5, 0]
    parquet(tmp_path / "a.parquet", {"i": decimals(ids, 30, scale), "x": [1] * 4, "y": ["a"] * 4})
    (batch,) = recorded(tmp_path, "a.parquet", id="i", key="i").read({}, 10)
    assert batch.ids.tolist() == ids
    assert batch.key is not None
    assert batch.key.tolist() == ids


def test_decimal_id_that_does_not_fit_is_text(tmp_path: Path) -> None:
    """In the sample: such ids are read by the hash of their text. Behind it: a dead letter."""
    far = [1, 2**64 + 5]
    parquet(tmp_path / "a.parquet", {"i": decimals(far, 38), "x": [1, 1], "y": ["a", "a"]})
    assert recorded(tmp_path, "a.parquet", id="i").id_type == "str"
    late = [*range(1500), 2**64]
    parquet(tmp_path / "b.parquet", {"i": decimals(late, 38), "x": [1] * 1501, "y": ["a"] * 1501})
    (batch,) = recorded(tmp_path, "b.parquet", id="i", features=["x"]).read({}, 4096)
    assert [dead.offset for dead in batch.dead] == [1500]
    assert "expected an integer id" in batch.dead[0].reason


def test_decimals_are_classes_features_and_times(tmp_path: Path) -> None:
    """Whole decimals are integer classes; others are numbers; a time is a number of seconds."""
    codes = [2**53 + 1, 2**53 + 2, 2**53 + 1]
    table = {
        "x": decimals(["1.25", "2.50", "3.75"], 9, 2),
        "t": decimals(["1700000000.5", "1700000001.5", "1700000002.5"], 20, 6),
        "y": decimals(codes, 20),
    }
    parquet(tmp_path / "a.parquet", table)
    (batch,) = recorded(tmp_path, "a.parquet", time="t").read({}, 10)
    assert batch.classes == (2**53 + 1, 2**53 + 2)
    assert np.asarray(batch.x).ravel().tolist() == [1.25, 2.5, 3.75]
    assert batch.time.tolist() == [1700000000.5, 1700000001.5, 1700000002.5]
    stated = {"column": "y", "classes": [2**53 + 2, 2**53 + 1]}
    (batch,) = recorded(tmp_path, "a.parquet", label=stated).read({}, 10)
    assert batch.y is not None
    assert batch.y.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1.5", "NA", "?", "2"], "numeric"),
        (["none", "high", "none", "high"], "categorical"),
        (["?", "?", "-", "-"], "categorical"),
        (["1", "2", "low", "high"], "categorical"),
        (["1", "2", "so low", "so high"], "text"),
    ],
)
def test_text_for_a_missing_number_does_not_count(
    tmp_path: Path, cells: list[str], kind: str
) -> None:
    csv(tmp_path / "a.csv", "\n".join(["a,y", *(f"{cell},u" for cell in cells)]) + "\n")
    (feature,) = recorded(tmp_path, "a.csv").schema.features
    assert feature.kind == kind


@pytest.mark.parametrize(
    ("delimiter", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")]
)
def test_another_delimiter_is_named(tmp_path: Path, delimiter: str, name: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text("\n".join(delimiter.join(row) for row in (("a", "y"), ("1", "no"))) + "\n")
    with pytest.raises(StreamError, match=f"separated by {name}: write it with commas"):
        FileStream(RecordedConfig(kind="recorded", path=str(file), label="y"), tmp_path)
