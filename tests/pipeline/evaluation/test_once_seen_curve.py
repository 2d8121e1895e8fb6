"""What is known of once-seen events by the updates since: by hand."""

from __future__ import annotations

import numpy as np
import pytest

from learners.base import LearnerConfig
from learners.baselines.prior import Prior
from learners.results import Prediction
from pipeline.evaluation.once_seen import OnceSeenSample
from pipeline.evaluation.once_seen_curve import OnceSeenCurve
from pipeline.evaluation.retention import wilson
from streams.core.batch import Array, Batch
from streams.core.schema import Feature, Schema
from streams.core.state_dict import copied, digest


class Knows(Prior):
    """Predicts the events at the set places correctly, and counts its questions."""

    kind = "knows"

    def __init__(self, right: Array) -> None:
        schema = Schema((Feature("x", "numeric"),), "classification", ("a", "b"))
        super().__init__(LearnerConfig(kind="knows"), schema, 0)
        self.right = right
        self.asked: list[int] = []

    def predict(self, batch: Batch) -> Prediction:
        assert batch.y is None
        self.asked += batch.offset.tolist()
        y = batch.offset % 2
        value = np.where(np.isin(batch.offset, self.right), y, 1 - y)
        return Prediction(batch.ids, "classification", value, None, ("a", "b"), 1)


def kept(*learned: int, first: int = 0) -> OnceSeenSample:
    """Events at places ``first`` and on, learned in these updates."""
    n = np.arange(first, first + len(learned))
    rows = Batch(n, n * 1.0, n[:, None] * 1.0, n * 0, n, n % 2, classes=("a", "b"))
    return OnceSeenSample(rows, n, np.array(learned))


def test_evaluate_bins_and_powers_of_ten_by_hand() -> None:
    since = OnceSeenCurve()
    # 0, 1, 3, 4, 9, 10, 19, 20, 99, 100 and 1,234 updates ago.
    events = kept(1, 1135, 1214, 1215, 1224, 1225, 1226, 1231, 1232, 1234, 1235)
    learner = Knows(np.array([0, 2, 3, 6, 7, 9, 10]))
    ages = (1235 - events.learned).tolist()
    assert ages == [1234, 100, 21, 20, 11, 10, 9, 4, 3, 1, 0]
    metrics, entries = since.evaluate(learner, events, 1235, 5000)
    assert metrics["retention/once_seen"] == 11
    assert {k: v for k, v in metrics.items() if k.endswith("_count")} == {
        "retention/after_0_count": 1,
        "retention/after_1_count": 4,  # 9, 4, 3, 1
        "retention/after_10_count": 4,  # 21, 20, 11, 10
        "retention/after_100_count": 1,
        "retention/after_1k_count": 1,
    }
    assert metrics["retention/after_0"] == 1.0
    assert metrics["retention/after_1"] == 3 / 4  # places 6, 7, 9 of 6, 7, 8, 9
    assert metrics["retention/after_10"] == 2 / 4
    assert metrics["retention/after_100"] == 0.0
    assert metrics["retention/after_1k"] == 1.0
    low, high = wilson(0.75, 4)
    assert (low, high) == pytest.approx((0.3006, 0.9544), abs=1e-4)  # by hand, Wilson 1927
    assert (metrics["retention/after_1_low"], metrics["retention/after_1_high"]) == (low, high)
    assert [(t["first"], t["last"], t["asked"], t["right"]) for t in entries] == [
        (0, 0, 1, 1),
        (1, 1, 1, 1),
        (2, 4, 2, 1),
        (5, 9, 1, 1),
        (10, 19, 2, 0),
        (20, 49, 2, 2),
        (100, 199, 1, 0),
        (1000, 1999, 1, 1),
    ]
    means = [t["since"] for t in entries]
    assert means == pytest.approx([0, 1, 12**0.5, 9, 110**0.5, 420**0.5, 100, 1234], abs=1e-3)


def test_evaluate_asks_once_per_event_and_bin() -> None:
    since = OnceSeenCurve()
    learner = Knows(np.arange(10))
    # 0, 1, 4, 5, 9, 20 and 25 updates since.
    times = {5: [0], 6: [0], 9: [0], 10: [0], 14: [], 25: [0], 30: []}
    for version, asked in times.items():
        learner.asked.clear()
        metrics, entries = since.evaluate(learner, kept(5), version, 10 * version)
        assert learner.asked == asked, version
    assert [t["first"] for t in entries] == [0, 1, 2, 5, 20]
    assert metrics["retention/after_0_count"] == 1


def test_evaluate_counts_the_first_answer_per_power_of_ten() -> None:
    since = OnceSeenCurve()
    right = Knows(np.arange(10))
    wrong = Knows(np.empty(0))
    for learner, version in ((right, 1), (wrong, 2), (wrong, 5), (right, 10), (wrong, 20)):
        metrics, entries = since.evaluate(learner, kept(0), version, version)
    assert [(t["first"], t["asked"], t["right"]) for t in entries] == [
        (1, 1, 1),
        (2, 1, 0),
        (5, 1, 0),
        (10, 1, 1),
        (20, 1, 0),
    ]
    assert metrics["retention/after_1"] == metrics["retention/after_1_count"] == 1
    assert metrics["retention/after_10"] == metrics["retention/after_10_count"] == 1


def test_evaluate_keeps_answers_of_dropped_events() -> None:
    since = OnceSeenCurve()
    since.evaluate(Knows(np.array([0, 1])), kept(1, 2), 2, 20)
    metrics, entries = since.evaluate(Knows(np.array([2])), kept(2, 3, first=1), 3, 30)
    assert [(t["first"], t["asked"], t["right"]) for t in entries] == [(0, 2, 2), (1, 2, 1)]
    assert metrics["retention/once_seen"] == 2


def test_evaluate_of_an_empty_sample_is_empty() -> None:
    nothing = OnceSeenSample(None, np.empty(0, np.int64), np.empty(0, np.int64))
    assert OnceSeenCurve().evaluate(Knows(np.empty(0)), nothing, 3, 30) == ({}, [])


def test_curve_loaded_from_state_continues_the_same() -> None:
    whole, cut = OnceSeenCurve(), OnceSeenCurve()
    for version in range(1, 300, 7):
        learned = np.arange(0, version, 3)
        events = kept(*learned.tolist())
        learner = Knows(np.arange(0, 100, 2))
        results = [one.evaluate(learner, events, version, version) for one in (whole, cut)]
        assert results[0] == results[1]
        state = copied(cut.state())
        cut = OnceSeenCurve()
        cut.load(state)
    assert digest(whole.state()) == digest(cut.state())
