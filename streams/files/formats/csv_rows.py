"""Where the rows of CSV text end, by the rules of Arrow's parser.

A field is quoted where it begins with a quote; a quote elsewhere is a character like any other. A
row ends with LF, CRLF or CR outside quotes, and an empty line is no row.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

_QUOTE, _LF, _CR = 34, 10, 13
_FIELD = rb'(?:"[^"]*(?:""[^"]*)*"[^,\r\n]*|[^",\r\n][^,\r\n]*|)'
_ROW = re.compile(_FIELD + rb"(?:," + _FIELD + rb")*(?:\r\n|\n|\r)")


def last_row_end(text: bytes) -> int:
    """Return where the last row of the text ends; 0 where none does."""
    if _QUOTE not in text:
        return (text.rfind(b"\n") + 1) or (text.rfind(b"\r") + 1)
    if not _opens_at_fields(text):
        return _scan(text, None)[1]
    ends = _newlines(text)
    return int(ends[-1]) + 1 if len(ends) else 0


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
    if rows is not None and _is_plain(text):
        ends = _filled_line_ends(text)
        if len(ends) + (not text.endswith((b"\n", b"\r"))) == rows:
            return int(ends[count - 1]) + 1
    found, end = _scan(text, count)
    return end if found == count else None


def _is_plain(text: bytes) -> bool:
    """Whether rows end with LF or CRLF alone, and quotes open at the beginning of fields."""
    if text.count(b"\r") != text.count(b"\r\n"):
        return False
    return _QUOTE not in text or _opens_at_fields(text)


def _newlines(text: bytes) -> NDArray[np.int64]:
    """Return the places of LF (of CR, where there is no LF) outside quotes."""
    chars = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(chars == (_LF if b"\n" in text else _CR))
    if _QUOTE in text:
        quotes = np.flatnonzero(chars == _QUOTE)
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
    return ends


def _filled_line_ends(text: bytes) -> NDArray[np.int64]:
    """Return the places of the newlines of lines that are not empty."""
    ends = _newlines(text)
    chars = np.frombuffer(text, np.uint8)
    starts = np.concatenate([[0], ends[:-1] + 1])
    empty = (ends == starts) | ((ends == starts + 1) & (chars[starts] == _CR))
    filled: NDArray[np.int64] = ends[~empty]
    return filled


def _opens_at_fields(text: bytes) -> bool:
    """Whether each opening quote is at the beginning of a field, as RFC 4180 has it."""
    chars = np.frombuffer(text, np.uint8)
    opening = np.flatnonzero(chars == _QUOTE)[::2]
    before = chars[opening[opening > 0] - 1]
    return bool(np.isin(before, np.frombuffer(b',\r\n"', np.uint8)).all())


def _scan(text: bytes, count: int | None) -> tuple[int, int]:
    """Return the number of rows up to the ``count``-th (None: all), and where the last one ends.
    Every character is looked at: for text that is not plain."""
    rows = end = 0
    while rows != count and (match := _ROW.match(text, end)):
        end = match.end()
        rows += match.group() not in (b"\n", b"\r\n", b"\r")
    return rows, end
