"""Messages of packed numbers, all of one length: the fastest format."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from pydantic import PositiveInt, field_validator

from streams.core.batch import Array
from streams.core.errors import StreamError
from streams.core.settings import unknown
from streams.decoding.columns import Mask
from streams.decoding.formats.base import (
    NO_VALUE,
    Field,
    Format,
    FormatConfig,
    ParsedRecords,
    table_of,
)

Stored = Literal[
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "float32", "float64", "bool"
]
MAX_BYTES = 2**30


class FramesConfig(FormatConfig):
    """Settings of frames.

    Attributes:
        fields: the fields of a frame, in order and without padding: name to type, or to
            [type, length] of a vector, or to [uint8, channels, height, width] of an image.
            Numbers are little-endian; a bool is a byte, 0 or 1.
    """

    kind: Literal["frames"] = "frames"
    fields: dict[
        str,
        Stored | tuple[Stored, PositiveInt] | tuple[Stored, PositiveInt, PositiveInt, PositiveInt],
    ]

    @field_validator("fields", mode="before")
    @classmethod
    def _layout(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or not fields:
            raise ValueError("what a frame holds is wanted, as in {id: int64, x: [float32, 20]}")
        for name, stored in fields.items():
            kind, *shape = stored if isinstance(stored, list | tuple) and stored else (stored,)
            if not isinstance(name, str) or not name:
                raise ValueError(f"{name!r} is no name")
            if kind not in get_args(Stored):
                raise ValueError(f"{name}: unknown type {unknown(str(kind), get_args(Stored))}")
            sizes = all(type(size) is int and size > 0 for size in shape)
            if not sizes or len(shape) not in (0, 1, 3) or math.prod(shape) > MAX_BYTES:
                raise ValueError(
                    f"{name}: {stored!r} has no shape of a number (type), a vector ([type, length])"
                    " or an image ([uint8, channels, height, width])"
                )
        return fields


_FITS: dict[str, tuple[str, ...]] = {
    "number": ("i", "u", "f"),
    "integer": ("i", "u"),
    "boolean": ("b",),
    "vector": ("i", "u", "f"),
    "image": ("u",),
    "time": ("i", "u", "f"),
    "text": (),
    "category": ("i", "u", "b", "f"),
}


class Frames(Format):
    """Packed little-endian structs, as ``numpy.frombuffer`` reads them.

    A message of another length is bad, and so is one with a number that is not finite, or a bool
    that is neither 0 nor 1. There is no null; NaN in an optional real number counts as null. Images
    are pixels.
    """

    Config = FramesConfig

    def __init__(self, config: FramesConfig, fields: Sequence[Field], folder: Path) -> None:
        super().__init__(config, fields, folder)
        layout: list[Any] = []
        for name, stored in config.fields.items():
            kind, *shape = (stored,) if isinstance(stored, str) else stored
            layout.append((name, np.dtype(kind).newbyteorder("<"), tuple(shape)))
        self._dtype = np.dtype(layout)
        for field in fields:
            self._check(field)

    def _check(self, field: Field) -> None:
        name, stored = field.name, self.config.fields
        if name not in stored:
            raise StreamError(f"stream.format.fields: there is no field {unknown(name, stored)}")
        dtype, shape = self._dtype[name].base, self._dtype[name].shape
        fits = dtype.kind in _FITS[field.kind]
        if field.kind == "image":
            fits = fits and dtype.itemsize == 1 and shape in (field.shape, self._flat(field))
        elif shape != field.shape:
            fits = False
        if not fits:
            raise StreamError(
                f"stream.format.fields.{name}: {stored[name]!r} is no {_described(field)}: change "
                "the type here, or what the column is to be"
            )

    @staticmethod
    def _flat(field: Field) -> tuple[int, ...]:
        return (math.prod(field.shape),)

    def dtype(self) -> str:
        stored = [
            self._dtype[field.name].base
            for field in self.fields
            if field.kind in ("number", "vector")
        ]
        single = bool(stored) and all(dtype == np.float32 for dtype in stored)
        return "float32" if single else "float64"

    def read(self, values: Sequence[bytes | None]) -> ParsedRecords:
        bad: dict[int, str] = {}
        where: Sequence[int] = range(len(values))
        size = self._dtype.itemsize
        try:
            fit = set(map(len, values)) <= {size}  # type: ignore[arg-type]
        except TypeError:
            fit = False
        if not fit:
            for i, value in enumerate(values):
                if value is None:
                    bad[i] = NO_VALUE
                elif len(value) != size:
                    bad[i] = f"{len(value)} bytes; expected {size}"
            where = [i for i in where if i not in bad]
            values = [values[i] for i in where]
        frames = np.frombuffer(b"".join(values), self._dtype)  # type: ignore[arg-type]
        refused = np.zeros(len(frames), np.bool_)
        columns = []
        for field in self.fields:
            array, wrong, x = _column(frames[field.name], field)
            if field.kind == "time" and not field.times.plain:
                array = pa.array(field.times(array), from_pandas=True)
            columns.append(array)
            if wrong is not None:
                for row in np.flatnonzero(wrong & ~refused).tolist():
                    bad[where[row]] = field.refuse(_show(x[row]))
                refused |= wrong
        return table_of(self.fields, columns, refused, where, bad)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """Encode rows as frames; what no field names is zero.

        Raises:
            ValueError: a number does not fit its type.
        """
        frames = np.zeros(len(rows), self._dtype)
        for field in self.fields:
            none = None if field.required else math.nan
            values = [none if (v := row.get(field.name)) is None else v for row in rows]
            stored = frames[field.name]
            if rows:
                given = np.array(values).reshape(stored.shape)
                with np.errstate(invalid="ignore"):
                    stored[...] = given
                if stored.dtype.kind in "iub" and (stored != given).any():
                    raise ValueError(f"column {field.name!r}: not all fit {stored.dtype.name}")
        raw, size = frames.tobytes(), self._dtype.itemsize
        return [raw[at : at + size] for at in range(0, len(raw), size)]


def _column(x: Array, field: Field) -> tuple[pa.Array, Mask | None, Array]:
    """Return the column, (n,) where it is wrong (None: nowhere), and the values it was made of."""
    x = np.ascontiguousarray(x)
    if x.dtype.kind == "b":
        stored = x.view(np.uint8)
        return pa.array(x), np.greater(stored, 1), stored
    if x.dtype.kind != "f":
        return _arrow(x), None, x
    finite = np.isfinite(x)
    if finite.all():
        return _arrow(x), None, x
    if x.ndim > 1:
        return _arrow(x), np.logical_not(finite.all(axis=1)), x
    null = np.zeros(len(x), np.bool_) if field.required else np.isnan(x)
    return pa.array(x, mask=null), ~finite & ~null, x


def _arrow(x: Array) -> pa.Array:
    """Return the column of (n, ...) values, without a copy."""
    flat = pa.array(x.reshape(-1))
    return flat if x.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, math.prod(x.shape[1:]))


def _show(value: Any) -> str:
    shown = repr(value.tolist())
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _described(field: Field) -> str:
    return f"{field.kind} of {'x'.join(map(str, field.shape))}" if field.shape else field.kind
