"""JSON objects as rows of streams that hold no JSON: arrays, Parquet and CSV.

A server reads its requests with these. Names are taken as they are: a dot in one reaches nowhere.
Images may be lists of pixels as well, nested or flat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from streams.core.batch import Array
from streams.core.errors import StreamError
from streams.decoding.columns import Mask, as_text, missing_numbers, numbers, valid
from streams.decoding.formats import python_values as cells
from streams.decoding.formats.base import Field
from streams.decoding.formats.json import Json, JsonConfig
from streams.decoding.images import images

Values = list[Any]
_REAL = {int, float}
_NUMBERS = {int, float, bool}


class JsonArrays(Json):
    """Rows of arrays: values have the types of JSON, as in messages.

    ``true`` and a number in quotes are no numbers.
    """

    def __init__(self, config: JsonConfig, fields: Sequence[Field], folder: Path) -> None:
        super().__init__(config, list(map(_with_pixels, fields)), folder)

    @staticmethod
    def values_of(fields: Sequence[Field], objects: Sequence[dict[str, Any]]) -> list[Values]:
        return [[row.get(field.name) for row in objects] for field in fields]

    @staticmethod
    def states(event: dict[str, Any], name: str) -> bool:
        return name in event

    def _column(self, field: Field, values: Values) -> tuple[pa.Array, Mask | None]:
        return _pixels(field, values) if field.kind == "image" else self._cells(field, values)

    def _cells(self, field: Field, values: Values) -> tuple[pa.Array, Mask | None]:
        return cells.column(field, values)


class JsonTyped(JsonArrays):
    """Rows of columns that have types of their own, as in Parquet: each cell is read by its type.

    A number may be written as text, also as NA, and ``true`` and ``false`` are 1 and 0. A text may
    be a number or a boolean: it is then what Arrow writes for it.
    """

    def _cells(self, field: Field, values: Values) -> tuple[pa.Array, Mask | None]:
        missing = _missing(field, values)
        if field.kind == "number":
            x = _floats(values)
            odd = np.logical_not(np.isfinite(x))
            if not field.required and (odd & ~missing).any():
                texts = _texts(values)
                missing |= odd & valid(texts) & missing_numbers(texts)
            return pa.array(x, mask=missing), odd & ~missing
        if field.kind == "vector":
            (d,) = field.shape
            x = _vectors(values, d)
            infinite = np.logical_not(np.isfinite(x).all(axis=1))
            return _lists(x, d, missing), infinite & ~missing
        if field.kind in ("category", "time"):
            return cells.column(field, values)
        text = _texts(values)
        return text, ~valid(text) & ~missing


class JsonText(JsonArrays):
    """Rows of text, as in CSV: each cell is the text that JSON has for it.

    What a text is read as is up to the decoder: ``5`` and ``"5"`` are one cell, and ``true`` is no
    number.
    """

    def _cells(self, field: Field, values: Values) -> tuple[pa.Array, Mask | None]:
        if field.kind == "number" and set(map(type, values)) <= _REAL:
            return pa.array(np.array(values, np.float64)), None  # as its text is read, and faster
        texts = [_text(value) for value in values]
        odd = [isinstance(value, list | dict) for value in values]
        return pa.array(texts, pa.string()), np.array(odd, np.bool_)


@dataclass(frozen=True, slots=True)
class _PixelField(Field):
    """An image that may be a list of pixels."""

    @property
    def expected(self) -> str:
        size, by = math.prod(self.shape), "x".join(map(str, self.shape))
        return f"{size} integers from 0 to 255 ({by}), or base64 of a PNG or JPEG of {by}"


class _NoImage:
    """A cell that is no image of the shape; its ``repr`` is what a reason says of it."""

    def __init__(self, description: str) -> None:
        self._description = description

    def __repr__(self) -> str:
        return self._description


def _with_pixels(field: Field) -> Field:
    if field.kind != "image":
        return field
    return _PixelField(field.name, field.kind, field.shape, field.required, field.feature)


def _pixels(field: Field, values: Values) -> tuple[pa.Array, Mask | None]:
    """Return the column of pixels of an image, and where values are none.

    ``values`` is changed: a cell that is no image becomes what is wrong with it.
    """
    size = math.prod(field.shape)
    x = np.zeros((len(values), *field.shape), np.uint8)
    odd = np.zeros(len(values), np.bool_)
    missing = _missing(field, values)
    encoded = [row for row, value in enumerate(values) if type(value) is bytes]
    for row, value in enumerate(values):
        pixels = _pixel_list(value, field.shape)
        if pixels is not None:
            x[row] = pixels
        elif type(value) is not bytes:
            odd[row] = not missing[row]
    try:
        files = pa.array([values[row] for row in encoded], pa.binary())
        x[encoded], wrong = images(files, field.shape)
    except StreamError as error:  # Pillow is not installed: pixels can still be read
        wrong = dict.fromkeys(range(len(encoded)), f"base64 ({error})")
    for i, description in wrong.items():
        values[encoded[i]] = _NoImage(description)
        odd[encoded[i]] = True
    return _lists(x, size, missing), odd


def _missing(field: Field, values: Values) -> Mask:
    """Return (n,) True where there is no value and need not be one."""
    if field.required:
        return np.zeros(len(values), np.bool_)
    return np.fromiter((value is None for value in values), np.bool_, len(values))


def _lists(x: Array, size: int, missing: Mask) -> pa.Array:
    """Return a column of n lists of ``size`` values, null where they are missing."""
    return pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), size, mask=pa.array(missing))


def _pixel_list(value: Any, shape: tuple[int, ...]) -> Array | None:
    if type(value) is not list:
        return None
    try:
        pixels = np.array(value)
    except (ValueError, OverflowError):  # rows of unequal length
        return None
    whole = pixels.dtype.kind in "iu" and pixels.shape in (shape, (math.prod(shape),))
    if not whole or pixels.min() < 0 or pixels.max() > 255:
        return None
    return pixels.reshape(shape)


def _floats(values: Values) -> Array:
    """Return (n,) float64; NaN where a cell is no number."""
    if set(map(type, values)) <= _NUMBERS:
        return np.array(values, np.float64)
    x = np.full(len(values), np.nan)
    texts = [row for row, value in enumerate(values) if type(value) is str]
    x[texts] = numbers(pa.array([values[row] for row in texts], pa.string()))
    for row, value in enumerate(values):
        if type(value) in _NUMBERS:
            x[row] = value
    return x


def _vectors(values: Values, d: int) -> Array:
    """Return (n, d) float64; NaN in a row that is no list of d numbers."""
    x = np.full((len(values), d), np.nan)
    for row, value in enumerate(values):
        if type(value) is list and len(value) == d and set(map(type, value)) <= _NUMBERS:
            x[row] = value
    return x


def _texts(values: Values) -> pa.Array:
    """Return n texts; null where a cell is none."""
    if set(map(type, values)) <= {str}:
        return pa.array(values, pa.string())
    texts: list[str | None] = [None] * len(values)
    for row, value in enumerate(values):
        if type(value) in (str, int):
            texts[row] = str(value)
        elif type(value) in (float, bool):
            texts[row] = as_text(pa.array([value]))[0].as_py()
    return pa.array(texts, pa.string())


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, list | dict):
        return None
    return value if isinstance(value, str) else orjson.dumps(value).decode()
