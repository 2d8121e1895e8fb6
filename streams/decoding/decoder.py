"""The columns of a table to a ``Batch``, vectorised; each unreadable row becomes a dead letter.

The reason of a dead letter names the column, the value and what was expected. Nothing in a row
raises. Each row is decoded on its own, so the result does not depend on the size of blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from streams.core.batch import (
    Array,
    Batch,
    ClassName,
    Column,
    DeadLetter,
    Features,
    Floats,
    Ints,
)
from streams.core.schema import MISSING_CATEGORY, Feature, Scalar, Schema
from streams.decoding.categories import EXPECTED, categories, missing_categories
from streams.decoding.class_names import difference, shown, spelling
from streams.decoding.columns import (
    Mask,
    as_text,
    identities,
    missing_numbers,
    numbers,
    plain,
    ragged,
    to_numpy,
    typed,
    utf8,
    valid,
    vectors,
)
from streams.decoding.images import images, images_of_lists
from streams.decoding.time_reader import TimeReader

POSITION_BITS = 40
"""The id of an event without one is its position: partition << 40 | offset."""


@dataclass(frozen=True, slots=True)
class NamedColumn:
    """A column of names (ids, keys, classes), and the type that they are read as."""

    column: str
    type: Scalar = "str"


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table that are not features; None: the stream has no such column."""

    id: NamedColumn | None = None
    time: str | None = None
    label: NamedColumn | None = None
    key: NamedColumn | None = None
    segment: NamedColumn | None = None
    due: str | None = None

    def roles(self) -> dict[str, Any]:
        """Return the columns as JSON: role to name, or to ``[name, type]``."""
        given = {role: getattr(self, role) for role in self.__dataclass_fields__}
        return {
            role: [column.column, column.type] if isinstance(column, NamedColumn) else column
            for role, column in given.items()
            if column is not None
        }

    @classmethod
    def of_roles(cls, roles: Mapping[str, Any]) -> Columns:
        """Return the columns that ``roles`` described."""
        columns: dict[str, Any] = {
            role: column if isinstance(column, str) else NamedColumn(*column)
            for role, column in roles.items()
        }
        return cls(**columns)


