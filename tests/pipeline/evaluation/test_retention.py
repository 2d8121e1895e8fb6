"""Retention of segments: by hand, by resampling, and across merges and restarts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from learners.base import LearnerConfig
from learners.baselines.prior import Prior
from learners.results import Prediction
from learners.sequences.forecast import constant
from pipeline.evaluation.probes import Segment
from pipeline.evaluation.retention import Retention
from streams.core.batch import Array, Batch
from streams.core.schema import Feature, Schema, Task
from streams.core.state_dict import copied, digest
from streams.core.stream_config import SequenceConfig

NUMBER = (Feature("x", "numeric"),)


class Knows(Prior):
    """Predicts the events at the set places correctly, and no others."""

    kind = "knows"

    def __init__(self, task: Task = "classification") -> None:
        classes = ("a", "b") if task == "classification" else ()
        super().__init__(LearnerConfig(kind="knows"), Schema(NUMBER, task, classes), 0)
        self.right: Array = np.empty(0, np.int64)
        self.error = 0.0

    def predict(self, batch: Batch) -> Prediction:
        y = batch.x[:, 0].astype(np.int64) % 2  # type: ignore[index]
        value = np.where(np.isin(batch.offset, self.right), y, 1 - y)
        if self.schema.task == "regression":
            return Prediction(batch.ids, "regression", y + self.error, None, (), 1)
        return Prediction(batch.ids, "classification", value, None, ("a", "b"), 1)


def segment(begin: int, end: int, ended: bool = True, step: int = 1) -> Segment:
    at = np.arange(begin, end, step)
    x = at[:, None].astype(float)
    rows = Batch(at, at * 1.0, x, at * 0, at, at % 2, classes=("a", "b"))
    return Segment(begin, end, ended, rows if len(at) else None, at)


def evaluate(
    retention: Retention, segments: list[Segment], events: int, right: Any
) -> dict[str, float]:
    learner = Knows()
    learner.right = np.asarray(right)
    return retention.evaluate(learner, segments, events)[0]


def test_evaluate_forgetting_by_hand() -> None:
    retention = Retention("classification")
    a, b, c = segment(0, 10), segment(10, 20), segment(20, 30)
    metrics = evaluate(retention, [a, segment(10, 10, False)], 10, range(8))
    assert metrics["stability/acc"] == 0.8
    assert metrics["stability/probes"] == 10
    assert "stability/forgetting" not in metrics
    # In the midst of the second: 5 of the first 8 are left, one is new; 6 of its own 6 are right.
    metrics = evaluate(
        retention, [a, segment(10, 16, False)], 16, [0, 1, 2, 3, 4, 9, *range(10, 16)]
    )
    assert metrics["stability/acc"] == pytest.approx((0.6 + 1.0) / 2)
    assert metrics["stability/forgetting"] == pytest.approx(0.2)
    assert metrics["stability/forgetting_low"] < 0.2 < metrics["stability/forgetting_high"]
    assert metrics["stability/knowledge_loss"] == pytest.approx(3 / 8)
    assert metrics["plasticity/knowledge_gain"] == pytest.approx(1 / 2)
    # At the end of the second the first is known better than it ever was.
    metrics = evaluate(retention, [a, b], 20, [*range(9), *range(10, 17)])
    assert metrics["stability/forgetting"] == pytest.approx(-0.1)
    assert metrics["stability/min_acc"] == 0.6
    # At the end of the third: 0.9 - 0.4 and 0.7 - 0.1; by the first accuracies 0.8 - 0.4.
    metrics = evaluate(retention, [a, b, c], 30, [*range(4), 10, *range(20, 30)])
    assert metrics["stability/forgetting"] == pytest.approx((0.5 + 0.6) / 2)
    assert metrics["stability/forgetting_initial"] == pytest.approx((0.4 + 0.6) / 2)
    assert metrics["stability/bwt"] == pytest.approx(-(0.4 + 0.6) / 2)
    assert metrics["plasticity/learning_accuracy"] == pytest.approx((0.8 + 0.7 + 1.0) / 3)
    np.testing.assert_allclose(
        retention.curves.matrix, [[0.8, np.nan, np.nan], [0.9, 0.7, np.nan], [0.4, 0.1, 1.0]]
    )


def test_evaluate_returns_an_entry_per_segment() -> None:
    learner = Knows()
    learner.right = np.arange(5)
    segments = [segment(0, 10), segment(10, 14, False)]
    _, entries = Retention("classification").evaluate(learner, segments, 14)
    assert [(t["begin"], t["end"], t["probes"], t["score"]) for t in entries] == [
        (0, 10, 10, 0.5),
        (10, 14, 4, 0.0),
    ]
    # Wilson's interval for 5 of 10, and for 0 of 4 (Brown, Cai and DasGupta 2001).
    assert (entries[0]["low"], entries[0]["high"]) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert (entries[1]["low"], entries[1]["high"]) == pytest.approx((0.0, 0.4899), abs=1e-4)


@pytest.mark.parametrize("n", [40, 300])
@pytest.mark.parametrize(
    ("before", "lost", "gained"), [(0.95, 0.02, 0.1), (0.9, 0.4, 0.3), (0.6, 0.9, 0.0)]
)
def test_intervals_have_their_coverage(n: int, before: float, lost: float, gained: float) -> None:
    """On three segments drawn from a population of which the truth is known."""
    truth = before - (before * (1 - lost) + (1 - before) * gained)
    rng = np.random.default_rng(n)
    covered = {"forgetting_initial": 0, "acc": 0}
    trials = 400
    for _ in range(trials):
        retention = Retention("classification")
        past = [segment(i * n, (i + 1) * n) for i in range(3)]
        then = np.flatnonzero(rng.random(3 * n) < before)
        for i in range(3):  # nothing is forgotten while they are learned
            evaluate(retention, past[: i + 1], (i + 1) * n, then)
        left = then[rng.random(len(then)) >= lost]
        others = np.setdiff1d(np.arange(3 * n), then)
        kept = [*left, *others[rng.random(len(others)) < gained]]
        last = segment(3 * n, 4 * n, False)
        metrics = evaluate(retention, [*past, last], 4 * n, [*kept, *range(3 * n, 4 * n)])
        for name, true in (
            ("forgetting_initial", truth),
            ("acc", (3 * (before - truth) + 1.0) / 4),
        ):
            low, high = (metrics[f"stability/{name}_{end}"] for end in ("low", "high"))
            covered[name] += low <= true <= high
    assert covered["forgetting_initial"] >= 0.93 * trials, covered
    assert covered["acc"] >= 0.93 * trials, covered


def test_merging_equal_segments_changes_no_mean() -> None:
    halves, wholes = Retention("classification"), Retention("classification")
    rng = np.random.default_rng(1)
    parts = [segment(i * 10, (i + 1) * 10) for i in range(5)]
    for i in range(4):
        right = np.flatnonzero(rng.random(50) < 0.6)
        for retention in (halves, wholes):
            evaluate(retention, parts[: i + 1], (i + 1) * 10, right)
    pairs = [segment(0, 20), segment(20, 40)]
    right = np.flatnonzero(rng.random(50) < 0.4)
    metrics = evaluate(halves, [*parts[:4], segment(40, 45, False)], 45, right)
    merged = evaluate(wholes, [*pairs, segment(40, 45, False)], 45, right)
    for name in ("forgetting", "forgetting_initial", "bwt", "min_acc"):
        assert merged[f"stability/{name}"] == pytest.approx(metrics[f"stability/{name}"]), name
    for end in ("low", "high"):
        name = f"stability/forgetting_{end}"
        assert merged[name] == pytest.approx(metrics[name], abs=0.02)
    assert merged["stability/segments"] == 3


def test_segment_ended_and_merged_between_evaluations() -> None:
    """The evaluator was away: the second half of what is now one segment was running last time."""
    retention = Retention("classification")
    evaluate(retention, [segment(0, 10), segment(10, 15, False)], 15, range(15))
    segments = [segment(0, 20), segment(20, 40), segment(40, 44, False)]
    metrics = evaluate(retention, segments, 44, [*range(10), *range(20, 44)])
    assert metrics["stability/segments"] == 3
    assert metrics["stability/acc"] == pytest.approx((0.5 + 1.0 + 1.0) / 3)


def test_label_after_the_end_of_its_segment_counts_from_then() -> None:
    retention = Retention("classification")
    evaluate(retention, [segment(0, 10, step=2)], 10, range(10))
    metrics = evaluate(retention, [segment(0, 10), segment(10, 12, False)], 12, range(0, 10, 2))
    # The five that came late were never known: they are not forgotten.
    assert metrics["stability/forgetting_low"] < 0 < metrics["stability/forgetting_high"] < 0.3


def test_evaluate_without_probes_is_empty() -> None:
    retention = Retention("classification")
    assert retention.evaluate(Knows(), [], 5) == ({}, [])
    assert retention.evaluate(Knows(), [segment(0, 0, False)], 5) == ({}, [])
    assert retention.events == -1


def test_evaluate_scores_regression_by_the_error() -> None:
    retention = Retention("regression")
    learner = Knows("regression")
    first = segment(0, 10)
    assert first.rows is not None
    first = replace(first, rows=replace(first.rows, y=first.rows.y.astype(float), classes=()))  # type: ignore[union-attr]
    second = segment(10, 20, False)
    assert second.rows is not None
    second = replace(second, rows=replace(second.rows, y=second.rows.y.astype(float), classes=()))  # type: ignore[union-attr]
    learner.error = 0.5
    assert retention.evaluate(learner, [first], 10)[0]["stability/mae"] == 0.5
    learner.error = 2.0
    metrics, entries = retention.evaluate(learner, [first, second], 20)
    assert metrics["stability/mae"] == 2.0
    assert metrics["stability/forgetting"] == pytest.approx(1.5)
    assert metrics["stability/forgetting_low"] == pytest.approx(1.5)  # all fared alike
    assert "stability/acc" not in metrics
    assert entries[0]["score"] == -2.0


def test_evaluate_scores_sequences_by_the_likelihood() -> None:
    """Poisson forecasts: of rate 1 a wait of 2 s costs 2 nats, of rate 2 it costs 4 - ln 2."""
    sequence = SequenceConfig(by="user")
    schema = Schema((Feature("user", "categorical"),), "sequences", sequence=sequence)
    retention = Retention("sequences", schema)

    class Forecasts(Knows):
        rate = 1.0

        def predict(self, batch: Batch) -> Prediction:
            assert batch.wait is None
            said = super().predict(batch)
            proba = np.full((len(batch), 2), 0.5)
            return replace(said, proba=proba, forecast=constant(np.full(len(batch), self.rate)))

    learner = Forecasts()

    def waiting(begin: int, end: int, ended: bool = True) -> Segment:
        plain = segment(begin, end, ended)
        assert plain.rows is not None
        return replace(plain, rows=replace(plain.rows, wait=np.full(end - begin, 2.0)))

    metrics, _ = retention.evaluate(learner, [waiting(0, 10)], 10)
    assert metrics["stability/nll"] == pytest.approx(2 + np.log(2), abs=1e-5)
    learner.rate = 2.0
    parts = [waiting(0, 10), waiting(10, 20, False)]
    metrics, entries = retention.evaluate(learner, parts, 20)
    assert metrics["stability/nll"] == pytest.approx(4, abs=1e-5)
    assert metrics["stability/forgetting"] == pytest.approx(2 - np.log(2), abs=1e-5)
    assert metrics["stability/bwt"] == pytest.approx(np.log(2) - 2, abs=1e-5)
    assert entries[0]["score"] == pytest.approx(-4, abs=1e-5)
    assert "stability/acc" not in metrics


def test_retention_loaded_from_state_continues_the_same() -> None:
    rng = np.random.default_rng(2)
    parts = [segment(i * 10, (i + 1) * 10) for i in range(6)]
    whole, other = Retention("classification"), Retention("classification")
    for i in range(6):
        right = np.flatnonzero(rng.random(60) < 0.7)
        expected = evaluate(whole, parts[: i + 1], (i + 1) * 10, right)
        metrics = evaluate(other, parts[: i + 1], (i + 1) * 10, right)
        assert metrics == expected
        state = copied(other.state())
        other = Retention("classification")
        other.load(state)
        assert digest(other.state()) == digest(whole.state())


class Peeks(Knows):
    """Predicts the labels that it is shown, if any."""

    kind = "peeks"

    def predict(self, batch: Batch) -> Prediction:
        assert batch.segment is None
        assert batch.probe is None
        value = np.zeros(len(batch), np.int64) if batch.y is None else batch.y
        return Prediction(batch.ids, "classification", value, None, ("a", "b"), 1)


def test_evaluate_hides_the_labels_from_the_learner() -> None:
    metrics, _ = Retention("classification").evaluate(Peeks(), [segment(0, 10)], 10)
    assert metrics["stability/acc"] == 0.5


def test_late_labels_keep_the_estimate_in_its_interval() -> None:
    """Half of a segment's labels come after it has ended, and that half is known worse."""
    retention = Retention("classification")
    early = segment(0, 50)
    evaluate(retention, [early], 100, range(50))
    whole, running = segment(0, 100), segment(100, 110, False)
    evaluate(retention, [whole, running], 110, [*range(50), *range(50, 60), *range(100, 110)])
    running = segment(100, 120, False)
    metrics = evaluate(
        retention, [whole, running], 120, [*range(45), *range(50, 58), *range(100, 120)]
    )
    # Of the 100, 60 were right when first asked; 7 of these are lost.
    for name in ("forgetting", "forgetting_initial"):
        assert metrics[f"stability/{name}"] == pytest.approx(0.07)
        low, high = (metrics[f"stability/{name}_{end}"] for end in ("low", "high"))
        assert low < 0.07 < high
    assert metrics["stability/bwt"] == pytest.approx(-0.07)


