"""Recorded streams: what is inferred, exact positions however blocks are cut, and kind errors."""

from __future__ import annotations

import gzip
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import streams.files.formats.csv_file
import streams.files.stream
from streams.core.batch import Batch, Ragged
from streams.core.errors import StreamError
from streams.core.schema import Feature
from streams.core.stream import Cursor
from streams.files.config import RecordedConfig
from streams.files.stream import FileStream
from tests.support.fuzz import examples


def recorded(folder: Path, path: Any, **settings: Any) -> FileStream:
    settings.setdefault("label", "y")
    return FileStream(RecordedConfig(kind="recorded", path=path, **settings), folder)


def csv(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def parquet(path: Path, table: Any, rows: int = 100) -> Path:
    pq.write_table(pa.table(table), path, row_group_size=rows)
    return path


def records_by_kind(blocks: Iterable[Batch]) -> dict[str, list[Any]]:
    """Rows, dead rows and labels with their places counted from the first block on."""
    told: dict[str, list[Any]] = {"rows": [], "dead": [], "labels": []}
    n = 0
    for b in blocks:

        def name(y: Any, classes: tuple[Any, ...] = b.classes) -> Any:
            if isinstance(y, float):
                return repr(y)
            return None if y < 0 else classes[y]

        columns = {"x": b.x} if isinstance(b.x, np.ndarray) else b.x
        x = [c.texts() if isinstance(c, Ragged) else c.tolist() for c in columns.values()]
        for i in range(len(b)):
            own = [c if c is None else repr(c[i]) for c in (b.due, b.key, b.segment)]
            y = None if b.y is None else name(b.y[i].item())
            where = (int(b.partition[i]), int(b.offset[i]))
            told["rows"].append((int(b.ids[i]), b.time[i], [c[i] for c in x], y, *where, *own))
        told["dead"] += [
            (d.partition, d.offset, d.id, d.reason, d.insert_before + n) for d in b.dead
        ]
        if a := b.arrivals:
            for i in range(len(a)):
                where = (int(a.partition[i]), int(a.offset[i]))
                came = (int(a.ids[i]), name(a.y[i].item()), a.time[i], int(a.insert_before[i]) + n)
                told["labels"].append((*came, *where))
        n += len(b)
    return told


def after(blocks: Iterable[Batch]) -> Cursor:
    cursor: Cursor = {}
    for b in blocks:
        places = [(str(p), int(o)) for p, o in zip(b.partition, b.offset, strict=True)]
        places += [(str(d.partition), d.offset) for d in b.dead]
        if a := b.arrivals:
            places += [(f"labels/{p}", int(o)) for p, o in zip(a.partition, a.offset, strict=True)]
        for part, offset in places:
            cursor[part] = max(cursor.get(part, 0), offset + 1)
    return cursor


def cut(blocks: Iterable[Batch], rows: int) -> Iterator[Batch]:
    """The first rows only, as a trainer that stops in the middle of a block has seen them."""
    for b in blocks:
        if rows < len(b):
            yield b[:rows]
            return
        yield b
        rows -= len(b)


# Exact positions


def rows_of_many_kinds(n: int, seed: int) -> dict[str, list[Any]]:
    r = np.random.default_rng(seed)
    return {
        "id": [None if r.random() < 0.05 else int(i) for i in r.permutation(10_000)[:n]],
        "t": [None if r.random() < 0.05 else v for v in np.cumsum(r.integers(0, 3, n)).tolist()],
        "a": [r.choice([1.5, -2.0, math.inf]) if r.random() < 0.3 else 0.25 for _ in range(n)],
        "w": [None if r.random() < 0.05 else "é" * int(r.integers(0, 3)) for _ in range(n)],
        "y": [r.choice(["u", "v", None]) for _ in range(n)],
        "d": [None if r.random() < 0.3 else float(i) for i in range(n)],
    }


def as_csv(columns: dict[str, list[Any]], malformed: bool) -> str:
    lines = [",".join(columns)]
    for i, row in enumerate(zip(*columns.values(), strict=True)):
        if malformed and (i % 11 == 3 or 30 <= i < 50):
            lines.append(f"{i},too few")
        lines.append(",".join("" if v is None else f'"{v}\n"' if v == "é" else str(v) for v in row))
    return "\n".join([*lines, "1,2,3,4,5,6,7" if malformed else ""])


@pytest.fixture(scope="module")
def streams_of_all_sorts(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Callable[[], FileStream]]]:
    folder = tmp_path_factory.mktemp("recorded")
    for p, n in enumerate((37, 60, 1)):
        columns = rows_of_many_kinds(n, p)
        table = pa.table({**columns, "w": pa.array(columns["w"]).dictionary_encode()})
        parquet(folder / f"{p}.parquet", table, rows=7)
        csv(folder / f"{p}.csv", as_csv(columns, malformed=False))
        csv(folder / f"bad{p}.csv.gz", as_csv(columns, malformed=True))
        text = as_csv(columns, malformed=True).encode()
        latin = text.replace(b"47,too", b"47,\xff too").replace(b"48,too", b"48,\xc3\xa9 too")
        (folder / f"{p}.latin.csv").write_bytes(latin)
    ids = rows_of_many_kinds(37, 0)["id"]
    late = [(i, c, t) for t, (i, c) in enumerate(zip(ids, "uvwuv" * 9, strict=False))]
    late[5:8] = [(1, "", 5), (None, "u", 1), (ids[0], "v", 2)]
    csv(folder / "l0.csv", "i,c,t\n" + "\n".join(f"{i or ''},{c},{t}" for i, c, t in late[:20]))
    csv(folder / "l1.csv", "i,c,t\n" + "\n".join(f"{i or ''},{c},{t}" for i, c, t in late[20:]))
    features = {"numeric": ["a"], "text": ["w"]}
    full = {"id": "id", "time": "t", "features": features, "label_delay": {"column": "d"}}
    files = ["0", "1", "2"]

    def of(suffix: str, **settings: Any) -> Callable[[], FileStream]:
        names = [f"{'bad' if suffix == '.csv.gz' else ''}{name}{suffix}" for name in files]
        return lambda: recorded(folder, names, **settings)

    labels = {"path": ["l0.csv", "l1.csv"], "id": "i", "label": "c", "time": "t"}
    apart = {"id": "id", "time": "t", "features": features, "label": None, "labels": labels}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams.files.formats.csv_file, "CSV_PIECE_BYTES", 150)
        patch.setattr(streams.files.stream, "LABEL_BLOCK_ROWS", 3)
        yield {
            "parquet": of(".parquet", **full, segment="d"),
            "parquet by position": of(".parquet", features=["a"]),
            "parquet from a start": of(".parquet", **full, start=9),
            "csv": of(".csv", **full),
            "malformed csv": of(".csv.gz", **full),
            "malformed csv by position": of(".csv.gz", features=["a"]),
            "csv that is not all UTF-8": of(".latin.csv", **full),
            "labels apart": of(".csv.gz", **apart),
            "labels apart from a start": of(".parquet", **apart, start=20),
        }


