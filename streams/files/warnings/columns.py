"""What looks wrong in the features of a stream of files: a line for each, with its remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from streams.core.batch import DeadLetter
from streams.core.errors import one_line
from streams.decoding.columns import numbers, seconds, to_numpy, whole
from streams.files.sample import StreamSample

ENOUGH_ROWS = 20
"""Rows that a warning about a feature needs."""
MOST = 0.9
"""The share of the values that have a form before a column is said to have it."""

_NUMBER_FORMS = {
    "thousands separators": r"^[-+]?[0-9]{1,3}([,' ][0-9]{3})+(\.[0-9]+)?$",
    "a decimal comma": r"^[-+]?([0-9]{1,3}(\.[0-9]{3})+|[0-9]+)(,[0-9]+)?$",
    "a unit": r"^[-+]?[0-9]+([.,][0-9]+)? ?([a-zA-Z\p{Greek}µ°%²³/]{1,8}|\p{Sc})$",
    "a currency": r"^[-+]?(\p{Sc}|[A-Z]{3}) ?[0-9][0-9.,']*$",
}
"""Ways to write a number that is read as text."""
_EPOCH_RANGE = (631_152_000, 4_102_444_800)
_YEAR = 366 * 86_400.0
_COLUMN = re.compile(r"column ('.*?'|\".*?\") holds ")
_UNIT = re.compile(r"[^\d.,'+\s-]+")
_IMAGE = r"(?i)\.(png|jpe?g|gif|webp|bmp|tiff?)$"
_ID = (
    r"^([0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}|[0-9a-fA-F]{16,64}|"
    r"[A-Za-z]{0,6}[-_]?[0-9]{3,})$"
)
"""A UUID, a hexadecimal code, or a number with letters before it."""


def empty_columns(sample: StreamSample) -> Iterator[str]:
    """Warn of columns that were left out of the features because they are empty."""
    used = {feature.name for feature in sample.schema.features} | sample.columns_in_use
    for name in sample.features:
        if name not in used and sample.is_empty(name):
            yield (
                f"column {name!r} is empty in the first {sample.rows.num_rows:,} rows, and is left "
                "out of the features: state its kind under stream.features to use it"
            )


def dead_rows(sample: StreamSample) -> Iterator[str]:
    """Warn of rows that are dead, by the column that cannot be read and what is expected there."""
    by_reason: dict[tuple[str, str], list[DeadLetter]] = {}
    broken = sum(_COLUMN.match(letter.reason) is None for letter in sample.dead)  # are no rows
    rows = sample.rows.num_rows + broken
    for letter in sample.dead:
        named = _COLUMN.match(letter.reason)
        kind = letter.reason.rpartition("; expected ")[2] if named else ""
        by_reason.setdefault((named[1] if named else "", kind), []).append(letter)
    for (column, _), letters in by_reason.items():
        for_ = f" for their column {column}" if column else ""
        reason = one_line(letters[0].reason)
        yield (
            f"{len(letters):,} of the first {rows:,} rows are dead{for_}, as row "
            f"{letters[0].offset}: {reason}{_remedy(reason)}"
        )


def _remedy(reason: str) -> str:
    """Return what to do about a dead row, where its reason does not say it."""
    if "it differs from " in reason:
        return ": write both alike where they are made"
    if "add it to classes" in reason:
        return ""
    if not _COLUMN.match(reason):
        return ": mend the file"
    value, _, expected = reason.rpartition("; expected ")
    if expected.startswith("a time"):
        stated = "correct" if "(stream.time_format)" in expected else "state"
        return "" if value.endswith(" null") else f": write it so, or {stated} stream.time_format"
    return ": leave a cell empty where there is no value, or state what the column is in the job"


def numbers_in_text(sample: StreamSample) -> Iterator[str]:
    """Warn of numbers that are read as text, for how they are written.

    Where the job states the kinds of columns, numbers may be categories: shops, products.
    """
    if sample.features_stated:
        return
    for name in sample.of_kind("categorical", "text"):
        texts = _texts(sample, name)
        if texts is None:
            continue
        known = np.isfinite(numbers(texts))
        share = float(known.mean())
        if share == 1:  # codes such as 00123
            continue
        if share >= 0.5:
            other = texts.filter(pa.array(~known))[0].as_py()
            yield (
                f"column {name!r} is taken for text, though {share:.0%} of its values are numbers: "
                f"others are not, as {other!r}; leave those cells empty, or state it as numeric "
                "under stream.features"
            )
        elif form := _number_form(texts):
            yield (
                f"column {name!r} looks like numbers with {form}, as {texts[0].as_py()!r}, and is "
                "read as text: write plain numbers, as 1234.5"
            )


def _number_form(texts: pa.Array) -> str | None:
    """Return how numbers are written in texts; None: they are no numbers."""
    trimmed = pc.utf8_trim_whitespace(texts)
    for form, pattern in _NUMBER_FORMS.items():
        if _share(trimmed, pattern) < MOST:
            continue
        units = {mark for text in trimmed[:100].to_pylist() for mark in _UNIT.findall(text)}
        if form != "a unit" or len(units) <= 3:  # 12A, 14C, 7F are seats
            return form
    return None


def image_paths(sample: StreamSample) -> Iterator[str]:
    """Warn of paths of images that are read as text."""
    for name in sample.of_kind("categorical", "text"):
        texts = _texts(sample, name)
        if texts is not None and _share(texts, _IMAGE) >= MOST:
            yield (
                f"column {name!r} holds paths of images, as {texts[0].as_py()!r}, and is read as "
                "text: the files are not opened; put the bytes of the images into the column "
                "(Parquet), and state it as image under stream.features"
            )


def ids_as_features(sample: StreamSample) -> Iterator[str]:
    """Warn of columns that look like an id, a row number or a time, and are features."""
    if sample.features_stated:
        return
    for name in sample.of_kind("numeric"):
        values = sample.values(name)
        if len(values) < ENOUGH_ROWS or values.null_count:
            continue
        if _is_epoch(values) or _near(values, sample):
            remedy = "state it as stream.time, or as time under stream.features"
            yield f"column {name!r} holds times, and is taken for a number: {remedy}"
        elif _rises(values):
            yield (
                f"column {name!r} rises with every row, as an id or a row number does, and is "
                "taken for a feature: state it as stream.id or stream.time, or list "
                "stream.features without it"
            )
    for name in sample.of_kind("text", "categorical"):
        texts = _texts(sample, name)
        if texts is None or len(texts.unique()) < len(texts):
            continue
        if np.isfinite(seconds(texts)).mean() >= MOST:
            remedy = "state it as stream.time, or as time under stream.features"
            yield f"column {name!r} holds times, and is taken for text: {remedy}"
        elif _share(texts, _ID) >= MOST:
            yield (
                f"column {name!r} has another code in every row, as {texts[0].as_py()!r}, and is "
                "taken for a feature: state it as stream.id, or list stream.features without it"
            )


def unstated_time(sample: StreamSample) -> Iterator[str]:
    """Warn of times in order, where the job does not say when events happened."""
    if sample.features_stated or sample.columns.time is not None:
        return
    for name in sample.of_kind("time"):
        times = sample.read_times.for_features()(sample.values(name))
        if len(times) < ENOUGH_ROWS or not np.isfinite(times).all():
            continue
        if (np.diff(times) >= 0).all() and times[0] < times[-1]:
            yield (
                f"column {name!r} holds times that never go back, and is taken for a feature: "
                "state it as stream.time if events happened then"
            )


def _is_epoch(values: pa.Array) -> bool:
    """Whether numbers are seconds or milliseconds of the years 1990 to 2100, in order."""
    times = numbers(values).astype(np.float64)
    if not np.isfinite(times).all() or (np.diff(times) < 0).any() or times[0] == times[-1]:
        return False
    first, last = _EPOCH_RANGE
    return any(first <= times[0] / unit <= times[-1] / unit <= last for unit in (1, 1e3))


def _near(values: pa.Array, sample: StreamSample) -> bool:
    """Whether numbers are seconds since 1970 within a year of the time of their events."""
    if sample.times is None or len(sample.times) != len(values):
        return False
    events = sample.read_times(sample.times)
    ago = np.abs(numbers(values).astype(np.float64) - events)
    return bool(events.min() >= _EPOCH_RANGE[0] and ago.max() <= _YEAR)


def _rises(values: pa.Array) -> bool:
    """Whether integers rise with every row."""
    if pt.is_string(values.type):
        if not whole(values).all():
            return False
    elif not pt.is_integer(values.type):
        return False
    return bool((np.diff(numbers(values).astype(np.float64)) > 0).all())


def _texts(sample: StreamSample, name: str) -> pa.Array | None:
    """Return the values of a column of text that are not null; None: too few."""
    texts = sample.values(name).drop_null()
    return texts if pt.is_string(texts.type) and len(texts) >= ENOUGH_ROWS else None


def _share(texts: pa.Array, pattern: str) -> float:
    """Return the share of texts that match a pattern."""
    return float(to_numpy(pc.match_substring_regex(texts, pattern)).mean())
