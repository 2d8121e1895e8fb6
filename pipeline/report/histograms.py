"""Histograms over a run, out of rows where ``NAME/LOW:HIGH`` counts
(``pipeline/evaluation/buffer_stats.py``)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from pipeline.storage.metric_log import Row
from streams.core.batch import Array


class Histogram(NamedTuple):
    """How values were spread as the run went on.

    Attributes:
        events: (n,) events seen.
        low: (k,) where each bin begins, in order.
        high: (k,) where it ends: where the next begins, or before.
        counts: (n, k).
    """

    events: Array
    low: Array
    high: Array
    counts: Array


def histograms(rows: Iterable[Row]) -> dict[str, Histogram]:
    """By name; what is no bin is passed over."""
    found: dict[str, dict[tuple[float, float], dict[int, float]]] = {}
    for row in rows:
        for key, count in row.metrics.items():
            name, _, bounds = key.rpartition("/")
            low, _, high = bounds.partition(":")
            with suppress(ValueError):
                bins = found.setdefault(name, {})
                bins.setdefault((float(low), float(high)), {})[row.step] = count
    return {name: _histogram(bins) for name, bins in found.items() if bins}


def _histogram(bins: dict[tuple[float, float], dict[int, float]]) -> Histogram:
    bounds, events = sorted(bins), sorted({step for counts in bins.values() for step in counts})
    place = {step: i for i, step in enumerate(events)}
    counts = np.zeros((len(events), len(bounds)))
    for k, bound in enumerate(bounds):
        for step, count in bins[bound].items():
            counts[place[step], k] = count
    low, high = np.array(bounds).T
    return Histogram(np.array(events, np.float64), low, high, counts)
