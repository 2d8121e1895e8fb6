"""Batches to the table of a recording and back: events, labels and dead letters in stream order.

A row is of one of eight kinds (``_what``): an ``event``; a ``label`` that arrived on its own, or a
``withdrawal`` of one; a ``dead`` event or a ``dead label``, with its bytes; a ``tombstone`` or a
``label tombstone``; an ``end``, where a micro-batch ends, full or not. Columns that do not apply to
a row are null. ``_block``, ``_partition`` and ``_offset`` are its position. ``id`` is that of the
event, and ``time`` its event time, or when a label became known. Each feature has a column.
``label`` is the name of the class, or the target. ``due``, ``key`` and ``segment`` exist if the
stream has them; so do ``_key`` and ``_headers``, those of the messages of dead letters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streams.core.batch import (
    COLUMNS,
    Array,
    Batch,
    ClassName,
    Column,
    DeadLetter,
    Features,
    Labels,
    Ragged,
    Tombstones,
)
from streams.core.errors import StreamError
from streams.core.schema import Feature, Schema

EVENT, LABEL, DEAD, DEAD_LABEL, END, WITHDRAWAL, TOMBSTONE, LABEL_TOMBSTONE = range(8)
WHAT = pa.array(
    [
        *("event", "label", "dead", "dead label", "end"),
        *("withdrawal", "tombstone", "label tombstone"),
    ]
)
_OPTIONAL = tuple(column.name for column in COLUMNS if column.recorded)
_OWN = ("_what", "_block", "_partition", "_offset", "id", "time", "label", *_OPTIONAL)
_OWN_LAST = ("_reason", "_value", "_key", "_headers")
_HEADERS = pa.list_(pa.struct([("name", pa.string()), ("value", pa.large_binary())]))


def columns_of(schema: Schema) -> dict[str, str]:
    """Return the column of each feature: its name, with ``_`` appended if the table has its own
    column of that name."""
    taken = {*_OWN, *_OWN_LAST, *(feature.name for feature in schema.features)}
    columns = {}
    for feature in schema.features:
        name = feature.name
        if name in (*_OWN, *_OWN_LAST):
            while name in taken:
                name += "_"
            taken.add(name)
        columns[feature.name] = name
    return columns


def table_of(first: int, blocks: Sequence[Batch], schema: Schema) -> pa.Table:
    """Return the table of consecutive blocks.

    Args:
        first: the number of the first block.
        blocks: the blocks.
        schema: the schema of their stream.

    Raises ``StreamError`` if a table cannot hold their labels.
    """
    whole = Batch.concat([replace(block, classes=()) for block in blocks])
    rows = _TableRows(first, blocks, whole)
    columns = {
        "_what": pa.DictionaryArray.from_arrays(pa.array(rows.what, pa.int8()), WHAT),
        "_block": pa.array(rows.block),
        "_partition": rows.of_positions("partition", np.int32),
        "_offset": rows.of_positions("offset", np.int64),
        "id": rows.of_all(
            whole.ids,
            None if rows.labels is None else rows.labels.ids,
            np.array([d.id for d in whole.dead], np.int64),
        ),
        "time": rows.of_all(whole.time, None if rows.labels is None else rows.labels.time),
    }
    names = columns_of(schema)
    for feature, column in _features(whole.x, schema):
        columns[names[feature.name]] = rows.of_events(column)
    columns["label"] = rows.of_labels(_label_columns(blocks, schema, rows.labels is not None))
    for name in _OPTIONAL:
        if (values := getattr(whole, name)) is not None:
            columns[name] = rows.of_events(pa.array(values))
    columns["_reason"] = rows.of_dead(pa.array([d.reason for d in whole.dead], pa.string()))
    columns["_value"] = rows.of_dead(pa.array([d.value for d in whole.dead], pa.large_binary()))
    return pa.table(columns | _record_columns(rows, whole.dead))


class _TableRows:
    """The order of the rows of a table.

    Records are numbered: events, then labels, dead letters, tombstones and ends.

    Attributes:
        whole: all blocks as one batch.
        labels: its labels, or None.
        tombstones: its tombstones; empty where there are none.
        counts: the numbers of events, labels, dead letters, tombstones and ends.
        order: (rows,) the number of the record in each row.
        what: (rows,) the kind of each row.
        block: (rows,) the number of the block of each row.
    """

    def __init__(self, first: int, blocks: Sequence[Batch], whole: Batch) -> None:
        self.whole = whole
        self.labels = labels = whole.arrivals
        numbers = np.arange(first, first + len(blocks))
        count = np.array([len(block) for block in blocks], np.int64)
        arrived = [0 if block.arrivals is None else len(block.arrivals) for block in blocks]
        ends = np.flatnonzero([block.flush for block in blocks])
        none = np.empty(0, np.int64)
        deleted = [0 if block.tombstones is None else len(block.tombstones) for block in blocks]
        self.tombstones = tombstones = whole.tombstones or Tombstones(
            none.astype(np.int32), none, none.astype(np.bool_), none
        )
        self.counts = len(whole), sum(arrived), len(whole.dead), sum(deleted), len(ends)
        what = np.concatenate(
            [
                np.full(len(whole), EVENT, np.int8),
                np.where([] if labels is None else labels.withdrawals, WITHDRAWAL, LABEL).astype(
                    np.int8
                ),
                np.array([DEAD_LABEL if d.label else DEAD for d in whole.dead], np.int8),
                np.where(tombstones.label, LABEL_TOMBSTONE, TOMBSTONE).astype(np.int8),
                np.full(len(ends), END, np.int8),
            ]
        )
        block = np.concatenate(
            [
                np.repeat(numbers, count),
                np.repeat(numbers, arrived),
                np.repeat(numbers, [len(block.dead) for block in blocks]),
                np.repeat(numbers, deleted),
                numbers[ends],
            ]
        )
        if not any(self.counts[1:]):
            self.order = np.arange(len(whole))
        else:
            insert_before = np.concatenate(
                [
                    np.arange(len(whole)),
                    none if labels is None else labels.insert_before,
                    np.array([d.insert_before for d in whole.dead], np.int64),
                    tombstones.insert_before,
                    np.cumsum(count)[ends],
                ]
            )
            rank = np.repeat(np.array([2, 0, 1, 1, 3]), self.counts)  # at the same event
            self.order = np.lexsort((rank, insert_before, block))
        self.what = what[self.order]
        self.block = block[self.order]

    def of_all(
        self,
        events: Array,
        labels: Array | None,
        dead: Array | None = None,
        tombstones: Array | None = None,
    ) -> pa.Array:
        """Return a column of values of events, labels, dead letters and tombstones (None: null)."""
        _, m, k, t, e = self.counts
        parts = [
            events,
            np.zeros(m, events.dtype) if labels is None else labels,
            np.zeros(k, events.dtype) if dead is None else dead,
            np.zeros(t, events.dtype) if tombstones is None else tombstones,
            np.zeros(e, events.dtype),
        ]
        absent = [False, labels is None, dead is None, tombstones is None, True]
        null = np.repeat(absent, self.counts)
        return pa.array(np.concatenate(parts)[self.order], mask=null[self.order])

    def of_positions(self, name: str, dtype: Any) -> pa.Array:
        """Return the column of a part of all positions (``partition`` or ``offset``)."""
        labels = None if self.labels is None else getattr(self.labels, name).astype(dtype)
        dead = np.array([getattr(d, name) for d in self.whole.dead], dtype)
        events = getattr(self.whole, name).astype(dtype, copy=False)
        return self.of_all(events, labels, dead, getattr(self.tombstones, name).astype(dtype))

    def of_events(self, column: pa.Array) -> pa.Array:
        """Return a column that only events have."""
        n = self.counts[0]
        if n == len(self.order):
            return column
        return column.take(pa.array(self.order, mask=self.order >= n))

    def of_dead(self, column: pa.Array) -> pa.Array:
        """Return a column that only dead letters have."""
        first = self.counts[0] + self.counts[1]
        if not len(column):
            return pa.nulls(len(self.order), column.type)
        outside = (self.order < first) | (self.order >= first + len(column))
        return column.take(pa.array(np.where(outside, 0, self.order - first), mask=outside))

    def of_labels(self, columns: list[pa.Array]) -> pa.Array:
        """Return the column of the labels of events and of labels that arrived on their own."""
        nulls = pa.nulls(sum(self.counts[2:]), columns[0].type)
        return pa.concat_arrays([*columns, nulls]).take(pa.array(self.order))


def _label_columns(blocks: Sequence[Batch], schema: Schema, arrive: bool) -> list[pa.Array]:
    """Return the labels of the events of each block, then the labels that arrived in each: names of
    classes, or targets."""
    kind = _label_type([block.classes for block in blocks], schema)
    columns = [
        pa.nulls(len(block), kind) if block.y is None else _labels(block, block.y, kind)
        for block in blocks
    ]
    if arrive:
        columns += [_labels(b, b.arrivals.y, kind) for b in blocks if b.arrivals is not None]
    return columns


def _labels(block: Batch, y: Array, kind: pa.DataType) -> pa.Array:
    if y.dtype.kind == "f":
        return pa.array(y, kind, mask=np.isnan(y))
    if pa.types.is_null(kind):
        return pa.nulls(len(y), kind)
    return pa.array(block.classes, kind).take(pa.array(y, mask=y < 0))


def _label_type(classes: Sequence[tuple[ClassName, ...]], schema: Schema) -> pa.DataType:
    if schema.task == "regression":
        return pa.float64()
    kinds = {type(name) for names in set(classes) for name in names}
    if kinds == {int, float}:
        kinds = {float}
    types = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    if len(kinds) > 1:
        raise StreamError("the recording cannot hold classes of several types")
    return types[kinds.pop()] if kinds else pa.null()


def _features(x: Features, schema: Schema) -> Iterator[tuple[Feature, pa.Array]]:
    if not isinstance(x, np.ndarray):
        for feature in schema.features:
            yield feature, _feature(x[feature.name], feature)
    elif len(schema.features) == 1 and schema.features[0].kind != "numeric":
        yield schema.features[0], _feature(x, schema.features[0])
    else:
        for feature, column in zip(schema.features, np.ascontiguousarray(x.T), strict=True):
            yield feature, pa.array(column)


def _feature(column: Column, feature: Feature) -> pa.Array:
    if isinstance(column, Ragged):
        bounds = np.ascontiguousarray(column.bounds)
        values = pa.py_buffer(np.ascontiguousarray(column.values))
        return pa.LargeStringArray.from_buffers(len(column), pa.py_buffer(bounds), values)
    if not feature.shape:
        return pa.array(column)
    # Parquet cannot give back null among lists of a fixed size.
    bounds = np.arange(len(column) + 1) * math.prod(feature.shape)
    return pa.LargeListArray.from_arrays(bounds, np.ascontiguousarray(column).reshape(-1))


class _BlockEnd(NamedTuple):
    """The end of a block in a table: the numbers of events, labels, dead letters and tombstones
    before it, and whether the block is flushed."""

    events: int
    labels: int
    dead: int
    tombstones: int
    flush: bool


def blocks_of(table: pa.Table, schema: Schema, in_rows: bool) -> Iterator[Batch]:
    """Yield the blocks of a table, with ``flush`` where it has an ``end``.

    Args:
        table: what ``table_of`` returned.
        schema: the schema of the stream.
        in_rows: whether labels are in the rows of their events.
    """
    table = table.combine_chunks()
    what = _numpy(pc.index_in(table["_what"].cast(pa.string()), value_set=WHAT))
    labels, classes = _codes(table["label"].combine_chunks(), schema)
    is_dead = (what == DEAD) | (what == DEAD_LABEL)
    batch = _events(table, what == EVENT, labels if in_rows else None, classes, schema)
    arrivals = _arrivals(table, what, labels)
    dead = _dead(table, what, is_dead)
    deleted = _tombstones(table, what)
    if not (what == END).any():
        yield replace(batch, arrivals=arrivals, dead=tuple(dead), tombstones=deleted)
        return
    a = b = c = t = 0
    for end in _block_ends(what, is_dead):
        yield replace(
            batch[a : end.events],
            arrivals=arrivals[b : end.labels].shifted(-a) if arrivals and end.labels > b else None,
            dead=tuple(replace(d, insert_before=d.insert_before - a) for d in dead[c : end.dead]),
            tombstones=deleted[t : end.tombstones].shifted(-a)
            if deleted and end.tombstones > t
            else None,
            flush=end.flush,
        )
        a, b, c, t = end.events, end.labels, end.dead, end.tombstones


def _block_ends(what: Array, is_dead: Array) -> Iterator[_BlockEnd]:
    ends = np.flatnonzero(what == END)
    stops = ends + 1 if ends[-1] == len(what) - 1 else np.append(ends + 1, len(what))
    masks = (what == EVENT, _is_label(what), is_dead, what >= TOMBSTONE)
    counts = (np.cumsum(mask)[stops - 1].tolist() for mask in masks)
    for i, (events, labels, dead, tombstones) in enumerate(zip(*counts, strict=True)):
        yield _BlockEnd(events, labels, dead, tombstones, flush=i < len(ends))


def _events(
    table: pa.Table,
    is_event: Array,
    labels: Array | None,
    classes: tuple[ClassName, ...],
    schema: Schema,
) -> Batch:
    events = table if is_event.all() else table.filter(pa.array(is_event)).combine_chunks()
    optional: dict[str, Any] = {
        name: _numpy(events[name]) for name in _OPTIONAL if name in events.column_names
    }
    return Batch(
        _numpy(events["id"]),
        _numpy(events["time"]),
        _x(events, schema),
        _numpy(events["_partition"]),
        _numpy(events["_offset"]),
        y=None if labels is None else labels[is_event],
        classes=classes,
        **optional,
    )


def _x(events: pa.Table, schema: Schema) -> Features:
    names, features = columns_of(schema), schema.features
    if not schema.matrix:
        return {f.name: _column(_chunk(events[names[f.name]]), f) for f in features}
    if len(features) == 1 and features[0].kind != "numeric":
        column = _column(_chunk(events[names[features[0].name]]), features[0])
        assert isinstance(column, np.ndarray)
        return column
    columns = [_numpy(events[names[feature.name]]) for feature in features]
    x = np.empty((len(events), len(columns)), columns[0].dtype)
    for j, column in enumerate(columns):
        x[:, j] = column
    return x


def _column(column: pa.Array, feature: Feature) -> Column:
    if feature.shape:
        return _numpy(column.flatten()).reshape(-1, *feature.shape)
    if feature.kind in ("numeric", "time"):
        return _numpy(column)
    bounds = np.zeros(1, np.int64)
    _, offsets, values = column.buffers()
    if len(column):
        rows = slice(column.offset, column.offset + len(column) + 1)
        bounds = np.frombuffer(offsets, np.int64)[rows]
    return Ragged(np.frombuffer(b"" if values is None else values, np.uint8), bounds)


def _arrivals(table: pa.Table, what: Array, labels: Array) -> Labels | None:
    mask = _is_label(what)
    if not mask.any():
        return None
    rows = table.select(["id", "time", "_partition", "_offset"]).filter(pa.array(mask))
    return Labels(
        _numpy(rows["id"]),
        labels[mask],
        _numpy(rows["time"]),
        _numpy(rows["_partition"]),
        _numpy(rows["_offset"]),
        np.cumsum(what == EVENT)[mask],
        what[mask] == WITHDRAWAL if (what == WITHDRAWAL).any() else None,
    )


def _is_label(what: Array) -> Array:
    return np.asarray((what == LABEL) | (what == WITHDRAWAL))


def _tombstones(table: pa.Table, what: Array) -> Tombstones | None:
    mask = what >= TOMBSTONE
    if not mask.any():
        return None
    rows = table.select(["_partition", "_offset"]).filter(pa.array(mask))
    return Tombstones(
        _numpy(rows["_partition"]),
        _numpy(rows["_offset"]),
        what[mask] == LABEL_TOMBSTONE,
        np.cumsum(what == EVENT)[mask],
    )


def _record_columns(rows: _TableRows, dead: Sequence[DeadLetter]) -> dict[str, pa.Array]:
    """Return the columns of keys and headers of dead letters, where there are any."""
    columns = {}
    if any(letter.key is not None for letter in dead):
        columns["_key"] = rows.of_dead(pa.array([d.key for d in dead], pa.large_binary()))
    if any(letter.headers for letter in dead):
        headers = [[{"name": n, "value": v} for n, v in d.headers] or None for d in dead]
        columns["_headers"] = rows.of_dead(pa.array(headers, _HEADERS))
    return columns


def _dead(table: pa.Table, what: Array, is_dead: Array) -> list[DeadLetter]:
    if not is_dead.any():
        return []
    rows = table.select(["_partition", "_offset", "_reason", "id", "_value"])
    for name in ("_key", "_headers"):
        none = pa.nulls(len(table))
        rows = rows.append_column(name, table[name] if name in table.column_names else none)
    columns = [column.to_pylist() for column in rows.filter(pa.array(is_dead)).columns]
    insert_before: list[int] = np.cumsum(what == EVENT)[is_dead].tolist()
    of_labels: list[bool] = (what[is_dead] == DEAD_LABEL).tolist()
    return [
        DeadLetter(partition, offset, reason, id_, row, value, label, key, _headers(headers))
        for partition, offset, reason, id_, value, key, headers, row, label in zip(
            *columns, insert_before, of_labels, strict=True
        )
    ]


def _headers(cells: list[dict[str, Any]] | None) -> tuple[tuple[str, bytes | None], ...]:
    return tuple((cell["name"], cell["value"]) for cell in cells or ())


def _codes(label: pa.Array, schema: Schema) -> tuple[Array, tuple[ClassName, ...]]:
    """Return the class codes, or targets, of all rows, and the names of the codes by first
    appearance."""
    if schema.task == "regression":
        return _numpy(label.fill_null(np.nan)), ()
    if pa.types.is_null(label.type):
        return np.full(len(label), -1), schema.classes
    classes = schema.classes
    if classes:
        codes = pc.index_in(label, value_set=pa.array(classes, label.type))
    else:
        encoded = pc.dictionary_encode(label)
        codes, classes = encoded.indices, tuple(encoded.dictionary.to_pylist())
    return _numpy(codes.fill_null(-1)).astype(np.int64), classes


def _chunk(column: pa.ChunkedArray) -> pa.Array:
    """Return a column of a table of at most one chunk; a table without rows has none."""
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def _numpy(column: Any) -> Array:
    values: Array = column.to_numpy()
    return values
