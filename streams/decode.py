"""From columns of a table to a ``Batch``: vectorised, with every bad row set aside by reason.

A row that cannot be read becomes ``Dead`` and its reason names the column, what it holds and what
was expected; nothing in a row raises. What becomes of a row depends on that row alone, so the
result is the same however the stream is cut into blocks.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
import xxhash
from numpy.typing import NDArray

from streams.batch import Array, Batch, ClassName, Column, Dead, Features, Floats, Ints, Ragged
from streams.schema import Feature, Schema
from streams.stream import StreamError

Mask = NDArray[np.bool_]
Scalar = Literal["str", "int", "float", "bool"]

POSITION_BITS = 40
"""An event without an id is named by its position: partition << 40 | offset."""

_PLAIN_NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICKS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_CHANNELS = {"1": 1, "L": 1, "RGB": 3, "P": 3, "YCbCr": 3, "CMYK": 3, "RGBA": 4}
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True, slots=True)
class Named:
    """A column that holds names (ids, keys, classes), and the type that they are read as."""

    column: str
    type: Scalar = "str"


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns hold what, beside the features; None where the stream has no such column."""

    id: Named | None = None
    time: str | None = None
    label: Named | None = None
    key: Named | None = None
    segment: Named | None = None
    due: str | None = None


class Decoder:
    """Turns tables with the columns of ``schema`` and ``columns`` into batches.

    Args:
        schema: the features, the task, and the classes where they are stated.
        columns: where ids, times, labels and so on stand.
        dtype: of a matrix of numbers or vectors: float64, or float32 where all columns are.
    """

    def __init__(self, schema: Schema, columns: Columns, dtype: Any = np.float64) -> None:
        self.schema = schema
        self.columns = columns
        self.dtype = np.dtype(dtype)

    def __call__(
        self,
        table: pa.RecordBatch | pa.Table,
        partition: Array,
        offset: Ints,
        position: Floats,
        aside: Sequence[Dead] = (),
    ) -> Batch:
        """The batch of the m rows of ``table``, less the bad ones.

        Args:
            table: m rows; a column that is not there counts as null.
            partition: (m,) int32.
            offset: (m,) int64.
            position: (m,) float64, events before each row in the whole stream: its time where
                there is no time column.
            aside: rows that never made it into the table; ``before`` counts rows of the table.
        """
        refused = _Refused(table)
        names = self.columns
        ids = (partition.astype(np.int64) << POSITION_BITS) + offset
        time: Floats = position
        if names.id:
            column, own = refused.column(names.id.column), ids
            ids, good = identities(column, names.id.type)
            expected = "an integer id" if names.id.type == "int" else "an id"
            refused.where(~good, names.id.column, expected)
            ids = np.where(good, ids, own)
        if names.time:
            time = seconds(refused.column(names.time))
            refused.where(~np.isfinite(time), names.time, "a time (seconds, or ISO 8601)")
        x = self._features(refused)
        due = key = segment = None
        if names.due:
            due = seconds(refused.column(names.due))
            wrong = ~np.isfinite(due) & refused.given(names.due)
            refused.where(wrong, names.due, "a time (seconds, or ISO 8601), or nothing")
        if names.key:
            key, good = identities(refused.column(names.key.column), names.key.type)
            refused.where(~good, names.key.column, "a key")
        if names.segment:
            segment, good = identities(refused.column(names.segment.column), names.segment.type)
            segment = np.where(good, segment, -1)
        label = self._label(refused)
        keep = refused.keep()
        dead = refused.dead(keep, ids, partition, offset, aside)
        if keep is not None:
            x = x[keep] if isinstance(x, np.ndarray) else {k: _pick(c, keep) for k, c in x.items()}
            ids, time, partition, offset = ids[keep], time[keep], partition[keep], offset[keep]
            due = None if due is None else due[keep]
            key = None if key is None else key[keep]
            segment = None if segment is None else segment[keep]
            label = label if label is None else label.filter(pa.array(keep))
        y, classes = self._codes(label)
        return Batch(
            ids,
            time,
            x,
            partition,
            offset,
            y=y,
            due=due,
            key=key,
            segment=segment,
            classes=classes,
            dead=dead,
        )

    def _features(self, refused: _Refused) -> Features:
        features = self.schema.features
        if not self.schema.matrix:
            return {feature.name: self._feature(feature, refused) for feature in features}
        if len(features) == 1 and features[0].kind != "numeric":
            column = self._feature(features[0], refused)
            assert isinstance(column, np.ndarray)
            return column
        x = np.empty((refused.rows, len(features)), self.dtype)
        for j, feature in enumerate(features):
            x[:, j] = numbers(refused.column(feature.name))
        finite = np.isfinite(x)
        if not finite.all():
            for j, feature in enumerate(features):
                refused.where(~finite[:, j], feature.name, "a finite number")
        return x

    def _feature(self, feature: Feature, refused: _Refused) -> Column:
        name = feature.name
        column = refused.column(name)
        if feature.kind == "numeric":
            values = numbers(column).astype(np.float64, copy=False)
            refused.where(~np.isfinite(values), name, "a finite number")
            return values
        if feature.kind == "vector":
            (d,) = feature.shape
            x, good = _vectors(column, d, self.dtype)
            refused.where(~good, name, f"a vector of {d} finite numbers")
            return x
        if feature.kind == "image":
            return _images(column, feature, refused)
        text = _text(column)
        refused.where(~_valid(text), name, "text")
        return _ragged(text)

    def _label(self, refused: _Refused) -> pa.Array | None:
        """The label column in its own type; null where there is none."""
        label = self.columns.label
        if label is None:
            return None
        column, given = refused.column(label.column), refused.given(label.column)
        if self.schema.task == "regression":
            values = numbers(column)
            wrong = ~np.isfinite(values) & given
            refused.where(wrong, label.column, "a finite number")
            return pa.array(values.astype(np.float64))
        names = _typed(column, label.type)
        refused.where(given & ~_valid(names), label.column, f"a class of type {label.type}")
        if stated := self.schema.classes:
            codes = pc.index_in(names, value_set=pa.array(stated, names.type))
            listed = ", ".join(map(repr, stated[:10])) + (", ..." if len(stated) > 10 else "")
            refused.where(
                _valid(names) & ~_valid(codes),
                label.column,
                f"one of the stated classes ({listed}): add it to classes, or leave classes out",
            )
            return codes
        return names

    def _codes(self, label: pa.Array | None) -> tuple[Array | None, tuple[ClassName, ...]]:
        """Codes (n,) and class names; names in the order in which the rows show them, so that
        they are numbered alike however the stream is cut."""
        if label is None:
            return None, self.schema.classes
        if self.schema.task == "regression":
            return label.to_numpy(zero_copy_only=False), ()
        classes = self.schema.classes
        if not classes:
            encoded = pc.dictionary_encode(label)
            label, classes = encoded.indices, tuple(encoded.dictionary.to_pylist())
        return label.fill_null(-1).to_numpy().astype(np.int64), classes

    @property
    def reads(self) -> list[str]:
        """The columns that are looked at."""
        c = self.columns
        named = [n.column for n in (c.id, c.label, c.key, c.segment) if n]
        plain = [name for name in (c.time, c.due) if name]
        return list(dict.fromkeys([*(f.name for f in self.schema.features), *named, *plain]))


