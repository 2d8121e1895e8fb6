"""The first rows of a stream of files, with what each column was taken for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from streams.core.batch import DeadLetter
from streams.core.schema import Schema
from streams.decoding.columns import plain
from streams.decoding.decoder import Columns
from streams.decoding.time_reader import TimeReader
from streams.files.formats.base import File

NO_COLUMNS = Columns()


@dataclass(frozen=True)
class StreamSample:
    """The first rows of the first file.

    Attributes:
        files: the files of the stream, in the order in which they are read.
        rows: the sampled rows; the cells of a CSV file are bytes.
        schema: the features and the label.
        columns: the columns that are not features.
        dead: the dead letters of the sampled rows.
        config_features: the features as the job states them: None, names, or kind to names.
        label_stated: whether the job states the task or the classes.
        label_files: the files of labels, if labels are in files of their own.
        label_rows: the first rows of the first of these.
        label_columns: their columns.
        read_times: reads columns of times.
    """

    files: Sequence[File]
    rows: pa.RecordBatch
    schema: Schema
    columns: Columns
    dead: Sequence[DeadLetter] = ()
    config_features: Any = None
    label_stated: bool = False
    label_files: Sequence[File] = ()
    label_rows: pa.RecordBatch | None = None
    label_columns: Columns = NO_COLUMNS
    read_times: TimeReader = TimeReader()  # noqa: RUF009

    @property
    def path(self) -> Path:
        """The first file."""
        return self.files[0].path

    def values(self, name: str) -> pa.Array:
        """Return a column of the sample, with bytes as text."""
        return plain(self.rows.column(name))

    def is_empty(self, name: str) -> bool:
        """Whether a column has no value in the sample."""
        return bool(self.rows.column(name).null_count == self.rows.num_rows)

    @property
    def features(self) -> list[str]:
        """The columns that may be features: those that the job names, or all."""
        stated = self.rows.schema.names if self.config_features is None else self.config_features
        return [*stated] if isinstance(stated, list) else []

    @property
    def features_stated(self) -> bool:
        return self.config_features is not None

    @property
    def columns_in_use(self) -> set[str]:
        """The names of the columns that are no features, and have another use."""
        columns = self.columns
        named = (columns.id, columns.label, columns.key, columns.segment)
        names = {column.column for column in named if column is not None}
        return names | {name for name in (columns.time, columns.due) if name is not None}

    def of_kind(self, *kinds: str) -> list[str]:
        """Return the names of the features of some kinds."""
        return [feature.name for feature in self.schema.features if feature.kind in kinds]

    @cached_property
    def label(self) -> tuple[str, pa.Array] | None:
        """The name of the label's column and its values; None: no column holds labels."""
        if self.columns.label is not None:
            name = self.columns.label.column
            return name, self.values(name)
        if self.label_rows is not None and self.label_columns.label is not None:
            name = self.label_columns.label.column
            return name, plain(self.label_rows.column(name))
        return None

    @cached_property
    def times(self) -> pa.Array | None:
        """The values of the time column; None: there is none."""
        return None if self.columns.time is None else self.values(self.columns.time)
