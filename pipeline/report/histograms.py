"""Histograms over a run, read from rows with the counts ``NAME/LOW:HIGH``
(``pipeline/evaluation/buffer_stats.py``)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from pipeline.storage.metric_log import Row
from streams.core.batch import Array


class Histogram(NamedTuple):
    """The distribution of values over a run.

    Attributes:
        events: (n,) events seen.
        low: (k,) lower ends of the bins, in order.
        high: (k,) upper ends; the next bin begins there or later.
        counts: (n, k) number of values.
    """

    events: Array
    low: Array
    high: Array
    counts: Array


def histograms(rows: Iterable[Row]) -> dict[str, Histogram]:
    """Return the histograms by name; entries that are not bins are ignored."""
    by_name: dict[str, dict[tuple[float, float], dict[int, float]]] = {}
    for row in rows:
        for key, count in row.metrics.items():
            name, _, bounds = key.rpartition("/")
            low, _, high = bounds.partition(":")
            with suppress(ValueError):
                bins = by_name.setdefault(name, {})
                bins.setdefault((float(low), float(high)), {})[row.step] = count
    return {name: _histogram(bins) for name, bins in by_name.items() if bins}


def _histogram(bins: dict[tuple[float, float], dict[int, float]]) -> Histogram:
    """Return the histogram of counts by bin and events."""
    bounds, events = sorted(bins), sorted({step for counts in bins.values() for step in counts})
    row = {step: i for i, step in enumerate(events)}
    counts = np.zeros((len(events), len(bounds)))
    for k, bound in enumerate(bounds):
        for step, count in bins[bound].items():
            counts[row[step], k] = count
    low, high = np.array(bounds).T
    return Histogram(np.array(events, np.float64), low, high, counts)