class _Refused:
    """The columns of a table, and the reasons why rows of it cannot be read."""

    def __init__(self, table: pa.RecordBatch | pa.Table) -> None:
        self.rows: int = table.num_rows
        self._raw: dict[str, pa.Array] = {}
        for name, column in zip(table.schema.names, table.columns, strict=True):
            self._raw[name] = (
                column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            )
        self._reasons: dict[int, str] = {}

    def column(self, name: str) -> pa.Array:
        """The column, plain: no dictionary, no extension type, bytes that are UTF-8 as text."""
        return plain(self.raw(name))

    def raw(self, name: str) -> pa.Array:
        return self._raw[name] if name in self._raw else pa.nulls(self.rows)

    def given(self, name: str) -> Mask:
        """(m,) True where the table holds anything at all, readable or not."""
        return _valid(self.raw(name))

    def where(self, mask: Mask, name: str, expected: str) -> None:
        """Refuse the rows of the mask for what stands in a column."""
        for row in np.flatnonzero(mask).tolist():
            self.row(row, name, _show(self.raw(name), row), expected)

    def row(self, row: int, name: str, held: str, expected: str) -> None:
        self._reasons.setdefault(row, f"column {name!r} holds {held}; expected {expected}")

    def keep(self) -> Mask | None:
        """(m,) True for the rows that can be read; None where all can."""
        if not self._reasons:
            return None
        keep = np.ones(self.rows, np.bool_)
        keep[list(self._reasons)] = False
        return keep

    def dead(
        self, keep: Mask | None, ids: Ints, partition: Array, offset: Ints, aside: Sequence[Dead]
    ) -> tuple[Dead, ...]:
        if not aside and not self._reasons:
            return ()
        alive = np.zeros(self.rows + 1, np.int64)
        np.cumsum(np.ones(self.rows) if keep is None else keep, out=alive[1:])
        found = [
            (d.before, Dead(d.partition, d.offset, d.reason, d.id, int(alive[d.before])))
            for d in aside
        ]
        found += [
            (row, Dead(int(partition[row]), int(offset[row]), why, int(ids[row]), int(alive[row])))
            for row, why in sorted(self._reasons.items())
        ]
        # A row set aside at b stands before row b: the sort is stable, and asides come first.
        return tuple(dead for _, dead in sorted(found, key=lambda item: item[0]))


