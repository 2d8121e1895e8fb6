"""Where the rows of CSV text end, by the rules of Arrow's parser.

A field is quoted where it begins with a quote; a quote elsewhere is a character like any other. A
row ends with LF, CRLF or CR outside quotes, and an empty line is no row.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

_QUOTE, _LF, _CR = 34, 10, 13
_BEFORE_QUOTE = np.isin(np.arange(256), np.frombuffer(b',\r\n"', np.uint8))
"""Which characters may stand before an opening quote; two quotes in a field are one character."""
_FIELD = rb'(?:"[^"]*(?:""[^"]*)*"[^,\r\n]*|[^",\r\n][^,\r\n]*|)'
_ROW = re.compile(_FIELD + rb"(?:," + _FIELD + rb")*(?:\r\n|\n|\r)")


def last_row_end(text: bytes) -> int:
    """Return where the last row of the text ends; 0 where none does."""
    if _QUOTE not in text:
        return (text.rfind(b"\n") + 1) or (text.rfind(b"\r") + 1)
    quotes = _quotes(text)
    if quotes is None:
        return _scan(text, None)[1]
    newline = b"\n" if b"\n" in text else b"\r"
    end = len(text)
    while (end := text.rfind(newline, 0, end)) >= 0:
        if np.searchsorted(quotes, end) % 2 == 0:
            break
    return end + 1


def row_end(text: bytes, count: int, rows: int | None = None) -> int | None:
    """Return where the first ``count`` rows of the text end.

    Args:
        text: whole rows; only the last may lack its newline.
        count: of rows; all of them end with a newline.
        rows: the number of all rows, as the parser counts them; None: unknown.

    Returns:
        The place after the last of them; None where the text has not as many.
    """
    if count == 0:
        return 0
    ends = None if rows is None else _filled_line_ends(text)
    if ends is not None and len(ends) + (not text.endswith((b"\n", b"\r"))) == rows:
        return int(ends[count - 1]) + 1
    found, end = _scan(text, count)
    return end if found == count else None


def _filled_line_ends(text: bytes) -> NDArray[np.int64] | None:
    """Return the places of the newlines of lines that are not empty; None where rows may also end
    with CR alone, or a quote is not at the beginning of its field."""
    if b"\r" in text and text.count(b"\r") != text.count(b"\r\n"):
        return None
    chars = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(chars == _LF)
    if _QUOTE in text:
        quotes = _quotes(text)
        if quotes is None:
            return None
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
    starts = np.concatenate([[0], ends[:-1] + 1])
    empty = (ends == starts) | ((ends == starts + 1) & (chars[starts] == _CR))
    filled: NDArray[np.int64] = ends[~empty]
    return filled


def _quotes(text: bytes) -> NDArray[np.int64] | None:
    """Return the places of all quotes; None where an opening one is not at the beginning of a
    field, as RFC 4180 has it."""
    chars = np.frombuffer(text, np.uint8)
    quotes: NDArray[np.int64] = np.flatnonzero(chars == _QUOTE)
    opening = quotes[::2]
    before = chars[opening[opening > 0] - 1]
    return quotes if _BEFORE_QUOTE[before].all() else None


def _scan(text: bytes, count: int | None) -> tuple[int, int]:
    """Return the number of rows up to the ``count``-th (None: all), and where the last one ends.
    Every character is looked at: for text that is not plain."""
    rows = end = 0
    while rows != count and (match := _ROW.match(text, end)):
        end = match.end()
        rows += match.group() not in (b"\n", b"\r\n", b"\r")
    return rows, end
