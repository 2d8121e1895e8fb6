"""Columns of categories as texts: one text for a category, whatever type holds it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from streams.decoding.columns import Mask, as_text, to_numpy, valid

EXPECTED = "a category: text, a number, or true or false"
"""What a category may be, for the reason of a dead letter."""
_WHOLE_FLOATS = 2.0**53
_MARKS = (b".0", b"True", b"False")
"""Bytes of all texts that ``_canonical`` changes."""


def categories(column: pa.Array) -> pa.Array:
    """Return (n,) texts of categories; null where there is none.

    5, 5.0, ``"5"`` and ``"5.0"`` are one category, ``5``, for a column of integers with gaps is one
    of reals in many tools. Integers are exact. ``true``, ``"true"`` and ``"True"`` are one, too.
    Other numbers are what Arrow writes for them. Other texts are what they are: ``007`` and ``7``
    are two categories. NaN is none.
    """
    kind = column.type
    if pt.is_floating(kind):
        return _of_reals(column)
    text = as_text(column)
    return text if pt.is_integer(kind) or pt.is_null(kind) else _canonical(text)


def missing_categories(column: pa.Array) -> Mask:
    """Return (n,) True where a column of categories has no value: null or NaN."""
    missing = ~valid(column)
    if pt.is_floating(column.type):
        missing |= np.isnan(to_numpy(column.cast(pa.float64())))
    return missing


def _of_reals(column: pa.Array) -> pa.Array:
    if pt.is_float16(column.type):
        column = column.cast(pa.float32())
    reals = to_numpy(column.cast(pa.float64()))
    present = ~np.isnan(reals)
    with np.errstate(invalid="ignore"):
        whole = (reals == np.trunc(reals)) & (np.abs(reals) < _WHOLE_FLOATS)
    integers = pa.array(np.where(whole, reals, 0).astype(np.int64), mask=~present)
    text = integers.cast(pa.string())
    if (whole | ~present).all():
        return text
    return pc.if_else(pa.array(whole | ~present), text, column.cast(pa.string()))


def _canonical(text: pa.Array) -> pa.Array:
    """Return texts with ``5`` for ``5.0``, and ``true`` for ``True``."""
    data = text.buffers()[2]
    raw = b"" if data is None else data.to_pybytes()
    if not any(mark in raw for mark in _MARKS):  # most columns, at little cost
        return text
    text = pc.replace_substring_regex(text, r"^(-?[0-9]+)\.0+$", r"\1")
    return pc.replace_substring_regex(
        pc.replace_substring_regex(text, "^True$", "true"), "^False$", "false"
    )
