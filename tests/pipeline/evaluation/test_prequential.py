"""Every metric against scikit-learn, river or its plain formula."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import river.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from pipeline.evaluation.prequential import Prequential, auc, auc_of_histogram
from streams.core.state_dict import State, copied, digest
from streams.operators.label_join import Outcome

NONE = np.empty(0, np.int64)
WINDOW, FADING = 200, 0.99


def outcome(ids: Any, y: Any, value: Any, proba: Any = None, no_change: Any = None) -> Outcome:
    nothing = np.full(len(y), np.nan if y.dtype.kind == "f" else -1, y.dtype)
    no_change = nothing if no_change is None else no_change
    return Outcome(ids, y, value, proba, no_change, ids % 3, ids, NONE, NONE, NONE)


def classification_outcome(n: int, k: int, seed: int = 0, abstain: float = 0.05) -> Outcome:
    """n outcomes of a fair classifier of k classes that now and then does not know."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    proba = rng.random((n, k))
    proba[np.arange(n), y] += 0.4
    proba /= proba.sum(1, keepdims=True)
    value = proba.argmax(1)
    value[rng.random(n) < abstain] = -1
    no_change = np.concatenate([[-1], y[:-1]])[:n]
    return outcome(np.arange(n), y, value, proba, no_change)


def regression_outcome(n: int, seed: int = 0) -> Outcome:
    rng = np.random.default_rng(seed)
    y = rng.normal(10, 4, n)
    value = y + rng.normal(size=n)
    value[rng.random(n) < 0.1] = np.nan
    return outcome(np.arange(n), y, value, None, np.concatenate([[np.nan], y[:-1]])[:n])


def rows(o: Outcome, cut: slice) -> Outcome:
    columns = {name: getattr(o, name)[cut] for name in ("ids", "y", "value", "no_change", "lag")}
    proba = None if o.proba is None else o.proba[cut]
    return Outcome(**columns, proba=proba, learned=NONE, probe=NONE, unlabelled=NONE, expired=NONE)


def after(o: Outcome, size: int = 32, task: Any = "classification") -> dict[str, float]:
    metrics = Prequential(task, WINDOW, FADING)
    for start in range(0, len(o.ids), size):
        metrics.add(rows(o, slice(start, start + size)))
    return metrics.results()


@pytest.mark.parametrize("k", [2, 3, 40])
@pytest.mark.parametrize("n", [30, 512, 1700])
def test_results_of_classification_by_hand(n: int, k: int) -> None:
    o = classification_outcome(n, k)
    results = after(o)
    assert o.proba is not None
    for form, cut in (("", slice(None)), ("_window", slice(-WINDOW, None))):
        y, value, proba = o.y[cut], o.value[cut], o.proba[cut]
        answered = value >= 0
        y, value, proba = y[answered], value[answered], proba[answered]
        of_label = proba[np.arange(len(y)), y]
        assert results[f"online/accuracy{form}"] == pytest.approx(sk.accuracy_score(y, value))
        assert results[f"online/log_loss{form}"] == pytest.approx(-np.log(of_label).mean())
        if set(value) <= set(y):
            assert results[f"online/balanced_accuracy{form}"] == pytest.approx(
                sk.balanced_accuracy_score(y, value)
            )
        assert results[f"online/kappa{form}"] == pytest.approx(sk.cohen_kappa_score(y, value))
        known = o.no_change[cut] >= 0
        if known.any():
            assert results[f"online/no_change_accuracy{form}"] == pytest.approx(
                (o.no_change[cut] == o.y[cut])[known].mean()
            )
        if k == 2:
            exact = sk.roc_auc_score(y, proba[:, 1])
            close = 1e-12 if form else 1 / 1024
            assert results[f"online/auc{form}"] == pytest.approx(exact, abs=close)
        elif k > 2:
            assert f"online/auc{form}" not in results
    assert results["online/scored"] == n
    assert results["online/abstained"] == (o.value < 0).sum()
    assert results["online/label_lag"] == pytest.approx((np.arange(n) % 3).mean())


