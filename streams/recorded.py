"""Streams that stand in files: Parquet and CSV, read in order, block by block, from any position.

Partition p of the stream is its p-th file and an offset is a row of it, malformed rows included.
Memory is bounded by a block and a row group (Parquet) or a few MiB of text (CSV). A Parquet file
is entered at any row by skipping whole row groups; a CSV file has no index, so that going on from a
cursor reads past the rows before it, of files that are done with as well (about as fast as text can
be parsed: nothing of it is decoded).
"""

from __future__ import annotations

import codecs
import difflib
import logging
import math
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pyarrow.types as pt
from pydantic import field_validator, model_validator

from streams.batch import Array, Batch, ClassName, Dead, Ints, Labels
from streams.decode import (
    POSITION_BITS,
    Columns,
    Decoder,
    Named,
    Scalar,
    first_seen,
    image_bytes,
    image_shape,
    moment,
    numbers,
    plain,
    seconds,
    whole,
)
from streams.schema import Feature, FeatureKind, Schema, Task
from streams.settings import Settings
from streams.stream import Cursor, Stream, StreamConfig, StreamError

log = logging.getLogger(__name__)

HEAD_ROWS = 1_000
"""Rows at the head of the first file that kinds, shapes and the task are inferred from."""
NUMERIC_SHARE = 0.9
"""Share of numbers from which a column of text counts as numeric."""
MAX_CATEGORIES = 50
"""Most different values in the head of a categorical column; each stands there twice on average."""
CSV_BLOCK_BYTES = 4 << 20
"""Bytes of CSV text parsed at a time: no row may be longer."""
LABEL_BLOCK_ROWS = 8_192

SUFFIXES = (".parquet", ".csv", ".csv.gz")
PACKAGE_ROOT = Path(__file__).parent.parent


