"""Streams that stand in files: Parquet and CSV, read in order, block by block, from any position.

Partition p of the stream is its p-th file and an offset is a row of it, malformed rows included.
Going on from a cursor reads past the rows before it in CSV files, those that are done with as well.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import field_validator, model_validator

from streams.core.batch import Array, Batch, ClassName, DeadLetter, Ints, Labels
from streams.core.errors import StreamError
from streams.core.schema import FeatureKind, Schema, Task
from streams.core.settings import Settings
from streams.core.stream import Cursor, Stream
from streams.core.stream_config import LabelDelay, StreamConfig
from streams.decoding.columns import first_seen, stated
from streams.decoding.decoder import POSITION_BITS, Columns, Decoder, NamedColumn
from streams.files.readers import File, open_files, seek
from streams.files.schema_inference import SampledRows, dtype_of

log = logging.getLogger(__name__)

LABEL_BLOCK_ROWS = 8_192


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

    @field_validator("features", mode="before")
    @classmethod
    def _shapes(cls, features: Any) -> Any:
        images = features.get("image") if isinstance(features, dict) else None
        for name, shape in images.items() if isinstance(images, dict) else ():
            sizes = shape if isinstance(shape, list | tuple) else ()
            if len(sizes) != 3 or any(type(size) is not int or size < 1 for size in sizes):
                raise ValueError(
                    f"the shape of image {name!r} is {shape!r}: [channels, height, width] is wanted"
                )
        return features

    @field_validator("start")
    @classmethod
    def _start(cls, start: float | str | datetime | date | None) -> float | None:
        return None if start is None else stated(start)

    @model_validator(mode="after")
    def _consistent(self) -> RecordedConfig:
        if self.label is None and self.labels is None:
            raise ValueError("state the label's column as label, or the file of labels as labels")
        if isinstance(self.label, LabelConfig) and not self.label.column and not self.labels:
            raise ValueError("label needs a column")
        if self.labels and not (self.id and self.time):
            raise ValueError("labels in a file of their own need the columns id and time")
        if self.labels and self.label_delay != LabelDelay(events=0):
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


class FileStream(Stream):
    """Events from Parquet and CSV files.

    Attributes:
        files: the files in order; file p is partition p.
    """

    kind = "recorded"
    Config = RecordedConfig

    def __init__(self, config: RecordedConfig, folder: Path) -> None:
        self.config = config
        self.files = open_files(config.path, folder)
        self._label_files: list[File] = []
        label = config.label if isinstance(config.label, LabelConfig) else LabelConfig()
        label = LabelConfig(column=config.label) if isinstance(config.label, str) else label
        head = SampledRows(self.files[0])
        due = config.label_delay.column
        columns = Columns(
            id=head.names("id", config.id) if config.id else None,
            time=head.check("time", config.time) if config.time else None,
            key=head.names("key", config.key) if config.key else None,
            segment=head.names("segment", config.segment) if config.segment else None,
            due=head.check("label_delay.column", due) if due else None,
        )
        if apart := config.labels:
            self._label_files = open_files(apart.path, folder, "labels.path")
            task, labels = self._labels_apart(apart, label, columns)
            self._decode_labels = Decoder(Schema((), task, label.classes), labels)
        else:
            task, named = head.task("label", label.column or "", label.task, label.classes)
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
        self.id_type = columns.id.type if columns.id else "int"
        self.dtype = np.dtype(dtype_of(self.files, features)).name
        self._decode = Decoder(self.schema, columns, self.dtype)

    def _labels_apart(
        self, apart: LabelsConfig, label: LabelConfig, events: Columns
    ) -> tuple[Task, Columns]:
        head = SampledRows(self._label_files[0])
        assert events.id
        head.check("labels.id", apart.id)
        task, named = head.task("labels.label", apart.label, label.task, label.classes)
        ids = NamedColumn(apart.id, events.id.type)
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
        cursor = seek(self.files, self.config.time, time, "")
        if self.config.labels:
            cursor |= seek(self._label_files, self.config.labels.time, time, "labels/")
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
            if file.rows is not None and start > file.rows:
                raise StreamError(
                    f"{file.path} has {file.rows} rows, and reading was to go on at row {start}: "
                    "it is not the file that this run began with"
                )
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


def _malformed(partition: int, offset: int, why: str, before: int) -> DeadLetter:
    return DeadLetter(partition, offset, why, (partition << POSITION_BITS) + offset, before)
