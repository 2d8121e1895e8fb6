"""Columns of PNG or JPEG bytes, or of lists of pixels, to arrays of uint8."""

from __future__ import annotations

import io
import math
import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from streams.core.batch import Array
from streams.core.errors import StreamError
from streams.decoding.columns import Mask, is_bytes, lists, to_numpy, valid

_CHANNELS = {"1": 1, "L": 1, "RGB": 3, "P": 3, "YCbCr": 3, "CMYK": 3, "RGBA": 4}
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def image_shape(data: bytes) -> tuple[int, int, int] | None:
    """Return (channels, height, width) of a PNG or JPEG; None: the bytes are neither.

    Raises:
        StreamError: Pillow is not installed.
    """
    try:
        with _opened(data) as image:
            return (_CHANNELS.get(image.mode, 3), image.height, image.width)
    except _NoImageError:
        return None


def image_bytes(column: pa.Array) -> pa.Array:
    """Return the encoded images of a column of bytes or of structs {bytes, path}."""
    if pt.is_struct(column.type):
        if column.type.get_field_index("bytes") < 0:
            return pa.nulls(len(column), pa.binary())
        column = pc.struct_field(column, "bytes")
    return column if is_bytes(column.type) else pa.nulls(len(column), pa.binary())


def images(column: pa.Array, shape: tuple[int, ...]) -> tuple[Array, dict[int, str]]:
    """Decode a column of encoded images.

    Returns:
        (n, channels, height, width) uint8; and for each row that is not an image of this shape, a
        description of its content.

    Raises:
        StreamError: Pillow is not installed.
    """
    x = np.zeros((len(column), *shape), np.uint8)
    wrong: dict[int, str] = {}
    for row, data in enumerate(image_bytes(column).to_pylist()):
        if data is None:
            wrong[row] = "no image bytes"
            continue
        try:
            x[row] = _pixels(data, shape)
        except _NoImageError as error:
            wrong[row] = str(error)
    return x, wrong


def images_of_lists(column: pa.Array, shape: tuple[int, ...]) -> tuple[Array, Mask]:
    """Return (n, channels, height, width) uint8 from lists of pixels, and (n,) where they are
    complete."""
    flat, good = lists(column, math.prod(shape))
    if not pt.is_uint8(flat.type):
        good[:] = False
    x = np.zeros((len(column), *shape), np.uint8)
    if good.any():
        x[good] = to_numpy(flat.fill_null(0)).reshape(-1, *shape)
        good[good] = valid(flat).reshape(-1, math.prod(shape)).all(axis=1)
    return x, good


class _NoImageError(Exception):
    """The bytes are not the expected image; the message describes them."""


def _opened(data: bytes) -> Any:
    """Open a PNG or JPEG. Raises ``_NoImageError``, or ``StreamError`` without Pillow."""
    try:
        from PIL import Image
    except ImportError:
        raise StreamError(
            "images need Pillow, which is not installed: pip install 'everlearn[vision]'"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a decompression bomb warns, then decodes
            return Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except Exception:
        raise _NoImageError(f"{len(data)} bytes that are no PNG or JPEG") from None


def _pixels(data: bytes, shape: tuple[int, ...]) -> Array:
    """Return (channels, height, width) uint8. Grey is repeated over three channels. Nothing else
    is converted, so no colour is lost silently. Raises ``_NoImageError``."""
    with _opened(data) as image:
        actual = (_CHANNELS.get(image.mode, 3), image.height, image.width)
        if (actual != shape and (actual[0], shape[0]) != (1, 3)) or actual[1:] != shape[1:]:
            raise _NoImageError(f"an image of {'x'.join(map(str, actual))}")
        try:
            pixels = np.asarray(image.convert(_MODES[shape[0]]))
        except Exception:
            raise _NoImageError(f"a broken image of {len(data)} bytes") from None
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
