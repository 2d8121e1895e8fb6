"""Messages that are JSON objects: ``{"id": 7, "time": "2024-05-01T12:00:00Z", "x": 0.5}``."""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import orjson
import pyarrow as pa

from streams.decoding.columns import Mask
from streams.decoding.formats import python_values as cells
from streams.decoding.formats.base import NO_VALUE, Field, Format, FormatConfig, ParsedRecords
from streams.decoding.formats.extras import HEADER_BYTES, Framing, header, no_header
from streams.decoding.formats.python_values import show


class JsonConfig(FormatConfig):
    """Settings of JSON.

    Attributes:
        framing: ``confluent`` where messages come from Confluent's serializers. The id of the
            schema in them is passed over: JSON names its own fields.
    """

    kind: Literal["json"] = "json"
    framing: Framing = "plain"


class Json(Format):
    """JSON objects, a value for each field by its name.

    A name with dots is a path: ``a.b`` of ``{"a": {"b": 1}}``. A missing key counts as null; but an
    object without the key of any feature is bad: it is no event of this stream. Of a repeated key
    the last value counts. ``true`` and a number in quotes are not numbers. An integer may be
    written 7.0. A time is a number of seconds or ISO 8601 text. An image is the base64 text of a
    PNG or JPEG. Keys that no field names are ignored.
    """

    Config = JsonConfig

    def read(self, values: Sequence[bytes | None]) -> ParsedRecords:
        objects: list[dict[str, Any]] = []
        where: list[int] = []
        bad: dict[int, str] = {}
        loads = orjson.loads
        framed = self.config.framing == "confluent"
        for i, value in enumerate(values):
            if framed and value is not None:
                if why := no_header(value):
                    bad[i] = why
                    continue
                value = value[HEADER_BYTES:]
            try:
                parsed = loads(value)  # type: ignore[arg-type]
            except ValueError as error:
                bad[i] = NO_VALUE if value is None else f"no JSON: {error}"
                continue
            if type(parsed) is dict:
                objects.append(parsed)
                where.append(i)
            else:
                bad[i] = _no_object(parsed)
        return self._rows(objects, where, bad, {})

    def read_parsed(self, values: Sequence[Any], defaults: Mapping[str, Any]) -> ParsedRecords:
        """Read values that ``orjson.loads`` returned as ``read`` reads the bytes of each.

        Args:
            values: n parsed messages.
            defaults: what a field counts as in a message that leaves it out, by its name.
        """
        objects: list[dict[str, Any]] = []
        where: list[int] = []
        bad: dict[int, str] = {}
        for i, value in enumerate(values):
            if type(value) is dict:
                objects.append(value)
                where.append(i)
            else:
                bad[i] = _no_object(value)
        return self._rows(objects, where, bad, defaults)

    def _rows(
        self,
        objects: Sequence[dict[str, Any]],
        where: Sequence[int],
        bad: dict[int, str],
        defaults: Mapping[str, Any],
    ) -> ParsedRecords:
        columns = self.values_of(self.fields, objects)
        if foreign := self._foreign(objects, columns):
            bad |= {where[row]: "no feature is stated" for row in foreign}
            kept = [row for row in range(len(objects)) if row not in foreign]
            where = [where[row] for row in kept]
            columns = [[column[row] for row in kept] for column in columns]
        for j, field in enumerate(self.fields):
            if field.kind == "image":
                columns[j] = list(map(self._image, columns[j]))
            if field.name in defaults:
                default = defaults[field.name]
                columns[j] = [default if value is None else value for value in columns[j]]
        return cells.rows(self.fields, columns, where, bad, self._column)

    def _foreign(self, objects: Sequence[dict[str, Any]], columns: Sequence[list[Any]]) -> set[int]:
        """Return the objects that state no feature, not even as null."""
        features = [j for j, field in enumerate(self.fields) if field.feature]
        if not features or any(self.fields[j].required for j in features):
            return set()
        empty = {row for row, value in enumerate(columns[features[0]]) if value is None}
        for j in features[1:]:
            if not empty:
                break
            empty = {row for row in empty if columns[j][row] is None}
        names = [self.fields[j].name for j in features]
        return {row for row in empty if not any(self.states(objects[row], n) for n in names)}

    @staticmethod
    def states(event: dict[str, Any], name: str) -> bool:
        """Whether an object has the key of a field, if only with null, or with null on the way."""
        inner: Any = event
        for step in name.split("."):
            if type(inner) is not dict:
                return True
            if step not in inner:
                return False
            inner = inner[step]
        return True

    @staticmethod
    def values_of(fields: Sequence[Field], objects: Sequence[dict[str, Any]]) -> list[list[Any]]:
        """Return for each field its values in the objects, None where there is none."""
        return cells.values_of(fields, objects)

    def _column(self, field: Field, values: list[Any]) -> tuple[pa.Array, Mask | None]:
        """Return the column of a field, and where its values are wrong (None: nowhere)."""
        return cells.column(field, values)

    def _image(self, value: Any) -> Any:
        """Return the bytes of base64 text; any other value as it is: it is no image."""
        return decoded(value)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes]:
        option = orjson.OPT_SERIALIZE_NUMPY
        framing = header(0) if self.config.framing == "confluent" else b""
        return [
            framing + orjson.dumps(cells.nested(self.fields, row, _encoded), option=option)
            for row in rows
        ]


def _no_object(value: Any) -> str:
    return f"the message holds {show(value)}; expected a JSON object"


def decoded(value: Any) -> Any:
    """Return the bytes of base64 text; any other value as it is."""
    if type(value) is not str:
        return value
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError:
        return value


def _encoded(value: Any, field: Field) -> Any:
    if field.kind == "image":
        return binascii.b2a_base64(value, newline=False).decode()
    return value