def numbers(column: pa.Array) -> Floats:
    """(n,) float64 (float32 stays); NaN where null or no number. Booleans are 0 and 1, moments
    are seconds."""
    kind = column.type
    if pt.is_float64(kind) or pt.is_float32(kind):
        return _numpy(column)
    if pt.is_string(kind):
        return _parsed(column)
    if pt.is_temporal(kind):
        return seconds(column)
    if pt.is_integer(kind) or pt.is_boolean(kind) or pt.is_decimal(kind) or pt.is_float16(kind):
        return _numpy(pc.cast(column, pa.float64(), safe=False))
    return np.full(len(column), np.nan)


def seconds(column: pa.Array) -> Floats:
    """(n,) float64 epoch seconds; NaN where null or no time. Numbers are seconds already."""
    kind = column.type
    if pt.is_timestamp(kind):
        return _numpy(column.cast(pa.int64())).astype(np.float64) / _TICKS[kind.unit]
    if pt.is_date(kind):
        return seconds(column.cast(pa.timestamp("s" if pt.is_date32(kind) else "ms")))
    if pt.is_string(kind):
        for target in (pa.float64(), pa.timestamp("us"), pa.timestamp("us", tz="UTC")):
            try:
                return seconds(column.cast(target))
            except pa.ArrowInvalid:
                continue
        return _parsed(column, moment)
    return np.full(len(column), np.nan) if pt.is_temporal(kind) else numbers(column).astype("f8")


def moment(text: str) -> float:
    """Epoch seconds of a number of seconds or an ISO 8601 time (UTC unless it states an offset);
    NaN where it is neither."""
    value = _number(text)
    if not math.isnan(value):
        return value
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        return math.nan
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return (when - _EPOCH) // timedelta(microseconds=1) / 1e6


def identities(column: pa.Array, kind: Scalar) -> tuple[Ints, Mask]:
    """(n,) int64 names and where they could be read: integers as they are (unsigned ones in two's
    complement), anything else as the xxh3 hash of its text."""
    if kind == "int":
        if pt.is_uint64(column.type):
            return column.fill_null(0).to_numpy().view(np.int64), _valid(column)
        return _integers(column)
    text = _text(column)
    values = np.zeros(len(text), np.int64)
    hashes = [xxhash.xxh3_64_intdigest((name or "").encode()) for name in text.to_pylist()]
    values[:] = np.array(hashes, np.uint64).view(np.int64)
    return values, _valid(text)


def whole(texts: pa.Array) -> Mask:
    """(n,) True where the text is an integer that is written as such: not 007, not 1.0."""
    values, good = _integers(texts)
    same: Mask = good & _numpy(pc.equal(pa.array(values).cast(pa.string()), texts))
    return same


def first_seen(
    parts: Sequence[tuple[Array, tuple[ClassName, ...]]],
) -> tuple[Ints, tuple[ClassName, ...]]:
    """One numbering for the codes of all parts, end to end, by first appearance; -1 stays."""
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
    """A column of Python values; as their text where they are of several types."""
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def image_shape(data: bytes) -> tuple[int, int, int] | None:
    """(channels, height, width) of a PNG or JPEG; None where the bytes are neither.

    Raises:
        StreamError: Pillow is not installed.
    """
    try:
        with _opened(data) as image:
            return (_CHANNELS.get(image.mode, 3), image.height, image.width)
    except _NoImageError:
        return None