class Decoder:
    """Decodes tables with the columns of ``schema`` and ``columns`` into batches.

    Args:
        schema: the features, the task, and the classes if they are stated.
        columns: the columns of ids, times, labels and so on.
        dtype: of a matrix of numbers or vectors: float64, or float32 where all columns are.
        times: reads the columns of times.
    """

    def __init__(
        self,
        schema: Schema,
        columns: Columns,
        dtype: Any = np.float64,
        times: TimeReader = TimeReader(),  # noqa: B008
    ) -> None:
        self.schema = schema
        self.columns = columns
        self.times = times
        self.feature_times = times.for_features()
        self.dtype = np.dtype(dtype)

    def __call__(
        self,
        table: pa.RecordBatch | pa.Table,
        partition: Array,
        offset: Ints,
        position: Floats,
        aside: Sequence[DeadLetter] = (),
    ) -> Batch:
        """Return the batch of the rows of ``table`` that can be read; the others are its ``dead``.

        Args:
            table: m rows. A missing column counts as null.
            partition: (m,) int32.
            offset: (m,) int64.
            position: (m,) float64, the number of events before each row in the whole stream: its
                time where there is no time column.
            aside: dead letters of rows that never made it into the table, by rows of the table.
        """
        checks = _RowChecks(table)
        # The first reason found for a row is the one that is reported.
        ids = self._ids(checks, (partition.astype(np.int64) << POSITION_BITS) + offset)
        time = self._time(checks, position)
        x = self._features(checks)
        due = self._due(checks)
        key, segment = self._key(checks), self._segment(checks)
        label = self._label(checks)
        batch = Batch(ids, time, x, partition, offset, due=due, key=key, segment=segment)
        readable = checks.readable()
        dead = checks.dead_letters(readable, batch, aside)
        if readable is not None:
            batch = batch.take(readable)
            label = None if label is None else label.filter(pa.array(readable))
        y, classes = self._codes(label)
        return replace(batch, y=y, classes=classes, dead=dead)

    def _ids(self, checks: _RowChecks, own: Ints) -> Ints:
        """Return (m,) ids; a row without a readable one has ``own``."""
        name = self.columns.id
        if name is None:
            return own
        ids, good = identities(checks.column(name.column), name.type)
        expected = "an integer id" if name.type == "int" else "an id"
        checks.reject(~good, name.column, expected)
        return np.where(good, ids, own)

    def _time(self, checks: _RowChecks, position: Floats) -> Floats:
        """Return (m,) times in seconds."""
        name = self.columns.time
        if name is None:
            return position
        time = self.times(checks.column(name))
        checks.reject(~np.isfinite(time), name, self.times.expected)
        return time

    def _due(self, checks: _RowChecks) -> Floats | None:
        """Return (m,) times in seconds, NaN where the column is null."""
        name = self.columns.due
        if name is None:
            return None
        due = self.times(checks.column(name))
        wrong = ~np.isfinite(due) & checks.has_value(name)
        checks.reject(wrong, name, f"{self.times.expected}, or nothing")
        return due

    def _key(self, checks: _RowChecks) -> Ints | None:
        name = self.columns.key
        if name is None:
            return None
        key, good = identities(checks.column(name.column), name.type)
        checks.reject(~good, name.column, "a key")
        return key

    def _segment(self, checks: _RowChecks) -> Ints | None:
        """Return (m,) segments, -1 where there is none."""
        name = self.columns.segment
        if name is None:
            return None
        segment, good = identities(checks.column(name.column), name.type)
        return np.where(good, segment, -1)

    def _features(self, checks: _RowChecks) -> Features:
        features = self.schema.features
        if not self.schema.matrix:
            return {feature.name: self._feature(feature, checks) for feature in features}
        if len(features) == 1 and features[0].kind != "numeric":
            column = self._feature(features[0], checks)
            assert isinstance(column, np.ndarray)
            return column
        x = np.empty((checks.rows, len(features)), self.dtype)
        for j, feature in enumerate(features):
            x[:, j] = numbers(checks.column(feature.name))
        if not np.isfinite(x).all():
            for j, feature in enumerate(features):
                x[:, j] = self._imputed_or_rejected(feature, x[:, j], checks)
        return x

    def _feature(self, feature: Feature, checks: _RowChecks) -> Column:
        name = feature.name
        column = checks.column(name)
        if feature.kind == "numeric":
            values = numbers(column).astype(np.float64, copy=False)
            return self._imputed_or_rejected(feature, values, checks)
        if feature.kind == "time":
            times, expected = self.feature_times(column), self.feature_times.expected
            return self._imputed_or_rejected(feature, times, checks, expected)
        if feature.kind == "vector":
            (d,) = feature.shape
            x, good = vectors(column, d, self.dtype)
            rejected = ~good & ~self._may_miss(feature, checks)
            checks.reject(rejected, name, f"a vector of {d} finite numbers")
            return x
        if feature.kind == "image":
            return self._image(feature, column, checks)
        is_category = feature.kind == "categorical"
        text = categories(column) if is_category else as_text(column)
        if text.null_count:
            missing = self._may_miss(feature, checks)
            if is_category and self.schema.missing_policy(feature) != "dead":
                missing |= missing_categories(column) & valid(column)
            checks.reject(~valid(text) & ~missing, name, EXPECTED if is_category else "text")
            if self.schema.missing_policy(feature) == "category":
                text = pc.if_else(pa.array(missing), MISSING_CATEGORY, text)
        return ragged(text)

    def _may_miss(self, feature: Feature, checks: _RowChecks) -> Mask:
        """Return (m,) True where the feature has no value and need not have one."""
        if self.schema.missing_policy(feature) == "dead":
            return np.zeros(checks.rows, np.bool_)
        return ~checks.has_value(feature.name)

    def _imputed_or_rejected(
        self,
        feature: Feature,
        values: Array,
        checks: _RowChecks,
        expected: str = "a finite number",
    ) -> Array:
        """Return (m,) numbers: 0 or NaN where they are missing. Reject what is no finite number:
        another value than is ``expected``."""
        odd = ~np.isfinite(values)
        if not odd.any():
            return values
        missing = np.zeros(checks.rows, np.bool_)
        policy = self.schema.missing_policy(feature)
        if policy != "dead":
            column = checks.column(feature.name)
            known = valid(column)
            missing = odd & ~known
            if (odd & known).any():  # NaN, or a text that may stand for it
                missing = odd & missing_numbers(column)
            # Text that is not UTF-8 is null in the column, and yet it is not missing.
            missing &= known | ~checks.has_value(feature.name)
        checks.reject(odd & ~missing, feature.name, expected)
        return np.where(missing, 0.0 if policy == "zero" else np.nan, values)

    def _image(self, feature: Feature, column: pa.Array, checks: _RowChecks) -> Array:
        name, shape = feature.name, "x".join(map(str, feature.shape))
        if pt.is_nested(column.type) and not pt.is_struct(column.type):
            x, good = images_of_lists(column, feature.shape)
            rejected = ~good & ~self._may_miss(feature, checks)
            checks.reject(rejected, name, f"{math.prod(feature.shape)} uint8 values ({shape})")
            return x
        x, wrong = images(checks.raw(name), feature.shape)
        missing = self._may_miss(feature, checks)
        for row, value in wrong.items():
            if missing[row]:
                continue
            checks.reject_row(row, name, value, f"a PNG or JPEG of {shape}")
        return x

    def _label(self, checks: _RowChecks) -> pa.Array | None:
        """Return (m,) the labels in their own type, or the codes of the stated classes; null where
        there is none. None: there is no label column."""
        label = self.columns.label
        if label is None:
            return None
        column, labelled = checks.column(label.column), checks.has_value(label.column)
        if self.schema.task == "regression":
            values = numbers(column)
            wrong = ~np.isfinite(values) & labelled
            checks.reject(wrong, label.column, "a finite number")
            return pa.array(values.astype(np.float64))
        names = typed(column, label.type)
        checks.reject(labelled & ~valid(names), label.column, f"a class of type {label.type}")
        if stated := self.schema.classes:
            codes = pc.index_in(names, value_set=pa.array(stated, names.type))
            self._reject_unstated(checks, names, valid(names) & ~valid(codes))
            return codes
        return names

    def _reject_unstated(self, checks: _RowChecks, names: pa.Array, unstated: Mask) -> None:
        """Reject the rows of classes that are not stated. If such a class differs from a stated one
        only in spelling, the reason says so."""
        label, stated = self.columns.label, self.schema.classes
        if label is None or not unstated.any():
            return
        listed = ", ".join(map(repr, stated[:10])) + (", ..." if len(stated) > 10 else "")
        expected = f"one of the stated classes ({listed})"
        known = {spelling(name): name for name in reversed(stated) if isinstance(name, str)}
        for name in names.filter(pa.array(unstated)).unique().to_pylist():
            if other := known.get(spelling(name)):
                rows = unstated & to_numpy(pc.equal(names, name).fill_null(False))
                only = f"it differs from {shown(other)} only in {difference(name, other)}"
                checks.reject(rows, label.column, f"{expected}: {only}")
        checks.reject(
            unstated, label.column, f"{expected}: add it to classes, or leave classes out"
        )

    def _codes(self, label: pa.Array | None) -> tuple[Array | None, tuple[ClassName, ...]]:
        """Return (n,) codes or targets, and the class names, in the order in which the rows first
        show them."""
        if label is None:
            return None, self.schema.classes
        if self.schema.task == "regression":
            return label.to_numpy(zero_copy_only=False), ()
        classes = self.schema.classes
        if not classes:
            encoded = pc.dictionary_encode(label)
            label, classes = encoded.indices, tuple(encoded.dictionary.to_pylist())
        return label.fill_null(-1).to_numpy().astype(np.int64), classes

    @property
    def reads(self) -> list[str]:
        """The names of the columns that are read."""
        c = self.columns
        names = [n.column for n in (c.id, c.label, c.key, c.segment) if n]
        times = [name for name in (c.time, c.due) if name]
        return list(dict.fromkeys([*(f.name for f in self.schema.features), *names, *times]))


