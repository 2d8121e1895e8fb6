"""Messages in the binary encoding of Avro, all of one schema."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from streams.core.errors import StreamError
from streams.core.settings import unknown
from streams.decoding.formats import python_values as cells
from streams.decoding.formats.base import NO_VALUE, Field, Format, FormatConfig, ParsedRecords
from streams.decoding.formats.extras import HEADER, Framing, file_bytes, library, no_header

with warnings.catch_warnings():
    # pydantic warns of the name of a method that it keeps for users of its first version.
    warnings.simplefilter("ignore", UserWarning)

    class AvroConfig(FormatConfig):
        """Settings of Avro.

        Attributes:
            schema: the schema that messages were written with: a file, from the job file's folder,
                or the schema itself.
            framing: ``confluent`` where messages come from Confluent's serializers. The id of the
                schema in them is passed over, and looked up nowhere.
        """

        kind: Literal["avro"] = "avro"
        schema: str | dict[str, Any]  # type: ignore[assignment]
        framing: Framing = "plain"


_NUMBERS = {"int", "long", "float", "double"}
_FITS: dict[str, set[str]] = {
    "number": _NUMBERS,
    "integer": {"int", "long"},
    "boolean": {"boolean"},
    "text": {"string", "enum"},
    "image": {"bytes", "fixed"},
    "time": _NUMBERS | {"string"},
    "vector": {"array"},
}
_TICKS: dict[str | None, float] = {
    None: 1.0,
    **{f"{kind}-millis": 1e3 for kind in ("timestamp", "local-timestamp")},
    **{f"{kind}-micros": 1e6 for kind in ("timestamp", "local-timestamp")},
    **{f"{kind}-nanos": 1e9 for kind in ("timestamp", "local-timestamp")},
    "date": 1 / 86_400,
}
"""Units per second of the logical types that are times."""


class Avro(Format):
    """Single records without a container file, a value for each field by its name.

    A name with dots is a path. Numbers may be nullable. An enum is text. A time is a number of
    seconds, ISO 8601 text, or of a logical type of timestamps or dates. A message must be read to
    its last byte. Avro has no check sum: a message with a flipped bit may well read as
    another.
    """

    Config = AvroConfig

    def __init__(self, config: AvroConfig, fields: Sequence[Field], folder: Path) -> None:
        super().__init__(config, fields, folder)
        self._avro = library("fastavro", "fastavro", "avro")
        stated = config.schema
        if isinstance(stated, str):
            self._place = f"stream.format.schema: {folder / stated}"
            text = file_bytes("stream.format.schema", folder / stated)
            try:
                stated = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise StreamError(f"{self._place}: no JSON: {error}") from None
        else:
            self._place = "stream.format.schema"
        declared, names = self._parsed(stated)
        if not isinstance(declared, dict) or declared.get("type") != "record":
            raise StreamError(f"{self._place}: no record: the schema of a record is wanted")
        self._name = declared["name"]
        self._sound(declared, names, ())
        self._branches = {f.name: self._found(f, declared, names) for f in fields}
        self._ticks = {f.name: self._scale(f) for f in fields if f.kind == "time"}
        # Numbers as they are written are read faster than dates and decimals, and never overflow.
        self._schema, _ = self._parsed(_without_logic(stated))

    def _parsed(self, stated: Any) -> tuple[Any, dict[str, Any]]:
        names: dict[str, Any] = {}
        try:
            return self._avro.parse_schema(stated, names), names
        except Exception as error:  # of whatever a file may hold, some is no schema in no known way
            raise StreamError(
                f"{self._place}: no schema of Avro: {type(error).__name__}: {error}"
            ) from None

    def _sound(self, schema: Any, names: Mapping[str, Any], inside: tuple[str, ...]) -> bool:
        """Whether a value takes any bytes. A message must not crash its reader: recursive records
        could be as deep as the message is long, and a message of 10 bytes could have 2**60 values
        without bytes."""
        sizes = []
        for branch in _branches(schema, names):
            kind = branch["type"]
            if kind == "record":
                name = branch["name"]
                if name in inside:
                    raise StreamError(
                        f"{self._place}: record {name!r} may hold itself, and a message could be of"
                        " any depth: not supported"
                    )
                parts = [self._sound(f["type"], names, (*inside, name)) for f in branch["fields"]]
                sizes.append(any(parts))
            elif kind == "array" and not self._sound(branch["items"], names, inside):
                raise StreamError(
                    f"{self._place}: an array of values that take no bytes is not supported"
                )
            elif kind == "map":
                self._sound(branch["values"], names, inside)
                sizes.append(True)
            else:
                sizes.append(kind != "null" and branch.get("size") != 0)
        return isinstance(schema, list) or all(sizes)

    def _found(self, field: Field, schema: Any, names: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the types of a field other than null. Raises ``StreamError``."""
        for name in field.name.split("."):
            records = [b for b in _branches(schema, names) if b["type"] != "null"]
            if [record["type"] for record in records] != ["record"]:
                raise StreamError(
                    f"{self._place}: {name!r} of {field.name!r} is to be found in something that is"
                    " no record"
                )
            types = {f["name"]: f["type"] for f in records[0]["fields"]}
            if name not in types:
                record = records[0]["name"]
                raise StreamError(
                    f"{self._place}: record {record!r} has no field {unknown(name, types)}"
                )
            schema = types[name]
        found = [branch for branch in _branches(schema, names) if branch["type"] != "null"]
        fits = bool(found) and all(branch["type"] in _FITS[field.kind] for branch in found)
        if fits and field.kind == "vector":
            found = [item for branch in found for item in _branches(branch["items"], names)]
            fits = all(item["type"] in _NUMBERS for item in found)
        if fits and field.kind == "time":
            fits = all(branch.get("logicalType") in _TICKS for branch in found)
        if not fits:
            shown = cells.show(schema)
            raise StreamError(
                f"{self._place}: {field.name!r} is {shown}, which is no {field.kind}: change what "
                "the column is to be, or name another field"
            )
        return found

    def _scale(self, field: Field) -> float:
        stated = {branch.get("logicalType") for branch in self._branches[field.name]}
        ticks = {_TICKS[logic] for logic in stated}
        if len(ticks) > 1:
            raise StreamError(
                f"{self._place}: {field.name!r} may be a time in more than one unit: name another "
                "field"
            )
        return ticks.pop()

    def dtype(self) -> str:
        found = [
            branch["type"]
            for field in self.fields
            if field.kind in ("number", "vector")
            for branch in self._branches[field.name]
        ]
        return "float32" if set(found) == {"float"} else "float64"

    def read(self, values: Sequence[bytes | None]) -> ParsedRecords:
        records: list[dict[str, Any]] = []
        where: list[int] = []
        bad: dict[int, str] = {}
        framed = self.config.framing == "confluent"
        read, schema = self._avro.schemaless_reader, self._schema
        for i, value in enumerate(values):
            if value is None:
                bad[i] = NO_VALUE
                continue
            if framed and (why := no_header(value)):
                bad[i] = why
                continue
            datum = io.BytesIO(value)
            if framed:
                datum.seek(len(HEADER))
            try:
                found = read(datum, schema)
            except Exception as error:  # of many kinds, and their texts name addresses
                bad[i] = f"no record {self._name!r} of Avro: {type(error).__name__}"
                continue
            if datum.read(1):
                rest = len(value) - datum.tell() + 1
                bad[i] = f"{rest} bytes are left over after a record {self._name!r}"
                continue
            records.append(found)
            where.append(i)
        columns = cells.values_of(self.fields, records)
        for j, field in enumerate(self.fields):
            if (ticks := self._ticks.get(field.name, 1.0)) != 1.0:
                columns[j] = [v / ticks if type(v) in (int, float) else v for v in columns[j]]
        return cells.rows(self.fields, columns, where, bad)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """Encode rows; a field that is not named has the default of the schema. With Confluent's
        framing the id of the schema is 0."""
        messages = []
        for row in rows:
            out = io.BytesIO()
            out.write(HEADER if self.config.framing == "confluent" else b"")
            record = cells.nested(self.fields, row, self._told)
            self._avro.schemaless_writer(out, self._schema, record)
            messages.append(out.getvalue())
        return messages

    def _told(self, value: Any, field: Field) -> Any:
        value = value.tolist() if hasattr(value, "tolist") else value
        ticks = self._ticks.get(field.name, 1.0)
        return value if ticks == 1.0 else round(value * ticks)


def _branches(schema: Any, names: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the possible types of a value: the branches of a union, the definition of a name."""
    if isinstance(schema, list):
        for branch in schema:
            yield from _branches(branch, names)
    elif isinstance(schema, str):
        yield names.get(schema, {"type": schema})
    elif isinstance(schema["type"], str) and schema["type"] not in names:
        yield {**schema, "type": "record"} if schema["type"] == "error" else schema
    else:
        yield from _branches(schema["type"], names)


def _without_logic(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {k: _without_logic(v) for k, v in schema.items() if k != "logicalType"}
    return [_without_logic(part) for part in schema] if isinstance(schema, list) else schema