def test_results_match_river() -> None:
    o = classification_outcome(900, 3, abstain=0)
    accuracy, kappa, loss = (
        river.metrics.Accuracy(),
        river.metrics.CohenKappa(),
        river.metrics.CrossEntropy(),
    )
    assert o.proba is not None
    for y, value, proba in zip(o.y.tolist(), o.value.tolist(), o.proba.tolist(), strict=True):
        accuracy.update(y, value)
        kappa.update(y, value)
        loss.update(y, dict(enumerate(proba)))
    results = after(o)
    assert results["online/accuracy"] == pytest.approx(accuracy.get())
    assert results["online/kappa"] == pytest.approx(kappa.get())
    assert results["online/log_loss"] == pytest.approx(loss.get())


@pytest.mark.parametrize("n", [5, 511, 512, 1700])
def test_results_with_fading_by_hand(n: int) -> None:
    """S_i = L_i + alpha S_{i-1} over B_i = 1 + alpha B_{i-1}, one by one."""
    o = classification_outcome(n, 2)
    assert o.proba is not None
    hits = weight = losses = 0.0
    for y, value, proba in zip(o.y, o.value, o.proba, strict=True):
        if value >= 0:
            hits = float(y == value) + FADING * hits
            losses = -np.log(proba[y]) + FADING * losses
            weight = 1 + FADING * weight
    results = after(o)
    assert results["online/accuracy_fading"] == pytest.approx(hits / weight)
    assert results["online/log_loss_fading"] == pytest.approx(losses / weight)

    r = regression_outcome(n)
    absolute = squared = weight = 0.0
    for error in (r.value - r.y)[~np.isnan(r.value)]:
        absolute = abs(error) + FADING * absolute
        squared = error**2 + FADING * squared
        weight = 1 + FADING * weight
    results = after(r, task="regression")
    assert results["online/mae_fading"] == pytest.approx(absolute / weight)
    assert results["online/rmse_fading"] == pytest.approx(np.sqrt(squared / weight))


@pytest.mark.parametrize("n", [2, 512, 1700])
def test_results_of_regression_by_hand(n: int) -> None:
    o = regression_outcome(n)
    results = after(o, task="regression")
    for form, cut in (("", slice(None)), ("_window", slice(-WINDOW, None))):
        for name, column in (("", o.value), ("no_change_", o.no_change)):
            answered = ~np.isnan(column[cut])
            y, value = o.y[cut][answered], column[cut][answered]
            assert results[f"online/{name}mae{form}"] == pytest.approx(
                sk.mean_absolute_error(y, value)
            )
            assert results[f"online/{name}rmse{form}"] == pytest.approx(
                sk.root_mean_squared_error(y, value)
            )


def test_kappa_temporal_by_hand() -> None:
    results = after(classification_outcome(700, 2))
    accuracy, baseline = results["online/accuracy"], results["online/no_change_accuracy"]
    assert results["online/kappa_temporal"] == pytest.approx((accuracy - baseline) / (1 - baseline))


@given(st.lists(st.integers(0, 900), min_size=0, max_size=12), st.sampled_from([2, 5, 0]))
@settings(deadline=None, max_examples=40)
def test_state_is_independent_of_batches(cuts: list[int], k: int) -> None:
    """However the outcomes are cut, and whenever the state was looked at."""
    o = classification_outcome(1300, k) if k else regression_outcome(1300)
    task: Any = "classification" if k else "regression"
    whole = Prequential(task, WINDOW, FADING)
    whole.add(o)
    other = Prequential(task, WINDOW, FADING)
    bounds = [0, *sorted(cuts), 1300]
    for number, (a, b) in enumerate(pairwise(bounds)):
        other.add(rows(o, slice(a, b)))
        if number % 3 == 0:
            other.state()
            other.results()
    assert digest(other.state()) == digest(whole.state())
    assert other.results() == whole.results()


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_prequential_loaded_from_state_continues_the_same(task: Any) -> None:
    o = classification_outcome(1500, 3) if task == "classification" else regression_outcome(1500)
    first = Prequential(task, WINDOW, FADING)
    for start in range(0, 1500, 50):
        second = Prequential(task, WINDOW, FADING)
        second.load(locked(copied(first.state())))
        part = rows(o, slice(start, start + 50))
        first.add(part)
        second.add(part)
        assert digest(first.state()) == digest(second.state())
        assert first.results() == second.results()


