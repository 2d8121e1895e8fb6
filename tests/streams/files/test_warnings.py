"""What looks wrong in the first rows of files: each warning, and what stays without one."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from streams.files.config import RecordedConfig
from streams.files.stream import FileStream

N = 200
CHANCE = random.Random(7)
LABELS = [CHANCE.choice("ab") for _ in range(N)]
NOISE = [CHANCE.random() for _ in range(N)]


def warnings_of(folder: Path, columns: dict[str, Any], suffix: str = "csv", **settings: Any) -> str:
    """Return the warnings about a file with these columns, and a label and noise beside them."""
    write(
        folder / f"a.{suffix}", {"noise": NOISE, **columns, "label": columns.get("label", LABELS)}
    )
    config = {"kind": "recorded", "path": f"a.{suffix}", "label": "label", **settings}
    described = FileStream(RecordedConfig(**config), folder).describe()
    assert all("\n" not in line for line in described.warnings)
    return "\n".join(described.warnings)


def write(path: Path, columns: dict[str, Any]) -> None:
    table = pa.table(columns)
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)


def rows(make: Callable[[int], Any]) -> list[Any]:
    return [make(i) for i in range(N)]


CODES = [str(uuid.UUID(int=CHANCE.getrandbits(128))) for _ in range(N)]
WORDS = ["red cat", "old dog", "a bird in a tree", "nothing at all", "seen twice today"]


@pytest.mark.parametrize(
    ("values", "part"),
    [
        (rows(lambda i: f"{1000 + i * 37:,}.50"), "numbers with thousands separators"),
        (rows(lambda i: f"{i * 1.25:.2f}".replace(".", ",")), "numbers with a decimal comma"),
        (rows(lambda i: f"{i % 90 + 1} kg"), "numbers with a unit"),
        (rows(lambda i: f"{i * 0.5} %"), "numbers with a unit"),
        (rows(lambda i: f"€{i + 5}.20"), "numbers with a currency"),
        (rows(lambda i: f"images/{i:05}.JPG"), "holds paths of images"),
        (rows(lambda i: f"{i * 0.37}" if i % 4 else "low"), "75% of its values are numbers"),
        (
            rows(lambda i: f"{i * 0.37}" if i % 20 else "low"),
            "rows are dead for their column 'odd', as row 0: column 'odd' holds 'low'",
        ),
        (rows(lambda i: i * 3 + i % 2), "rises with every row"),
        (rows(lambda i: f"2024-05-01T{i // 60:02}:{i % 60:02}:00Z"), "holds times"),
        (rows(lambda i: 1357000200 + 900 * (i // 4)), "holds times, and is taken for a number"),
        (rows(lambda i: (1357000200 + i // 4) * 1000.0), "holds times, and is taken for a number"),
        (CODES, "has another code in every row"),
        (rows(lambda i: f"ORD-{10000 + i}"), "has another code in every row"),
        ([None] * N, "is empty in the first 200 rows"),
        (LABELS, "determines the label"),
        (rows(lambda i: NOISE[i] + 5 * (LABELS[i] == "a")), "separates the two classes"),
        (rows(lambda i: NOISE[i] if LABELS[i] == "a" else None), "has a value in exactly the rows"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_odd_column_has_one_warning(
    tmp_path: Path, values: Sequence[Any], part: str, suffix: str
) -> None:
    said = warnings_of(tmp_path, {"odd": values}, suffix)
    assert part in said
    assert said.count("\n") == 0
    assert "'odd'" in said


@pytest.mark.parametrize(
    "values",
    [
        rows(lambda i: CHANCE.choice(["12A", "14C", "7F", "3D", "8B"])),  # seats
        rows(lambda i: f"192.168.{i % 7}.{i}"),
        rows(lambda i: f"{CHANCE.randrange(12):02}:{CHANCE.randrange(60):02}"),
        rows(lambda i: f"{CHANCE.randrange(9)}.{CHANCE.randrange(9)}.{CHANCE.randrange(9)}"),
        rows(lambda i: CHANCE.choice(WORDS) + " " + CHANCE.choice(WORDS)),
        rows(lambda i: CHANCE.choice(["DE", "AT", "CH"])),
        rows(lambda i: CHANCE.randrange(1000)),
        rows(lambda i: None if i % 3 else CHANCE.randrange(100)),
        rows(lambda i: LABELS[i] if i % 10 else "c"),
        rows(lambda i: i // 2),
        rows(lambda i: i * 0.5),
        rows(lambda i: f"{i % 40:05}"),  # codes, all of them numbers
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_plain_column_has_no_warning(tmp_path: Path, values: Sequence[Any], suffix: str) -> None:
    assert warnings_of(tmp_path, {"plain": values}, suffix) == ""


def test_numbers_stated_as_categories_have_no_warning(tmp_path: Path) -> None:
    shops = rows(lambda i: f"{i % 9}" if i % 4 else "web")
    stated = {"categorical": ["shop"], "numeric": ["noise"]}
    assert "of its values are numbers" in warnings_of(tmp_path, {"shop": shops})
    assert warnings_of(tmp_path, {"shop": shops}, features=stated) == ""
    assert warnings_of(tmp_path, {"shop": [s.strip("web") for s in shops]}, features=stated) == ""


@pytest.mark.parametrize("name", ["label_at", "label_reason", "Label Code", "label2"])
def test_column_named_after_the_label_is_warned_of(tmp_path: Path, name: str) -> None:
    other = rows(lambda i: CHANCE.randrange(5))
    assert "is named after the label" in warnings_of(tmp_path, {name: other})
    assert warnings_of(tmp_path, {"labelling": other, "unlabel_at": other}) == ""


@pytest.mark.parametrize(
    ("labels", "settings", "part"),
    [
        (rows(lambda i: i * 7 % 151), {}, "looks like numbers, not like classes"),
        (rows(lambda i: f"say {i * 7 % 151} words"), {}, "looks like text, not like classes"),
        (rows(lambda i: "yes" if i % 3 else "Yes "), {}, "differ only in spaces and case"),
        (
            rows(lambda i: "caf\u00e9" if i % 3 else "cafe\u0301"),
            {"classes": ["café", "tea"]},
            "it differs from 'café' only in Unicode form",
        ),
        (
            LABELS,
            {"classes": ["A1", "B1"]},
            "200 of the first 200 rows are dead for their column 'label'",
        ),
        (rows(lambda i: i * 7 % 151), {"task": "classification"}, ""),
        (LABELS, {"classes": ["b", "a"]}, ""),
    ],
)
def test_odd_label_is_warned_of(
    tmp_path: Path, labels: list[Any], settings: dict[str, Any], part: str
) -> None:
    label = {"column": "label", **settings}
    said = warnings_of(tmp_path, {"label": labels}, label=label)
    assert (part in said) if part else said == ""


def test_regression_feature_equal_to_label_is_warned_of(tmp_path: Path) -> None:
    values = [CHANCE.random() for _ in range(N)]
    assert "is equal to the label" in warnings_of(tmp_path, {"odd": values, "label": values})


def test_numbers_near_the_time_of_events_are_warned_of(tmp_path: Path) -> None:
    times = rows(lambda i: 1709280000 + 600 * i)
    booked = [at - CHANCE.randrange(30 * 86400) for at in times]
    said = warnings_of(tmp_path, {"t": times, "booked": booked}, time="t")
    assert "column 'booked' holds times, and is taken for a number" in said
    assert said.count("\n") == 0
    assert warnings_of(tmp_path, {"t": times, "phone": [2 * at for at in booked]}, time="t") == ""
    counted = rows(lambda i: i)
    some = [CHANCE.randrange(1000) for _ in counted]
    assert warnings_of(tmp_path, {"t": counted, "count": some}, time="t") == ""


def test_rows_not_in_order_of_time_are_warned_of(tmp_path: Path) -> None:
    times = rows(lambda i: 1.7e9 + 60 * i)
    assert warnings_of(tmp_path, {"t": times}, time="t") == ""
    times[50], times[51] = times[51], times[50]
    said = warnings_of(tmp_path, {"t": times}, time="t")
    assert "row 51 is before the row above it in the time 't', and so are 0 others" in said


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_parts_not_in_order_of_time_are_warned_of(tmp_path: Path, suffix: str) -> None:
    for part, start in (("1", 0), ("2", 500), ("3", 300)):
        times = [start + 5 * i for i in range(60)]
        write(
            tmp_path / f"p{part}.{suffix}", {"t": times, "x": [1.5] * 60, "label": ["a", "b"] * 30}
        )
    config = RecordedConfig(kind="recorded", path=f"p*.{suffix}", label="label", time="t")
    (said,) = FileStream(config, tmp_path).describe().warnings
    assert f"p3.{suffix} begins 495 s before the end of p2.{suffix}" in said


def test_times_in_another_format_are_warned_of(tmp_path: Path) -> None:
    times = rows(lambda i: f"{i % 28 + 1:02}.{i // 28 + 1:02}.2024")
    said = warnings_of(tmp_path, {"t": times}, time="t")
    assert "column 't' holds '01.01.2024'" in said
    assert said.endswith("ISO 8601): write it so, or state stream.time_format")
    said = warnings_of(tmp_path, {"t": times}, time="t", time_format="%m.%d.%Y")
    assert said.endswith("(stream.time_format): write it so, or correct stream.time_format")


@pytest.mark.parametrize(
    ("kind", "shown"), [(pa.time32("s"), "00:00:07"), (pa.duration("s"), "0:00:07")]
)
def test_times_of_another_type_are_shown_as_text(
    tmp_path: Path, kind: pa.DataType, shown: str
) -> None:
    said = warnings_of(tmp_path, {"t": pa.array([7] * N, kind)}, "parquet", time="t")
    assert f"column 't' holds {shown}; expected a time" in said


def test_broken_rows_count_among_those_they_are_dead_of(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,label\n1,2,x\n1,2\n1,2,3,4\n")
    config = RecordedConfig(kind="recorded", path="a.csv", label="label")
    (said,) = FileStream(config, tmp_path).describe().warnings
    assert said.startswith("2 of the first 3 rows are dead, as row 1: the row has 2 fields")
