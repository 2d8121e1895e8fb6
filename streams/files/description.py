"""Describe a stream of files from the first rows of the first file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from streams.core.batch import ClassName
from streams.core.description import (
    EXAMPLE_LENGTH,
    EXAMPLES,
    NOT_USED,
    ColumnDescription,
    StreamDescription,
    use_of,
)
from streams.decoding.columns import (
    is_bytes,
    missing_numbers,
    numbers,
    plain,
    typed,
    utf8,
    valid,
)
from streams.decoding.time_reader import UNITS, TimeReader
from streams.files.formats.base import File
from streams.files.formats.csv_file import Csv
from streams.files.sample import StreamSample
from streams.files.warnings import warnings_of
from streams.times import iso

CLASSES_SHOWN = 100
"""Classes of the sample, if the job states none."""
SOURCES_SHOWN = 10
"""Files that are named."""


def describe_files(sample: StreamSample) -> StreamDescription:
    """Return the description of a stream of files."""
    classes, stated = sample.schema.classes, bool(sample.schema.classes)
    return StreamDescription(
        sources=_sources(sample),
        columns=_columns(sample),
        task=None if sample.label is None else sample.schema.task,
        classes=classes if stated else _classes(sample),
        classes_stated=stated,
        time=_time(sample),
        sampled=sample.rows.num_rows,
        warnings=tuple(warnings_of(sample)),
    )


def _sources(sample: StreamSample) -> tuple[str, ...]:
    return (*_named(sample.files), *(f"{name} (labels)" for name in _named(sample.label_files)))


def _named(files: Any) -> list[str]:
    """Return the paths of files with their rows, in order; only the ends of a long list."""
    lines = [_with_rows(file) for file in files]
    if len(lines) > SOURCES_SHOWN:
        half = SOURCES_SHOWN // 2
        more = f"... {len(lines) - 2 * half:,} more ..."
        lines = [*lines[:half], more, *lines[-half:]]
    return lines


def _with_rows(file: File) -> str:
    return str(file.path) if file.rows is None else f"{file.path}, {file.rows:,} rows"


def _columns(sample: StreamSample) -> tuple[ColumnDescription, ...]:
    uses: dict[str, list[str]] = {}
    for feature in sample.schema.features:
        uses.setdefault(feature.name, []).append(use_of(feature))
    columns = sample.columns
    roles = (("label", columns.label), ("id", columns.id), ("key", columns.key))
    for use, named in (*roles, ("segment", columns.segment)):
        if named is not None:
            uses.setdefault(named.column, []).append(use)
    for use, name in (("time", columns.time), ("label time", columns.due)):
        if name is not None:
            named_so = uses.setdefault(name, [])
            named_so.append("event time" if use in named_so else use)
    csv = isinstance(sample.files[0], Csv)
    described = [
        _column(name, ", ".join(uses.get(name, [NOT_USED])), sample.rows.column(name), csv)
        for name in sample.rows.schema.names
    ]
    features = {feature.name: feature for feature in sample.schema.features}
    described = [
        replace(column, if_missing=sample.schema.missing_policy(features[column.name]))
        if column.name in features
        else column
        for column in described
    ]
    if sample.label_rows is not None:
        label = sample.label_columns.label
        names = [("label", label.column)] if label else []
        names += [("label time", sample.label_columns.time or "")]
        csv = isinstance(sample.label_files[0], Csv)
        described += [
            _column(name, f"{use} (in the label files)", sample.label_rows.column(name), csv)
            for use, name in names
        ]
    return tuple(described)


def _column(name: str, use: str, cells: pa.Array, csv: bool) -> ColumnDescription:
    values = cells.drop_null()
    shown = plain(values) if csv else values
    empty = missing_numbers(plain(cells)) if use in ("numeric", "time") else ~valid(cells)
    missing = float(empty.mean()) if len(cells) else 0.0
    distinct = _distinct(shown)
    return ColumnDescription(
        name=name,
        use=use,
        type="text" if csv else str(cells.type),
        missing=round(missing, 4),
        distinct=None if distinct is None else len(distinct),
        examples=tuple(map(_example, _first(shown if distinct is None else distinct))),
    )


def _distinct(values: pa.Array) -> pa.Array | None:
    """Return the different values in the order of their first appearance; None for those that
    cannot be compared: lists, structs and images."""
    if pt.is_nested(values.type) or is_bytes(values.type):
        return None
    try:
        return plain(values).unique()
    except pa.ArrowNotImplementedError:  # decimals of 32 and 64 bits, among others
        return None


def _first(values: pa.Array) -> list[Any]:
    first = []
    for cell in values[:EXAMPLES]:
        try:
            first.append(cell.as_py())
        except (ValueError, OverflowError):
            first.append("a value out of range")
    return first


def _example(value: Any) -> str:
    """Return a value as one short text."""
    if isinstance(value, bytes):
        text = utf8(value)
        if text is None or not text.isprintable():
            return f"{len(value):,} bytes"
        value = text
    if isinstance(value, list):
        value = f"{len(value)} values"
    if isinstance(value, dict):
        value = "{" + ", ".join(value) + "}"
    text = " ".join(str(value).split())
    return text if len(text) <= EXAMPLE_LENGTH else text[: EXAMPLE_LENGTH - 3] + "..."


def _classes(sample: StreamSample) -> tuple[ClassName, ...]:
    """Return the classes in the sample, in the order of their first appearance."""
    columns = sample.columns if sample.columns.label is not None else sample.label_columns
    if sample.label is None or columns.label is None or sample.schema.task == "regression":
        return ()
    names = typed(sample.label[1], columns.label.type).drop_null().unique()
    return tuple(names[:CLASSES_SHOWN].to_pylist())


def _time(sample: StreamSample) -> str:
    """Return what event time is: column, unit, zone and first value."""
    name, values = sample.columns.time, sample.times
    if name is None or values is None:
        return "none is stated: the position of an event is its time"
    read = sample.read_times(values)
    finite = read[np.isfinite(read)]
    first = (
        f"the first is {iso(float(finite[0]), counters=False)}"
        if len(finite)
        else "none of the sample can be read"
    )
    return f"{name}: {time_unit(values, sample.read_times)}; {first}"


def time_unit(values: pa.Array, read: TimeReader) -> str:
    """Return the unit and the zone of a column of times that ``read`` reads."""
    kind = values.type
    zone = "UTC, as none is stated" if read.zone is None else read.zone.name
    if pt.is_timestamp(kind):
        return f"timestamps ({kind.unit}), zone {kind.tz or zone}"
    if pt.is_date(kind):
        return f"dates, at midnight, zone {zone}"
    texts = values.drop_null()
    if read.format is not None:
        return f"times as {read.format!r}, zone {zone}"
    if not pt.is_string(kind) or not np.isnan(numbers(texts)).all():
        return f"{UNITS[read.unit]} since 1970-01-01T00:00:00Z"
    zoned = pc.match_substring_regex(texts, r"(Z|[+-]\d\d:?\d\d)$")
    if pc.all(zoned).as_py():
        return "ISO 8601, each with its zone"
    return f"ISO 8601, in {'UTC' if read.zone is None else read.zone.name} where no zone is stated"