@pytest.mark.parametrize(
    "sort",
    [
        "parquet",
        "parquet by position",
        "parquet from a start",
        "csv",
        "malformed csv",
        "malformed csv by position",
        "csv that is not all UTF-8",
        "labels apart",
        "labels apart from a start",
    ],
)
@examples(0.2)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 120))
def test_any_block_size_and_cursor_give_one_stream(
    streams_of_all_sorts: dict[str, Callable[[], FileStream]],
    sort: str,
    size: int,
    again: int,
    at: int,
) -> None:
    make = streams_of_all_sorts[sort]
    whole = records_by_kind(make().read({}, 1_000))
    assert len(whole["rows"]) > 50
    assert len(whole["dead"]) > 5
    assert (len(whole["labels"]) > 10) == ("labels" in sort)
    stream = make()
    assert records_by_kind(stream.read({}, size)) == whole
    seen = list(cut(stream.read({}, size), at))
    rest = make().read(after(seen), again)
    assert records_by_kind([*seen, *rest]) == whole


def test_malformed_rows_keep_their_place(tmp_path: Path) -> None:
    csv(tmp_path / "a.csv", "a,y\n1\n\n2,u\n3,v,w\n4,u\n5\n")
    block = Batch.concat(list(recorded(tmp_path, "a.csv").read({}, 10)))
    assert block.offset.tolist() == [1, 3]
    assert [(d.offset, d.insert_before, d.reason) for d in block.dead] == [
        (0, 0, "the row has 1 fields; expected 2: 1"),
        (2, 1, "the row has 3 fields; expected 2: 3,v,w"),
        (4, 2, "the row has 1 fields; expected 2: 5"),
    ]


