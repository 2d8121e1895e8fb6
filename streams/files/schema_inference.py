"""Infer features and task from the first rows of a file, where a job does not state them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from streams.core.batch import ClassName, Floats
from streams.core.errors import StreamError
from streams.core.schema import Feature, FeatureKind, Scalar, Task
from streams.core.settings import unknown
from streams.decoding.columns import (
    identities,
    is_whole_decimal,
    missing_numbers,
    numbers,
    plain,
    whole,
)
from streams.decoding.decoder import NamedColumn
from streams.decoding.images import image_bytes, image_shape
from streams.decoding.time_reader import TimeReader
from streams.files.formats.base import File, FileBlock
from streams.files.formats.csv_file import Csv
from streams.files.text_kinds import kind_of_text

HEAD_ROWS = 1_000
"""First rows of the first file, from which kinds, shapes and the task are inferred."""
NUMERIC_SHARE = 0.9
"""A column of text is numeric if at least this share of it are numbers, of what is not missing."""
MAX_FLOAT_CLASSES = 20
"""Labels that are whole numbers in a column of real numbers are classes if the sample has at most
this many values, each twice on average. With more they are a regression target."""


class SampledRows:
    """The first rows of a file, and what follows from them about its columns."""

    def __init__(self, file: File) -> None:
        self.file = file
        self._types = file.types
        self._values: dict[str, pa.Array] = {}

    def check(self, role: str, column: str) -> str:
        """Return ``column``.

        Args:
            role: the key of the job under ``stream`` that names it.
            column: its name.

        Raises:
            StreamError: the file has no such column; names the nearest one, and all.
        """
        names = self._types.names
        if column not in names:
            raise StreamError(
                f"stream.{role}: {self.file.path} has no column {unknown(column, names)}"
                + _delimiter_hint(names)
            )
        return column

    def times(self, role: str, column: str, reader: TimeReader) -> str:
        """Return ``column``, checked as in ``check``. Raises ``StreamError`` also where its numbers
        cannot be times as the job states them; names the remedy."""
        self.check(role, column)
        why = reader.check(plain(self.values(column)))
        if why is not None:
            raise StreamError(f"stream.{role}: {self.file.path}: column {column!r}: {why}")
        return column

    def values(self, column: str) -> pa.Array:
        """Return the values of a column in the sample that are not null, in the file's type."""
        if column not in self._values:
            values = self.rows.column(column)
            self._values[column] = (plain(values) if self._csv else values).drop_null()
        return self._values[column]

    @property
    def _csv(self) -> bool:
        return isinstance(self.file, Csv)

    @property
    def rows(self) -> pa.RecordBatch:
        """The sampled rows; the cells of a CSV file are bytes."""
        return self.block.table

    @cached_property
    def block(self) -> FileBlock:
        """The sampled rows, with those that are malformed."""
        return self.file.head(HEAD_ROWS, self._types.names)

    def names(self, role: str, column: str) -> NamedColumn:
        """Return how to read a column of ids or keys: as integers if all of them are, and fit."""
        self.check(role, column)
        kind = self._types.field(column).type
        number = _numeric(kind)
        if is_whole_decimal(kind):
            number = bool(identities(plain(self.values(column)), "int")[1].all())
        if self._csv:
            values = self.values(column)
            number = len(values) > 0 and bool(whole(values).all())
        return NamedColumn(column, "int" if number else "str")

    def task(
        self, role: str, column: str, stated: Task | None, classes: Sequence[ClassName]
    ) -> tuple[Task, NamedColumn]:
        """Return the task and how to read the labels, unless stated: integers if the sample has no
        other numbers, real numbers (of a regression) if it has, else text. In CSV 01 is text."""
        self.check(role, column)
        values = plain(self.values(column))
        kind = values.type
        if pt.is_floating(kind):
            values = values.filter(pa.array(~missing_numbers(values)))
        task: Task = "classification"
        scalar: Scalar = "str"
        if pt.is_boolean(kind):
            scalar = "bool"
        elif pt.is_integer(kind) or is_whole_decimal(kind):
            scalar = "int"
        elif pt.is_string(kind) and self._csv:
            readable = ~np.isnan(numbers(values))
            padded = pc.any(pc.match_substring_regex(values, "^-?0[0-9]")).as_py()
            if len(values) and readable.mean() >= NUMERIC_SHARE and not padded:
                scalar, task = "int", "classification"
                if not whole(values)[readable].all():
                    scalar, task = _of_reals(numbers(values)[readable], "float")
        elif pt.is_floating(kind) or pt.is_decimal(kind):
            scalar, task = _of_reals(numbers(values), "int")
        elif not pt.is_string(kind) and not pt.is_null(kind):
            raise StreamError(
                f"{self.file.path}: column {column!r} (stream.{role}) is of type {kind}, "
                "which is neither a class nor a number"
            )
        if classes:
            return "classification", NamedColumn(column, _type_of(classes))
        return stated or task, NamedColumn(column, scalar)

    def classes(self, column: str) -> int:
        """Return how many classes the labels of the sample are of."""
        return len(plain(self.values(column)).unique())

    def features(self, stated: Any, taken: set[str | None]) -> tuple[Feature, ...]:
        """Return the features that a job states, or all columns that are not taken.

        A column that is empty in the sample is left out, unless its kind is stated."""
        if stated is None:
            names = [
                name
                for name in self._types.names
                if name not in taken and not name.startswith("__index_level_")  # left by pandas
            ]
            features = [self._infer(name) for name in names if not self.is_empty(name)]
        elif isinstance(stated, list):
            features = [self._infer(name) for name in stated if not self.is_empty(name)]
        else:
            features = []
            for kind, columns in stated.items():
                for name in columns:
                    self.check(f"features.{kind}", name)
                    shape = columns[name] if isinstance(columns, dict) else None
                    features.append(self._stated(name, kind, shape))
        if not features:
            raise StreamError(
                f"{self.file.path}: no column is left to be a feature: state the label, and "
                "columns that have values, or the kind of an empty one under stream.features"
            )
        names = [feature.name for feature in features]
        for name in names:
            if names.count(name) > 1:
                raise StreamError(f"stream.features: {name!r} is named twice")
        return tuple(features)

    def is_empty(self, name: str) -> bool:
        """Whether a column has no value in the sample."""
        return not len(self.values(self.check("features", name)))

    def _stated(self, name: str, kind: FeatureKind, shape: tuple[int, ...] | None) -> Feature:
        """Return a feature of a stated kind; its shape is inferred if it is not stated."""
        if kind not in ("vector", "image") or shape is not None:
            return Feature(name, kind, shape or ())
        feature = self._infer(name)
        if feature.kind != kind:
            raise StreamError(
                f"{self.file.path}: column {name!r} is no {kind}: it looks {feature.kind}"
            )
        return feature

    def _infer(self, name: str) -> Feature:
        """Return a feature whose kind and shape are inferred. Raises ``StreamError``."""
        values = self.values(self.check("features", name))
        kind = values.type.value_type if pt.is_dictionary(values.type) else values.type
        if not len(values):
            raise StreamError(
                f"{self.file.path}: column {name!r} is empty in the first {HEAD_ROWS} rows; "
                "state its kind under features, or list features without it"
            )
        if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
            size = next((len(value) for value in values if len(value)), 0)
            if _numeric(kind.value_type) and size:
                return Feature(name, "vector", (size,))
        elif pt.is_timestamp(kind) or pt.is_date(kind):
            return Feature(name, "time")
        elif _numeric(kind) or pt.is_boolean(kind):
            return Feature(name, "numeric")
        elif pt.is_struct(kind) or pt.is_binary(kind) or pt.is_large_binary(kind):
            for data in image_bytes(values):
                shape = image_shape(data.as_py() or b"")
                if shape is not None:
                    return Feature(name, "image", shape)
        elif pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind):
            categories = pt.is_dictionary(values.type)
            return Feature(name, "categorical" if categories else kind_of_text(plain(values)))
        raise StreamError(
            f"{self.file.path}: column {name!r} of type {values.type} cannot be a feature; "
            "list features without it"
        )