def test_missed_end_of_a_segment_has_no_first_score() -> None:
    """The evaluator comes back when two more segments have gone by."""
    retention = Retention("classification")
    parts = [segment(i * 1000, (i + 1) * 1000, step=10) for i in range(4)]
    evaluate(retention, parts[:1], 1000, range(1000))
    running = segment(3000, 3010, False)
    metrics = evaluate(retention, [*parts[:3], running], 3010, [*range(500), *range(3000, 3010)])
    assert metrics["stability/missed"] == 1  # the second; the third has ended only just now
    assert metrics["stability/segments"] == 4
    # Of the first one half is lost; nobody knows what was known of the second at its end.
    assert metrics["stability/forgetting_initial"] == pytest.approx((0.5 + 0.0) / 2)
    assert metrics["stability/forgetting"] == pytest.approx((0.5 + 0.0) / 2)
    assert metrics["plasticity/learning_accuracy"] == pytest.approx((1.0 + 0.0) / 2)


def test_intervals_stay_within_bounds() -> None:
    retention = Retention("classification")
    metrics = evaluate(retention, [segment(0, 5)], 5, range(5))
    assert metrics["stability/acc_high"] == 1.0
    metrics = evaluate(retention, [segment(0, 5), segment(5, 8, False)], 8, [])
    assert metrics["stability/forgetting_high"] == 1.0
    assert metrics["stability/acc_low"] == 0.0
