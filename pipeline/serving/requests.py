"""From the events of a request to a batch, read by the format and the decoder of the stream.

An event is a JSON object with the features by name, and an id if its prediction is to be scored
once the label arrives. ``JsonLayout`` in the recipe says how JSON stands for an event of the
stream:

- Kafka, with JSON, Avro or Protobuf: an event is read as the value of a JSON message is, by the
  same code: the same fields, paths of nested names, types, and reasons of dead events.
- Kafka with frames, scenarios, Avalanche, a user's own stream: the same types of values. Names are
  taken as they are, and images may be lists of pixels.
- Parquet and river: a cell is read by its own type. A number may be written as text, ``true`` and
  ``false`` are 1 and 0, and times are in seconds.
- CSV: a cell is the text that JSON has for it, so ``true`` is no number.

What becomes of an event depends on that event alone. A feature that is null or left out is missing,
as in the stream. Fields that the stream does not read are ignored, as in a message; but an event is
refused where it names no feature, or leaves one out and has an unread field of nearly its name
(``left_out.py``). A request may leave out what a message must have besides the features: id, time
and key. What it does state must be readable, or the event is dead in the stream too. Limits of
a stream that need the message itself are not checked: its size and its age. The time of an event
without one is NaN: to a model that is the time of the latest event.

The id of an event is that of the stream's own field, else that of ``id``. Where the stream has no
ids, it is the position, which only the server reads.
"""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
from starlette.requests import Request

from pipeline.models.recipe import Recipe, layout_of, schema_of
from pipeline.serving.left_out import LeftOut
from pipeline.serving.responses import MAX_DETAILS, HTTPError, InvalidItemsError
from streams.core.batch import Batch, Floats, Ints
from streams.core.errors import StreamError, one_line
from streams.core.schema import Feature
from streams.decoding.columns import Mask, identities, valid
from streams.decoding.decoder import Columns, Decoder
from streams.decoding.formats import python_values
from streams.decoding.formats.base import Field, fields_of
from streams.decoding.formats.json import Json, JsonConfig
from streams.decoding.formats.json_cells import JsonArrays, JsonText, JsonTyped
from streams.decoding.time_reader import TimeReader

_DEFAULTS: dict[str, Any] = {"integer": 0, "text": "", "time": 0.0}
"""What an id, a key or a time counts as while an event that leaves it out is decoded."""
_TEXT_TIME = "1970-01-01T00:00:00Z"
"""The same of a time where cells are text."""


class InvalidEventsError(InvalidItemsError):
    """Some events of a request cannot be read."""

    item = "event"


class PredictRequest(NamedTuple):
    """The n events of a request.

    Attributes:
        batch: n rows, without labels. Ids are those of the stream; -1 where there is none.
        ids: n ids as the request states them; None where there is none.
        named: (n,) True where there is one.
    """

    batch: Batch
    ids: list[int | str | None]
    named: Mask