def test_non_utf8_bytes_are_one_dead_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a,w,y\n1,ok,u\n2,\xff,u\n3,\xff\n4,ok,u\n")
    told = records_by_kind(recorded(tmp_path, "a.csv", features={"text": ["w"]}).read({}, 10))
    assert [row[5] for row in told["rows"]] == [0, 3]
    assert [(d[1], d[3][:31]) for d in told["dead"]] == [
        (1, r"column 'w' holds b'\xff'; expec"),
        (2, "the row has 2 fields; expected "),
    ]


@pytest.mark.parametrize(
    ("data", "rows", "dead"),
    [
        (b"\xef\xbb\xbfa,w,y\n1,\xc3\xa9,u\n2,\xff,u\n", [(1, "é")], r"b'\xff'"),
        (b"a,w,y\n1,\xc3\xa9,u\n2,\xc3", [(1, "é")], r"2,\xc3"),
        (b"a,w,y\n1,\xc3\xa9,u\n2,\xc3\xa9\xff", [(1, "é")], r"2,é\xff"),
        (b'a,w,y\n1,"\xc3\xa9\n",u\n2,\xff,u\n', [(1, "é\n")], r"b'\xff'"),
    ],
)
def test_text_next_to_non_utf8_bytes(
    tmp_path: Path, data: bytes, rows: list[tuple[int, str]], dead: str
) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    stream = recorded(tmp_path, "a.csv", features={"numeric": ["a"], "text": ["w"]})
    told = records_by_kind(stream.read({}, 10))
    assert [(row[2][0], row[2][1]) for row in told["rows"]] == rows
    ((_, offset, _, reason, before),) = told["dead"]
    assert (offset, before) == (1, 1)
    assert dead in reason


def test_csv_column_names_in_a_file_not_all_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("größe,y\n1,u\n".encode() + b"\xff,u\n")
    stream = recorded(tmp_path, "a.csv", features={"numeric": ["größe"]})
    assert len(records_by_kind(stream.read({}, 10))["dead"]) == 1
    (tmp_path / "b.csv").write_bytes(b"gr\xf6\xdfe,y\n1,u\n")
    with pytest.raises(StreamError, match=r"b\.csv cannot be read: 'utf-8' codec"):
        recorded(tmp_path, "b.csv")


def test_many_malformed_rows_in_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv(tmp_path / "a.csv", "a,y\n" + "1\n" * 300 + "2,u\n" + "3\n" * 300 + "4,v\n")
    monkeypatch.setattr(streams.files.formats.csv_file, "CSV_PIECE_BYTES", 64)
    told = records_by_kind(recorded(tmp_path, "a.csv", features={"numeric": ["a"]}).read({}, 10))
    assert [row[5] for row in told["rows"]] == [300, 601]
    assert len(told["dead"]) == 600


@pytest.mark.parametrize("label_rows", [1, 2, 100])
def test_label_arrives_before_the_first_event_of_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label_rows: int
) -> None:
    monkeypatch.setattr(streams.files.stream, "LABEL_BLOCK_ROWS", label_rows)
    csv(tmp_path / "e.csv", "i,t,a\nA,1,1\nB,2,1\nC,4,1\nD,3,1\nE,6,1\n")
    csv(tmp_path / "l.csv", "i,y,k\nA,u,2\nB,v,3\nA,w,1\nC,u,4.5\nE,u,6\nD,v,99\nB,u,100\n")
    labels = {"path": "l.csv", "id": "i", "label": "y", "time": "k"}
    stream = recorded(tmp_path, "e.csv", id="i", time="t", label=None, labels=labels)
    blocks = list(stream.read({}, 3))
    told = records_by_kind(blocks)
    assert [(row[1], row[2], row[3]) for row in told["labels"]] == [
        ("u", 2, 1),
        ("v", 3, 2),
        ("w", 1, 2),  # behind the one before it in the file
        ("u", 4.5, 4),
        ("u", 6, 4),
        ("v", 99, 5),
        ("u", 100, 5),
    ]
    assert len(blocks[-1]) == 0
    assert all(block.y is None for block in blocks)
    ids = {row[0] for row in told["rows"]}
    assert {row[0] for row in told["labels"]} == ids
    assert stream.seek(4.5) == {"0": 4, "labels/0": 3}


