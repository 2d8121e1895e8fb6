"""From the events of a request to a batch: read as the stream reads them, or refused with reasons.

An event is a JSON object with the feature columns by name, and its id if its answer is to be scored
once its label comes. What a cell is read as depends on that cell alone, and not on its neighbours
in the request, whatever they are: columns are put together by kind here, and not by what Arrow
makes of a mixture.
"""

from __future__ import annotations

import base64
import binascii
import math
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.models.recipe import Recipe, schema_of
from streams.core.batch import Array, Batch, Ints
from streams.core.errors import StreamError, one_line
from streams.core.schema import Feature
from streams.core.settings import unknown
from streams.decoding.columns import Mask, identities, numbers, valid
from streams.decoding.decoder import Columns, Decoder
from streams.decoding.images import images

MOST_DETAILS = 10
"""Events of a request whose reasons are told; the others are counted."""
_NEAREST_OF = 100  # columns among which the nearest to a misspelt one is looked for: it costs time
_NUMBERS = {int, float, bool}


class InvalidEventsError(Exception):
    """Events of a request cannot be read.

    ``details`` has ``{"event": index, "reason": text}`` for the first of them, in order.
    """

    def __init__(self, wrong: dict[int, str], events: int) -> None:
        first = sorted(wrong)[:MOST_DETAILS]
        listed = f"; the first {len(first)} are listed" if len(first) < len(wrong) else ""
        super().__init__(f"{len(wrong)} of {events} events cannot be read{listed}")
        self.details = [{"event": row, "reason": one_line(wrong[row])} for row in first]


class PredictRequest(NamedTuple):
    """The n events of a request.

    Attributes:
        batch: n rows, without labels. Ids are those of the stream; -1 where there is none.
        ids: n ids as they were given; None where there is none.
        named: (n,) True where there is one.
    """

    batch: Batch
    ids: list[int | str | None]
    named: Mask


class Reader:
    """Reads the events of requests for the model of a recipe.

    Attributes:
        schema: the features that an event must have, all of them.
        id_key: under which an event may bring its id: ``id``, or ``_id`` where a feature is called
            so (and ``__id`` where that is taken as well).
    """

    def __init__(self, made: Recipe) -> None:
        self.schema = schema_of(made)
        names = {feature.name for feature in self.schema.features}
        self.id_key = "id"
        while self.id_key in names:
            self.id_key = f"_{self.id_key}"
        self._needed, self._known = names, names | {self.id_key}
        self._id_type = made["id_type"]
        self._decode = Decoder(self.schema, Columns(), made["dtype"])

    def read(self, events: Sequence[Any]) -> PredictRequest:
        """The events, which may be anything that JSON can say. Raises ``InvalidEventsError``."""
        n = len(events)
        refused = _Refused()
        for row, event in enumerate(events):
            if type(event) is not dict:
                refused.add(row, lambda event=event: f"{_show(event)} given; an object is wanted")
            elif not self._needed <= event.keys() <= self._known:
                refused.add(row, lambda event=event: self._misfit(event))
        refused.check(n)  # else there are no columns to look at
        columns = {}
        for feature in self.schema.features:
            cells = [event[feature.name] for event in events]
            columns[feature.name] = _column(feature, cells, refused)
        given = [event.get(self.id_key) for event in events]
        ids, named = self._ids(given, refused)
        offset = np.arange(n)
        with np.errstate(over="ignore"):  # beyond float32, where that is the stream's: infinite
            batch = self._decode(
                pa.table(columns), np.zeros(n, np.int32), offset, np.zeros(n, np.float64)
            )
        for dead in batch.dead:
            refused.add(dead.offset, lambda dead=dead: dead.reason)
        refused.check(n)
        return PredictRequest(replace(batch, ids=ids), given, named)

    def _ids(self, given: Sequence[Any], refused: _Refused) -> tuple[Ints, Mask]:
        """(n,) the ids as the stream names events, and where there are any."""
        ids = np.full(len(given), -1, np.int64)
        named = np.zeros(len(given), np.bool_)
        rows = [row for row, value in enumerate(given) if value is not None]
        if not rows:
            return ids, named
        named[rows] = True
        expected = "an integer id" if self._id_type == "int" else "an id: a text or an integer"
        for kind, cells in _by_type(given, rows).items():
            good = np.zeros(len(cells), np.bool_)
            values = [given[row] for row in cells]
            if kind is str or (kind is int and self._id_type != "int"):
                column = pa.array(list(map(str, values)), pa.string())
                ids[cells], good = identities(column, self._id_type)
            elif kind is int:
                # Unsigned ones in two's complement, as ``identities`` has them.
                good = np.array([-(2**63) <= value < 2**64 for value in values])
                low = [(v + 2**63) % 2**64 - 2**63 for v in values]
                ids[cells] = np.where(good, np.array(low, np.int64), -1)
            for row, fine in zip(cells, good.tolist(), strict=True):
                if not fine:
                    refused.cell(row, self.id_key, given[row], expected)
        return ids, named

    def _misfit(self, event: dict[str, Any]) -> str:
        """What is wrong with the names of an event's columns."""
        missing = [f.name for f in self.schema.features if f.name not in event]
        found = [key for key in event if key not in self._known]
        reasons = []
        if found:
            few = len(self._known) <= _NEAREST_OF
            first = unknown(found[0], sorted(self._known)) if few else _show(found[0])
            reasons.append(f"unknown column {first}")
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            reasons.append(f"missing: {', '.join(map(repr, missing[:5]))}{more}")
        return "; ".join(reversed(reasons))

    def event_schema(self) -> dict[str, Any]:
        """The JSON schema of one event."""
        ids = {
            "type": ["integer", "string", "null"],
            "description": "names the event in the stream",
        }
        columns = {f.name: _json_schema(f) for f in self.schema.features}
        return {
            "type": "object",
            "properties": {**columns, self.id_key: ids},
            "required": list(columns),
            "additionalProperties": False,
        }

    def example(self) -> dict[str, Any]:
        """An event that can be read."""
        return {f.name: _example(f) for f in self.schema.features}