class RequestReader:
    """Read the events of requests for the model of a recipe.

    Attributes:
        schema: the features that an event may have.
        required: the names of those that it must have.
        id_key: the field that an event may state its id in: ``id``, or ``_id`` where a feature is
            called so (and ``__id`` where both are). The field of ids in the stream counts first.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.schema = schema_of(recipe)
        layout = layout_of(recipe)
        names = {feature.name for feature in self.schema.features}
        self.id_key = "id"
        while self.id_key in names:
            self.id_key = f"_{self.id_key}"
        self._nested, self._pixels = layout["nested"], layout["pixels"]
        self._own_id = layout["id"]
        self._id_type = recipe["id_type"]
        # An id has the type that it has in a message; where none has any, it may be text as well.
        self._id_field: Field | None = None
        self._expected_id = (
            "an integer id" if self._id_type == "int" else "an id: a text or an integer"
        )
        if layout["cells"] == "json" and self._own_id is not None:
            self._id_field = Field(self._own_id, "integer" if self._id_type == "int" else "text")
            self._expected_id = self._id_field.expected
        # Columns of unsigned integers are names in two's complement, as ``identities`` has them.
        self._unsigned = layout["cells"] != "text"
        times = TimeReader(**layout.get("times", {}))
        fields = fields_of(self.schema, times)
        self.required = [field.name for field in fields if field.required]
        # Ids and keys have been checked by the format, and ids are read here.
        columns = replace(Columns.of_roles(layout.get("columns", {})), id=None, key=None)
        self._time = columns.time
        if columns.time in names:  # as a feature it may be missing
            columns = replace(columns, time=None)
        others = [
            Field(name, kind, (), needed, times=times)
            for name, kind, needed in layout.get("fields", [])
        ]
        kind = {"json": Json if self._nested else JsonArrays, "typed": JsonTyped, "text": JsonText}
        self._format = kind[layout["cells"]](JsonConfig(kind="json"), [*fields, *others], Path())
        defaults = _DEFAULTS | ({"time": _TEXT_TIME} if layout["cells"] == "text" else {})
        self._defaults = {field.name: defaults[field.kind] for field in others if field.required}
        # Cells of text are read by the decoder. Other times are seconds by then.
        seconds = TimeReader(**times.settings, numbers_read=layout["cells"] != "text")
        if layout["cells"] == "text":
            seconds = seconds.for_features()  # ISO 8601 is read too
        self._decode = Decoder(self.schema, columns, recipe["dtype"], seconds)
        self._known = {field.name for field in self._format.fields} | {self.id_key}
        self._left_out = LeftOut(
            [field.name for field in fields], self._known, self._format.states, self._nested
        )

    def read(self, events: Sequence[Any]) -> PredictRequest:
        """Read events, which may be any JSON values that ``orjson.loads`` returns.

        Raises:
            InvalidEventsError: some cannot be read.
            HTTPError: a library that reads images is not installed.
        """
        n = len(events)
        table, bad = self._format.read_parsed(events, self._defaults)
        reasons = dict(bad)
        alive = np.array([row for row in range(n) if row not in reasons], np.int64)
        partition, time = np.zeros(len(alive), np.int32), np.zeros(len(alive))
        try:
            with np.errstate(over="ignore"):  # beyond float32, where that is the stream's: infinite
                batch = self._decode(table, partition, alive, time)
        except StreamError as error:  # Pillow is not installed on this machine
            raise HTTPError(500, one_line(error)) from None
        reasons |= {dead.offset: dead.reason for dead in batch.dead}
        for row in alive[self._gaps(table)].tolist():
            if (reason := self._left_out.reason(events[row])) is not None:
                reasons.setdefault(row, reason)
        ids, stated, wrong = self._ids(events)
        for row, reason in wrong.items():
            reasons.setdefault(row, reason)
        if reasons:
            first = sorted(reasons)[:MAX_DETAILS]
            hints = {row: hint for row in first if (hint := self._hint(events[row]))}
            raise InvalidEventsError(reasons, hints, n)
        named = np.array([value is not None for value in stated], np.bool_)
        batch = replace(
            batch,
            ids=ids,
            time=self._times(batch, events),
            y=None,
            due=None,
            segment=None,
            classes=self.schema.classes,
        )
        return PredictRequest(batch, stated, named)

    def _times(self, batch: Batch, events: Sequence[dict[str, Any]]) -> Floats:
        """Return (n,) the event times of n events; NaN where there is none."""
        if self._time is None:
            return np.full(len(batch), np.nan)
        if not isinstance(batch.x, np.ndarray) and self._time in batch.x:
            return np.asarray(batch.x[self._time], np.float64)
        (values,) = self._format.values_of([Field(self._time, "time")], events)
        stated = np.fromiter((value is not None for value in values), np.bool_, len(batch))
        return np.where(stated, batch.time, np.nan)

    def _gaps(self, table: pa.RecordBatch) -> Mask:
        """Return (m,) True where a row of the table lacks a feature."""
        gaps = np.zeros(table.num_rows, np.bool_)
        for column in table.columns[: len(self.schema.features)]:
            if column.null_count:
                gaps |= ~valid(column)
        return gaps

    def _ids(self, events: Sequence[Any]) -> tuple[Ints, list[Any], dict[int, str]]:
        """Return the ids as the stream names events (-1 where there is none), as the events state
        them, and why an event's id cannot be read."""
        objects = [event if type(event) is dict else {} for event in events]
        stated = [event.get(self.id_key) for event in objects]
        keys = [self.id_key] * len(stated)
        if self._own_id is not None and self._own_id != self.id_key:
            (own,) = self._format.values_of([Field(self._own_id, "integer")], objects)
            for row, value in enumerate(own):
                if value is not None:
                    stated[row], keys[row] = value, self._own_id
        ids, good = self._identities(stated)
        wrong = {}
        for row in np.flatnonzero(~good).tolist():
            if (value := stated[row]) is not None:
                shown = python_values.show(value)
                wrong[row] = f"column {keys[row]!r} holds {shown}; expected {self._expected_id}"
        return ids, stated, wrong

    def _identities(self, stated: list[Any]) -> tuple[Ints, Mask]:
        """Return (n,) how the stream names events (-1: not at all), and where it does."""
        ids = np.full(len(stated), -1, np.int64)
        good = np.zeros(len(stated), np.bool_)
        rows = [row for row, value in enumerate(stated) if value is not None]
        if not rows:
            return ids, good
        values = [stated[row] for row in rows]
        if self._id_type == "int" and set(map(type, values)) == {int}:
            with suppress(OverflowError):  # the usual case, at no cost
                ids[rows] = np.array(values, np.int64)
                good[rows] = True
                return ids, good
        if self._id_field is not None:
            column, wrong = python_values.column(self._id_field, values)
            ids[rows], good[rows] = identities(column, self._id_type)
            if wrong is not None:
                good[rows] &= ~wrong
            return np.where(good, ids, -1), good
        texts = [str(value) if type(value) in (int, str) else None for value in values]
        ids[rows], good[rows] = identities(pa.array(texts, pa.string()), self._id_type)
        if self._id_type == "int" and self._unsigned:
            for row, value in zip(rows, values, strict=True):
                if type(value) is int and 2**63 <= value < 2**64:
                    ids[row], good[row] = value - 2**64, True
        return np.where(good, ids, -1), good

    def _hint(self, event: Any) -> str | None:
        """Return which features an event leaves out, and which of its fields nothing reads."""
        return self._left_out.hint(event, self.required) if type(event) is dict else None

    def event_schema(self) -> dict[str, Any]:
        """Return the JSON schema of one event."""
        schema: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
        for feature in self.schema.features:
            inner = schema
            *path, name = feature.name.split(".") if self._nested else [feature.name]
            for step in path:
                if step not in inner["properties"]:
                    inner["properties"][step] = {"type": "object", "properties": {}, "required": []}
                if feature.name in self.required and step not in inner["required"]:
                    inner["required"].append(step)
                inner = inner["properties"][step]
            value = _json_schema(feature, self._pixels)
            if feature.name in self.required:
                inner["required"].append(name)
            elif "type" in value:
                kinds = value["type"]
                value["type"] = [*([kinds] if isinstance(kinds, str) else kinds), "null"]
            else:
                value["oneOf"].append({"type": "null"})
            inner["properties"][name] = value
        schema["properties"][self.id_key] = {
            "type": ["integer", "string", "null"],
            "description": "names the event in the stream",
        }
        return schema

    def example(self) -> dict[str, Any]:
        """Return an event that can be read."""
        row = {f.name: _example(f, self._pixels) for f in self.schema.features}
        if not self._nested:
            return row
        fields = self._format.fields[: len(self.schema.features)]
        return python_values.nested(fields, row, lambda value, _: value)


