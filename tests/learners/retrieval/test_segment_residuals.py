"""Residuals by segment: sums by hand, half-lives, what is learned, bases that go event by event."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from learners.base import LearnerError
from learners.checks.case import Case, LearnerRun
from learners.retrieval.pools import LinearPool, LogLinearPool, log_shares
from learners.retrieval.residuals import SegmentTable
from learners.retrieval.segment_residuals import SegmentResiduals, SegmentResidualsConfig
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema
from streams.core.state_dict import digest

RIVER = {"kind": "river", "model": ["preprocessing.StandardScaler", "naive_bayes.GaussianNB"]}


def new(schema: Schema, **settings: Any) -> SegmentResiduals:
    config = SegmentResidualsConfig.model_validate({"kind": "segment-residuals", **settings})
    return SegmentResiduals(config, schema, 1)


@pytest.mark.parametrize("cut", [1, 3, 50])
def test_residuals_of_two_segments_by_hand(cut: int) -> None:
    """Sums fade with the labels of their own key, whatever the cuts."""
    keys = np.array([[5, 9], [5, 8], [6, 9], [5, 9]])
    p = np.array([0.5, 0.8, 0.1, 0.6])
    y = np.array([1, 0, 1, 1])
    error, curvature = np.stack([p - y, y - p], 1), np.stack([p * (1 - p)] * 2, 1)
    table = SegmentTable(64, 2, (2.0,), 10.0)
    for start in range(0, 4, cut):
        rows = slice(start, start + cut)
        table.add(keys[rows], error[rows], curvature[rows])
    found = table.residuals(np.array([[5, 8], [7, 9]]), 2, False)
    kept = 0.5**0.5

    def expected(events: list[int]) -> float:
        fade = kept ** np.arange(len(events))[::-1]
        total, spread = fade @ (y - p)[events], fade @ (p * (1 - p))[events]
        return float(0.5 * total / (spread + 2.0))

    assert found[0, :, 1] == pytest.approx([expected([0, 1, 3]), expected([1])], rel=1e-5)
    assert found[1, :, 1] == pytest.approx([0.0, expected([0, 2, 3])], rel=1e-5)
    assert found[:, :, 0] == pytest.approx(-found[:, :, 1])


def segments(n: int = 3000) -> Batch:
    """Return events whose label depends on a segment that the base does not see."""
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=n), rng.integers(0, 4, n)], 1)
    y = (rng.random(n) < np.array([0.1, 0.5, 0.9, 0.5])[x[:, 1].astype(int)]).astype(int)
    place = np.arange(n)
    return Batch(place, place * 1.0, x, np.zeros(n, np.int32), place, y, classes=("no", "yes"))


SCHEMA = Schema((Feature("a", "numeric"), Feature("s", "numeric")), "classification", ("no", "yes"))


@pytest.mark.parametrize("weights", ["online", "one"])
def test_residuals_correct_a_base_that_knows_the_prior_only(weights: str) -> None:
    """Over class frequencies, the shares of four segments are learned, and a is left out."""
    stream = segments()
    settings = {"base": "prior", "weights": weights, "by": ["s"]}
    run = LearnerRun(new(SCHEMA, **settings), 10).feed(stream, 25)
    shares = run.probabilities(2)[-500:, 1]
    x = np.asarray(stream.x)
    for segment, share in enumerate([0.1, 0.5, 0.9, 0.5]):
        assert shares[x[-500:, 1] == segment].mean() == pytest.approx(share, abs=0.12)


def test_useless_segments_do_little_harm() -> None:
    """Where no segment tells anything, the log-loss is that of the base within 0.002."""
    stream = segments(2000)
    y = np.random.default_rng(1).permutation(np.asarray(stream.y))
    stream = replace(stream, y=y)
    loss = []
    for settings in ({"base": "prior"}, {"base": "prior", "by": []}):
        shares = LearnerRun(new(SCHEMA, **settings), 10).feed(stream, 25).probabilities(2)[500:]
        loss.append(-np.log(shares[np.arange(len(shares)), y[500:]]).mean())
    assert loss[0] < loss[1] + 0.002


def test_residuals_over_river_are_exact_event_by_event() -> None:
    """No batch size and no delay makes a difference to a bit."""
    config = SegmentResidualsConfig.model_validate({"kind": "segment-residuals", "base": RIVER})
    case = Case(
        SegmentResiduals, "classification", lambda s, seed: SegmentResiduals(config, s, seed)
    )
    stream = case.stream(620)  # edges of bins are known after 500
    for delay in (0, 3):
        runs = [LearnerRun(case.new(), delay).feed(stream, size) for size in (1, 40)]
        assert np.array_equal(runs[0].probabilities(3), runs[1].probabilities(3))
        states = [digest({"table": r.learner.state()["table"]}) for r in runs]
        assert states[0] == states[1]


def test_columns_that_have_no_segments_are_refused() -> None:
    """A column that is not there, and one that is no category and no number, are named."""
    with pytest.raises(LearnerError, match=r"learner.by: there is no column 'b'"):
        new(SCHEMA, base="prior", by=["b"])
    schema = Schema((Feature("v", "vector", (3,)), Feature("s", "numeric")), "classification")
    with pytest.raises(LearnerError, match=r"learner.by: column 'v' is of kind vector"):
        new(schema, base="prior", by=["v"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": [[]]}, "by.0: it names no column"),
        ({"by": ["a", "a"]}, "by: one is stated twice"),
        ({"by": [["a", "s"], ["s", "a"]]}, "by: one is stated twice"),
        ({"by": [["a", "a"]]}, "by.0: one is stated twice"),
        ({"half_lives": [5, 5]}, "half_lives: one is stated twice"),
        ({"base": None}, "expected a kind, or a mapping with a kind, got None"),
        ({"base": 3}, "expected a kind, or a mapping with a kind, got 3"),
    ],
)
def test_settings_that_say_nothing_or_the_same_twice_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    """The message names the place."""
    with pytest.raises(ValueError, match=message):
        new(SCHEMA, **{"base": "prior", **settings})


def test_pool_learns_a_temperature_and_an_opinion() -> None:
    """A base that is too sure by half is divided by two; a useless opinion gets no weight."""
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(6000, 3))
    truth = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = (truth.cumsum(1) > rng.random((6000, 1))).argmax(1)
    sure = truth**2 / (truth**2).sum(1, keepdims=True)
    noise = rng.normal(size=(6000, 3)) * 0.5
    pool = LogLinearPool(2, 1e6)
    features = np.stack([log_shares(sure), noise], 1)
    for start in range(0, 6000, 30):
        pool.update(features[start : start + 30], y[start : start + 30])
    assert pool.weights == pytest.approx([0.5, 0.0], abs=0.06)


def test_linear_pool_is_ridge_regression() -> None:
    """Without forgetting, the weights are those of ridge regression on the errors."""
    rng = np.random.default_rng(3)
    features, errors = rng.normal(size=(50, 3)), rng.normal(size=50)
    pool = LinearPool(3, 1e18)
    for start in range(0, 50, 7):
        pool.update(features[start : start + 7], errors[start : start + 7])
    gram = features.T @ features + 30 * np.eye(3)
    assert pool.weights == pytest.approx(np.linalg.solve(gram, features.T @ errors))