def image_bytes(column: pa.Array) -> pa.Array:
    """The encoded images of a column of bytes or of structs {bytes, path}."""
    if pt.is_struct(column.type):
        if column.type.get_field_index("bytes") < 0:
            return pa.nulls(len(column), pa.binary())
        column = pc.struct_field(column, "bytes")
    return column if _is_bytes(column.type) else pa.nulls(len(column), pa.binary())


def plain(column: pa.Array) -> pa.Array:
    """The column without dictionary or extension type, and with bytes as text (null where they
    are not UTF-8)."""
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        return plain(column.storage)
    if pt.is_dictionary(kind):
        return plain(column.dictionary_decode())
    if pt.is_large_string(kind) or pt.is_string_view(kind):
        return column.cast(pa.string())
    if _is_bytes(kind):
        try:
            return column.cast(pa.string())
        except pa.ArrowInvalid:
            return pa.array([_utf8(value) for value in column.to_pylist()], pa.string())
    return column


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pt.is_binary(kind)
        or pt.is_large_binary(kind)
        or pt.is_fixed_size_binary(kind)
        or pt.is_binary_view(kind)
    )


def _valid(column: pa.Array) -> Mask:
    return np.array(column.is_valid())


def _numpy(column: pa.Array) -> Array:
    values: Array = column.to_numpy(zero_copy_only=False)
    return values


def _show(column: pa.Array, row: int) -> str:
    try:
        value = column[row].as_py()
    except (ValueError, OverflowError):
        return "a value out of range"
    if value is None:
        return "null"
    if isinstance(value, bytes):
        text = _utf8(value)
        value = value if text is None else text
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _number(text: str) -> float:
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def _parsed(column: pa.Array, parse: Callable[[str], float] = _number) -> Floats:
    """Numbers written as text; ``parse`` reads what does not look like a plain number."""
    try:
        return _numpy(column.cast(pa.float64()))
    except pa.ArrowInvalid:
        pass
    plain = pc.match_substring_regex(column, _PLAIN_NUMBER)
    values = _numpy(pc.if_else(plain, column, None).cast(pa.float64())).copy()
    for row in np.flatnonzero(~_numpy(plain.fill_null(True))).tolist():
        values[row] = parse(column[row].as_py())
    return values


def _integers(column: pa.Array) -> tuple[Ints, Mask]:
    """(n,) int64, and where the column holds a whole number that int64 can hold."""
    kind, good = column.type, _valid(column)
    if pt.is_integer(kind):
        values = column.fill_null(0).to_numpy()
        if pt.is_uint64(kind):
            good &= values <= np.uint64(np.iinfo(np.int64).max)
        return values.astype(np.int64), good
    if pt.is_string(kind):
        return _parsed_integers(column)
    reals = numbers(column)
    with np.errstate(invalid="ignore"):
        good &= (reals == np.trunc(reals)) & (np.abs(reals) < 2.0**53)
    return np.where(good, reals, 0).astype(np.int64), good


def _parsed_integers(column: pa.Array) -> tuple[Ints, Mask]:
    good = _valid(column)
    try:
        cast = column.cast(pa.int64())
    except pa.ArrowInvalid:
        digits = pc.match_substring_regex(column, r"^-?[0-9]{1,18}$")
        cast = pc.if_else(digits, column, None).cast(pa.int64())
    values: Ints = cast.fill_null(0).to_numpy()
    # Arrow also reads 0x1F and 007: only what is written back the same is certain.
    same = pc.equal(cast.cast(pa.string()), column).fill_null(False)
    unsure = np.flatnonzero(good & ~_numpy(same)).tolist()
    values = values.copy() if unsure else values
    for row in unsure:
        try:
            text = column[row].as_py()
            values[row] = int("" if "_" in text else text)
        except (ValueError, OverflowError):
            values[row], good[row] = 0, False
    return values, good


def _text(column: pa.Array) -> pa.Array:
    """The column as strings; null where it cannot be."""
    if pt.is_string(column.type):
        return column
    if pt.is_nested(column.type):
        return pa.nulls(len(column), pa.string())
    return column.cast(pa.string())


