"""Messages in the binary encoding of Avro, of one schema or of those that their ids name."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, field_serializer, model_validator

from streams.core.errors import StreamError
from streams.core.settings import unknown
from streams.decoding.formats import python_values as cells
from streams.decoding.formats.avro_resolution import Writer, branches, unresolved, writer_logic
from streams.decoding.formats.base import NO_VALUE, Field, Format, FormatConfig, ParsedRecords
from streams.decoding.formats.extras import (
    HEADER_BYTES,
    Framing,
    file_bytes,
    header,
    library,
    no_header,
    schema_id,
)
from streams.decoding.formats.registry import SchemaRegistry
from streams.decoding.time_reader import PLAIN_TIMES
from streams.secrets import check_variables, masked, without_user

with warnings.catch_warnings():
    # pydantic warns of the name of a method that it keeps for users of its first version.
    warnings.simplefilter("ignore", UserWarning)

    class AvroConfig(FormatConfig):
        """Settings of Avro.

        Attributes:
            schema: the schema that the job reads: a file, from the job file's folder, or the schema
                itself. Without one, that of the lowest id of ``schemas``.
            framing: ``confluent`` where messages come from Confluent's serializers, and begin with
                the id of the schema that they were written with.
            schemas: schemas by id, files or schemas. A message is read by that of its id, and
                resolved to ``schema`` by the rules of Avro.
            registry: URL of a schema registry that knows the other ids; or options of Confluent's
                ``SchemaRegistryClient``, with ``${NAME}`` for environment variables.
        """

        kind: Literal["avro"] = "avro"
        schema: str | dict[str, Any] | None = None  # type: ignore[assignment]
        framing: Framing = "plain"
        schemas: dict[NonNegativeInt, str | dict[str, Any]] = {}
        registry: str | dict[str, Any] | None = None

        @model_validator(mode="before")
        @classmethod
        def _framed(cls, data: Any) -> Any:
            if isinstance(data, dict) and (data.get("schemas") or data.get("registry")):
                return {"framing": "confluent"} | data
            return data

        @model_validator(mode="after")
        def _complete(self) -> AvroConfig:
            if self.schema is None and not self.schemas:
                raise ValueError("state schema: the file of the schema that the job reads")
            if self.framing == "plain" and (self.schemas or self.registry):
                raise ValueError("schemas and registry need framing: confluent")
            if isinstance(self.registry, dict):
                if "url" not in self.registry:
                    raise ValueError("registry: state url")
                check_variables(self.registry)
            return self

        @field_serializer("registry")
        def _masked(self, registry: Any) -> Any:
            """Mask secrets in what is stored and shown."""
            if isinstance(registry, dict):
                return masked(registry)
            return without_user(registry) if isinstance(registry, str) else registry


_NUMBERS = {"int", "long", "float", "double"}
_FITS: dict[str, set[str]] = {
    "number": _NUMBERS,
    "integer": {"int", "long"},
    "boolean": {"boolean"},
    "text": {"string", "enum"},
    "category": _NUMBERS | {"string", "enum", "boolean"},
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

    With Confluent's framing a message is read by the schema of its id and resolved to the schema of
    the job: fields by name or alias, defaults, promoted types. A message whose id is not known is
    bad. Where the job states no ids, they all count as the one that ``schema_id`` is set to.
    """

    Config = AvroConfig

    def __init__(self, config: AvroConfig, fields: Sequence[Field], folder: Path) -> None:
        super().__init__(config, fields, folder)
        self._avro = library("fastavro", "fastavro", "avro")
        self._place = "stream.format.schema"
        first = min(config.schemas) if config.schemas else None
        stated = config.schema
        if stated is None:
            assert first is not None
            self._place, stated = f"stream.format.schemas.{first}", config.schemas[first]
        stated = self._load(stated)
        declared, names = self._parsed(stated)
        self._check_record(declared, names)
        self._name = declared["name"]
        self._declared, self._names = declared, names
        self._branches = {f.name: self._found(f, declared, names) for f in fields}
        self._ticks = {f.name: self._scale(f) for f in fields if f.kind == "time"}
        self.fields = tuple(  # a logical type says its unit itself
            replace(f, times=PLAIN_TIMES) if self._ticks.get(f.name, 1.0) != 1.0 else f
            for f in fields
        )
        # Numbers as they are written are read faster than dates and decimals, and never overflow.
        self._schema, _ = self._parsed(_without_logic(stated))
        self._own = Writer(self._schema, None, self._ticks)
        self._registry = (
            None
            if config.registry is None
            else SchemaRegistry(config.registry, "stream.format.registry")
        )
        self._writers: dict[int, Writer | str] = {}
        for id_, schema in config.schemas.items():
            self._place = f"stream.format.schemas.{id_}"
            self._writers[id_] = self._writer(self._load(schema))

    @property
    def needs_schema_id(self) -> bool:
        config = self.config
        return config.framing == "confluent" and not config.schemas and config.registry is None

    def _load(self, stated: str | dict[str, Any]) -> Any:
        """Return a schema as JSON; a file is read, and is then the place of messages."""
        if not isinstance(stated, str):
            return stated
        key = self._place
        self._place = f"{key}: {self.folder / stated}"
        text = file_bytes(key, self.folder / stated)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StreamError(f"{self._place}: no JSON: {error}") from None

    def _check_record(self, declared: Any, names: Mapping[str, Any]) -> None:
        if not isinstance(declared, dict) or declared.get("type") != "record":
            raise StreamError(f"{self._place}: no record: the schema of a record is wanted")
        self._sound(declared, names, ())

    def _writer(self, stated: Any, references: Sequence[Any] = ()) -> Writer:
        """Return how messages of a schema are read. Raise ``StreamError`` if they cannot be."""
        declared, names = self._parsed(stated, references)
        self._check_record(declared, names)
        if why := unresolved(declared, names, self._declared, self._names):
            raise StreamError(f"{self._place}: not readable as the job's schema: {why}")
        ticks = dict(self._ticks)
        for name in ticks:
            logic = writer_logic(name, (declared, names), (self._declared, self._names))
            if logic is not None:  # what is written counts, where it says
                ticks[name] = _TICKS.get(logic, ticks[name])
        schema, _ = self._parsed(_without_logic(stated), list(map(_without_logic, references)))
        return Writer(schema, None if schema == self._schema else self._schema, ticks)

    def _writer_of(self, id_: int) -> Writer | str:
        """Return how messages of a schema's id are read, or why they are bad.

        Raises:
            BrokerUnavailableError: the registry does not answer.
        """
        if self.needs_schema_id:
            if self.schema_id in (None, id_):
                return self._own
            return (
                f"schema {id_}; this job reads by that of schema {self.schema_id}: state "
                "stream.format.schemas or registry"
            )
        writer = self._writers.get(id_)
        if writer is not None:
            return writer
        if self._registry is None:
            return f"schema {id_}; this job knows {', '.join(map(str, sorted(self._writers)))}"
        found = self._registry.schema(id_)
        if found is None:  # not kept: it may be registered yet
            return f"schema {id_}; {self._registry.url} has no schema of Avro of that id"
        self._place = f"schema {id_} of {self._registry.url}"
        try:
            writer = self._writer(*found)
        except StreamError as error:
            writer = str(error)
        self._writers[id_] = writer
        return writer

    def _parsed(self, stated: Any, references: Sequence[Any] = ()) -> tuple[Any, dict[str, Any]]:
        names: dict[str, Any] = {}
        try:
            for reference in references:
                self._avro.parse_schema(reference, names)
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
        for branch in branches(schema, names):
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
            records = [b for b in branches(schema, names) if b["type"] != "null"]
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
        found = [branch for branch in branches(schema, names) if branch["type"] != "null"]
        fits = bool(found) and all(branch["type"] in _FITS[field.kind] for branch in found)
        if fits and field.kind == "vector":
            found = [item for branch in found for item in branches(branch["items"], names)]
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
        """Decode messages. Raise ``BrokerUnavailableError`` if a registry does not answer."""
        records: list[dict[str, Any]] = []
        where: list[int] = []
        bad: dict[int, str] = {}
        framed = self.config.framing == "confluent"
        writers: dict[int, Writer | str] = {}  # of these messages
        writer: Writer | str = self._own
        ids: list[int] = []  # of the schemas of the records
        id_ = -1
        for i, value in enumerate(values):
            if value is None:
                bad[i] = NO_VALUE
                continue
            if framed:
                if why := no_header(value):
                    bad[i] = why
                    continue
                id_ = schema_id(value)
                if id_ not in writers:
                    writers[id_] = self._writer_of(id_)
                writer = writers[id_]
            if isinstance(writer, str):
                bad[i] = writer
                continue
            found = self._record(value, writer, framed)
            if isinstance(found, str):
                bad[i] = found if writer is self._own or not framed else f"schema {id_}: {found}"
                continue
            records.append(found)
            where.append(i)
            ids.append(id_)
        columns = cells.values_of(self.fields, records)
        self._scale_times(columns, ids, writers)
        return cells.rows(self.fields, columns, where, bad)

    def _record(self, value: bytes, writer: Writer, framed: bool) -> dict[str, Any] | str:
        """Return the record of a message, or why there is none."""
        datum = io.BytesIO(value)
        if framed:
            datum.seek(HEADER_BYTES)
        try:
            found: dict[str, Any] = self._avro.schemaless_reader(
                datum, writer.schema, writer.reader
            )
        except Exception as error:  # of many kinds, and their texts name addresses
            return f"no record {self._name!r} of Avro: {type(error).__name__}"
        if datum.read(1):
            rest = len(value) - datum.tell() + 1
            return f"{rest} bytes are left over after a record {self._name!r}"
        return found

    def _scale_times(
        self, columns: list[list[Any]], ids: Sequence[int], writers: Mapping[int, Writer | str]
    ) -> None:
        """Turn times into seconds, by the unit of the schema that each was written with."""
        for j, field in enumerate(self.fields):
            if field.kind != "time":
                continue
            ticks = {
                id_: writer.ticks[field.name]
                for id_, writer in writers.items()
                if isinstance(writer, Writer)
            } or {-1: self._ticks[field.name]}
            if set(ticks.values()) != {1.0}:
                columns[j] = [
                    v / ticks[id_] if type(v) in (int, float) and ticks[id_] != 1.0 else v
                    for v, id_ in zip(columns[j], ids, strict=True)
                ]

    def write(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """Encode rows; a field that is not named has the default of the schema. With Confluent's
        framing they have the lowest id of ``schemas``, or ``schema_id``, else 0."""
        messages = []
        id_ = min(self.config.schemas, default=self.schema_id or 0)
        writer = self._writers.get(id_, self._own)
        assert isinstance(writer, Writer)
        for row in rows:
            out = io.BytesIO()
            out.write(header(id_) if self.config.framing == "confluent" else b"")
            record = cells.nested(self.fields, row, self._told)
            self._avro.schemaless_writer(out, writer.schema, record)
            messages.append(out.getvalue())
        return messages

    def _told(self, value: Any, field: Field) -> Any:
        value = value.tolist() if hasattr(value, "tolist") else value
        ticks = self._ticks.get(field.name, 1.0)
        return value if ticks == 1.0 else round(value * ticks)


def _without_logic(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {k: _without_logic(v) for k, v in schema.items() if k != "logicalType"}
    return [_without_logic(part) for part in schema] if isinstance(schema, list) else schema
