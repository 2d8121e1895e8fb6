"""From columns of a table to a ``Batch``: vectorised, with every bad row set aside by reason.

A row that cannot be read becomes ``DeadLetter`` and its reason names the column, what it holds and
what was expected; nothing in a row raises. What becomes of a row depends on that row alone, so the
result is the same however the stream is cut into blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    Ragged,
)
from streams.core.schema import Feature, Scalar, Schema
from streams.decoding.columns import (
    Mask,
    as_text,
    identities,
    numbers,
    plain,
    ragged,
    seconds,
    typed,
    utf8,
    valid,
    vectors,
)
from streams.decoding.images import images, images_of_lists

POSITION_BITS = 40
"""An event without an id is named by its position: partition << 40 | offset."""


@dataclass(frozen=True, slots=True)
class Named:
    """A column that holds names (ids, keys, classes), and the type that they are read as."""

    column: str
    type: Scalar = "str"


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns hold what, beside the features; None where the stream has no such column."""

    id: Named | None = None
    time: str | None = None
    label: Named | None = None
    key: Named | None = None
    segment: Named | None = None
    due: str | None = None


class Decoder:
    """Turns tables with the columns of ``schema`` and ``columns`` into batches.

    Args:
        schema: the features, the task, and the classes where they are stated.
        columns: where ids, times, labels and so on stand.
        dtype: of a matrix of numbers or vectors: float64, or float32 where all columns are.
    """

    def __init__(self, schema: Schema, columns: Columns, dtype: Any = np.float64) -> None:
        self.schema = schema
        self.columns = columns
        self.dtype = np.dtype(dtype)

    def __call__(
        self,
        table: pa.RecordBatch | pa.Table,
        partition: Array,
        offset: Ints,
        position: Floats,
        aside: Sequence[DeadLetter] = (),
    ) -> Batch:
        """The batch of the m rows of ``table``, less the bad ones.

        Args:
            table: m rows; a column that is not there counts as null.
            partition: (m,) int32.
            offset: (m,) int64.
            position: (m,) float64, events before each row in the whole stream: its time where
                there is no time column.
            aside: rows that never made it into the table; ``before`` counts rows of the table.
        """
        refused = _Refused(table)
        names = self.columns
        ids = (partition.astype(np.int64) << POSITION_BITS) + offset
        time: Floats = position
        if names.id:
            column, own = refused.column(names.id.column), ids
            ids, good = identities(column, names.id.type)
            expected = "an integer id" if names.id.type == "int" else "an id"
            refused.where(~good, names.id.column, expected)
            ids = np.where(good, ids, own)
        if names.time:
            time = seconds(refused.column(names.time))
            refused.where(~np.isfinite(time), names.time, "a time (seconds, or ISO 8601)")
        x = self._features(refused)
        due = key = segment = None
        if names.due:
            due = seconds(refused.column(names.due))
            wrong = ~np.isfinite(due) & refused.given(names.due)
            refused.where(wrong, names.due, "a time (seconds, or ISO 8601), or nothing")
        if names.key:
            key, good = identities(refused.column(names.key.column), names.key.type)
            refused.where(~good, names.key.column, "a key")
        if names.segment:
            segment, good = identities(refused.column(names.segment.column), names.segment.type)
            segment = np.where(good, segment, -1)
        label = self._label(refused)
        keep = refused.keep()
        dead = refused.dead(keep, ids, partition, offset, aside)
        if keep is not None:
            x = x[keep] if isinstance(x, np.ndarray) else {k: _pick(c, keep) for k, c in x.items()}
            ids, time, partition, offset = ids[keep], time[keep], partition[keep], offset[keep]
            due = None if due is None else due[keep]
            key = None if key is None else key[keep]
            segment = None if segment is None else segment[keep]
            label = label if label is None else label.filter(pa.array(keep))
        y, classes = self._codes(label)
        return Batch(
            ids,
            time,
            x,
            partition,
            offset,
            y=y,
            due=due,
            key=key,
            segment=segment,
            classes=classes,
            dead=dead,
        )

    def _features(self, refused: _Refused) -> Features:
        features = self.schema.features
        if not self.schema.matrix:
            return {feature.name: self._feature(feature, refused) for feature in features}
        if len(features) == 1 and features[0].kind != "numeric":
            column = self._feature(features[0], refused)
            assert isinstance(column, np.ndarray)
            return column
        x = np.empty((refused.rows, len(features)), self.dtype)
        for j, feature in enumerate(features):
            x[:, j] = numbers(refused.column(feature.name))
        finite = np.isfinite(x)
        if not finite.all():
            for j, feature in enumerate(features):
                refused.where(~finite[:, j], feature.name, "a finite number")
        return x

    def _feature(self, feature: Feature, refused: _Refused) -> Column:
        name = feature.name
        column = refused.column(name)
        if feature.kind == "numeric":
            values = numbers(column).astype(np.float64, copy=False)
            refused.where(~np.isfinite(values), name, "a finite number")
            return values
        if feature.kind == "vector":
            (d,) = feature.shape
            x, good = vectors(column, d, self.dtype)
            refused.where(~good, name, f"a vector of {d} finite numbers")
            return x
        if feature.kind == "image":
            return self._image(feature, column, refused)
        text = as_text(column)
        refused.where(~valid(text), name, "text")
        return ragged(text)

    def _image(self, feature: Feature, column: pa.Array, refused: _Refused) -> Array:
        name, shape = feature.name, "x".join(map(str, feature.shape))
        if pt.is_nested(column.type) and not pt.is_struct(column.type):
            x, good = images_of_lists(column, feature.shape)
            refused.where(~good, name, f"{math.prod(feature.shape)} uint8 values ({shape})")
            return x
        x, wrong = images(refused.raw(name), feature.shape)
        for row, held in wrong.items():
            refused.row(row, name, held, f"a PNG or JPEG of {shape}")
        return x

    def _label(self, refused: _Refused) -> pa.Array | None:
        """The label column in its own type; null where there is none."""
        label = self.columns.label
        if label is None:
            return None
        column, given = refused.column(label.column), refused.given(label.column)
        if self.schema.task == "regression":
            values = numbers(column)
            wrong = ~np.isfinite(values) & given
            refused.where(wrong, label.column, "a finite number")
            return pa.array(values.astype(np.float64))
        names = typed(column, label.type)
        refused.where(given & ~valid(names), label.column, f"a class of type {label.type}")
        if stated := self.schema.classes:
            codes = pc.index_in(names, value_set=pa.array(stated, names.type))
            listed = ", ".join(map(repr, stated[:10])) + (", ..." if len(stated) > 10 else "")
            refused.where(
                valid(names) & ~valid(codes),
                label.column,
                f"one of the stated classes ({listed}): add it to classes, or leave classes out",
            )
            return codes
        return names

    def _codes(self, label: pa.Array | None) -> tuple[Array | None, tuple[ClassName, ...]]:
        """Codes (n,) and class names; names in the order in which the rows show them, so that
        they are numbered alike however the stream is cut."""
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
        """The columns that are looked at."""
        c = self.columns
        named = [n.column for n in (c.id, c.label, c.key, c.segment) if n]
        plain = [name for name in (c.time, c.due) if name]
        return list(dict.fromkeys([*(f.name for f in self.schema.features), *named, *plain]))