def locked(state: State) -> State:
    for value in state.values():
        if isinstance(value, dict):
            locked(value)
        elif isinstance(value, np.ndarray):
            value.flags.writeable = False
    return state


def test_state_differs_for_other_predictions() -> None:
    o = classification_outcome(100, 3)
    digests = set()
    for change in (None, 7, 99):
        value = o.value.copy()
        if change is not None:
            value[change] = (value[change] + 1) % 3
        metrics = Prequential("classification")
        metrics.add(outcome(o.ids, o.y, value, o.proba, o.no_change))
        digests.add(digest(metrics.state()))
    assert len(digests) == 3


def test_log_loss_of_a_class_unknown_to_the_model() -> None:
    """It had probability 0, which costs what the least probability costs."""
    ids, y = np.arange(3), np.array([0, 1, 4])
    results = after(outcome(ids, y, np.array([0, 0, 0]), np.full((3, 2), 0.5)))
    assert results["online/log_loss"] == pytest.approx((2 * np.log(2) - np.log(1e-15)) / 3)
    assert results["online/accuracy"] == pytest.approx(1 / 3)
    assert results["online/balanced_accuracy"] == pytest.approx(1 / 3)
    empty = after(outcome(ids, y, np.full(3, -1), np.zeros((3, 0))))
    assert empty["online/abstained"] == 3
    assert "online/accuracy" not in empty
    assert "online/log_loss" not in empty


def test_probabilities_may_vary_in_width_or_be_missing() -> None:
    metrics = Prequential("classification")
    y = np.array([0, 1])
    for width in (0, 1, 2, None, 2):
        value = np.array([0, 1 if width else 0])
        proba = None if width is None else np.full((2, width), 1 / max(width, 1), np.float32)
        metrics.add(outcome(y, y, value, proba))
    results = metrics.results()
    least = -np.log(1e-15)
    losses = [least, least, 0, least, *[np.log(2)] * 4]
    assert results["online/log_loss"] == pytest.approx(np.mean(losses))
    assert results["online/auc_window"] == pytest.approx(0.5)


def test_results_leave_out_undefined_metrics() -> None:
    for task in ("classification", "regression"):
        results = Prequential(task).results()  # type: ignore[arg-type]
        assert results == {"online/scored": 0, "online/abstained": 0, "online/label_lag": 0}


def test_many_classes_take_little_memory() -> None:
    metrics = Prequential("classification", window=10)
    y = np.arange(2000) * 50
    metrics.add(outcome(np.arange(2000), y, y))
    assert metrics.results()["online/kappa"] == pytest.approx(1)
    assert metrics.state()["tally"].nbytes < 4_000_000


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=60))
def test_auc_by_hand(pairs: list[tuple[bool, int]]) -> None:
    y = np.array([p for p, _ in pairs], np.int64)
    score = np.array([s / 10 for _, s in pairs])
    histogram = np.zeros((2, 10), np.int64)
    np.add.at(histogram, (y, (score * 10).astype(int)), 1)
    if len(set(y.tolist())) < 2:
        assert auc(y, score) is None
        assert auc_of_histogram(histogram) is None
    else:
        assert auc(y, score) == pytest.approx(sk.roc_auc_score(y, score))
        assert auc_of_histogram(histogram) == pytest.approx(sk.roc_auc_score(y, score))


@given(st.integers(0, 99))
@settings(max_examples=30)
def test_auc_of_histogram_is_within_its_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, score = rng.integers(0, 2, 300), rng.beta(2, 5, 300)
    score[:100] = np.round(score[:100], 1)
    y[:2] = 0, 1
    histogram = np.zeros((2, 32), np.int64)
    np.add.at(histogram, (y, (score * 32).astype(int)), 1)
    shared = (histogram[0] * histogram[1]).sum() / (histogram[0].sum() * histogram[1].sum())
    area = auc_of_histogram(histogram)
    assert area is not None
    assert abs(area - sk.roc_auc_score(y, score)) <= shared / 2 + 1e-12