def _json_schema(feature: Feature, pixels: bool) -> dict[str, Any]:
    """Return the JSON schema of a value of the feature."""
    if feature.kind == "numeric":
        return {"type": "number"}
    if feature.kind == "time":
        return {"type": ["number", "string"], "description": "a time"}
    if feature.kind == "vector":
        (d,) = feature.shape
        return {"type": "array", "items": {"type": "number"}, "minItems": d, "maxItems": d}
    if feature.kind == "image":
        encoded = {"type": "string", "contentEncoding": "base64", "description": "PNG or JPEG"}
        if not pixels:
            return encoded
        values: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 255}
        for size in reversed(feature.shape):
            values = {"type": "array", "items": values, "minItems": size, "maxItems": size}
        return {"oneOf": [values, encoded]}
    if feature.kind == "categorical":
        return {"type": ["string", "number", "boolean"]}
    return {"type": "string"}


def _example(feature: Feature, pixels: bool) -> Any:
    if feature.kind in ("numeric", "time"):
        return 0.0
    if feature.kind == "vector":
        return [0.0] * feature.shape[0]
    if feature.kind == "image":
        if not pixels:
            return png_of_zeros(feature.shape)
        return np.zeros(feature.shape, np.uint8).tolist()
    return "a"


_PNG_COLOURS = {1: 0, 3: 2, 4: 6}


def png_of_zeros(shape: tuple[int, ...]) -> str:
    """Return the base64 of a PNG of (channels, height, width) zeros, without Pillow, an extra."""
    channels, height, width = shape
    header = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOURS.get(channels, 2), 0, 0, 0)
    rows = (b"\0" + bytes(width * channels)) * height
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b64encode(data).decode()


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Read the body of a request.

    Raises:
        HTTPError: it has more than ``max_bytes``.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > max_bytes:
        raise HTTPError(413, f"{length[:20]} bytes given; at most {max_bytes:,} in one request")
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:  # it may be endless: the rest is not read
            close = {"Connection": "close"}
            raise HTTPError(413, f"at most {max_bytes:,} bytes in one request", headers=close)
        chunks.append(chunk)
    return b"".join(chunks)


def parse_list(body: bytes, max_items: int, what: str) -> list[Any]:
    """Parse the JSON list in a body, by the parser that reads messages of the stream.

    Raises:
        HTTPError: it is no list, or has more than ``max_items``.
    """
    try:
        items = orjson.loads(body)
    except ValueError as error:  # so is nesting beyond 1,024 levels
        raise HTTPError(400, f"not JSON: {one_line(error)}") from None
    if not isinstance(items, list):
        raise HTTPError(422, f"a JSON list of {what} is wanted: [{{...}}, ...]")
    if len(items) > max_items:
        raise HTTPError(413, f"{len(items):,} {what} given; at most {max_items:,} in one request")
    return items
