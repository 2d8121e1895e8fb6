"""A stream of files knows what was read of them: a change before the cursor is noticed, and one
after it is not."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import streams.files.formats.csv_file
from streams.core.errors import StreamError
from streams.core.stream import Cursor, DataIdentity
from streams.files.config import RecordedConfig
from streams.files.stream import FileStream
from tests.support.fuzz import examples

Row = tuple[int, str, str]
TEXT = st.text(st.sampled_from('ab,"\n\r é7'), max_size=4)
ROWS = st.lists(st.tuples(st.integers(-9, 9), TEXT, st.sampled_from(["u", "v"])), min_size=2)


def open_stream(path: Path) -> FileStream:
    features = {"numeric": ["a"], "text": ["w"]}
    config = RecordedConfig(kind="recorded", path=str(path), label="y", features=features)
    return FileStream(config, path.parent)


def identity(stream: FileStream, cursor: Cursor, size: int) -> DataIdentity:
    """What the stream says after it has been read beyond a cursor."""
    for block in stream.read({}, size):
        if len(block) and block.offset[-1] >= cursor["0"] + size:
            break
    return stream.identity(cursor)


def csv_rows(rows: Sequence[Row]) -> list[bytes]:
    """The header and the rows as CSV text, quoted where needed or not at all."""

    def cell(text: str) -> str:
        quoted = any(c in text for c in ',"\n\r')
        return '"' + text.replace('"', '""') + '"' if quoted else text

    lines = [f"{a},{cell(w)},{y}\n" for a, w, y in rows]
    return [text.encode() for text in ["a,w,y\n", *lines]]


def write_parquet(path: Path, rows: Sequence[Row], group: int = 3) -> None:
    a, w, y = ([row[i] for row in rows] for i in range(3))
    table = pa.table({"a": pa.array(a, pa.int64()), "w": pa.array(w, pa.string()), "y": y})
    pq.write_table(table, path, row_group_size=group)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(autouse=True, scope="module")
def _small_pieces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams.files.formats.csv_file, "CSV_PIECE_BYTES", 50)
        yield


@pytest.mark.hypothesis
@examples(0.5)
@given(st.data(), ROWS, st.sampled_from([".csv", ".csv.gz"]), st.integers(1, 5))
def test_csv_changed_before_the_cursor_is_refused(
    folder: Path, data: Any, rows: list[Row], suffix: str, size: int
) -> None:
    """Flip, insert, delete and cut bytes anywhere, and let two rows change places."""
    path = folder / f"a{suffix}"
    lines = csv_rows(rows)
    whole = b"".join(lines)
    pack: Callable[[bytes], bytes] = gzip.compress if suffix == ".csv.gz" else bytes
    path.write_bytes(pack(whole))
    row = data.draw(st.integers(1, len(rows)))
    end = len(b"".join(lines[: row + 1]))
    known = identity(open_stream(path), {"0": row}, size)
    at = data.draw(st.integers(0, len(whole) - 1))
    how = data.draw(st.sampled_from(["flip", "insert", "delete", "cut", "swap"]))
    if how == "flip":
        changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    elif how == "insert":
        changed = whole[:at] + b"\n" + whole[at:]
    elif how == "delete":
        changed = whole[:at] + whole[at + 1 :]
    elif how == "cut":
        changed = whole[:at]
    else:
        i = data.draw(st.integers(1, len(rows) - 1))
        changed = b"".join([*lines[:i], lines[i + 1], lines[i], *lines[i + 2 :]])
    path.write_bytes(pack(changed))
    if changed[:end] == whole[:end]:
        open_stream(path).verify_identity([known], {"0": row})
        return
    with pytest.raises(StreamError, match=r"^[^\n]*$"):
        open_stream(path).verify_identity([known], {"0": row})


@pytest.mark.hypothesis
@examples(0.4)
@given(st.data(), ROWS, st.integers(1, 5), st.integers(1, 4))
def test_parquet_changed_before_the_cursor_is_refused(
    folder: Path, data: Any, rows: list[Row], size: int, group: int
) -> None:
    path = folder / "a.parquet"
    write_parquet(path, rows)
    row = data.draw(st.integers(1, len(rows)))
    known = identity(open_stream(path), {"0": row}, size)
    i = data.draw(st.integers(0, len(rows) - 1))
    how = data.draw(st.sampled_from(["change", "insert", "delete", "swap", "append"]))
    changed = [*rows]
    if how == "change":
        changed[i] = data.draw(st.tuples(st.integers(-9, 9), TEXT, st.sampled_from(["u", "v"])))
    elif how == "insert":
        changed.insert(i, (5, "new", "v"))
    elif how == "delete":
        del changed[i]
    elif how == "swap":
        changed[i - 1], changed[i] = changed[i], changed[i - 1]
    else:
        changed += rows
    write_parquet(path, changed, group)  # also in other row groups
    if changed[:row] == rows[:row]:
        open_stream(path).verify_identity([known], {"0": row})
        return
    with pytest.raises(StreamError, match=r"a\.parquet"):
        open_stream(path).verify_identity([known], {"0": row})


@pytest.mark.hypothesis
@examples(0.3)
@given(st.data(), ROWS, st.sampled_from([".csv", ".csv.gz", ".parquet"]), st.integers(1, 5))
@example(None, [(1, 'a"b', "u"), (2, "\r", "v"), (3, "", "u")], ".csv", 1)
def test_identity_is_the_same_however_it_was_read(
    folder: Path, data: Any, rows: list[Row], suffix: str, size: int
) -> None:
    """In one reading, in several that go on from cursors, or anew in another process."""
    path = folder / f"b{suffix}"
    if suffix == ".parquet":
        write_parquet(path, rows)
    else:
        text = b"".join(csv_rows(rows))
        path.write_bytes(gzip.compress(text) if suffix == ".csv.gz" else text)
    row = 1 if data is None else data.draw(st.integers(1, len(rows) - 1))
    end = {"0": len(rows)}
    known, whole = (
        identity(open_stream(path), {"0": row}, size),
        identity(open_stream(path), end, size),
    )
    on = open_stream(path)
    on.verify_identity([known, whole], {"0": row})
    rest = [
        offset
        for block in on.read({"0": row}, size)
        for offset in [*block.offset.tolist(), *(dead.offset for dead in block.dead)]
    ]
    assert sorted(rest) == list(range(row, len(rows)))
    assert on.identity(end) == whole
    again = open_stream(path)
    assert again.identity({"0": row}) == known
    list(islice(again.read({"0": row}, size), 1))
    assert again.identity(end) == whole


def test_identity_of_many_pieces_is_exact(tmp_path: Path) -> None:
    """Of more pieces of text than are kept, at rows on both sides of their ends."""
    path = tmp_path / "a.csv"
    rows = [f"{i},{'x' * (i % 70)},u\n".encode() for i in range(2000)]
    path.write_bytes(b"a,w,y\n" + b"".join(rows))
    stream = open_stream(path)
    wanted = 1
    for block in stream.read({}, 10):
        while wanted <= block.offset[-1] + 1:
            entry = stream.identity({"0": wanted})[""]["files"][0]
            assert entry["rows"] == wanted
            assert entry["bytes"] == 6 + sum(map(len, rows[:wanted]))
            wanted += 19
    assert wanted > 2000


@pytest.mark.parametrize("how", ["replace", "rewrite", "cut"])
def test_file_changed_while_it_is_read_is_noticed(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.csv"
    lines = [f"{i},w,u\n" for i in range(1000)]
    path.write_text("a,w,y\n" + "".join(lines))
    stream = open_stream(path)
    list(stream.read({}, 100))
    stream.identity({"0": 980})
    stat = path.stat()
    text = "a,w,y\n" + "".join(lines).replace("7,w", "8,w")
    if how == "replace":
        (tmp_path / "b").write_text(text)
        (tmp_path / "b").replace(path)
    else:
        path.write_text(text if how == "rewrite" else text[:4000])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(StreamError, match=r"while it was read: .*a\.csv"):
        stream.identity({"0": 990})


def test_rows_appended_while_a_file_is_read_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,w,y\n" + "1,w,u\n" * 1000)
    stream = open_stream(path)
    list(stream.read({}, 100))
    with path.open("a") as file:
        file.write("2,x,v\n" * 10)
    assert stream.identity({"0": 990})[""]["files"][0]["rows"] == 990


def test_values_of_every_type_have_a_fingerprint(tmp_path: Path) -> None:
    """The same for the same values in other row groups, and another for any other value."""
    import datetime
    from decimal import Decimal

    columns: dict[str, Any] = {
        "a": [1, None, 3, 4],
        "f": pa.array([1.5, float("nan"), None, -0.0], pa.float32()),
        "b": [True, None, False, True],
        "t": pa.array([datetime.datetime(2024, 1, d) for d in (1, 2, 3, 4)], pa.timestamp("us")),
        "d": [Decimal("1.50"), None, Decimal("2"), Decimal("3")],
        "l": [[1.0, 2.0], [], None, [None, 3.0]],
        "v": pa.array([[1, 2], [3, 4], [3, 5], [5, 6]], pa.list_(pa.int16(), 2)),
        "s": [{"x": 1, "y": "p"}, None, {"x": None, "y": "q"}, {"x": 2, "y": None}],
        "c": pa.array(["p", "q", None, "p"]).dictionary_encode(),
        "w": ["p", "", None, "pq"],
        "n": pa.nulls(4),
        "y": ["u", "v", "u", "v"],
    }
    from streams.files.formats.parquet_file import Parquet

    table = pa.table(columns)
    names = table.column_names

    def entry(table: pa.Table, group: int) -> Any:
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=group)
        return Parquet(tmp_path / "a.parquet").fingerprint({"rows": 4}, names).entry()

    known = entry(table, 4)
    assert entry(table, 1) == entry(table, 3) == known
    for name in set(names) - {"n"}:
        column = table.column(name)
        for other in ([0, 2, 1, 3], [0, 1, 2, 2], [1, 1, 2, 3]):
            changed = column.take(pa.array(other))
            if not changed.equals(column):
                i = names.index(name)
                assert entry(table.set_column(i, name, changed), 4) != known, name
    assert np.isnan(table["f"][1].as_py())