def test_bad_labels_are_ignored_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    csv(tmp_path / "e.csv", "i,t,a,y\n1,1,1,0\n2,2,1,1\n")
    csv(tmp_path / "l.csv", "i,y,k\n1,u,1\n,u,1\n2,,1\n2\n2,v,soon\n2,v,1\n")
    labels = {"path": "l.csv", "id": "i", "label": "y", "time": "k"}
    stream = recorded(tmp_path, "e.csv", id="i", time="t", labels=labels)
    with caplog.at_level(logging.WARNING):
        told = records_by_kind(stream.read({}, 3))
    assert [(row[0], row[1], row[5]) for row in told["labels"]] == [(1, "u", 0), (2, "v", 5)]
    lines = [record.getMessage().removeprefix(f"{tmp_path}/") for record in caplog.records]
    assert lines == [
        "l.csv: row 1 ignored: column 'i' holds null; expected an integer id",
        "l.csv: row 3 ignored: the row has 1 fields; expected 3: 2",
        "l.csv: row 4 ignored: column 'k' holds 'soon'; expected a time (seconds, or ISO 8601)",
    ]
    assert [f.name for f in stream.schema.features] == ["a"]  # the label is no feature


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("time", [0.0, 3.0, 3.5, 20.0, 33.0, 60.0, 61.0, 1e9])
def test_seek_finds_the_first_event_in_time(tmp_path: Path, suffix: str, time: float) -> None:
    times = [*range(0, 40, 2), *range(20, 62, 2)]  # steps back once
    halves = (times[:25], times[25:])
    for p, half in enumerate(halves):
        stamps = [datetime.fromtimestamp(t, UTC) for t in half]
        columns = {"t": stamps, "a": [1.0] * len(half), "y": [0] * len(half)}
        if suffix == ".csv":
            rows = "".join(f"{s.isoformat()},1,0\n" for s in stamps)
            csv(tmp_path / f"{p}.csv", "t,a,y\n" + rows)
        else:
            parquet(tmp_path / f"{p}.parquet", columns, rows=4)
    stream = recorded(tmp_path, [f"0{suffix}", f"1{suffix}"], time="t")
    cursor = stream.seek(time)
    left = [t for b in stream.read(cursor, 7) for t in b.time.tolist()]
    first = next((i for i, t in enumerate(times) if t >= time), len(times))
    assert left == times[first:]
    started = recorded(tmp_path, [f"0{suffix}", f"1{suffix}"], time="t", start=time)
    assert [t for b in started.read({}, 7) for t in b.time.tolist()] == left
    if suffix == ".parquet":
        assert len(stream) == len(times)
        assert len(started) == len(left)


def test_start_takes_iso_text_and_dates() -> None:
    for start in (86400, "86400", "1970-01-02", date(1970, 1, 2), datetime(1970, 1, 2)):
        config = RecordedConfig(kind="recorded", path="x", label="y", time="t", start=start)
        assert config.start == 86400
    noon = datetime(1970, 1, 1, 12)
    config = RecordedConfig(kind="recorded", path="x", label="y", time="t", start=noon)
    assert config.start == 43200


def test_position_time_continues_over_files(tmp_path: Path) -> None:
    for name in "ab":
        csv(tmp_path / f"{name}.csv", "a,y\n1,0\n2,1\n")
        parquet(tmp_path / f"{name}.parquet", {"a": [1.0, 2.0], "y": [0, 1]})
    for suffix in ("csv", "parquet"):
        stream = recorded(tmp_path, f"?.{suffix}")
        times = [t for b in stream.read({}, 1) for t in b.time.tolist()]
        assert times == [0, 1, 2, 3]
        assert [b.time[0] for b in recorded(tmp_path, f"?.{suffix}").read({"0": 2, "1": 1}, 9)] == [
            3
        ]
        assert not stream.has_ids
        assert not stream.has_time


