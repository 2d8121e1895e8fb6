"""The formulas of class metrics against scikit-learn, and their bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from pipeline.evaluation.online.class_metrics import (
    add_confusion,
    add_tally,
    are_unequal,
    auc,
    average_precision,
    by_class,
    calibration_error,
    calibration_of_histogram,
    calibration_of_table,
    calibration_table,
    histogram_of,
    of_positive_class,
    of_tally,
    scores_of,
)
from streams.core.batch import Array

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)
SCORED = st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=1, max_size=60)


def arrays(pairs: list[tuple[int, int]]) -> tuple[Array, Array]:
    y, value = np.array(pairs, np.int64).T
    return y, value


def tally_of(y: Array, value: Array) -> Array:
    return add_tally(np.zeros((3, 0), np.int64), y, value)


@given(PAIRS)
@settings(deadline=None, max_examples=25)
def test_metrics_of_a_tally_equal_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    y, value = arrays(pairs)
    found = of_tally(tally_of(y, value))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y, value))
    expected = sk.precision_recall_fscore_support(y, value, average="macro", zero_division=0)
    names = ("macro_precision", "macro_recall", "macro_f1")
    assert [found[name] for name in names] == pytest.approx(list(expected[:3]))
    recalls = sk.recall_score(y, value, labels=np.unique(y), average="macro", zero_division=0)
    assert found["balanced_accuracy"] == pytest.approx(recalls)
    if len({*y.tolist(), *value.tolist()}) > 1:
        assert found["kappa"] == pytest.approx(sk.cohen_kappa_score(y, value))
    else:
        assert "kappa" not in found


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30))
@settings(deadline=None, max_examples=25)
def test_metrics_of_class_1_equal_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    y, value = arrays(pairs)
    found = of_positive_class(tally_of(y, value))
    expected = {
        "precision": (sk.precision_score, value.any()),
        "recall": (sk.recall_score, y.any()),
        "f1": (sk.f1_score, value.any() or y.any()),
    }
    assert set(found) == {name for name, (_, defined) in expected.items() if defined}
    for name, score in found.items():
        assert score == pytest.approx(expected[name][0](y, value, zero_division=0))


@given(PAIRS)
@settings(deadline=None, max_examples=25)
def test_metrics_by_class_equal_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    y, value = arrays(pairs)
    k = max(2, tally_of(y, value).shape[1])
    confusion = add_confusion(np.zeros((0, 0), np.int64), y, value, k)
    assert confusion is not None
    np.testing.assert_array_equal(confusion, sk.confusion_matrix(y, value, labels=range(k)))
    expected = sk.precision_recall_fscore_support(y, value, labels=range(k), zero_division=np.nan)
    np.testing.assert_allclose(by_class(confusion), np.array(expected))


def test_confusion_matrix_grows_up_to_its_limit() -> None:
    y = np.array([0, 199, 3])
    matrix = add_confusion(np.array([[5]]), y, y, 200)
    assert matrix is not None
    assert matrix.shape == (200, 200)
    assert matrix.sum() == 8
    assert (matrix[0, 0], matrix[199, 199], matrix[3, 3]) == (6, 1, 1)
    assert add_confusion(matrix, y, y, 201) is None


@given(SCORED)
@settings(deadline=None, max_examples=25)
def test_ranking_metrics_equal_scikit_learn(pairs: list[tuple[bool, int]]) -> None:
    """Of one bin for each score, and of bins in which only equal scores share one."""
    y = np.array([label for label, _ in pairs], np.int64)
    score = np.array([s / 10 for _, s in pairs])
    binned = np.zeros((2, 11), np.int64)
    np.add.at(binned, (y, [s for _, s in pairs]), 1)
    for histogram in (histogram_of(y, score), binned):
        if len(set(y.tolist())) < 2:
            assert auc(histogram) is None
        else:
            assert auc(histogram) == pytest.approx(sk.roc_auc_score(y, score))
        if not y.any():
            assert average_precision(histogram) is None
        else:
            exact = sk.average_precision_score(y, score)
            assert average_precision(histogram) == pytest.approx(exact)


def test_ranking_metrics_without_scores_are_undefined() -> None:
    nothing = histogram_of(np.empty(0, np.int64), np.empty(0))
    assert nothing.shape == (2, 0)
    assert auc(nothing) is average_precision(nothing) is None


@given(st.integers(0, 999), st.sampled_from([1, 4, 32]), st.sampled_from([0.03, 0.5]))
@settings(deadline=None, max_examples=40)
def test_ranking_metrics_of_bins_are_within_bounds(seed: int, bins: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    y, score = (rng.random(300) < share).astype(np.int64), rng.beta(2, 5, 300)
    score[:100] = np.round(score[:100], 1)
    y[:2] = 0, 1
    place = np.minimum((score * bins).astype(int), bins - 1)
    histogram = np.zeros((2, bins), np.int64)
    np.add.at(histogram, (y, place), 1)
    shared = (histogram[0] * histogram[1]).sum() / (histogram[0].sum() * histogram[1].sum())
    area, precision = auc(histogram), average_precision(histogram)
    assert area is not None
    assert precision is not None
    assert abs(area - sk.roc_auc_score(y, score)) <= shared / 2 + 1e-12
    in_bin = histogram.sum(0)
    above = in_bin[::-1].cumsum()[::-1]
    bound = np.mean([(in_bin[b] - 1) / above[b] for b in place[y == 1]])
    assert abs(precision - sk.average_precision_score(y, score)) <= bound + 1e-12


@given(SCORED)
@settings(deadline=None, max_examples=25)
def test_calibration_table_equals_scikit_learn(pairs: list[tuple[bool, int]]) -> None:
    """Scores at the edges of bins too: k / 15 are among k / 30."""
    hit = np.array([label for label, _ in pairs])
    confidence = np.array([s / 10 for _, s in pairs])
    confidence[::2] = np.round(confidence[::2] * 30) / 30
    table = calibration_table(confidence, hit)
    curve = calibration_of_table(table)
    observed, predicted = calibration_curve(hit, confidence, n_bins=15)
    np.testing.assert_allclose(curve.predicted, predicted)
    np.testing.assert_allclose(curve.observed, observed)
    weights = curve.events / len(hit)
    assert calibration_error(table) == pytest.approx(weights @ np.abs(observed - predicted))


def test_calibration_error_by_hand() -> None:
    confidence = np.array([0.0, 0.65, 0.62, 0.95, 1.0])
    hit = np.array([False, True, False, True, True])
    # (0, 1/15]: |0 - 0|; (9/15, 10/15]: |1 - 1.27|; (14/15, 1]: |2 - 1.95|; over 5 predictions.
    assert calibration_error(calibration_table(confidence, hit)) == pytest.approx((0.27 + 0.05) / 5)
    assert calibration_error(calibration_table(confidence[:0], hit[:0])) is None


@given(st.integers(0, 99))
@settings(max_examples=20)
def test_calibration_of_histogram_is_within_half_a_bin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, score = rng.integers(0, 2, 400), rng.random(400)
    histogram = np.zeros((2, 64), np.int64)
    np.add.at(histogram, (y, (score * 64).astype(int)), 1)
    curve = calibration_of_histogram(histogram)
    observed, predicted = calibration_curve(y, score, n_bins=16)
    np.testing.assert_allclose(curve.observed, observed)
    np.testing.assert_allclose(curve.predicted, predicted, atol=1 / 128)
    assert curve.events.sum() == 400


@pytest.mark.parametrize("width", [3, 7, 13, 40])
def test_scores_do_not_depend_on_classes_that_came_later(width: int) -> None:
    random = np.random.default_rng(width)
    proba = random.dirichlet(np.ones(width), size=500)
    y, value = random.integers(0, width, (2, 500))
    scores = scores_of(y, value, proba.copy())
    for later in (1, 2, 5, 16, 100):
        wider = scores_of(y, value, np.pad(proba, ((0, 0), (0, later))))
        for own, other in zip(scores, wider, strict=True):
            np.testing.assert_array_equal(own, other)


def test_scores_of_by_hand() -> None:
    """A class unknown to the model has probability 0; without a prediction there is no confidence;
    a row with a NaN has no score but that of class 1."""
    proba = np.array([[0.7, 0.3], [0.7, 0.3], [0.5, 0.5], [0.0, 0.0], [np.nan, 0.4]])
    y, value = np.array([0, 1, 4, 1, 0]), np.array([0, 0, 1, -1, 1])
    loss, score, brier, confidence = scores_of(y, value, proba.copy())
    np.testing.assert_allclose(loss, -np.log([0.7, 0.3, 1e-15, 1e-15, np.nan]))
    np.testing.assert_allclose(score, [0.3, 0.3, 0.5, 0, 0.4])
    np.testing.assert_allclose(brier, [0.18, 0.98, 1.5, 1, np.nan])
    np.testing.assert_allclose(confidence, [0.7, 0.7, 0.5, 0, np.nan])
    for width in (0, 1):
        loss, score, brier, confidence = scores_of(y, value, np.ones((5, width)))
        assert score.tolist() == [0] * 5
        assert brier.tolist() == ([1] * 5 if width == 0 else [0, 2, 2, 2, 0])


@pytest.mark.parametrize(
    ("support", "unequal"),
    [
        ([75, 25], True),
        ([74, 26], False),
        ([0, 9], False),
        ([], False),
        ([30, 10, 10, 0], True),
        ([40, 30, 30, 1], False),
    ],
)
def test_unequal_classes_by_hand(support: list[int], unequal: bool) -> None:
    assert are_unequal(np.array(support)) is unequal
