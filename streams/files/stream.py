"""Streams of Parquet and CSV files, read in order, block by block, from any position.

Partition p of the stream is its p-th file and an offset is a row of it, malformed rows included.
Going on from a cursor reads past the rows before it in CSV files, those that are done with as well.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from streams.core.batch import Array, Batch, Ints, Labels
from streams.core.description import StreamDescription
from streams.core.errors import StreamError
from streams.core.schema import Schema, Task, with_missing, with_zone
from streams.core.stream import Cursor, DataIdentity, JsonLayout, Stream
from streams.decoding.columns import first_seen
from streams.decoding.decoder import Columns, Decoder, NamedColumn
from streams.files.config import LabelConfig, LabelsConfig, RecordedConfig
from streams.files.description import describe_files
from streams.files.files_read import FilesRead
from streams.files.formats.base import File
from streams.files.formats.csv_file import Csv
from streams.files.readers import open_files, seek, was_reordered
from streams.files.row_batches import decoded, read_between
from streams.files.sample import NO_COLUMNS, StreamSample
from streams.files.schema_inference import SampledRows, dtype_of
from streams.files.time_order import TimeOrder, history
from streams.files.warnings import LabelOrder

log = logging.getLogger(__name__)

LABEL_BLOCK_ROWS = 8_192


class FileStream(Stream):
    """Events from Parquet and CSV files.

    Attributes:
        files: the files in order. File p is partition p.
    """

    kind = "recorded"
    Config = RecordedConfig
    has_identity = True

    def __init__(self, config: RecordedConfig, folder: Path) -> None:
        self.config = config
        self._folder = folder
        self.files = open_files(config.path, folder)
        self._label_files: list[File] = []
        self._times = config.times()
        label = config.label if isinstance(config.label, LabelConfig) else LabelConfig()
        label = LabelConfig(column=config.label) if isinstance(config.label, str) else label
        sample = SampledRows(self.files[0])
        due = config.label_delay.column
        columns = Columns(
            id=sample.names("id", config.id) if config.id else None,
            time=sample.times("time", config.time, self._times) if config.time else None,
            key=sample.names("key", config.key) if config.key else None,
            segment=sample.names("segment", config.segment) if config.segment else None,
            due=sample.times("label_delay.column", due, self._times) if due else None,
        )
        if label_files := config.labels:
            self._label_files = open_files(label_files.path, folder, "labels.path")
            task, labels = self._label_columns(label_files, label, columns)
            self._decode_labels = Decoder(
                Schema((), task, label.classes), labels, times=self._times
            )
        else:
            task, named = sample.task("label", label.column or "", label.task, label.classes)
            columns = replace(columns, label=named)
        label_columns = {label.column, label_files.label if label_files else None} - {None}
        features = sample.features(
            config.features,
            {config.id, config.time, config.key, config.segment, due, *label_columns},
        )
        if leak := label_columns.intersection(feature.name for feature in features):
            raise StreamError(f"stream.features: {leak.pop()!r} is the label; take it out")
        for feature in features:
            if feature.kind == "time":
                sample.times("features.time", feature.name, self._times.for_features())
        features = with_zone(with_missing(features, config.missing), config.time_zone)
        self.schema = Schema(features, task, label.classes)
        self.class_count_hint = self._classes_in_sample(sample, label)
        self.has_ids = config.id is not None
        self.has_time = config.time is not None
        self.has_arrivals = config.labels is not None
        self.has_segments = config.segment is not None
        self.id_type = columns.id.type if columns.id else "int"
        self.dtype = np.dtype(dtype_of(self.files, features)).name
        self._decode = Decoder(self.schema, columns, self.dtype, self._times)
        roles = {"": FilesRead(self.files, self._decode.reads)}
        if self._label_files:
            roles["labels/"] = FilesRead(self._label_files, self._decode_labels.reads)
        self._files_read = roles

    def identity(self, cursor: Cursor) -> DataIdentity:
        return {
            prefix: read.identity(_of_role(cursor, prefix), self._start_of(prefix))
            for prefix, read in self._files_read.items()
        }

    def verify_identity(self, identities: Sequence[DataIdentity], cursor: Cursor) -> None:
        if not identities and len(cursor) > 1 and was_reordered(self.config.path, self._folder):
            names = ", ".join(self.sources()[:3])
            raise StreamError(
                "stream.path: this run was begun when files were read in the order of their text, "
                f"and not by number ({names}, ...): start another run (another --run-dir; "
                "--warm-from CHECKPOINT takes over what was learned)"
            )
        for prefix, read in self._files_read.items():
            known = [identity.get(prefix, {}) for identity in identities]
            read.verify(known, _of_role(cursor, prefix))

    def _start_of(self, prefix: str) -> dict[int, int]:
        return _of_role(self._start, prefix)

    def sources(self) -> list[str]:
        return [file.path.name for file in self.files]

    def json_layout(self) -> JsonLayout:
        """Return the layout: CSV is text; in Parquet, cells have the types of their columns."""
        text = all(isinstance(file, Csv) for file in self.files)
        own = self.config.id
        if any(feature.name == own for feature in self.schema.features):
            own = None
        cells: Literal["text", "typed"] = "text" if text else "typed"
        layout: JsonLayout = {"cells": cells, "nested": False, "pixels": True, "id": own}
        if (time := self.config.time) is not None:
            layout["columns"] = {"time": time}
            features = {feature.name for feature in self.schema.features}
            layout["fields"] = [] if time in features else [[time, "time", True]]
        if (time is not None or self.schema.has_times) and not self._times.plain:
            layout["times"] = {**self._times.settings}
        return layout

    def describe(self) -> StreamDescription:
        config, label_files = self.config, self._label_files
        block = SampledRows(self.files[0]).block
        return describe_files(
            StreamSample(
                files=self.files,
                rows=block.table,
                dead=decoded(block, self._decode, 0).dead,
                schema=self.schema,
                columns=self._decode.columns,
                config_features=config.features,
                label_stated=isinstance(config.label, LabelConfig)
                and bool(config.label.task or config.label.classes),
                label_files=label_files,
                label_rows=SampledRows(label_files[0]).rows if label_files else None,
                label_columns=self._decode_labels.columns if label_files else NO_COLUMNS,
                read_times=self._times,
            )
        )

    def _classes_in_sample(self, sample: SampledRows, label: LabelConfig) -> int:
        """Return how many classes the sample has; 0 of a regression."""
        if self.schema.task == "regression":
            return 0
        if self.config.labels is not None:
            return SampledRows(self._label_files[0]).classes(self.config.labels.label)
        return sample.classes(label.column or "")

    def _label_columns(
        self, config: LabelsConfig, label: LabelConfig, events: Columns
    ) -> tuple[Task, Columns]:
        """Return the task, and the columns of the label files."""
        sample = SampledRows(self._label_files[0])
        assert events.id
        sample.check("labels.id", config.id)
        task, named = sample.task("labels.label", config.label, label.task, label.classes)
        ids = NamedColumn(config.id, events.id.type)
        time = sample.times("labels.time", config.time, self._times)
        return task, Columns(id=ids, time=time, label=named)

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        cursor = self._from_start(cursor)
        for prefix, read in self._files_read.items():
            read.begin(_of_role(cursor, prefix), self._start_of(prefix))
        events = self._in_order(cursor, block_size)
        return self._with_labels(events, cursor) if self._label_files else events

    def seek(self, time: float) -> Cursor:
        """Return the cursor of the first event at or after ``time``. Only the time column is read,
        without the row groups whose statistics lie before ``time``."""
        if self.config.time is None:
            raise StreamError("stream.time: seeking by time needs the column that holds the time")
        how = (self._times, self.config.lateness)
        cursor = seek(self.files, self.config.time, time, "", *how)
        if self.config.labels:
            name = self.config.labels.time
            cursor |= seek(self._label_files, name, time, "labels/", *how)
        return cursor

    def place_name(self, partition: int, label: bool) -> str:
        files = self._label_files if label else self.files
        return files[partition].path.name

    def __len__(self) -> int:
        """The number of rows, bad ones included. Raises ``TypeError`` for CSV files, whose length
        is not known before they are read."""
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

    def _in_order(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        """Yield the events from a cursor on, those with a wrong time set apart."""
        events = self._events(cursor, block_size)
        if not self.has_time:
            return events
        order = self._time_order(self.files, correct=False)
        return order(chain(self._before(self.files, self._decode, cursor), events), cursor)

    def _labels_in_order(self, cursor: Cursor) -> Iterator[Batch]:
        """Yield the labels from a cursor on, wrong times corrected by those around them."""
        files, decode, counted = self._label_files, self._decode_labels, LabelOrder()
        cursor = {str(p): row for p, row in _of_role(cursor, "labels/").items()}
        before = map(_with_label, self._before(files, decode, cursor))
        order = self._time_order(files, correct=True)
        for labels in order(chain(before, self._labels(cursor)), cursor):
            counted.add(files[labels.partition[0]].path, labels)
            yield labels
        counted.report()

    def _time_order(self, files: Sequence[File], correct: bool) -> TimeOrder:
        def say(partition: int, offset: int, what: str) -> None:
            log.warning("%s: row %d: %s", files[partition].path, offset, what)

        return TimeOrder(self.config.lateness, self._times.zone, correct, say)

    def _before(self, files: Sequence[File], decode: Decoder, cursor: Cursor) -> Iterator[Batch]:
        """Yield rows before a cursor, as many as the verdict on the times after it depends on."""

        def is_open(begin: Cursor) -> bool:
            zone = self._times.zone
            first = None if zone is None else next(read_between(files, decode, begin, cursor), None)
            return zone is not None and first is not None and bool(zone.fold(first.time).any())

        return read_between(files, decode, history(cursor, is_open), cursor)

    def _events(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        before = 0
        for partition, file in enumerate(self.files):
            start = cursor.get(str(partition), 0)
            trail = self._files_read[""].trail(partition)
            for block in file.read(start, block_size, self._decode.reads, trail):
                yield decoded(block, self._decode, partition, before)
            if file.rows is not None and start > file.rows:
                raise StreamError(
                    f"{file.path} has {file.rows} rows, but reading was to resume at row {start}: "
                    "it is not the file that this run began with"
                )
            before += file.rows or 0

    def _labels(self, cursor: Cursor) -> Iterator[Batch]:
        """Yield the readable rows of the label files."""
        for partition, file in enumerate(self._label_files):
            start = cursor.get(str(partition), 0)
            trail = self._files_read["labels/"].trail(partition)
            for block in file.read(start, LABEL_BLOCK_ROWS, self._decode_labels.reads, trail):
                labels = decoded(block, self._decode_labels, partition)
                for bad in labels.dead:
                    log.warning("%s: row %d ignored: %s", file.path, bad.offset, bad.reason)
                if len(labels := _with_label(labels)):
                    yield labels

    def _with_labels(self, events: Iterator[Batch], cursor: Cursor) -> Iterator[Batch]:
        """Yield the events with the labels that become known among them."""
        labels = self._labels_in_order(cursor)
        waiting = next(labels, None)
        now = newest = -math.inf
        for batch in events:
            clock = np.maximum.accumulate(np.maximum(batch.time, now))
            now = float(clock[-1]) if len(clock) else now
            due: list[tuple[Batch, Ints]] = []
            while waiting is not None:
                # A label never becomes known before an earlier one of its file.
                times = np.maximum.accumulate(np.maximum(waiting.time, newest))
                count = int(np.searchsorted(times, now, "right"))
                due.append((waiting[:count], np.searchsorted(clock, times[:count]).astype("i8")))
                if count < len(waiting):
                    waiting = waiting[count:]
                    break
                newest = float(times[-1])
                waiting = next(labels, None)
            yield _attach_labels(batch, due)
        while waiting is not None:
            yield _attach_labels(self._no_events(), [(waiting, np.zeros(len(waiting), np.int64))])
            waiting = next(labels, None)

    def _no_events(self) -> Batch:
        none = np.empty(0, np.int64)
        table = self.files[0].types.empty_table()
        return self._decode(table, none.astype(np.int32), none, none.astype(np.float64))


def _of_role(cursor: Cursor, prefix: str) -> dict[int, int]:
    """Return the positions in the files of events (prefix ``""``) or of labels (``labels/``)."""
    return {
        int(name.removeprefix("labels/")): row
        for name, row in cursor.items()
        if name.startswith("labels/") is bool(prefix)
    }


def describe_data(path: Path) -> StreamDescription:
    """Return the description of files alone: every column is taken for a feature.

    Raises ``StreamError``.
    """
    files = open_files(str(path.absolute()), Path())
    sample = SampledRows(files[0])
    schema = Schema(sample.features(None, set()), "classification")
    return describe_files(StreamSample(files, sample.rows, schema, NO_COLUMNS))


def _attach_labels(batch: Batch, due: Sequence[tuple[Batch, Ints]]) -> Batch:
    """Return the batch with labels that arrive among its rows.

    Args:
        batch: the events.
        due: labels, and the row that each comes just before.
    """
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


def _with_label(labels: Batch) -> Batch:
    """Return the rows of a label file that have a label."""
    y = labels.y
    assert y is not None
    return labels.take(~np.isnan(y) if y.dtype.kind == "f" else y >= 0)