def test_memory_is_bounded_by_a_row_group(tmp_path: Path) -> None:
    groups, rows = 40, 5_000
    values = np.random.default_rng(0).normal(size=groups * rows)
    parquet(tmp_path / "a.parquet", {"a": values, "y": np.zeros(len(values), int)}, rows=rows)
    stream = recorded(tmp_path, "a.parquet")
    before, most = pa.total_allocated_bytes(), 0
    for block in stream.read({}, 1_000):
        assert len(block) == 1_000
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 12 * rows * 16  # of the 40 row groups


# Elec2, as it ships


def test_elec2_ships_inside_the_package(tmp_path: Path) -> None:
    stream = recorded(tmp_path, "streams/data/elec2.parquet", label="class")
    assert len(stream) == 45_312
    assert stream.schema.matrix
    assert stream.schema.row_shape == (6,)
    blocks = list(stream.read({}, 4096))
    assert sum(map(len, blocks)) == 45_312
    first = blocks[0]
    assert isinstance(first.x, np.ndarray)
    assert first.x[0].tolist() == [0.0, 0.05644299999999999, 0.439155, 0.003467, 0.422915, 0.414912]
    ups = sum((b.y == b.classes.index("UP")).sum() for b in blocks)
    assert (first.classes, ups) == (("UP", "DOWN"), 19_237)


@pytest.mark.soak
def test_elec2_is_what_the_csv_holds(tmp_path: Path) -> None:
    places = [os.environ.get("EVERLEARN_DATA"), Path(__file__).parents[4] / "shared" / "data"]
    found = [Path(p, "elec2.csv.gz") for p in places if p and Path(p, "elec2.csv.gz").is_file()]
    if not found:
        pytest.skip("no elec2.csv.gz in $EVERLEARN_DATA or ../shared/data")
    ours = records_by_kind(
        recorded(tmp_path, "streams/data/elec2.parquet", label="class").read({}, 5_000)
    )
    theirs = records_by_kind(recorded(tmp_path, str(found[0]), label="class").read({}, 3_000))
    assert ours == theirs


# What is inferred


def png(channels: int) -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.new({1: "L", 3: "RGB"}[channels], (5, 4)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("column", "feature"),
    [
        ([1.0, 2.0], Feature("f", "numeric")),
        ([1, None], Feature("f", "numeric")),
        ([True, False], Feature("f", "numeric")),
        ([date(2020, 1, 1)] * 2, Feature("f", "time")),
        (["1"] * 9 + ["x"], Feature("f", "numeric")),
        (["1"] * 8 + ["x"] * 2, Feature("f", "categorical")),
        (["r", "g"] * 5, Feature("f", "categorical")),
        (["r", "g", "b"], Feature("f", "categorical")),
        (["a red", "a green", "a blue"], Feature("f", "text")),
        ([f"word {i}" for i in range(51)] * 2, Feature("f", "text")),
        (pa.array(["r", "g"]).dictionary_encode(), Feature("f", "categorical")),
        ([None, [1.0, 2.0], [1.0]], Feature("f", "vector", (2,))),
        (pa.array([[1, 2, 3]], pa.list_(pa.uint8(), 3)), Feature("f", "vector", (3,))),
        ([b"no image", png(3)], Feature("f", "image", (3, 4, 5))),
        ([{"bytes": png(1), "path": "p"}], Feature("f", "image", (1, 4, 5))),
    ],
)
def test_kinds(tmp_path: Path, column: Any, feature: Feature) -> None:
    parquet(tmp_path / "a.parquet", {"f": column, "y": [0] * len(column)})
    for features in (None, ["f"], {feature.kind: ["f"]}):
        stream = recorded(tmp_path, "a.parquet", features=features)
        assert stream.schema.features == (feature,)


