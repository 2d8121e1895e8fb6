"""Fields of an event that are in its record beside the value: key, header, timestamp."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import orjson
import pyarrow as pa
from pydantic import Field, model_validator

from streams.core.batch import Array
from streams.core.settings import Settings
from streams.kafka.clients.consumer import RecordParts
from streams.kafka.records import Headers, MergedRecords


class RecordField(Settings):
    """A field beside the value: ``{from: key}``, ``{from: header, name: outcome}``.

    Attributes:
        source: ``from`` in a job: ``key``, ``header`` or ``timestamp``.
        name: of the header; or the field of a key that is a JSON object, with dots for a path.
    """

    source: Literal["key", "header", "timestamp"] = Field(alias="from")
    name: str | None = None

    @model_validator(mode="after")
    def _named(self) -> RecordField:
        if self.source == "header" and not self.name:
            raise ValueError("from: header needs name: the name of the header")
        if self.source == "timestamp" and self.name is not None:
            raise ValueError("from: timestamp has no name: leave it out")
        return self

    @property
    def column(self) -> str:
        """The name of its column, which no field of a value has by chance."""
        return " ".join(("message", self.source, *([self.name] if self.name else [])))

    def written(self, value: Any) -> tuple[bytes | None, dict[str, bytes]]:
        """Return the key and the headers of a record that has this value in the field."""
        text = str(value).encode()
        if self.source == "header":
            return None, {str(self.name): text}
        if self.name is None:
            return text, {}
        key = value
        for step in reversed(self.name.split(".")):
            key = {step: key}
        return orjson.dumps(key), {}


class RecordFields:
    """Reads some record fields of records as columns of text, or of seconds.

    Each record is read on its own. What is absent or cannot be read is null.

    Args:
        fields: which.
    """

    def __init__(self, fields: Iterable[RecordField] = ()) -> None:
        self.fields = tuple({field.column: field for field in fields}.values())

    @property
    def parts(self) -> RecordParts:
        """What the consumer must return for them."""
        parts: dict[str, Literal["keys", "headers"]] = {"key": "keys", "header": "headers"}
        return frozenset(parts[field.source] for field in self.fields if field.source in parts)

    def add_to(self, table: pa.RecordBatch, records: MergedRecords, rows: Array) -> pa.RecordBatch:
        """Return the table of m rows with their columns.

        Args:
            table: the fields of the values.
            records: n records.
            rows: (n,) True for those of the m rows.
        """
        if not self.fields:
            return table
        listed = np.flatnonzero(rows).tolist()
        columns = [self._column(field, records, listed) for field in self.fields]
        names = [*table.schema.names, *(field.column for field in self.fields)]
        return pa.RecordBatch.from_arrays([*table.columns, *columns], names)

    @staticmethod
    def _column(field: RecordField, records: MergedRecords, rows: Sequence[int]) -> pa.Array:
        if field.source == "timestamp":
            times = records.time[rows]
            return pa.array(times / 1000.0, mask=times < 0)
        if field.source == "header":
            headers = records.headers or []
            values = [_scalar(_last(headers[row], field.name)) for row in rows]
        elif field.name is None:
            keys = records.keys or []
            values = [_scalar(keys[row]) for row in rows]
        else:
            keys, path = records.keys or [], field.name.split(".")
            values = [_inside(keys[row], path) for row in rows]
        return pa.array(values, pa.binary())


def _last(headers: Headers, name: str | None) -> bytes | None:
    """Return the last header of that name, which is the one that counts; None: there is none."""
    for header, value in reversed(headers):
        if header == name:
            return value
    return None


def _scalar(value: bytes | None) -> bytes | None:
    """Return a text; one in double quotes is a string of JSON."""
    if value is None or not value.startswith(b'"'):
        return value
    try:
        parsed = orjson.loads(value)
    except ValueError:
        return value
    return parsed.encode() if type(parsed) is str else value


def _inside(value: bytes | None, path: Sequence[str]) -> bytes | None:
    """Return the text of a field of a JSON object; None where it has none."""
    try:
        found: Any = None if value is None else orjson.loads(value)
    except ValueError:
        return None
    for step in path:
        found = found.get(step) if type(found) is dict else None
    if type(found) is str:
        return found.encode()
    return orjson.dumps(found) if type(found) in (int, float, bool) else None
