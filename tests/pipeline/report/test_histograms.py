"""Histograms over a run, put together from rows."""

from __future__ import annotations

from pipeline.report.histograms import histograms
from pipeline.storage.metric_log import Row


def test_histograms_sort_bins_and_fill_missing_counts() -> None:
    rows = [
        Row(100, 0, {"a/16:32": 2.0, "a/2:4": 1.0, "b/0.5:0.55": 7.0}, 0),
        Row(200, 0, {"a/2:4": 5.0}, 0),
        Row(300, 0, {"a/0.25:0.5": 3.0, "b/0.5:0.55": 1.0}, 0),
    ]
    by_name = histograms(rows)
    assert list(by_name) == ["a", "b"]
    a, b = by_name["a"], by_name["b"]
    assert a.events.tolist() == [100, 200, 300]
    assert a.low.tolist() == [0.25, 2, 16]
    assert a.high.tolist() == [0.5, 4, 32]
    assert a.counts.tolist() == [[0, 1, 2], [0, 5, 0], [3, 0, 0]]
    assert b.events.tolist() == [100, 300]
    assert b.counts.tolist() == [[7], [1]]


def test_histograms_ignore_what_is_not_a_bin() -> None:
    assert histograms([Row(1, 0, {"a": 1.0, "a/": 2.0, "a/x:y": 3.0, "a/1": 1.0}, 0)]) == {}