class _RowChecks:
    """The columns of a table of m rows, and the reasons why rows of it cannot be read."""

    def __init__(self, table: pa.RecordBatch | pa.Table) -> None:
        self.rows: int = table.num_rows
        self._raw: dict[str, pa.Array] = {}
        for name, column in zip(table.schema.names, table.columns, strict=True):
            self._raw[name] = (
                column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            )
        self._plain: dict[str, pa.Array] = {}
        self._reasons: dict[int, str] = {}

    def column(self, name: str) -> pa.Array:
        """Return a column without dictionary or extension type, with UTF-8 bytes as text."""
        if name not in self._plain:
            self._plain[name] = plain(self.raw(name))
        return self._plain[name]

    def raw(self, name: str) -> pa.Array:
        """Return a column as it is; nulls where the table has none of that name."""
        return self._raw[name] if name in self._raw else pa.nulls(self.rows)

    def has_value(self, name: str) -> Mask:
        """Return (m,) True where a column is not null, readable or not."""
        return valid(self.raw(name))

    def reject(self, mask: Mask, name: str, expected: str) -> None:
        """Reject the rows of the mask for their value in a column."""
        for row in np.flatnonzero(mask).tolist():
            self.reject_row(row, name, _show(self.raw(name), row), expected)

    def reject_row(self, row: int, name: str, value: str, expected: str) -> None:
        """Reject a row for its value in a column, unless it was rejected before."""
        self._reasons.setdefault(row, f"column {name!r} holds {value}; expected {expected}")

    def readable(self) -> Mask | None:
        """Return (m,) True for the rows that were not rejected; None: no row was."""
        if not self._reasons:
            return None
        readable = np.ones(self.rows, np.bool_)
        readable[list(self._reasons)] = False
        return readable

    def dead_letters(
        self, readable: Mask | None, batch: Batch, aside: Sequence[DeadLetter]
    ) -> tuple[DeadLetter, ...]:
        """Return the dead letters of the rejected rows, and those ``aside`` of the table, in the
        order of the stream.

        Args:
            readable: what ``readable`` returned.
            batch: the m rows, rejected ones included.
            aside: dead letters that are not rows of the table.
        """
        if not aside and not self._reasons:
            return ()
        insert_before = np.zeros(self.rows + 1, np.int64)  # readable rows before each row
        np.cumsum(np.ones(self.rows) if readable is None else readable, out=insert_before[1:])
        by_row = [
            (d.insert_before, replace(d, insert_before=int(insert_before[d.insert_before])))
            for d in aside
        ]
        for row, reason in sorted(self._reasons.items()):
            dead = DeadLetter(
                partition=int(batch.partition[row]),
                offset=int(batch.offset[row]),
                reason=reason,
                id=int(batch.ids[row]),
                insert_before=int(insert_before[row]),
            )
            by_row.append((row, dead))
        # A dead letter aside comes before the row of its index: the sort is stable.
        return tuple(dead for _, dead in sorted(by_row, key=lambda item: item[0]))


def _show(column: pa.Array, row: int) -> str:
    """Return the text of a cell, of at most 60 characters."""
    try:
        value = column[row].as_py()
    except (ValueError, OverflowError):
        return "a value out of range"
    if value is None:
        return "null"
    if isinstance(value, bytes):
        text = utf8(value)
        value = value if text is None else text
    readable = isinstance(value, str | bytes | bool | int | float | list | dict)
    shown = repr(value) if readable else str(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