def _utf8(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _ragged(text: pa.Array) -> Ragged:
    _, bounds, values = text.buffers()
    if bounds is None or not len(text):
        return Ragged(np.empty(0, np.uint8), np.zeros(len(text) + 1, np.int64))
    stretch = slice(text.offset, text.offset + len(text) + 1)
    return Ragged(
        np.frombuffer(b"" if values is None else values, np.uint8),
        np.frombuffer(bounds, np.int32)[stretch].astype(np.int64),
    )


def _pick(column: Column, keep: Mask) -> Column:
    return column.take(keep) if isinstance(column, Ragged) else column[keep]


def _typed(column: pa.Array, kind: Scalar) -> pa.Array:
    """Class names in the type that they are read as; null where they cannot be."""
    if kind == "str":
        return _text(column)
    if kind == "int":
        values, good = _integers(column)
        return pa.array(values, mask=~good)
    if kind == "float":
        reals = numbers(column).astype(np.float64)
        return pa.array(reals, mask=~np.isfinite(reals))
    if pt.is_boolean(column.type):
        return column
    text = pc.utf8_lower(pc.utf8_trim_whitespace(_text(column)))
    code = pc.index_in(text, value_set=pa.array(["false", "true", "0", "1"]))
    return pc.equal(pc.bit_wise_and(code, 1), 1)


def _lists(column: pa.Array, size: int) -> tuple[pa.Array, Mask]:
    """The values of the rows that are lists of ``size``, end to end, and which rows those are."""
    kind = column.type
    if not (pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)):
        return pa.array([], pa.float64()), np.zeros(len(column), np.bool_)
    good = _valid(column)
    if pt.is_fixed_size_list(kind):
        good = good & (kind.list_size == size)
    else:
        good = good & (_numpy(pc.list_value_length(column).fill_null(-1)) == size)
    return (column if good.all() else column.filter(pa.array(good))).flatten(), good


def _vectors(column: pa.Array, d: int, dtype: np.dtype[Any]) -> tuple[Array, Mask]:
    """(n, d) vectors, and where they are whole and finite."""
    flat, good = _lists(column, d)
    found = numbers(flat).reshape(-1, d).astype(dtype, copy=False)
    finite = np.isfinite(found).all(axis=1)
    if good.all():
        return np.ascontiguousarray(found), finite
    x = np.zeros((len(column), d), dtype)
    x[good] = found
    good[good] = finite
    return x, good


def _images(column: pa.Array, feature: Feature, refused: _Refused) -> Array:
    """(n, channels, height, width) uint8; rows that are no such image are refused."""
    shape = "x".join(map(str, feature.shape))
    if pt.is_nested(column.type) and not pt.is_struct(column.type):
        flat, good = _lists(column, math.prod(feature.shape))
        if not pt.is_uint8(flat.type):
            good[:] = False
        x = np.zeros((len(column), *feature.shape), np.uint8)
        if good.any():
            x[good] = _numpy(flat.fill_null(0)).reshape(-1, *feature.shape)
            good[good] = _valid(flat).reshape(-1, math.prod(feature.shape)).all(axis=1)
        refused.where(~good, feature.name, f"{math.prod(feature.shape)} uint8 values ({shape})")
        return x
    x = np.zeros((len(column), *feature.shape), np.uint8)
    expected = f"a PNG or JPEG of {shape}"
    for row, data in enumerate(image_bytes(refused.raw(feature.name)).to_pylist()):
        if data is None:
            refused.row(row, feature.name, "no image bytes", expected)
            continue
        try:
            x[row] = _pixels(data, feature.shape)
        except _NoImageError as error:
            refused.row(row, feature.name, str(error), expected)
    return x


class _NoImageError(Exception):
    """What the bytes hold instead of the image that was expected."""


def _opened(data: bytes) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise StreamError(
            "images need Pillow, which is not installed: pip install everlearn[vision]"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a decompression bomb warns, then decodes
            return Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except Exception:
        raise _NoImageError(f"{len(data)} bytes that are no PNG or JPEG") from None


def _pixels(data: bytes, shape: tuple[int, ...]) -> Array:
    """(channels, height, width) uint8. Grey is spread over three channels; nothing else is
    converted, so that no colour is lost in silence."""
    with _opened(data) as image:
        found = (_CHANNELS.get(image.mode, 3), image.height, image.width)
        if (found != shape and (found[0], shape[0]) != (1, 3)) or found[1:] != shape[1:]:
            raise _NoImageError(f"an image of {'x'.join(map(str, found))}")
        try:
            pixels = np.asarray(image.convert(_MODES[shape[0]]))
        except Exception:
            raise _NoImageError(f"a broken image of {len(data)} bytes") from None
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
