"""The interface of a format: the bytes of messages to the columns of a table, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from streams.core.errors import StreamError
from streams.core.schema import FeatureKind, Schema
from streams.core.settings import Settings
from streams.decoding.categories import EXPECTED
from streams.decoding.columns import Mask
from streams.decoding.time_reader import PLAIN_TIMES, TimeReader

FieldKind = Literal["number", "integer", "boolean", "text", "category", "vector", "image", "time"]


@dataclass(frozen=True, slots=True)
class Field:
    """One column to read from messages.

    Attributes:
        name: the name of the column, and the path of its value in a message.
        kind: the kind of its values. The columns hold: number and time (seconds), real numbers;
            integer, integers that fit in 64 bits; boolean; text; category, texts and what counts as
            one (``categories``); vector, lists of ``shape``; image, the bytes of a PNG or JPEG, or
            lists of pixels.
        shape: ``(d,)`` of a vector, ``(channels, height, width)`` of an image.
        required: whether a message without a value is bad. Otherwise the cell is null.
        feature: whether it is a feature.
        times: reads the values of a time.
    """

    name: str
    kind: FieldKind
    shape: tuple[int, ...] = ()
    required: bool = True
    feature: bool = False
    times: TimeReader = PLAIN_TIMES

    @property
    def expected(self) -> str:
        """What a value must be, for the reason of a bad message."""
        if self.kind == "vector":
            return f"a vector of {self.shape[0]} finite numbers"
        if self.kind == "image":
            return f"the bytes of a PNG or JPEG of {'x'.join(map(str, self.shape))}"
        return {
            "number": "a finite number",
            "integer": "an integer that fits in 64 bits",
            "boolean": "true or false",
            "text": "text",
            "category": EXPECTED,
            "time": self.times.expected,
        }[self.kind]

    def refuse(self, value: str) -> str:
        """Return the reason why a message with this value is bad."""
        return f"column {self.name!r} holds {value}; expected {self.expected}"


_FIELD_KINDS: dict[FeatureKind, FieldKind] = {
    "numeric": "number",
    "categorical": "category",
    "text": "text",
    "time": "time",
    "vector": "vector",
    "image": "image",
}


def fields_of(schema: Schema, times: TimeReader = PLAIN_TIMES) -> list[Field]:
    """Return the field of each feature; it is required where a missing value is a dead letter.

    Args:
        schema: the features.
        times: reads the times of the stream.
    """
    read = times.for_features()
    return [
        Field(f.name, _FIELD_KINDS[f.kind], f.shape, schema.missing_policy(f) == "dead", True, read)
        for f in schema.features
    ]


class ParsedRecords(NamedTuple):
    """The contents of messages.

    Attributes:
        table: a row for each readable message, in order, and a column for each field.
        bad: the index (ascending) of each other message, and the reason why it cannot be read.
    """

    table: pa.RecordBatch
    bad: list[tuple[int, str]]


class FormatConfig(Settings):
    """Settings that every format has, under ``stream.format`` in a job."""

    kind: str


class Format(ABC):
    """Reads and writes the bytes of messages.

    Each message is decoded on its own; those around it make no difference.

    Args:
        config: the settings.
        fields: the columns to read, in order.
        folder: the folder that relative paths in the settings start from.

    Attributes:
        needs_schema_id: whether messages state the id of a schema, and the settings do not.
        schema_id: that id, as a run noted it when it began; None: any.

    Raises:
        StreamError: a field cannot be read from such messages; names the place and the remedy.
    """

    schema_id: int | None = None

    Config: ClassVar[type[FormatConfig]] = FormatConfig

    def __init__(self, config: Any, fields: Sequence[Field], folder: Path) -> None:
        names = [field.name for field in fields]
        for name in names:
            if names.count(name) > 1:
                raise StreamError(f"stream: the column {name!r} is to be two things; keep one")
        self.config = config
        self.fields = tuple(fields)
        self.folder = folder

    @abstractmethod
    def read(self, values: Sequence[bytes | None]) -> ParsedRecords:
        """Decode messages. The content of a message never raises; a message without a value (a
        tombstone) is bad."""

    @abstractmethod
    def write(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """Encode rows (field name to value) as messages; the inverse of ``read``. A field that is
        not required may be None or missing."""

    @property
    def needs_schema_id(self) -> bool:
        return False

    def dtype(self) -> str:
        """Return ``float32`` if all numbers and vectors are stored as such, else ``float64``."""
        return "float64"


NO_VALUE = "no value"
"""The reason of a bad message without bytes."""


def table_of(
    fields: Sequence[Field],
    columns: Sequence[pa.Array],
    wrong: Mask,
    where: Sequence[int],
    bad: dict[int, str],
) -> ParsedRecords:
    """Return the records without the wrong rows.

    Args:
        fields: the fields of the columns, in order.
        columns: n rows each.
        wrong: (n,) True where a row is bad.
        where: n indices of the rows' messages.
        bad: index to reason, of all bad messages.
    """
    names = [field.name for field in fields]
    table = pa.RecordBatch.from_arrays(columns, names)
    if wrong.any():
        table = table.filter(pa.array(~wrong))
    assert table.num_rows == len(where) - int(np.count_nonzero(wrong))
    return ParsedRecords(table, sorted(bad.items()))