class LabelConfig(Settings):
    """The label: its column, and what is not to be inferred.

    ``classes`` fixes the classes and their order; a row of any other class is then dead.
    """

    column: str | None = None
    task: Task | None = None
    classes: tuple[ClassName, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> LabelConfig:
        if self.classes and self.task == "regression":
            raise ValueError("regression has no classes: leave out one of task and classes")
        kinds = {type(name) for name in self.classes}
        if len(kinds) > 1 and kinds != {int, float}:
            raise ValueError("classes must be of one type: all text, or all numbers")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("a class is stated twice")
        if any(isinstance(name, int) and abs(name) >= 2**63 for name in self.classes):
            raise ValueError("a class that is an integer must fit in 64 bits")
        return self


class LabelsConfig(Settings):
    """Labels in a file of their own: the columns that hold the event's id, the label, and the
    time at which the label becomes known. Rows are in the order of that time."""

    path: str | list[str]
    id: str
    label: str
    time: str


class RecordedConfig(StreamConfig):
    """Settings of a recorded stream.

    Attributes:
        path: a file, a folder (its Parquet and CSV files by name), a glob pattern, or a list of
            these, in order. Relative paths start from the job file's folder, else from the current
            directory, else from where the ``streams`` package lies.
        label: the label's column, or what is known of it. Left to infer, text, booleans and
            integers are classes however many there are; other numbers are a regression target.
        time: column of event time (timestamps, ISO 8601 text, or seconds).
        id: column of event ids (integers as they are, text by its hash).
        key: column that sequences are grouped by.
        segment: column of the task or concept, for evaluation only (empty: -1).
        features: None for all other columns; names; or kind to names (image: or name to
            [channels, height, width]). What is not stated is inferred from the first 1,000 rows of
            the first file. Numbers, booleans, times, and text that is a number in at least 90% of
            rows: numeric. Lists of numbers: vector, as long as the first. Bytes or {bytes, path}
            that hold a PNG or JPEG: image, of the shape of the first. Other text: categorical if it
            takes at most 50 values, each twice on average (or is a dictionary), else text.
        labels: labels in a file of their own. A label with time t is revealed just before the
            first event whose time is at least t; the label column of the events is not read.
        start: event time to begin at: seconds or ISO 8601.
    """

    path: str | list[str]
    label: str | LabelConfig | None = None
    time: str | None = None
    id: str | None = None
    key: str | None = None
    segment: str | None = None
    features: list[str] | dict[FeatureKind, list[str] | dict[str, tuple[int, int, int]]] | None = (
        None
    )
    labels: LabelsConfig | None = None
    start: float | str | datetime | date | None = None

    @field_validator("start")
    @classmethod
    def _start(cls, start: float | str | datetime | date | None) -> float | None:
        if start is None:
            return None
        since = moment(start.isoformat() if isinstance(start, date) else str(start))
        if not math.isfinite(since):
            raise ValueError("not a time: state seconds, or ISO 8601 as in 2024-05-01T12:00:00Z")
        return since

    @model_validator(mode="after")
    def _consistent(self) -> RecordedConfig:
        if self.label is None and self.labels is None:
            raise ValueError("state the label's column as label, or the file of labels as labels")
        if isinstance(self.label, LabelConfig) and not self.label.column and not self.labels:
            raise ValueError("label needs a column")
        if self.labels and not (self.id and self.time):
            raise ValueError("labels in a file of their own need the columns id and time")
        if self.labels and "label_delay" in self.model_fields_set:
            raise ValueError("labels in a file of their own come at their own time: no label_delay")
        if self.start is not None and not self.time:
            raise ValueError("start needs the column time")
        if self.label_delay.column and not self.time:
            raise ValueError("a label_delay by column needs the column time")
        if isinstance(self.features, dict):
            for kind, columns in self.features.items():
                if isinstance(columns, dict) and kind != "image":
                    raise ValueError(f"features of kind {kind} are a list of names")
        return self


class Recorded(Stream):
    """Events from Parquet and CSV files.

    Attributes:
        files: the files in order; file p is partition p.
    """

    kind = "recorded"
    Config = RecordedConfig

    def __init__(self, config: RecordedConfig, folder: Path) -> None:
        self.config = config
        self.files = _open(config.path, folder)
        self._label_files: list[_File] = []
        label = config.label if isinstance(config.label, LabelConfig) else LabelConfig()
        label = LabelConfig(column=config.label) if isinstance(config.label, str) else label
        head = _Head(self.files[0])
        due = config.label_delay.column
        columns = Columns(
            id=head.names("id", config.id) if config.id else None,
            time=head.check("time", config.time) if config.time else None,
            key=head.names("key", config.key) if config.key else None,
            segment=head.names("segment", config.segment) if config.segment else None,
            due=head.check("label_delay.column", due) if due else None,
        )
        if apart := config.labels:
            self._label_files = _open(apart.path, folder, "labels.path")
            task, labels = self._labels_apart(apart, label, columns)
            self._decode_labels = Decoder(Schema((), task, label.classes), labels)
        else:
            task, named = head.task("label", label.column or "", label)
            columns = replace(columns, label=named)
        answers = {label.column, apart.label if apart else None} - {None}
        features = head.features(
            config.features,
            {config.id, config.time, config.key, config.segment, due, *answers},
        )
        if leak := answers.intersection(feature.name for feature in features):
            raise StreamError(f"stream.features: {leak.pop()!r} is the label; take it out")
        self.schema = Schema(features, task, label.classes)
        self.has_ids = config.id is not None
        self.has_time = config.time is not None
        self.has_arrivals = config.labels is not None
        self._decode = Decoder(self.schema, columns, _dtype(self.files, features))

    def _labels_apart(
        self, apart: LabelsConfig, label: LabelConfig, events: Columns
    ) -> tuple[Task, Columns]:
        head = _Head(self._label_files[0])
        assert events.id
        head.check("labels.id", apart.id)
        task, named = head.task("labels.label", apart.label, label)
        ids = Named(apart.id, events.id.type)
        return task, Columns(id=ids, time=head.check("labels.time", apart.time), label=named)

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        cursor = self._from_start(cursor)
        events = self._events(cursor, block_size)
        return self._with_labels(events, cursor) if self._label_files else events

    def seek(self, time: float) -> Cursor:
        """The cursor of the first event at or after ``time``: reads the column of times only, and
        not even that of row groups whose statistics lie before it."""
        if self.config.time is None:
            raise StreamError("stream.time: seeking by time needs the column that holds the time")
        cursor = _seek(self.files, self.config.time, time, "")
        if self.config.labels:
            cursor |= _seek(self._label_files, self.config.labels.time, time, "labels/")
        return cursor

    def __len__(self) -> int:
        """Rows, bad ones included; of Parquet only, as the length of CSV is not known."""
        start = self._from_start({})
        lengths = [file.rows for file in self.files]
        known = [rows for rows in lengths if rows is not None]
        if len(known) < len(lengths):
            raise TypeError("the length of a CSV file is not known before it is read")
        return sum(known) - sum(start.get(str(p), 0) for p in range(len(known)))

    @cached_property
    def _start(self) -> Cursor:
        start = self.config.start
        return self.seek(start) if isinstance(start, float) else {}

    def _from_start(self, cursor: Cursor) -> Cursor:
        # A cursor made of the rows that were read does not name the files that the start skips.
        return {**self._start, **cursor}

    def _events(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        before = 0
        for partition, file in enumerate(self.files):
            start = cursor.get(str(partition), 0)
            for block in file.read(start, block_size, self._decode.reads):
                where = np.full(len(block.offset), partition, np.int32)
                aside = [_malformed(partition, *row) for row in block.aside]
                position = (before + block.offset).astype(np.float64)
                yield self._decode(block.table, where, block.offset, position, aside)
            before += file.rows or 0

    def _labels(self, cursor: Cursor) -> Iterator[Batch]:
        """The rows of the label files that can be read, one batch after the other."""
        for partition, file in enumerate(self._label_files):
            start = cursor.get(f"labels/{partition}", 0)
            for block in file.read(start, LABEL_BLOCK_ROWS, self._decode_labels.reads):
                where = np.full(len(block.offset), partition, np.int32)
                aside = [_malformed(partition, *row) for row in block.aside]
                time = np.zeros(len(where))
                labels = self._decode_labels(block.table, where, block.offset, time, aside)
                for bad in labels.dead:
                    log.warning("%s: row %d passed over: %s", file.path, bad.offset, bad.reason)
                assert labels.y is not None
                given = ~np.isnan(labels.y) if labels.y.dtype.kind == "f" else labels.y >= 0
                if given.any():
                    yield labels.take(given)

    def _with_labels(self, events: Iterator[Batch], cursor: Cursor) -> Iterator[Batch]:
        labels = self._labels(cursor)
        waiting = next(labels, None)
        now = newest = -math.inf
        for batch in events:
            clock = np.maximum.accumulate(np.maximum(batch.time, now))
            now = float(clock[-1]) if len(clock) else now
            due: list[tuple[Batch, Ints]] = []
            while waiting is not None:
                # A label never overtakes one that stands before it in its file.
                times = np.maximum.accumulate(np.maximum(waiting.time, newest))
                count = int(np.searchsorted(times, now, "right"))
                due.append((waiting[:count], np.searchsorted(clock, times[:count]).astype("i8")))
                if count < len(waiting):
                    waiting = waiting[count:]
                    break
                newest = float(times[-1])
                waiting = next(labels, None)
            yield _carry(batch, due)
        while waiting is not None:
            yield _carry(self._no_events(), [(waiting, np.zeros(len(waiting), np.int64))])
            waiting = next(labels, None)

    def _no_events(self) -> Batch:
        none = np.empty(0, np.int64)
        table = self.files[0].types.empty_table()
        return self._decode(table, none.astype(np.int32), none, none.astype(np.float64))


@dataclass(frozen=True, slots=True)
class _Block:
    """m rows of a file, their offsets (m,), and the malformed rows among them as (offset, reason,
    row of the table that it comes before)."""

    table: pa.RecordBatch
    offset: Ints
    aside: Sequence[tuple[int, str, int]] = ()


class _File(ABC):
    """One file. ``types`` are its columns; ``rows`` its length, None as long as it is unknown."""

    path: Path
    types: pa.Schema
    rows: int | None

    @abstractmethod
    def read(self, start: int, size: int, columns: Sequence[str]) -> Generator[_Block]:
        """Blocks of at most ``size`` rows of the columns, from row ``start`` on. ``rows`` is set
        once the last has been read."""

    def empty(self) -> bool:
        with closing(self.read(0, 1, self.types.names)) as blocks:
            return next(blocks, None) is None

    def earliest(self, column: str, time: float) -> int:
        """A row before which no time in the column is ``time`` or later."""
        return 0


class _Parquet(_File):
    def __init__(self, path: Path) -> None:
        self.path = path
        with _reading(path):
            file = pq.ParquetFile(path)
        self._meta = file.metadata
        self.types = file.schema_arrow
        self.rows: int = self._meta.num_rows
        groups = range(self._meta.num_row_groups)
        self._ends = list(accumulate(self._meta.row_group(g).num_rows for g in groups))
        file.close()

    def read(self, start: int, size: int, columns: Sequence[str]) -> Generator[_Block]:
        first = bisect_right(self._ends, start)
        at = self._ends[first - 1] if first else 0
        with _reading(self.path), pq.ParquetFile(self.path, metadata=self._meta) as file:
            while first < len(self._ends):
                # iter_batches keeps every row group that it is given until it ends, so it is given
                # no more of them at a time than make up a block.
                last = min(bisect_left(self._ends, at + size), len(self._ends) - 1)
                groups = range(first, last + 1)
                for batch in file.iter_batches(size, groups, columns, use_threads=False):
                    end = at + batch.num_rows
                    if end > start:
                        skip = max(0, start - at)
                        yield _Block(batch.slice(skip), np.arange(at + skip, end))
                    at = end
                first = last + 1

    def earliest(self, column: str, time: float) -> int:
        kind = self.types.field(column).type
        if not (pt.is_timestamp(kind) or pt.is_integer(kind) or pt.is_float64(kind)):
            return 0
        leaves = [self._meta.schema.column(i).path for i in range(self._meta.num_columns)]
        index = leaves.index(column)
        row = 0
        for group, end in enumerate(self._ends):
            stats = self._meta.row_group(group).column(index).statistics
            if stats is None or not stats.has_min_max:
                break
            latest = seconds(pa.array([stats.max], kind))[0]
            if not latest + 1e-3 < time:  # a timestamp read from statistics may be rounded
                break
            row = end
        return row


class _Csv(_File):
    """Every column is read as bytes, so that one bad cell is one dead row and not a failed read.

    Arrow cannot report a malformed row that is not UTF-8. A file is therefore read as UTF-8 as far
    as it is, and as Latin-1, which any bytes are, from there on; cells are the same bytes either
    way.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: int | None = None
        with _reading(path):
            try:
                with self._reader("utf8", lambda row: "skip") as reader:
                    names = reader.schema.names
            except UnicodeDecodeError:
                with self._reader("latin1", lambda row: "skip") as reader:
                    names = [name.encode("latin1").decode() for name in reader.schema.names]
        self.types = pa.schema([(name, pa.binary()) for name in names])

    def read(self, start: int, size: int, columns: Sequence[str]) -> Generator[_Block]:
        if self.rows is not None and start >= self.rows:
            return
        with _reading(self.path):
            try:
                for end, block in self._parse("utf8", columns):
                    yield from _cut(block, start, size)
                    start = max(start, end)
            except UnicodeDecodeError:
                for _, block in self._parse("latin1", columns):
                    yield from _cut(block, start, size)

    def _parse(self, encoding: str, columns: Sequence[str]) -> Iterator[tuple[int, _Block]]:
        """Blocks as they are parsed, each with the offset at its end."""
        bad: list[tuple[int, str]] = []

        def on_bad(row: Any) -> str:
            text = row.text.encode(encoding).decode(errors="backslashreplace")
            why = f"the row has {row.actual_columns} fields; expected {row.expected_columns}: "
            bad.append((row.number - 2, why + _short(text)))  # counted from 1, header included
            return "skip"

        at = 0
        with self._reader(encoding, on_bad, columns) as reader:
            for table in reader:
                # Parsing runs ahead: the list may hold rows beyond this table, never less.
                before = np.array([row - at - i for i, (row, _) in enumerate(bad)], np.int64)
                count = int(np.searchsorted(before, table.num_rows))
                index = np.arange(table.num_rows)
                offset = at + index + np.searchsorted(before[:count], index, "right")
                aside = [(*bad[i], int(before[i])) for i in range(count)]
                at += table.num_rows + count
                del bad[:count]
                if encoding == "latin1":
                    cells = [_as_written(column) for column in table.columns]
                    table = pa.RecordBatch.from_arrays(cells, table.schema.names)
                yield at, _Block(table, offset, aside)
        self.rows = at + len(bad)
        if bad:
            none = self.types.empty_table().select(list(columns))
            yield self.rows, _Block(none, np.empty(0, np.int64), [(*row, 0) for row in bad])

    def _reader(
        self, encoding: str, on_bad: Callable[[Any], str], columns: Sequence[str] | None = None
    ) -> Any:
        names: dict[str, Any] = {}
        cells: dict[str, Any] = {}
        if columns is not None:
            names = {"column_names": self.types.names, "skip_rows_after_names": 1}
            cells = {
                "column_types": dict.fromkeys(columns, pa.binary()),
                "include_columns": list(columns),
                "strings_can_be_null": True,
                "quoted_strings_can_be_null": False,
                "null_values": [""],
            }
        source = pa.input_stream(str(self.path), compression="detect")
        return pyarrow.csv.open_csv(
            pa.TransformInputStream(source, _checked(encoding)),
            pyarrow.csv.ReadOptions(
                use_threads=False,  # only so is a malformed row told with its number
                block_size=CSV_BLOCK_BYTES,
                encoding=encoding,
                **names,
            ),
            pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=on_bad),
            pyarrow.csv.ConvertOptions(check_utf8=False, **cells),
        )


def _checked(encoding: str) -> Callable[[Any], bytes]:
    """Passes text on without its byte order mark; raises where it is not in the encoding."""
    decoder = codecs.getincrementaldecoder(encoding)()
    first = True

    def check(chunk: Any) -> bytes:
        nonlocal first
        data = bytes(chunk)
        decoder.decode(data, final=not data)
        data, first = data.removeprefix(codecs.BOM_UTF8) if first else data, False
        return data

    return check


def _as_written(cells: pa.Array) -> pa.Array:
    """The bytes of cells that were read as Latin-1, which Arrow turns into UTF-8."""
    if pc.all(pc.string_is_ascii(cells.cast(pa.string()))).as_py() is not False:
        return cells
    found = [None if cell is None else cell.decode().encode("latin1") for cell in cells.to_pylist()]
    return pa.array(found, pa.binary())


def _cut(block: _Block, start: int, size: int) -> Iterator[_Block]:
    """The block from offset ``start`` on, in blocks of at most ``size`` rows."""
    first = int(np.searchsorted(block.offset, start))
    aside = [a for a in block.aside if a[0] >= start]
    if aside and not len(block.offset):
        yield _Block(block.table, block.offset, aside)
    for lo in range(first, len(block.offset), size):
        rows = slice(lo, lo + size)
        beside = [(row, why, b - lo) for row, why, b in aside if lo <= b < lo + size]
        yield _Block(block.table.slice(lo, size), block.offset[rows], beside)


class _Head:
    """What the first rows of a file tell about its columns."""

    def __init__(self, file: _File) -> None:
        self.file = file
        self._types = file.types

    def check(self, role: str, column: str) -> str:
        """The column, if it is there.

        Raises:
            StreamError: it is not; names the nearest, and all that there are.
        """
        names = self._types.names
        if column not in names:
            near = difflib.get_close_matches(column, names, 1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise StreamError(
                f"{self.file.path}: no column {column!r} (stream.{role}){hint} "
                f"The columns are: {', '.join(names)}"
            )
        return column

    def values(self, column: str) -> pa.Array:
        """The values in the first rows that are not null, as they stand in the file."""
        head = self._rows.column(column)
        return (plain(head) if self._csv else head).drop_null()

    @property
    def _csv(self) -> bool:
        return isinstance(self.file, _Csv)

    @cached_property
    def _rows(self) -> pa.RecordBatch:
        with closing(self.file.read(0, HEAD_ROWS, self._types.names)) as blocks:
            return next(blocks).table

    def names(self, role: str, column: str) -> Named:
        """How a column of ids or keys is read: as integers where all are."""
        self.check(role, column)
        kind = self._types.field(column).type
        number = _numeric(kind)
        if self._csv:
            values = self.values(column)
            number = len(values) > 0 and bool(whole(values).all())
        return Named(column, "int" if number else "str")

    def task(self, role: str, column: str, label: LabelConfig) -> tuple[Task, Named]:
        """The task, and how the classes are read, unless stated: integers where the head has no
        other numbers, real numbers (of a regression) where it has, else text. In CSV 01 is text."""
        self.check(role, column)
        values = plain(self.values(column))
        kind = values.type
        task: Task = "classification"
        scalar: Scalar = "str"
        if pt.is_boolean(kind):
            scalar = "bool"
        elif pt.is_integer(kind):
            scalar = "int"
        elif pt.is_string(kind) and self._csv:
            readable = ~np.isnan(numbers(values))
            padded = pc.any(pc.match_substring_regex(values, "^-?0[0-9]")).as_py()
            if len(values) and readable.mean() >= NUMERIC_SHARE and not padded:
                found = numbers(values)[readable]
                scalar = "int" if whole(values)[readable].all() else "float"
                task = "classification" if (found == np.trunc(found)).all() else "regression"
        elif pt.is_floating(kind) or pt.is_decimal(kind):
            found = numbers(values)
            integral = len(found) > 0 and bool((found == np.trunc(found)).all())
            scalar = "int" if integral else "float"
            task = "classification" if integral else "regression"
        elif not pt.is_string(kind) and not pt.is_null(kind):
            raise StreamError(
                f"{self.file.path}: column {column!r} (stream.{role}) is of type {kind}, "
                "which is neither a class nor a number"
            )
        if label.classes:
            return "classification", Named(column, _type_of(label.classes))
        return label.task or task, Named(column, scalar)

    def features(self, stated: Any, taken: set[str | None]) -> tuple[Feature, ...]:
        """The features as a job states them, or all columns that are not taken."""
        if stated is None:
            names = [
                name
                for name in self._types.names
                if name not in taken and not name.startswith("__index_level_")  # left by pandas
            ]
            found = [self._infer(name) for name in names]
        elif isinstance(stated, list):
            found = [self._infer(name) for name in stated]
        else:
            found = []
            for kind, columns in stated.items():
                for name in columns:
                    self.check(f"features.{kind}", name)
                    shape = columns[name] if isinstance(columns, dict) else None
                    found.append(self._stated(name, kind, shape))
        if not found:
            raise StreamError(f"{self.file.path}: no column is left to be a feature")
        names = [feature.name for feature in found]
        for name in names:
            if names.count(name) > 1:
                raise StreamError(f"stream.features: {name!r} is named twice")
        return tuple(found)

    def _stated(self, name: str, kind: FeatureKind, shape: tuple[int, ...] | None) -> Feature:
        if kind not in ("vector", "image") or shape is not None:
            return Feature(name, kind, shape or ())
        feature = self._infer(name)
        if feature.kind != kind:
            raise StreamError(
                f"{self.file.path}: column {name!r} is no {kind}: it looks {feature.kind}"
            )
        return feature

    def _infer(self, name: str) -> Feature:
        self.check("features", name)
        values = self.values(name)
        kind = values.type.value_type if pt.is_dictionary(values.type) else values.type
        if not len(values):
            raise StreamError(
                f"{self.file.path}: column {name!r} is empty in the first {HEAD_ROWS} rows; "
                "state its kind under features, or list features without it"
            )
        if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
            if _numeric(kind.value_type) and len(values[0]):
                return Feature(name, "vector", (len(values[0]),))
        elif _numeric(kind) or pt.is_boolean(kind) or pt.is_timestamp(kind) or pt.is_date(kind):
            return Feature(name, "numeric")
        elif pt.is_struct(kind) or pt.is_binary(kind) or pt.is_large_binary(kind):
            for data in image_bytes(values):
                shape = image_shape(data.as_py() or b"")
                if shape is not None:
                    return Feature(name, "image", shape)
        elif pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind):
            return Feature(name, self._wording(values))
        raise StreamError(
            f"{self.file.path}: column {name!r} of type {values.type} cannot be a feature; "
            "list features without it"
        )

    def _wording(self, values: pa.Array) -> FeatureKind:
        if pt.is_dictionary(values.type):
            return "categorical"
        texts = plain(values)
        if (~np.isnan(numbers(texts))).mean() >= NUMERIC_SHARE:
            return "numeric"
        distinct = len(texts.unique())
        return "categorical" if distinct <= min(MAX_CATEGORIES, len(texts) / 2) else "text"


def _open(stated: str | list[str], folder: Path, role: str = "path") -> list[_File]:
    """The files that a path or a list of paths names: each there, with rows, of equal columns."""
    patterns = [stated] if isinstance(stated, str) else stated
    if not patterns:
        raise StreamError(f"stream.{role}: the list of files is empty")
    files: list[_File] = []
    for path in (path for pattern in patterns for path in _find(pattern, folder, role)):
        if not path.stat().st_size:
            raise StreamError(f"{path} is empty (0 bytes)")
        file: _File = _Parquet(path) if path.name.endswith(".parquet") else _Csv(path)
        names = file.types.names
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise StreamError(f"{path}: more than one column is named {twice!r}")
        if file.empty():
            raise StreamError(f"{path} has no rows")
        if files and (odd := set(files[0].types.names) ^ set(names)):
            raise StreamError(
                f"{path}: its columns differ from those of {files[0].path}: "
                + ", ".join(map(repr, sorted(odd)))
            )
        files.append(file)
    return files


def _find(pattern: str, folder: Path, role: str) -> list[Path]:
    """The files of one path, folder or glob pattern, from the first base where there are any."""
    stated = Path(pattern).expanduser()
    bases = [Path()] if stated.is_absolute() else [folder, Path.cwd(), PACKAGE_ROOT]
    for base in bases:
        path = base / stated
        if path.is_file():
            found = [path]
        elif path.is_dir():
            found = sorted(p for p in path.iterdir() if p.name.endswith(SUFFIXES))
            if not found:
                raise StreamError(f"stream.{role}: no {', '.join(SUFFIXES)} in the folder {path}")
        else:
            start = Path(path.anchor)
            found = sorted(p for p in start.glob(str(path.relative_to(start))) if p.is_file())
        if found:
            break
    else:
        looked = dict.fromkeys(str((base / stated).parent.absolute()) for base in bases)
        raise StreamError(f"stream.{role}: no file {pattern!r}; looked in {', '.join(looked)}")
    for path in found:
        if not path.name.endswith(SUFFIXES):
            raise StreamError(f"{path}: not one of the known kinds of file: {', '.join(SUFFIXES)}")
    return found


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what goes wrong with a file into one line that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        if "straddling" in line:
            line = f"a row is longer than {CSV_BLOCK_BYTES >> 20} MiB, or a quote is never closed"
        raise StreamError(f"{path} cannot be read: {_short(line, 200)}") from None


def _seek(files: Sequence[_File], column: str, time: float, prefix: str) -> Cursor:
    cursor: Cursor = {}
    for partition, file in enumerate(files):
        key = f"{prefix}{partition}"
        with closing(file.read(file.earliest(column, time), 1 << 16, [column])) as blocks:
            for block in blocks:
                times = seconds(plain(block.table.column(column)))
                found = np.flatnonzero((times >= time) & np.isfinite(times))
                if len(found):
                    cursor[key] = int(block.offset[found[0]])
                    return cursor
        assert file.rows is not None
        cursor[key] = file.rows
    return cursor


def _carry(batch: Batch, due: Sequence[tuple[Batch, Ints]]) -> Batch:
    """The batch with labels, each to come just before the row that stands with it."""
    parts = [(labels, before) for labels, before in due if len(labels)]
    if not parts:
        return batch
    y: Array = np.concatenate([labels.y for labels, _ in parts if labels.y is not None])
    classes = batch.classes
    if not classes and parts[0][0].classes:
        y, classes = first_seen([(b.y, b.classes) for b, _ in parts if b.y is not None])
    arrivals = Labels(
        np.concatenate([labels.ids for labels, _ in parts]),
        y,
        np.concatenate([labels.time for labels, _ in parts]),
        np.concatenate([labels.partition for labels, _ in parts]),
        np.concatenate([labels.offset for labels, _ in parts]),
        np.concatenate([before for _, before in parts]),
    )
    return replace(batch, arrivals=arrivals, classes=classes)


def _malformed(partition: int, offset: int, why: str, before: int) -> Dead:
    return Dead(partition, offset, why, (partition << POSITION_BITS) + offset, before)


def _dtype(files: Sequence[_File], features: Sequence[Feature]) -> type[np.floating[Any]]:
    """float32 where every number of every file is, else float64."""
    for feature in features:
        for file in files:
            kind = file.types.field(feature.name).type
            kind = getattr(kind, "value_type", kind) if feature.kind == "vector" else kind
            if feature.kind in ("numeric", "vector") and not pt.is_float32(kind):
                return np.float64
    return np.float32


def _numeric(kind: pa.DataType) -> bool:
    return bool(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind))


def _type_of(classes: Sequence[ClassName]) -> Scalar:
    kinds = {type(name) for name in classes}
    if kinds == {bool}:
        return "bool"
    if kinds == {str}:
        return "str"
    return "int" if kinds == {int} else "float"


def _short(text: str, most: int = 80) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
