"""How a schema that messages were written with is resolved to the one that a job reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Parsed = tuple[Any, Mapping[str, Any]]
"""A parsed schema, and the definitions of the names in it."""


class Writer(NamedTuple):
    """How messages of one schema are read.

    Attributes:
        schema: that they were written with.
        reader: that they are resolved to; None: they are of it.
        ticks: units per second of the fields that are times.
    """

    schema: Any
    reader: Any
    ticks: Mapping[str, float]


def unresolved(
    writer: Any, names: Mapping[str, Any], reader: Any, reader_names: Mapping[str, Any]
) -> str | None:
    """Return why no message of a record of the writer is one of the reader; None: some may be."""
    for field in reader["fields"]:
        match = _match(writer, field)
        if match is None:
            if "default" not in field:
                return f"it has no field {field['name']!r}, and that has no default"
            continue
        pair = (_record(match["type"], names), _record(field["type"], reader_names))
        if pair[0] is not None and pair[1] is not None:
            why = unresolved(pair[0], names, pair[1], reader_names)
            if why is not None:
                return why
    return None


def writer_logic(path: str, writer: Parsed, reader: Parsed) -> str | None:
    """Return the logical type that a field of the reader has in the writer; None: it has none."""
    (written, names), (read, reader_names) = writer, reader
    for step in path.split("."):
        record, target = _record(written, names), _record(read, reader_names)
        if record is None or target is None:
            return None
        (field,) = (field for field in target["fields"] if field["name"] == step)
        match = _match(record, field)
        if match is None:
            return None
        written, read = match["type"], field["type"]
    logic = {b.get("logicalType") for b in branches(written, names) if b["type"] != "null"}
    return logic.pop() if len(logic) == 1 else None


def branches(schema: Any, names: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the possible types of a value: the branches of a union, the definition of a name."""
    if isinstance(schema, list):
        for branch in schema:
            yield from branches(branch, names)
    elif isinstance(schema, str):
        yield names.get(schema, {"type": schema})
    elif isinstance(schema["type"], str) and schema["type"] not in names:
        yield {**schema, "type": "record"} if schema["type"] == "error" else schema
    else:
        yield from branches(schema["type"], names)


def _match(record: Any, field: Mapping[str, Any]) -> Any | None:
    """Return the field of a writer's record that a reader's field is read from."""
    for name in (field["name"], *field.get("aliases", ())):
        for written in record["fields"]:
            if written["name"] == name:
                return written
    return None


def _record(schema: Any, names: Mapping[str, Any]) -> Any | None:
    """Return the record that a value is, if it is one or null."""
    records = [branch for branch in branches(schema, names) if branch["type"] != "null"]
    return records[0] if [branch["type"] for branch in records] == ["record"] else None