class _Refused:
    """Which events cannot be read, and why; the first reason stays."""

    def __init__(self) -> None:
        self._wrong: dict[int, Any] = {}

    def add(self, row: int, reason: Any) -> None:
        """``reason`` is called if it is to be told: of thousands, few are."""
        self._wrong.setdefault(row, reason)

    def cell(self, row: int, name: str, value: Any, expected: str) -> None:
        self.add(row, lambda: f"column {name!r} holds {_show(value)}; expected {expected}")

    def where(self, mask: Any, name: str, cells: Sequence[Any], expected: str) -> None:
        for row in np.flatnonzero(mask).tolist():
            self.cell(row, name, cells[row], expected)

    def check(self, events: int) -> None:
        if self._wrong:
            told = sorted(self._wrong)[:MOST_DETAILS]
            wrong = dict.fromkeys(self._wrong, "") | {row: self._wrong[row]() for row in told}
            raise InvalidEventsError(wrong, events)


def _column(feature: Feature, cells: list[Any], refused: _Refused) -> pa.Array:
    """One column of n cells as a stream has it; what cannot be read is refused, and stands in."""
    name, kind = feature.name, feature.kind
    if kind == "numeric":
        x = _floats(cells)
        refused.where(~np.isfinite(x), name, cells, "a finite number")
        return pa.array(np.nan_to_num(x, copy=False, posinf=0.0, neginf=0.0))
    if kind == "vector":
        (d,) = feature.shape
        x = _rows(cells, d)
        refused.where(~np.isfinite(x).all(axis=1), name, cells, f"a vector of {d} finite numbers")
        return pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), d)
    if kind == "image":
        return _images(feature, cells, refused)
    text = _texts(cells)
    if text.null_count:
        refused.where(~valid(text), name, cells, "text")
    return text


def _floats(cells: list[Any]) -> Array:
    """(n,) float64; NaN or infinite where a cell is no finite number. Numbers may be written as
    text, as they may in a stream; true and false are 1 and 0."""
    kinds = set(map(type, cells))
    if kinds <= _NUMBERS:
        try:
            return np.array(cells, np.float64)
        except OverflowError:  # an integer beyond 1.8e308
            pass
    x = np.full(len(cells), np.nan)
    for kind, rows in _by_type(cells, range(len(cells))).items():
        if kind is str:
            x[rows] = numbers(pa.array([cells[row] for row in rows], pa.string()))
        elif kind in _NUMBERS:
            x[rows] = [_float(cells[row]) for row in rows]
    return x


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _rows(cells: list[Any], d: int) -> Array:
    """(n, d) float64; NaN in a row that is no list of d numbers."""
    x = np.full((len(cells), d), np.nan)
    for row, cell in enumerate(cells):
        if type(cell) is list and len(cell) == d and set(map(type, cell)) <= _NUMBERS:
            try:
                x[row] = cell
            except OverflowError:
                x[row] = np.nan
    return x


