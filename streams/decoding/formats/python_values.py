"""Python values to Arrow columns, for formats whose parsers return Python values.

Each cell is converted on its own terms. A column is converted as a whole if every cell is of a type
that converts without loss; cells of other types are replaced one by one before.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streams.decoding.categories import categories
from streams.decoding.columns import Mask, utf8
from streams.decoding.formats.base import Field, ParsedRecords, table_of

Values = list[Any]
_REAL = {float, int}
_WHOLE_FLOATS = 2.0**53


def rows(
    fields: Sequence[Field],
    columns: Sequence[Values],
    where: Sequence[int],
    bad: dict[int, str],
    read: Callable[[Field, Values], tuple[pa.Array, Mask | None]] | None = None,
) -> ParsedRecords:
    """Return the records of parsed messages.

    Args:
        fields: the columns to make.
        columns: for each field n values, None where there is none.
        where: n indices of the messages, ascending.
        bad: index to reason, of the messages that could not be parsed; those with a wrong value are
            added.
        read: reads the values of a field; ``column`` unless given.
    """
    read = column if read is None else read
    arrays = []
    rejected = np.zeros(len(where), np.bool_)
    for field, values in zip(fields, columns, strict=True):
        array, wrong = read(field, values)
        arrays.append(array)
        if wrong is None:
            continue
        for row in np.flatnonzero(wrong & ~rejected).tolist():
            bad[where[row]] = field.refuse(show(values[row]))
        rejected |= wrong
    return table_of(fields, arrays, rejected, where, bad)


def values_of(fields: Sequence[Field], objects: Sequence[dict[str, Any]]) -> list[Values]:
    """Return for each field its values in the objects, None where there is none. A name with dots
    is a path into nested objects."""
    columns = []
    for field in fields:
        *path, name = field.name.split(".")
        if path:
            columns.append([_reach(value, path, name) for value in objects])
            continue
        try:
            columns.append(list(map(itemgetter(name), objects)))
        except KeyError:
            columns.append([value.get(name) for value in objects])
    return columns


def nested(
    fields: Sequence[Field], row: Mapping[str, Any], encode: Callable[[Any, Field], Any]
) -> dict[str, Any]:
    """Return the object of a row, the inverse of ``values_of``; ``encode`` turns a value into that
    of a message. A field that the row does not have is left out."""
    whole: dict[str, Any] = {}
    for field in fields:
        if field.name not in row:
            continue
        value = row[field.name]
        inner = whole
        *path, name = field.name.split(".")
        for step in path:
            inner = inner.setdefault(step, {})
        inner[name] = None if value is None else encode(value, field)
    return whole


def column(field: Field, values: Values) -> tuple[pa.Array, Mask | None]:
    """Return the column of a field, and (n,) where its values are wrong; None: none is."""
    array, odd = _READERS[field.kind](values, field)
    if not odd.any():
        return array, None
    if field.required:
        return array, odd
    null = np.fromiter((value is None for value in values), np.bool_, len(values))
    if field.kind in ("number", "category", "time"):  # NaN stands for a missing one
        null |= np.fromiter((value != value for value in values), np.bool_, len(values))
    return pc.if_else(pa.array(odd), pa.scalar(None, array.type), array), odd & ~null


def show(value: Any) -> str:
    """Return the text of a value, in at most 60 characters."""
    if value is None:
        return "null"
    if isinstance(value, bytes):
        text = utf8(value)
        value = value[:60] if text is None else text
    if isinstance(value, str):
        value = value[:60]  # its repr is longer yet, and is cut
    shown = repr(value) if isinstance(value, str | bytes) else _short.repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


_short = reprlib.Repr()
_short.maxlevel = 3
_short.maxstring = _short.maxother = _short.maxlong = 60


def _numbers(values: Values, field: Field) -> tuple[pa.Array, Mask]:
    values, odd = _only(_REAL, values, 0.0)
    x = np.fromiter(values, np.float64, len(values))
    return pa.array(x), odd | ~np.isfinite(x)


def _integers(values: Values, field: Field) -> tuple[pa.Array, Mask]:
    if set(map(type, values)) <= {int}:
        with suppress(OverflowError):
            return _plain(values, np.int64)
    integers = [_whole(value) for value in values]
    odd = np.fromiter((value is None for value in integers), np.bool_, len(integers))
    return pa.array(integers, pa.int64()), odd


def _booleans(values: Values, field: Field) -> tuple[pa.Array, Mask]:
    values, odd = _only({bool}, values, False)
    return _plain(values, np.bool_)[0], odd


def _texts(values: Values, field: Field) -> tuple[pa.Array, Mask]:
    values, odd = _only({str}, values, None)
    return pa.array(values, pa.string()), odd


def _categories(values: Values, field: Field) -> tuple[pa.Array, Mask]:
    kinds = set(map(type, values))
    if kinds == {str}:
        return _texts(values, field)
    odd = np.array([type(v) not in _CATEGORIES or v != v for v in values], np.bool_)
    texts: Values = [
        None if bad or type(v) is float else v if type(v) is str else _CATEGORIES[type(v)](v)
        for v, bad in zip(values, odd, strict=True)
    ]
    reals = [row for row, v in enumerate(values) if type(v) is float and not odd[row]]
    if reals:
        names = categories(pa.array([values[row] for row in reals], pa.float64()))
        for row, name in zip(reals, names.to_pylist(), strict=True):
            texts[row] = name
    return pa.array(texts, pa.string()), odd


_CATEGORIES: dict[type, Callable[[Any], str]] = {
    str: str,
    int: str,
    bool: lambda truth: "true" if truth else "false",
    float: str,
}
"""The types of categories, and the text of each but real numbers."""


def _times(values: Values, field: Field) -> tuple[pa.Array, Mask]:
    read = field.times
    written = {str, int} if read.format is not None else {str}
    texts = [row for row, value in enumerate(values) if type(value) in written]
    if texts or read.ticks != 1.0:
        times = read(pa.array([str(values[row]) for row in texts], pa.string())).tolist()
        values = [v / read.ticks if type(v) in _REAL else v for v in values]
        for row, time in zip(texts, times, strict=True):
            values[row] = time
    return _numbers(values, field)


def _vectors(values: Values, field: Field) -> tuple[pa.Array, Mask]:
    (d,) = field.shape
    none = [0.0] * d
    values, odd = _only({list}, values, none)
    if set(map(len, values)) - {d}:
        odd |= np.fromiter((len(value) != d for value in values), np.bool_, len(values))
        values = [value if len(value) == d else none for value in values]
    if set(map(type, chain.from_iterable(values))) - _REAL:
        unlike = [bool(set(map(type, value)) - _REAL) for value in values]
        odd |= np.array(unlike)
        values = [none if bad else value for value, bad in zip(values, unlike, strict=True)]
    flat = np.fromiter(chain.from_iterable(values), np.float64, len(values) * d)
    odd |= ~np.isfinite(flat).reshape(-1, d).all(axis=1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), d), odd


def _images(values: Values, field: Field) -> tuple[pa.Array, Mask]:
    values, odd = _only({bytes}, values, None)
    return pa.array(values, pa.binary()), odd


_READERS: dict[str, Callable[[Values, Field], tuple[pa.Array, Mask]]] = {
    "number": _numbers,
    "integer": _integers,
    "boolean": _booleans,
    "text": _texts,
    "category": _categories,
    "vector": _vectors,
    "image": _images,
    "time": _times,
}


def _only(types: set[type], values: Values, filler: Any) -> tuple[Values, Mask]:
    """Return the values with a filler in place of those of other types, and (n,) where these are.
    Subtypes are other types: True is not a number."""
    if set(map(type, values)) <= types:
        return values, np.zeros(len(values), np.bool_)
    odd = [type(value) not in types for value in values]
    kept = [filler if bad else value for value, bad in zip(values, odd, strict=True)]
    return kept, np.array(odd)


def _plain(values: Values, dtype: type[np.generic]) -> tuple[pa.Array, Mask]:
    array = np.fromiter(values, dtype, len(values))
    return pa.array(array), np.zeros(len(values), np.bool_)


def _reach(value: dict[str, Any], path: list[str], name: str) -> Any:
    """Return the value at the end of a path. If a step is not an object, return the object with
    that step: no field has an object for its value, so the reason shows it."""
    for step in path:
        inner = value.get(step)
        if inner is None:
            return None
        if type(inner) is not dict:
            return value
        value = inner
    return value.get(name)


def _whole(value: Any) -> int | None:
    if type(value) is int:
        return value if -(2**63) <= value < 2**63 else None
    if type(value) is float and value.is_integer() and abs(value) < _WHOLE_FLOATS:
        return int(value)
    return None