@pytest.mark.parametrize(
    ("column", "task", "names"),
    [
        (["u", "v"], "classification", ["u", "v"]),
        ([True, False], "classification", [True, False]),
        ([3, 1], "classification", [3, 1]),
        ([3.0, 1.0], "classification", [3, 1]),
        ([3.5, 1.0], "regression", []),
        ([Ellipsis, Ellipsis], "classification", []),
    ],
)
def test_tasks(tmp_path: Path, column: Any, task: str, names: list[Any]) -> None:
    column = [None if value is Ellipsis else value for value in column]
    parquet(tmp_path / "a.parquet", {"f": [1.0, 2.0], "y": column})
    rows = "".join(f"1,{'' if value is None else value}\n" for value in column)
    csv(tmp_path / "a.csv", "f,y\n" + rows)
    stream = recorded(tmp_path, "a.parquet")
    (block,) = stream.read({}, 9)
    assert (stream.schema.task, list(block.classes)) == (task, names)
    assert recorded(tmp_path, "a.csv").schema.task == task
    if task == "regression":
        assert block.y is not None
        assert block.y.tolist() == column


def test_csv_integer_labels_are_classes_unless_stated(tmp_path: Path) -> None:
    csv(tmp_path / "a.csv", "f,y\n" + "".join(f"1,{i}\n" for i in range(99)) + "1,oops\n")
    stream = recorded(tmp_path, "a.csv")
    told = records_by_kind(stream.read({}, 200))
    assert [row[3] for row in told["rows"]] == list(range(99))
    assert [(d[1], d[3]) for d in told["dead"]] == [
        (99, "column 'y' holds 'oops'; expected a class of type int")
    ]
    stated = recorded(tmp_path, "a.csv", label={"column": "y", "task": "regression"})
    told = records_by_kind(stated.read({}, 200))
    assert [row[3] for row in told["rows"]] == [f"{i}.0" for i in range(99)]


def test_class_not_stated_is_dead(tmp_path: Path) -> None:
    csv(tmp_path / "a.csv", "f,y\n1,b\n1,c\n1,a\n")
    (block,) = recorded(tmp_path, "a.csv", label={"column": "y", "classes": ["a", "b"]}).read({}, 9)
    assert block.y is not None
    assert (block.y.tolist(), block.classes) == ([1, 0], ("a", "b"))
    assert block.dead[0].offset == 1
    assert "'c'" in block.dead[0].reason
    assert "add it to classes" in block.dead[0].reason


def test_inference_from_any_start_samples_the_first_file(
    tmp_path: Path,
) -> None:
    parquet(tmp_path / "0.parquet", {"f": ["1", "2"], "y": ["u", "v"]})
    parquet(tmp_path / "1.parquet", {"f": ["r", "r"], "y": ["u", "v"]})
    stream = recorded(tmp_path, ["0.parquet", "1.parquet"])
    told = records_by_kind(stream.read({"0": 2}, 5))
    assert told["rows"] == []
    assert told["dead"][0][:2] == (1, 0)
    assert told["dead"][0][3] == "column 'f' holds 'r'; expected a finite number"


def test_leading_zeros_make_names_not_numbers(tmp_path: Path) -> None:
    csv(tmp_path / "a.csv", "i,f,y\n07,1,01\n7,1,1\n")
    (block,) = recorded(tmp_path, "a.csv", id="i").read({}, 9)
    assert len(set(block.ids.tolist())) == 2
    assert block.classes == ("01", "1")


def test_float32_only_where_every_column_is(tmp_path: Path) -> None:
    single = pa.array([1.0, 2.0], pa.float32())
    parquet(tmp_path / "a.parquet", {"f": single, "g": single, "y": [0, 1]})
    parquet(tmp_path / "b.parquet", {"f": single, "g": [1.0, 2.0], "y": [0, 1]})
    for path, dtype in (("a.parquet", "float32"), ("b.parquet", "float64")):
        (block,) = recorded(tmp_path, path).read({}, 9)
        assert isinstance(block.x, np.ndarray)
        assert block.x.dtype == dtype
    both = [b.x for b in recorded(tmp_path, ["a.parquet", "b.parquet"]).read({}, 9)]
    assert {str(x.dtype) for x in both if isinstance(x, np.ndarray)} == {"float64"}