def _texts(cells: list[Any]) -> pa.Array:
    """n texts; a number or a truth value as Arrow writes it, null where a cell is none of these."""
    if set(map(type, cells)) <= {str}:
        return pa.array(cells, pa.string())
    texts: list[str | None] = [None] * len(cells)
    for row, cell in enumerate(cells):
        if type(cell) in (str, int):
            texts[row] = str(cell)
        elif type(cell) in (float, bool):
            texts[row] = pa.scalar(cell).cast(pa.string()).as_py()
    return pa.array(texts, pa.string())


def _images(feature: Feature, cells: list[Any], refused: _Refused) -> pa.Array:
    """Lists of pixels, nested or flat, or base64 of a PNG or JPEG: to lists of pixels."""
    name, shape = feature.name, feature.shape
    size, by = math.prod(shape), "x".join(map(str, shape))
    x = np.zeros((len(cells), *shape), np.uint8)
    encoded: dict[int, bytes] = {}
    for row, cell in enumerate(cells):
        if type(cell) is str:
            try:
                encoded[row] = base64.b64decode(cell, validate=True)
            except (binascii.Error, ValueError):
                refused.cell(row, name, cell, f"base64 of a PNG or JPEG of {by}")
        elif (pixels := _pixels(cell, shape)) is not None:
            x[row] = pixels
        else:
            refused.cell(row, name, cell, f"{size} integers from 0 to 255 ({by})")
    if encoded:
        rows = list(encoded)
        try:
            x[rows], wrong = images(pa.array([*encoded.values()], pa.binary()), shape)
        except StreamError as error:  # Pillow is not there: pixels can still be read
            wrong = dict.fromkeys(range(len(rows)), f"base64 ({error})")
        for i, held in wrong.items():
            why = f"column {name!r} holds {held}; expected a PNG or JPEG of {by}"
            refused.add(rows[i], lambda why=why: why)
    return pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), size)


def _pixels(cell: Any, shape: tuple[int, ...]) -> Array | None:
    if type(cell) is not list:
        return None
    try:
        found = np.array(cell)
    except (ValueError, OverflowError):  # rows of unequal length
        return None
    whole = found.dtype.kind in "iu" and found.shape in (shape, (math.prod(shape),))
    if not whole or found.min() < 0 or found.max() > 255:
        return None
    return found.reshape(shape)


def _by_type(cells: Sequence[Any], rows: Iterable[int]) -> dict[type, list[int]]:
    found: dict[type, list[int]] = {}
    for row in rows:
        found.setdefault(type(cells[row]), []).append(row)
    return found


def _show(value: Any) -> str:
    """A value as JSON has it, never long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length():,} bits"
    if isinstance(value, list | dict):
        what, of = ("a list", "values") if isinstance(value, list) else ("an object", "keys")
        if len(value) > 4 or any(isinstance(item, list | dict) for item in value):
            return f"{what} of {len(value)} {of}"
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def _json_schema(feature: Feature) -> dict[str, Any]:
    """What a cell of the feature is, in JSON schema."""
    if feature.kind == "numeric":
        return {"type": "number"}
    if feature.kind == "vector":
        (d,) = feature.shape
        return {"type": "array", "items": {"type": "number"}, "minItems": d, "maxItems": d}
    if feature.kind == "image":
        pixels: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 255}
        for size in reversed(feature.shape):
            pixels = {"type": "array", "items": pixels, "minItems": size, "maxItems": size}
        encoded = {"type": "string", "contentEncoding": "base64", "description": "PNG or JPEG"}
        return {"oneOf": [pixels, encoded]}
    return {"type": "string"}


def _example(feature: Feature) -> Any:
    if feature.kind == "numeric":
        return 0.0
    if feature.kind in ("vector", "image"):
        return np.zeros(feature.shape, np.uint8 if feature.kind == "image" else float).tolist()
    return "a"