class _Refused:
    """The columns of a table, and the reasons why rows of it cannot be read."""

    def __init__(self, table: pa.RecordBatch | pa.Table) -> None:
        self.rows: int = table.num_rows
        self._raw: dict[str, pa.Array] = {}
        for name, column in zip(table.schema.names, table.columns, strict=True):
            self._raw[name] = (
                column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            )
        self._reasons: dict[int, str] = {}

    def column(self, name: str) -> pa.Array:
        """The column, plain: no dictionary, no extension type, bytes that are UTF-8 as text."""
        return plain(self.raw(name))

    def raw(self, name: str) -> pa.Array:
        return self._raw[name] if name in self._raw else pa.nulls(self.rows)

    def given(self, name: str) -> Mask:
        """(m,) True where the table holds anything at all, readable or not."""
        return valid(self.raw(name))

    def where(self, mask: Mask, name: str, expected: str) -> None:
        """Refuse the rows of the mask for what stands in a column."""
        for row in np.flatnonzero(mask).tolist():
            self.row(row, name, _show(self.raw(name), row), expected)

    def row(self, row: int, name: str, held: str, expected: str) -> None:
        self._reasons.setdefault(row, f"column {name!r} holds {held}; expected {expected}")

    def keep(self) -> Mask | None:
        """(m,) True for the rows that can be read; None where all can."""
        if not self._reasons:
            return None
        keep = np.ones(self.rows, np.bool_)
        keep[list(self._reasons)] = False
        return keep

    def dead(
        self,
        keep: Mask | None,
        ids: Ints,
        partition: Array,
        offset: Ints,
        aside: Sequence[DeadLetter],
    ) -> tuple[DeadLetter, ...]:
        if not aside and not self._reasons:
            return ()
        alive = np.zeros(self.rows + 1, np.int64)
        np.cumsum(np.ones(self.rows) if keep is None else keep, out=alive[1:])
        found = [(d.before, replace(d, before=int(alive[d.before]))) for d in aside]
        found += [
            (
                row,
                DeadLetter(
                    int(partition[row]), int(offset[row]), why, int(ids[row]), int(alive[row])
                ),
            )
            for row, why in sorted(self._reasons.items())
        ]
        # A row set aside at b stands before row b: the sort is stable, and asides come first.
        return tuple(dead for _, dead in sorted(found, key=lambda item: item[0]))


def _show(column: pa.Array, row: int) -> str:
    try:
        value = column[row].as_py()
    except (ValueError, OverflowError):
        return "a value out of range"
    if value is None:
        return "null"
    if isinstance(value, bytes):
        text = utf8(value)
        value = value if text is None else text
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _pick(column: Column, keep: Mask) -> Column:
    return column.take(keep) if isinstance(column, Ragged) else column[keep]
