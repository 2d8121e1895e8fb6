"""Arrow columns to numpy arrays: numbers, times, ids, texts and vectors.

Each cell is read on its own. An unreadable cell is NaN, null, or False in the mask that is returned
with the values; nothing raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
import xxhash
from numpy.typing import NDArray

from streams.core.batch import Array, ClassName, Floats, Ints, Ragged
from streams.core.schema import Scalar

Mask = NDArray[np.bool_]

_PLAIN_NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_NO_NUMBER = pa.array(
    (
        *("", "na", "n/a", "#n/a", "#n/a n/a", "#na", "<na>", "nan", "-nan", "none", "null"),
        *("?", "-", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"),
    )
)
"""Text that stands for a missing number, in lower case: as in pandas, and ``?`` and ``-``."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICKS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


def numbers(column: pa.Array) -> Floats:
    """Return (n,) float64 (float32 stays), NaN where null or not a number. Booleans are 0 and 1,
    times are seconds."""
    kind = column.type
    if pt.is_float64(kind) or pt.is_float32(kind):
        return to_numpy(column)
    if pt.is_string(kind):
        return _parsed(column)
    if pt.is_temporal(kind):
        return seconds(column)
    if pt.is_integer(kind) or pt.is_boolean(kind) or pt.is_decimal(kind) or pt.is_float16(kind):
        return to_numpy(pc.cast(column, pa.float64(), safe=False))
    return np.full(len(column), np.nan)


def missing_numbers(column: pa.Array) -> Mask:
    """Return (n,) True where a column of numbers has no value: null, NaN, or text such as NA."""
    missing = ~valid(column)
    kind = column.type
    if pt.is_floating(kind):
        missing |= np.isnan(to_numpy(column.cast(pa.float64())))
    elif pt.is_string(kind):
        text = pc.utf8_lower(pc.utf8_trim_whitespace(column))
        missing |= to_numpy(pc.is_in(text, value_set=_NO_NUMBER))
    return missing


ToUtc = Callable[[Floats], Floats]


def as_utc(time: Floats) -> Floats:
    """Return times that state no offset as they are: they count as UTC."""
    return time


def seconds(column: pa.Array, ticks: float = 1.0, to_utc: ToUtc = as_utc) -> Floats:
    """Return (n,) float64 epoch seconds, NaN where null or not a time.

    Args:
        column: numbers, timestamps, dates or texts.
        ticks: a second in the unit of the numbers.
        to_utc: from local times to UTC, for times that state no offset.
    """
    kind = column.type
    if pt.is_timestamp(kind):
        time = to_numpy(column.cast(pa.int64())).astype(np.float64) / _TICKS[kind.unit]
        return time if kind.tz else to_utc(time)
    if pt.is_date(kind):
        unit = "s" if pt.is_date32(kind) else "ms"
        return seconds(column.cast(pa.timestamp(unit)), ticks, to_utc)
    if pt.is_string(kind):
        for target in (pa.float64(), pa.timestamp("us"), pa.timestamp("us", tz="UTC")):
            try:
                return seconds(column.cast(target), ticks, to_utc)
            except pa.ArrowInvalid:
                continue
        return _parsed(column, partial(moment, ticks=ticks, to_utc=to_utc), ticks)
    if pt.is_temporal(kind):
        return np.full(len(column), np.nan)
    return numbers(column).astype("f8", copy=False) / ticks


def moment(text: str, ticks: float = 1.0, to_utc: ToUtc = as_utc) -> float:
    """Return the epoch seconds of a text: a number, or an ISO 8601 time. NaN: it is neither.

    Args:
        text: the text.
        ticks: as in ``seconds``.
        to_utc: as in ``seconds``.
    """
    value = _number(text)
    if not math.isnan(value):
        return value / ticks
    return moment_as(text, datetime.fromisoformat, to_utc)


def moment_as(text: str, parse: Callable[[str], datetime], to_utc: ToUtc = as_utc) -> float:
    """Return the epoch seconds of a text that ``parse`` reads; NaN where it cannot."""
    try:
        when = parse(text.strip())
    except ValueError:
        return math.nan
    if when.tzinfo is not None:
        return (when - _EPOCH) // timedelta(microseconds=1) / 1e6
    local = (when.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1) / 1e6
    return float(to_utc(np.array([local]))[0])


