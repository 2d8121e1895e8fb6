"""What a column of text is taken for: times, numbers, categories or text."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streams.core.schema import FeatureKind
from streams.decoding.columns import Mask, missing_numbers, numbers, to_numpy

SHARE = 0.9
"""The share of the values, of those that are not missing, that must have a form."""
FEW_CATEGORIES = 50
"""A column of at most this many values, each twice on average, is categorical."""
REPEATS = 4
"""So is a column of any number of values, if each occurs this many times on average."""
IDENTIFIER_BYTES = 40

_PADDED = "^-?0[0-9]+$"
_ISO_TIME = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?$"
)
_TOKEN = rf"^[!-~]{{1,{IDENTIFIER_BYTES}}}$"
_COMPOSED = r"[,;|]|://"
"""What separates the parts of a list, and marks a URL."""


def kind_of_text(values: pa.Array) -> FeatureKind:
    """Return what a column of text holds, from the values of a sample.

    The first rule that holds decides. ``Values`` are those that are not missing: not empty, and
    for numbers not ``NA`` and the like.

    1. At least 90% of the values are dates or times of ISO 8601 (``2024-05-01T12:00:00Z``): *time*.
    2. A value that is an integer with a leading zero (``00123``) makes the column *categorical*.
    3. At least 90% of the values are numbers: *numeric*.
    4. The values repeat: at most 50 different ones, each twice on average, or any number, each four
       times on average: *categorical*.
    5. At least 90% of the values are identifiers: *categorical*, even if no two are the same. An
       identifier is one token of at most 40 printable ASCII characters, without a space, as
       ``N14228``, ``u01234``, a UUID, an address of mail or of a machine. A list (with a comma, a
       semicolon or a bar) and a URL (with ``://``) are none: their parts tell more than the whole.
    6. Else *text*: several words in a typical value, or a script without spaces.

    Args:
        values: n texts; null where there is none.
    """
    if _all_numbers(values):
        return "categorical" if _any(values, _PADDED) else "numeric"
    present = values.filter(pa.array(~missing_numbers(values)))
    if len(present) and _share(present, _ISO_TIME) >= SHARE:
        return "time"
    if _any(present, _PADDED):
        return "categorical"
    if len(present) and float((~np.isnan(numbers(present))).mean()) >= SHARE:
        return "numeric"
    texts = values.drop_null()
    texts = texts.filter(pc.not_equal(texts, ""))
    distinct = len(texts.unique())
    if distinct <= max(min(FEW_CATEGORIES, len(texts) / 2), len(texts) / REPEATS):
        return "categorical"
    return "categorical" if float(_identifiers(texts).mean()) >= SHARE else "text"


def _all_numbers(texts: pa.Array) -> bool:
    """Whether there are texts, and all are numbers: then none is missing, or a time."""
    try:
        values = to_numpy(texts.cast(pa.float64()))
    except pa.ArrowInvalid:
        return False
    return len(values) > 0 and bool(np.isfinite(values).all())


def _any(texts: pa.Array, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(texts, pattern)).as_py())


def _share(texts: pa.Array, pattern: str) -> float:
    return float(to_numpy(pc.match_substring_regex(texts, pattern)).mean())


def _identifiers(texts: pa.Array) -> Mask:
    """Return (n,) True where a text is an identifier."""
    token = to_numpy(pc.match_substring_regex(texts, _TOKEN))
    composed = to_numpy(pc.match_substring_regex(texts, _COMPOSED))
    return np.asarray(token & ~composed)