def test_where_paths_start_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, value in ((here, 1), (there, 2)):
        (folder / "days").mkdir(parents=True)
        csv(folder / "days" / "b.csv", f"a,y\n{value},0\n")
        csv(folder / "days" / "a.csv.gz", f"a,y\n{value + 10},0\n")
        (folder / "days" / "notes.txt").write_text("no data")
    monkeypatch.chdir(there)
    for path in ("days", "days/*.csv*", ["days/a.csv.gz", "days/b.csv"], str(here / "days")):
        values = [b.x[0, 0] for b in recorded(here, path).read({}, 9)]  # type: ignore[call-overload]
        assert values == [11, 1]
    values = [b.x[0, 0] for b in recorded(tmp_path, "days").read({}, 9)]  # type: ignore[call-overload]
    assert values == [12, 2]


# Kind errors: one line, with the place and the remedy


def bad_file(folder: Path, name: str) -> None:
    good = {"price": [1.0, 2.0], "class": ["u", "v"]}
    parquet(folder / "good.parquet", good)
    csv(folder / "good.csv", "price,class\n1,u\n2,v\n")
    (folder / "empty.csv").touch()
    (folder / "empty.parquet").touch()
    csv(folder / "header.csv", "price,class\n")
    csv(folder / "twice.csv", "price,class,price\n1,u,2\n")
    (folder / "cut.csv.gz").write_bytes(gzip.compress(b"price,class\n" + os.urandom(4096))[:2000])
    parquet(folder / "norows.parquet", {"price": pa.array([], pa.float64()), "class": []})
    (folder / "corrupt.parquet").write_bytes(b"PAR1" + b"x" * 100)
    data = (folder / "good.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(data[: len(data) // 2])
    csv(folder / "table.xlsx", "?")
    parquet(folder / "other.parquet", {"cost": [1.0], "class": ["u"]})
    parquet(folder / "blank.parquet", {"price": [1.0], "class": ["u"], "n": [None]})
    parquet(folder / "spans.parquet", {"s": pa.array([1], pa.duration("s")), "class": ["u"]})
    parquet(folder / "when.parquet", {"price": [1.0], "class": [date(2020, 1, 1)]})
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["price", "price"])
    pq.write_table(twice, folder / "twice.parquet")
    (folder / "nothing").mkdir()


@pytest.mark.parametrize(
    ("path", "settings", "parts"),
    [
        ("missing.parquet", {}, ["stream.path: no file 'missing.parquet'; looked in {folder}, "]),
        ("*.pq", {}, ["no file '*.pq'"]),
        ([], {}, ["stream.path: the list of files is empty"]),
        ("nothing", {}, ["no .parquet, .csv, .csv.gz in the folder {folder}/nothing"]),
        ("empty.csv", {}, ["{folder}/empty.csv is empty (0 bytes)"]),
        ("empty.parquet", {}, ["{folder}/empty.parquet is empty (0 bytes)"]),
        ("header.csv", {}, ["{folder}/header.csv has no rows"]),
        ("norows.parquet", {}, ["{folder}/norows.parquet has no rows"]),
        ("twice.csv", {}, ["{folder}/twice.csv: more than one column is named 'price'"]),
        ("twice.parquet", {}, ["more than one column is named 'price'"]),
        ("cut.csv.gz", {}, ["{folder}/cut.csv.gz cannot be read: "]),
        ("corrupt.parquet", {}, ["{folder}/corrupt.parquet cannot be read: Parquet magic bytes"]),
        ("cut.parquet", {}, ["{folder}/cut.parquet cannot be read: "]),
        ("table.xlsx", {}, ["table.xlsx: not one of the known kinds of file: .parquet, .csv"]),
        (
            ["good.parquet", "other.parquet"],
            {},
            [
                "other.parquet: its columns differ from those of",
                "'cost', 'price'. Give all files the same columns, with empty cells where",
            ],
        ),
        (
            "good.parquet",
            {"label": "clas"},
            ["stream.label: ", "no column 'clas': did you mean 'class'? There are: price, class"],
        ),
        (
            "good.csv",
            {"time": "when"},
            ["stream.time: ", "no column 'when': There are: price, class"],
        ),
        ("good.csv", {"id": "x"}, ["stream.id: ", "no column 'x'"]),
        ("good.csv", {"features": ["prize"]}, ["stream.features: ", "did you mean 'price'?"]),
        ("good.csv", {"features": {"text": ["q"]}}, ["stream.features.text: ", "no column 'q'"]),
        ("good.csv", {"features": ["class"]}, ["'class' is the label; take it out"]),
        ("good.csv", {"features": ["price", "price"]}, ["'price' is named twice"]),
        ("good.csv", {"features": []}, ["no column is left to be a feature"]),
        ("good.csv", {"features": {"image": ["price"]}}, ["'price' is no image: it looks numeric"]),
        ("blank.parquet", {"features": {"vector": ["n"]}}, ["'n' is empty in the first 1000 rows"]),
        ("spans.parquet", {}, ["column 's' of type duration[s] cannot be a feature"]),
        ("when.parquet", {}, ["column 'class' (stream.label) is of type date32[day]"]),
        (
            "good.csv",
            {
                "id": "price",
                "time": "price",
                "labels": {"path": "no.csv", "id": "i", "label": "l", "time": "t"},
            },
            ["stream.labels.path: no file 'no.csv'"],
        ),
        (
            "good.csv",
            {
                "id": "price",
                "time": "price",
                "labels": {"path": "good.csv", "id": "i", "label": "class", "time": "t"},
            },
            ["stream.labels.id: ", "no column 'i'"],
        ),
    ],
)
def test_unreadable_file_error_is_one_line(
    tmp_path: Path, path: Any, settings: dict[str, Any], parts: list[str]
) -> None:
    bad_file(tmp_path, path)
    with pytest.raises(StreamError) as error:
        recorded(tmp_path, path, **{"label": "class", **settings})
    for part in parts:
        assert part.format(folder=tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_file_error_is_one_line(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=20_000)
    path = parquet(tmp_path / "a.parquet", {"a": values, "y": [0] * 20_000}, rows=5_000)
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + b"\xff" * 50_000 + data[middle + 50_000 :])
    blocks = recorded(tmp_path, "a.parquet").read({}, 100)
    assert len(next(blocks)) == 100
    with pytest.raises(StreamError, match=r"a\.parquet cannot be read"):
        list(blocks)