def identities(column: pa.Array, kind: Scalar) -> tuple[Ints, Mask]:
    """Return (n,) int64 ids, and (n,) where they could be read. Integers are their own id (unsigned
    ones in two's complement); otherwise it is the xxh3 hash of the text."""
    if kind == "int":
        if pt.is_uint64(column.type):
            return column.fill_null(0).to_numpy().view(np.int64), valid(column)
        return _integers(column)
    text = as_text(column)
    values = np.zeros(len(text), np.int64)
    hashes = [xxhash.xxh3_64_intdigest((name or "").encode()) for name in text.to_pylist()]
    values[:] = np.array(hashes, np.uint64).view(np.int64)
    return values, valid(text)


def whole(texts: pa.Array) -> Mask:
    """Return (n,) True where a text is an integer in its usual form: not 007, not 1.0."""
    values, good = _integers(texts)
    same: Mask = good & to_numpy(pc.equal(pa.array(values).cast(pa.string()), texts))
    return same


def as_text(column: pa.Array) -> pa.Array:
    """Return the column as strings; null where it has no text."""
    if pt.is_string(column.type):
        return column
    if pt.is_nested(column.type):
        return pa.nulls(len(column), pa.string())
    return column.cast(pa.string())


def typed(column: pa.Array, kind: Scalar) -> pa.Array:
    """Return class names in a type; null where they cannot be read."""
    if kind == "str":
        return as_text(column)
    if kind == "int":
        values, good = _integers(column)
        return pa.array(values, mask=~good)
    if kind == "float":
        reals = numbers(column).astype(np.float64)
        return pa.array(reals, mask=~np.isfinite(reals))
    if pt.is_boolean(column.type):
        return column
    text = pc.utf8_lower(pc.utf8_trim_whitespace(as_text(column)))
    code = pc.index_in(text, value_set=pa.array(["false", "true", "0", "1"]))
    return pc.equal(pc.bit_wise_and(code, 1), 1)


def ragged(text: pa.Array) -> Ragged:
    """Return a column of strings as ``Ragged``, without copying the text."""
    _, bounds, values = text.buffers()
    if bounds is None or not len(text):
        return Ragged(np.empty(0, np.uint8), np.zeros(len(text) + 1, np.int64))
    rows = slice(text.offset, text.offset + len(text) + 1)
    return Ragged(
        np.frombuffer(b"" if values is None else values, np.uint8),
        np.frombuffer(bounds, np.int32)[rows].astype(np.int64),
    )


def vectors(column: pa.Array, d: int, dtype: np.dtype[Any]) -> tuple[Array, Mask]:
    """Return (n, d) vectors, and (n,) where they are of length d and finite."""
    flat, good = lists(column, d)
    rows = numbers(flat).reshape(-1, d).astype(dtype, copy=False)
    finite = np.isfinite(rows).all(axis=1)
    if good.all():
        return np.ascontiguousarray(rows), finite
    x = np.zeros((len(column), d), dtype)
    x[good] = rows
    good[good] = finite
    return x, good


def lists(column: pa.Array, size: int) -> tuple[pa.Array, Mask]:
    """Return the concatenated values of the rows that are lists of ``size``, and the mask of those
    rows."""
    kind = column.type
    if not (pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)):
        return pa.array([], pa.float64()), np.zeros(len(column), np.bool_)
    good = valid(column)
    if pt.is_fixed_size_list(kind):
        good = good & (kind.list_size == size)
    else:
        good = good & (to_numpy(pc.list_value_length(column).fill_null(-1)) == size)
    return (column if good.all() else column.filter(pa.array(good))).flatten(), good


def first_seen(
    parts: Sequence[tuple[Array, tuple[ClassName, ...]]],
) -> tuple[Ints, tuple[ClassName, ...]]:
    """Return the concatenated codes of all parts in one numbering, by first appearance (-1 stays),
    and its class names.

    Args:
        parts: codes, and the class names that they index.
    """
    names = list(dict.fromkeys(name for _, classes in parts for name in classes))
    code = {name: i for i, name in enumerate(names)}
    codes = np.concatenate(
        [np.array([*(code[n] for n in classes), -1], np.int64)[y] for y, classes in parts]
    )
    used, first = np.unique(codes[codes >= 0], return_index=True)
    order = used[np.argsort(first)]
    rank = np.full(len(names) + 1, -1)
    rank[order] = np.arange(len(order))
    return rank[codes], tuple(names[i] for i in order.tolist())


