"""Every metric against scikit-learn, river or its plain formula."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import river.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from pipeline.evaluation.prequential import Prequential
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


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    """Outcomes of some classes, one of them frequent; some without a prediction, some with a NaN
    among the probabilities."""
    k, n = draw(st.sampled_from([2, 2, 3, 6])), draw(st.integers(1, 700))
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    share = np.full(k, draw(st.sampled_from([0.001, 0.05, 1.0])))
    share[draw(st.integers(0, k - 1))] = 1
    y = rng.choice(k, n, p=share / share.sum())
    proba = rng.dirichlet(share + 0.1, n) + np.eye(k)[y] * draw(st.sampled_from([0.0, 0.4]))
    proba /= proba.sum(1, keepdims=True)
    value = proba.argmax(1)
    value[rng.random(n) < 0.05] = -1
    proba[rng.random(n) < draw(st.sampled_from([0.0, 0.05])), rng.integers(0, k)] = np.nan
    if k > 2:
        y[0] = value[0] = 2  # more than two classes from the first event on
    return outcome(np.arange(n), y, value, proba)


def expected_calibration_error(hit: Any, confidence: Any) -> float:
    """The formula of Guo et al. 2017, bin by bin."""
    error = 0.0
    for low, high in pairwise(np.linspace(0, 1, 16)):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    return error


def expected_metrics(y: Any, value: Any, proba: Any) -> dict[str, float]:
    """The metrics of predictions by scikit-learn, with those left out that it warns of."""
    found: dict[str, float] = {}
    binary = proba.shape[1] == 2
    if len(y):
        macro = sk.precision_recall_fscore_support(y, value, average="macro", zero_division=0)
        found |= dict(zip(("macro_precision", "macro_recall", "macro_f1"), macro, strict=False))
        if len({*y.tolist(), *value.tolist()}) > 1:
            found["kappa"] = sk.cohen_kappa_score(y, value)
    if binary and value.any():
        found["precision"] = sk.precision_score(y, value)
    if binary and y.any():
        found["recall"] = sk.recall_score(y, value)
    if binary and (y.any() or value.any()):
        found["f1"] = sk.f1_score(y, value)
    scored = ~np.isnan(proba[:, 1])
    labels = y[scored]
    if binary and labels.any():
        score = proba[scored, 1]
        found["average_precision"] = sk.average_precision_score(labels, score)
        if not labels.all():
            found["auc"] = sk.roc_auc_score(labels, score)
    whole = ~np.isnan(proba).any(1)
    if whole.any():
        y, value, proba = y[whole], value[whole], proba[whole]
        found["brier"] = sk.brier_score_loss(
            y, proba[:, 1] if binary else proba, labels=range(proba.shape[1])
        )
        confidence = proba[np.arange(len(y)), value]
        found["calibration_error"] = expected_calibration_error(y == value, confidence)
    return found


@given(outcomes(), st.integers(1, 700))
@settings(deadline=None, max_examples=20)
def test_class_metrics_equal_scikit_learn(o: Outcome, size: int) -> None:
    """Whole stream and window, in any batches. What scikit-learn leaves undefined is left out."""
    results = after(o, size)
    assert o.proba is not None
    names = "macro_precision macro_recall macro_f1 kappa precision recall f1 average_precision"
    names += " auc brier calibration_error"
    for form, cut in (("", slice(None)), ("_window", slice(-WINDOW, None))):
        answered = o.value[cut] >= 0
        expected = expected_metrics(
            o.y[cut][answered], o.value[cut][answered], o.proba[cut][answered]
        )
        found = {
            name: results[f"online/{name}{form}"]
            for name in names.split()
            if f"online/{name}{form}" in results
        }
        if not form:  # by a histogram; the bound is tested with the formula
            for name in ("auc", "average_precision"):
                assert (name in found) == (name in expected)
                found.pop(name, None)
                expected.pop(name, None)
        assert found == pytest.approx(expected, abs=1e-12)


@given(outcomes(), st.integers(1, 700))
@settings(deadline=None, max_examples=20)
def test_confusion_matrix_equals_scikit_learn(o: Outcome, size: int) -> None:
    metrics = Prequential("classification", WINDOW, FADING)
    for start in range(0, len(o.ids), size):
        metrics.add(rows(o, slice(start, start + size)))
    found = metrics.of_classes("abcdef")
    answered = o.value >= 0
    y, value = o.y[answered], o.value[answered]
    if not len(y):
        assert "confusion" not in found
        return
    k = int(max(y.max(), value.max())) + 1
    assert found["confusion"]["classes"] == list("abcdef"[:k])
    expected = sk.confusion_matrix(y, value, labels=range(max(2, k)))[:k, :k]
    assert found["confusion"]["matrix"] == expected.tolist()


def test_calibration_curve_is_that_of_the_positive_class() -> None:
    """Of two classes; of more it is that of the class predicted."""
    for k, name in ((2, "b"), (3, None)):
        o = classification_outcome(900, k)
        assert o.proba is not None
        metrics = Prequential("classification")
        metrics.add(o)
        curve = metrics.of_classes("abc")["calibration"]
        assert curve["class"] == name
        answered = o.value >= 0
        y, value, proba = o.y[answered], o.value[answered], o.proba[answered]
        score, hit = proba[:, 1], y == 1
        if k == 3:
            score, hit = proba[np.arange(len(y)), value], y == value
        assert sum(curve["events"]) == len(y)
        frequency = np.average(curve["observed"], weights=curve["events"])
        assert frequency == pytest.approx(hit.mean(), abs=1e-6)
        mean = np.average(curve["predicted"], weights=curve["events"])
        assert mean == pytest.approx(score.mean(), abs=1 / 2048)


def test_regression_has_no_figures_of_classes() -> None:
    metrics = Prequential("regression")
    metrics.add(regression_outcome(20))
    assert metrics.of_classes(()) == {}


def test_metrics_of_an_older_state_begin_nowhere() -> None:
    """Sums that a state lacks would miss the events before it, so these metrics stay absent. Those
    of the window count the events since."""
    o = classification_outcome(1500, 2)
    old, new = Prequential("classification", WINDOW), Prequential("classification", WINDOW)
    old.add(rows(o, slice(0, 600)))
    new.add(rows(o, slice(0, 600)))
    state = copied(old.state())
    for name in ("brier", "calibration", "confusion"):
        del state[name]
        for part in ("left", "recent"):
            state[part].pop({"calibration": "confidence"}.get(name, name), None)
    old.load(state)
    for metrics in (old, new):
        metrics.add(rows(o, slice(600, 700)))
    results, expected = old.results(), new.results()
    absent = {"online/brier", "online/calibration_error"}
    assert results.keys() == expected.keys() - absent
    since = {f"{name}_window" for name in absent}
    assert {k: v for k, v in results.items() if k not in since} == {
        k: v for k, v in expected.items() if k not in absent | since
    }
    assert "confusion" not in old.of_classes("ab")
    assert old.of_classes("ab")["calibration"] == new.of_classes("ab")["calibration"]
    for metrics in (old, new):
        metrics.add(rows(o, slice(700, 1500)))
    results, expected = old.results(), new.results()
    assert {name: results[name] for name in since} == {name: expected[name] for name in since}


def test_confusion_matrix_ends_with_too_many_classes() -> None:
    metrics = Prequential("classification", WINDOW)
    y = np.repeat(np.arange(200), 3)
    for last, known in ((199, True), (200, False), (3, False)):
        y[-1] = last
        metrics.add(outcome(np.arange(600), y, y))
        assert ("confusion" in metrics.of_classes(range(201))) == known  # type: ignore[arg-type]
        assert metrics.results()["online/macro_f1"] == 1
    assert metrics.state()["confusion"] is None


def test_kappa_temporal_by_hand() -> None:
    results = after(classification_outcome(700, 2))
    accuracy, baseline = results["online/accuracy"], results["online/no_change_accuracy"]
    assert results["online/kappa_temporal"] == pytest.approx((accuracy - baseline) / (1 - baseline))


@given(st.lists(st.integers(0, 900), min_size=0, max_size=12), st.sampled_from([2, 5, 40, 0]))
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
            other.of_classes(range(40))  # type: ignore[arg-type]
    assert digest(other.state()) == digest(whole.state())
    assert other.results() == whole.results()


def test_state_is_independent_of_batches_of_two_precisions() -> None:
    """And the probabilities of the caller stay as they are."""
    parts = []
    for start in range(0, 400, 50):
        part = rows(classification_outcome(400, 3), slice(start, start + 50))
        assert part.proba is not None
        proba = part.proba.astype(np.float32 if start % 100 else np.float64)
        proba.flags.writeable = False
        parts.append(outcome(part.ids, part.y, part.value, proba))
    together, apart = Prequential("classification"), Prequential("classification")
    for part in parts:
        together.add(part)
        apart.add(part)
        apart.state()
    assert digest(together.state()) == digest(apart.state())


def test_memory_is_bounded_by_the_window() -> None:
    o = classification_outcome(512, 2)
    metrics = Prequential("classification", WINDOW)
    tracemalloc.start()
    try:
        for blocks in (20, 120):
            for _ in range(blocks):
                metrics.add(o)
            size = tracemalloc.get_traced_memory()[0]
            assert size < 1_000_000, blocks
    finally:
        tracemalloc.stop()


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