def test_a_row_longer_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv(tmp_path / "a.csv", "a,y\n1,u\n2," + "v" * 500 + "\n")
    monkeypatch.setattr(streams.files.formats.csv_file, "CSV_PIECE_BYTES", 64)
    monkeypatch.setattr(streams.files.formats.csv_file, "CSV_BLOCK_BYTES", 64)
    with pytest.raises(StreamError, match=r"a\.csv cannot be read: a row is longer than"):
        list(recorded(tmp_path, "a.csv").read({}, 10))


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({}, "state the label's column"),
        ({"label": {"task": "regression"}}, "label needs a column"),
        ({"label": {"column": "y", "task": "regression", "classes": ["a"]}}, "regression has no"),
        ({"label": {"column": "y", "classes": ["a", 1]}}, "of one type"),
        ({"label": {"column": "y", "classes": ["a", "a"]}}, "stated twice"),
        ({"label": {"column": "y", "classes": [2**70]}}, "64 bits"),
        ({"label": "y", "start": 5}, "start needs the column time"),
        ({"label": "y", "time": "t", "start": "soon"}, "not a time"),
        ({"label": "y", "label_delay": {"column": "d"}}, "needs the column time"),
        ({"label": "y", "features": {"numeric": {"a": [1, 2, 3]}}}, "are a list of names"),
        ({"label": "y", "features": {"sound": ["a"]}}, "'numeric', 'categorical'"),
        ({"labels": {"path": "l", "id": "i", "label": "y", "time": "t"}}, "need the columns id"),
        ({"label": "y", "colour": 1}, "colour"),
    ],
)
def test_contradicting_settings_are_refused(settings: dict[str, Any], part: str) -> None:
    with pytest.raises(ValidationError, match=part):
        RecordedConfig(kind="recorded", path="x", **settings)


def test_seek_without_time_says_so(tmp_path: Path) -> None:
    csv(tmp_path / "a.csv", "a,y\n1,u\n")
    stream = recorded(tmp_path, "a.csv")
    with pytest.raises(StreamError, match=r"stream\.time"):
        stream.seek(1)
    with pytest.raises(TypeError):
        len(stream)