def column_of(values: Sequence[Any]) -> pa.Array:
    """Return a column of Python values; of their texts if they are of several types."""
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def plain(column: pa.Array) -> pa.Array:
    """Return the column without dictionary or extension type, and with bytes as text (null where
    they are not UTF-8)."""
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        return plain(column.storage)
    if pt.is_dictionary(kind):
        return plain(column.dictionary_decode())
    if pt.is_large_string(kind) or pt.is_string_view(kind):
        return column.cast(pa.string())
    if is_bytes(kind):
        try:
            return column.cast(pa.string())
        except pa.ArrowInvalid:
            return pa.array([utf8(value) for value in column.to_pylist()], pa.string())
    return column


def is_whole_decimal(kind: pa.DataType) -> bool:
    """Whether a column of this type holds exact decimals without a fraction."""
    return bool(pt.is_decimal(kind) and kind.scale <= 0)


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a column of this type holds bytes."""
    return bool(
        pt.is_binary(kind)
        or pt.is_large_binary(kind)
        or pt.is_fixed_size_binary(kind)
        or pt.is_binary_view(kind)
    )


def valid(column: pa.Array) -> Mask:
    """Return (n,) True where the column is not null."""
    return np.array(column.is_valid())


def to_numpy(column: pa.Array) -> Array:
    """Return the column as an array, copied if it must be."""
    values: Array = column.to_numpy(zero_copy_only=False)
    return values


def utf8(value: bytes | None) -> str | None:
    """Return bytes as text; None if they are not UTF-8."""
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _number(text: str) -> float:
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def _parsed(
    column: pa.Array, parse: Callable[[str], float] = _number, ticks: float = 1.0
) -> Floats:
    """Return the numbers in texts, in units of ``ticks``; ``parse`` reads those that do not look
    like a plain number."""
    try:
        return to_numpy(column.cast(pa.float64())) / ticks
    except pa.ArrowInvalid:
        pass
    plain = pc.match_substring_regex(column, _PLAIN_NUMBER)
    values = to_numpy(pc.if_else(plain, column, None).cast(pa.float64())) / ticks
    rows = np.flatnonzero(~to_numpy(plain.fill_null(True)))
    others = column.take(pa.array(rows)).dictionary_encode()  # each text is parsed once
    parsed = np.array([parse(text) for text in others.dictionary.to_pylist()], np.float64)
    values[rows] = parsed[to_numpy(others.indices)]
    return values


def _integers(column: pa.Array) -> tuple[Ints, Mask]:
    """Return (n,) int64, and (n,) where the column has an integer that fits."""
    kind, good = column.type, valid(column)
    if pt.is_integer(kind):
        values = column.fill_null(0).to_numpy()
        if pt.is_uint64(kind):
            good &= values <= np.uint64(np.iinfo(np.int64).max)
        return values.astype(np.int64), good
    if pt.is_string(kind):
        return _parsed_integers(column)
    if pt.is_decimal(kind) and kind.scale >= 0:  # float64 would round beyond 2**53
        texts = pc.replace_substring_regex(column.cast(pa.string()), r"^(-?\d+)\.0+$", r"\1")
        return _parsed_integers(pc.replace_substring_regex(texts, r"^-?0E.*$", "0"))
    reals = numbers(column)
    with np.errstate(invalid="ignore"):
        good &= (reals == np.trunc(reals)) & (np.abs(reals) < 2.0**53)
    return np.where(good, reals, 0).astype(np.int64), good


def _parsed_integers(column: pa.Array) -> tuple[Ints, Mask]:
    good = valid(column)
    try:
        cast = column.cast(pa.int64())
    except pa.ArrowInvalid:
        digits = pc.match_substring_regex(column, r"^-?[0-9]{1,18}$")
        cast = pc.if_else(digits, column, None).cast(pa.int64())
    values: Ints = cast.fill_null(0).to_numpy()
    # Arrow also reads 0x1F and 007: only texts that it writes back unchanged are certain.
    same = pc.equal(cast.cast(pa.string()), column).fill_null(False)
    unsure = np.flatnonzero(good & ~to_numpy(same)).tolist()
    values = values.copy() if unsure else values
    for row in unsure:
        try:
            text = column[row].as_py()
            values[row] = int("" if "_" in text else text)
        except (ValueError, OverflowError):
            values[row], good[row] = 0, False
    return values, good
