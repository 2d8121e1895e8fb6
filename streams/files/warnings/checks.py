"""What looks wrong in the first rows of a stream of files: a line for each, with its remedy.

A warning stops nothing. A check is a function from the sample to lines; ``CHECKS`` lists all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from streams.decoding.class_names import lookalikes, warning_of
from streams.decoding.columns import as_text, plain, seconds, typed
from streams.decoding.time_reader import TimeReader
from streams.decoding.wrong_times import far_ahead
from streams.files.formats.base import File
from streams.files.sample import StreamSample
from streams.files.warnings import columns, leaks

MANY_CLASSES = 100
"""More different labels than this in the sample look like numbers, or like text."""

FILES_CHECKED = 100
"""Files whose first and last times are compared with those of the file before."""

Check = Callable[[StreamSample], Iterator[str]]


def warnings_of(sample: StreamSample) -> Iterator[str]:
    """Yield the warnings of all checks."""
    for check in CHECKS:
        yield from check(sample)


def _times_in_order(sample: StreamSample) -> Iterator[str]:
    """Warn of rows whose time is before that of an earlier row."""
    if sample.times is None:
        return
    times = sample.read_times(sample.times)
    known = np.flatnonzero(np.isfinite(times) & ~far_ahead(times, 0.0))
    steps = np.diff(times[known])
    back = np.flatnonzero(steps < 0)
    if sample.read_times.zone is not None:  # the order resolves an hour that comes twice
        back = back[sample.read_times.zone.fold(times[known[back + 1]]) == 0]
    if len(back):
        row, worst = int(known[back[0] + 1]), -float(steps.min())
        yield (
            f"{sample.path}: row {row} is before the row above it in the time "
            f"{sample.columns.time!r}, and so are {len(back) - 1:,} others of the first "
            f"{len(times):,} rows, by up to {worst:g} s: events are read in the order of the file; "
            "sort it by that column, or set stream.lateness"
        )


def _labels_in_order(sample: StreamSample) -> Iterator[str]:
    """Warn of rows of the label files whose time is before that of an earlier row."""
    name = sample.label_columns.time
    if sample.label_rows is None or name is None:
        return
    times = sample.read_times(plain(sample.label_rows.column(name)))
    known = np.flatnonzero(np.isfinite(times))
    back = known[times[known] < np.maximum.accumulate(times[known])]
    if len(back):
        yield (
            f"{sample.label_files[0].path}: row {back[0]} is before an earlier row in the time "
            f"{name!r}, and so are {len(back) - 1:,} others of the first {len(times):,} rows: a "
            "label is known no sooner than those above it; sort the file by that column"
        )


def _parts_in_order(sample: StreamSample) -> Iterator[str]:
    """Warn of a file that begins before the end, or the beginning, of the file before it."""
    name = sample.columns.time
    if name is None:
        return
    yield from _in_order(sample.files, name, sample.read_times)


def _in_order(files: Sequence[File], name: str, times: TimeReader) -> Iterator[str]:
    before: tuple[File, float] | None = None
    late = []
    for file in files[:FILES_CHECKED]:
        first = _first_time(file, name, times)
        if before is not None and first < before[1]:
            late.append((before[0], file, before[1] - first))
        last = file.latest(name, times) if len(files) > 1 else first
        before = (file, np.fmax(first, last))
    if late:
        earlier, file, by = late[0]
        yield (
            f"{file.path} begins {by:g} s before the end of {earlier.path.name}, which is read "
            f"before it, and so do {len(late) - 1:,} other files: list the files in the order of "
            "their time under stream.path, or set stream.lateness"
        )


def _first_time(file: File, name: str, times: TimeReader) -> float:
    """Return the time of the first row of a file; NaN where it has none."""
    blocks = file.read(0, 1, [name])
    try:
        for block in blocks:
            return float(times(plain(block.table.column(name)))[0])
    finally:
        blocks.close()
    return math.nan


def _spellings(sample: StreamSample) -> Iterator[str]:
    """Warn of classes that differ only in spelling."""
    names = _class_names(sample)
    if names is not None and not sample.schema.classes:
        yield from map(warning_of, lookalikes(names))


def _class_names(sample: StreamSample) -> list[str | int | float | bool] | None:
    """Return the classes in the sample; None: the label is no class."""
    roles = sample.columns if sample.columns.label is not None else sample.label_columns
    if sample.label is None or roles.label is None or sample.schema.task == "regression":
        return None
    names: list[str | int | float | bool] = (
        typed(sample.label[1], roles.label.type).drop_null().unique().to_pylist()
    )
    return names


def _many_classes(sample: StreamSample) -> Iterator[str]:
    """Warn of a label with so different values that it looks like a number, or like text."""
    if sample.label is None or sample.label_stated or sample.schema.task == "regression":
        return
    name, labels = sample.label
    labels = labels.drop_null()
    distinct = len(_distinct(labels))
    if distinct > MANY_CLASSES:
        text = pt.is_string(labels.type) and not len(np.flatnonzero(np.isfinite(seconds(labels))))
        what = "text, not like classes" if text else "numbers, not like classes"
        remedy = (
            "name another column as the label"
            if text
            else f"state label: {{column: {name}, task: regression}} if it is a number"
        )
        yield (
            f"the label {name!r} has {distinct:,} different values in {len(labels):,} rows, and "
            f"each is taken for a class: it looks like {what}; {remedy}"
        )


def _distinct(values: pa.Array) -> pa.Array:
    return as_text(values).unique()


CHECKS: tuple[Check, ...] = (
    _times_in_order,
    _parts_in_order,
    _labels_in_order,
    _spellings,
    _many_classes,
    columns.empty_columns,
    columns.dead_rows,
    columns.numbers_in_text,
    columns.image_paths,
    columns.ids_as_features,
    columns.unstated_time,
    leaks.leaks,
)
