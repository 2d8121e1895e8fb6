"""Columns of Python values, for formats whose parsers give such.

What a cell becomes depends on that cell alone: columns are converted as a whole where every cell is
of a type that converts without loss, and cells of other types are set aside one by one before.
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

from streams.decoding.columns import Mask, seconds, utf8
from streams.decoding.formats.base import Field, ParsedRecords, table_of

Values = list[Any]
_REAL = {float, int}
_WHOLE_FLOATS = 2.0**53


def rows(
    fields: Sequence[Field], columns: Sequence[Values], where: Sequence[int], bad: dict[int, str]
) -> ParsedRecords:
    """The rows of messages that were parsed.

    Args:
        fields: the columns that are wanted.
        columns: for each field n values, None where there is none.
        where: n indices of the messages, ascending.
        bad: index to reason, of the messages that could not be parsed; it is added to.
    """
    arrays = []
    refused = np.zeros(len(where), np.bool_)
    for field, values in zip(fields, columns, strict=True):
        array, wrong = column(field, values)
        arrays.append(array)
        if wrong is None:
            continue
        for row in np.flatnonzero(wrong & ~refused).tolist():
            bad[where[row]] = field.refuse(show(values[row]))
        refused |= wrong
    return table_of(fields, arrays, refused, where, bad)


def values_of(fields: Sequence[Field], objects: Sequence[dict[str, Any]]) -> list[Values]:
    """For each field its values in the objects, None where there is none. A name with dots reaches
    into objects in them."""
    columns = []
    for field in fields:
        *path, name = field.name.split(".")
        if path:
            columns.append([_reach(found, path, name) for found in objects])
            continue
        try:
            columns.append(list(map(itemgetter(name), objects)))
        except KeyError:
            columns.append([found.get(name) for found in objects])
    return columns


def nested(
    fields: Sequence[Field], row: Mapping[str, Any], told: Callable[[Any, Field], Any]
) -> dict[str, Any]:
    """The object that ``values_of`` reads a row of; ``told`` turns values into what a message
    holds. A field that the row does not have is left out."""
    found: dict[str, Any] = {}
    for field in fields:
        if field.name not in row:
            continue
        value = row[field.name]
        inner = found
        *path, name = field.name.split(".")
        for step in path:
            inner = inner.setdefault(step, {})
        inner[name] = None if value is None else told(value, field)
    return found


def column(field: Field, values: Values) -> tuple[pa.Array, Mask | None]:
    """The column of a field, and where its values are wrong, None where none is."""
    array, odd = _READERS[field.kind](values, field)
    if not odd.any():
        return array, None
    if field.required:
        return array, odd
    null = np.fromiter((value is None for value in values), np.bool_, len(values))
    return pc.if_else(pa.array(odd), pa.scalar(None, array.type), array), odd & ~null


def show(value: Any) -> str:
    """What a cell holds, in at most 60 characters."""
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
    found = [_whole(value) for value in values]
    odd = np.fromiter((value is None for value in found), np.bool_, len(found))
    return pa.array(found, pa.int64()), odd


def _booleans(values: Values, field: Field) -> tuple[pa.Array, Mask]:
    values, odd = _only({bool}, values, False)
    return _plain(values, np.bool_)[0], odd


def _texts(values: Values, field: Field) -> tuple[pa.Array, Mask]:
    values, odd = _only({str}, values, None)
    return pa.array(values, pa.string()), odd


def _times(values: Values, field: Field) -> tuple[pa.Array, Mask]:
    texts = [row for row, value in enumerate(values) if type(value) is str]
    if texts:
        read = seconds(pa.array([values[row] for row in texts], pa.string())).tolist()
        values = list(values)
        for row, time in zip(texts, read, strict=True):
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
    "vector": _vectors,
    "image": _images,
    "time": _times,
}


def _only(types: set[type], values: Values, filler: Any) -> tuple[Values, Mask]:
    """The values with a filler in place of those of other types, and where these stood. Subtypes
    are other types: True is no number."""
    if set(map(type, values)) <= types:
        return values, np.zeros(len(values), np.bool_)
    odd = [type(value) not in types for value in values]
    kept = [filler if bad else value for value, bad in zip(values, odd, strict=True)]
    return kept, np.array(odd)


def _plain(values: Values, dtype: type[np.generic]) -> tuple[pa.Array, Mask]:
    found = np.fromiter(values, dtype, len(values))
    return pa.array(found), np.zeros(len(values), np.bool_)


def _reach(found: dict[str, Any], path: list[str], name: str) -> Any:
    """What stands at the end of the path. Where that leads through something else than an object,
    what holds it: no field has an object for its value, so the reason shows that."""
    for step in path:
        inner = found.get(step)
        if inner is None:
            return None
        if type(inner) is not dict:
            return found
        found = inner
    return found.get(name)


def _whole(value: Any) -> int | None:
    if type(value) is int:
        return value if -(2**63) <= value < 2**63 else None
    if type(value) is float and value.is_integer() and abs(value) < _WHOLE_FLOATS:
        return int(value)
    return None