def dtype_of(files: Sequence[File], features: Sequence[Feature]) -> type[np.floating[Any]]:
    """Return float32 if all numbers of all files are, else float64."""
    for feature in features:
        for file in files:
            kind = file.types.field(feature.name).type
            kind = getattr(kind, "value_type", kind) if feature.kind == "vector" else kind
            if feature.kind in ("numeric", "vector") and not pt.is_float32(kind):
                return np.float64
    return np.float32


def _of_reals(reals: Floats, whole: Scalar) -> tuple[Scalar, Task]:
    """Return the type and the task of labels that are real numbers.

    Args:
        reals: (n,) the labels of the sample.
        whole: the type of classes that are whole numbers.
    """
    integral = len(reals) > 0 and bool((reals == np.trunc(reals)).all())
    distinct = len(np.unique(reals))
    few = distinct <= 2 or distinct <= min(MAX_FLOAT_CLASSES, len(reals) / 2)
    return (whole, "classification") if integral and few else ("float", "regression")


def _delimiter_hint(names: Sequence[str]) -> str:
    """Return a hint for a file of one column whose header has another delimiter than the comma."""
    if len(names) == 1:
        for delimiter, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if delimiter in names[0]:
                return f". Its columns are separated by {name}: write it with commas"
    return ""


def _numeric(kind: pa.DataType) -> bool:
    return bool(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind))


def _type_of(classes: Sequence[ClassName]) -> Scalar:
    kinds = {type(name) for name in classes}
    if kinds == {bool}:
        return "bool"
    if kinds == {str}:
        return "str"
    return "int" if kinds == {int} else "float"
