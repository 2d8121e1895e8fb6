"""Features that seem to be known only with the label: a line for each, with its remedy.

The checks need enough rows of each class, so that they are silent on small files and by chance.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streams.core.batch import Array, Floats
from streams.core.schema import Feature
from streams.decoding.columns import as_text, numbers, plain, to_numpy, valid
from streams.files.sample import StreamSample

MIN_ROWS = 100
"""Rows with a label that the checks need."""
MIN_CLASS_ROWS = 20
"""Rows of the rarest class that they need."""
MIN_VALUE_ROWS = 5
"""Rows of each value of a category, on average, that they need."""

_LATER = re.compile(
    r"[ _.-]?(at|on|by|time|date|ts|timestamp|reason|code|flag|label|target|pred|prediction|prob|"
    r"proba|probability|score|encoded|name|num|idx|index|[0-9]+)",
    re.IGNORECASE,
)


def leaks(sample: StreamSample) -> Iterator[str]:
    """Warn of features that tell the label, by their name or by their values."""
    if sample.label is None or sample.columns.label is None:
        return
    label, labels = sample.label
    names = [name for name in _features(sample) if _is_named_after(name, label)]
    telling = dict(_telling(sample, plain(labels)))
    for name in dict.fromkeys([*names, *telling]):
        why = telling.get(name, f"is named after the label {label!r}")
        yield (
            f"column {name!r} {why}, and is taken for a feature: if it is known only with the "
            "label, list stream.features without it"
        )


def _features(sample: StreamSample) -> list[str]:
    return [feature.name for feature in sample.schema.features]


def _is_named_after(name: str, label: str) -> bool:
    """Whether a name is that of the label with a suffix, as ``refunded_at`` is of ``refunded``."""
    low, start = name.lower(), label.lower()
    return low == start or (low.startswith(start) and bool(_LATER.fullmatch(low[len(start) :])))


def _telling(sample: StreamSample, labels: pa.Array) -> Iterator[tuple[str, str]]:
    """Yield the features that determine the label in the sample, and how they do it."""
    known = valid(labels)
    if np.count_nonzero(known) < MIN_ROWS:
        return
    labels = labels.filter(pa.array(known))
    if sample.schema.task == "regression":
        targets = numbers(labels)
        if len(np.unique(targets)) < 2:
            return
        for feature in sample.schema.features:
            if feature.kind == "numeric":
                x = numbers(sample.values(feature.name).filter(pa.array(known)))
                if np.array_equal(x, targets, equal_nan=True):
                    yield feature.name, "is equal to the label"
        return
    codes = to_numpy(as_text(labels).dictionary_encode().indices)
    counts = np.bincount(codes)
    if len(counts) < 2 or counts.min() < MIN_CLASS_ROWS:
        return
    for feature in sample.schema.features:
        values = sample.values(feature.name).filter(pa.array(known))
        if how := _how_it_tells(feature, values, codes):
            yield feature.name, how


def _how_it_tells(feature: Feature, values: pa.Array, codes: Array) -> str | None:
    """Return how a feature determines the class in all rows; None: it does not."""
    if 0 < values.null_count < len(values) and _is_function(valid(values).astype(int), codes, 1):
        return "has a value in exactly the rows of some classes"
    if feature.kind in ("numeric", "time"):
        x = numbers(values).astype(np.float64)
        if not np.isfinite(x).all():
            return None
        if codes.max() == 1 and _is_separated(x[codes == 0], x[codes == 1]):
            return "separates the two classes by one threshold, in every row of the sample"
        values = pa.array(x)
    elif feature.kind != "categorical":
        return None
    places = to_numpy(pc.fill_null(as_text(values), "").dictionary_encode().indices)
    if _is_function(places, codes, MIN_VALUE_ROWS):
        return "determines the label in every row of the sample"
    return None


def _is_separated(one: Floats, other: Floats) -> bool:
    return bool(one.max() < other.min() or other.max() < one.min())


def _is_function(places: Array, codes: Array, rows: int) -> bool:
    """Whether each value has one class, with at least ``rows`` rows of a value on average."""
    values = int(places.max()) + 1
    if values < 2 or len(places) < rows * values:
        return False
    pairs = np.unique(places.astype(np.int64) * (int(codes.max()) + 1) + codes)
    return len(pairs) == len(np.unique(places))
