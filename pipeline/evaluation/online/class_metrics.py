"""Metrics of class predictions, computed from counts.

A *tally* (3, k) has by class the numbers of labels, predictions and correct predictions. A
*histogram* (2, b) has by label, 0 and 1, the numbers of scores in ascending bins. A *calibration
table* (3, b) has by bin of the confidence the number of predictions, the number of correct ones and
the sum of the confidences.

An undefined metric is None, or left out: never 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streams.core.batch import Array, Ints

CALIBRATION_BINS = 15
MOST_CLASSES = 200
"""Largest number of classes of a confusion matrix."""
_EDGES = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
_CURVE_BINS = 16  # divides the bins of the histogram
_UNEQUAL = 3.0
FLOOR = 1e-15


class CalibrationCurve(NamedTuple):
    """Predicted against observed frequencies, of bins that are not empty.

    Attributes:
        predicted: (b,) mean probability.
        observed: (b,) share of the predictions whose event came true.
        events: (b,) number of predictions.
    """

    predicted: Array
    observed: Array
    events: Ints


def add_tally(tally: Array, y: Array, value: Array) -> Array:
    """Return a tally with labels and predictions (m,) added."""
    if not len(y):
        return tally
    k = max(tally.shape[1], int(y.max()) + 1, int(value.max()) + 1)
    new = np.zeros((3, k), np.int64)
    new[:, : tally.shape[1]] = tally
    for row, codes in zip(new, (y, value, y[y == value]), strict=True):
        row += np.bincount(codes, minlength=k)
    return new


def of_tally(tally: Array) -> dict[str, float]:
    """Return accuracy, balanced accuracy (mean recall over the classes of labels), Cohen's kappa,
    and macro precision, recall and F1.

    The macro metrics are means over the classes that occur as a label or as a prediction. A class
    of them that was never predicted has precision 0, and one that was never a label has recall 0:
    the rule of scikit-learn.
    """
    support, predicted, hits = tally
    n = int(support.sum())
    if not n:
        return {}
    accuracy = hits.sum() / n
    by_chance = ((support / n) * (predicted / n)).sum()
    metrics = {
        "accuracy": accuracy,
        "balanced_accuracy": (hits / np.maximum(support, 1))[support > 0].mean(),
    }
    if by_chance < 1:
        metrics["kappa"] = (accuracy - by_chance) / (1 - by_chance)
    both = support + predicted
    seen = both > 0
    return metrics | {
        "macro_precision": (hits / np.maximum(predicted, 1))[seen].mean(),
        "macro_recall": (hits / np.maximum(support, 1))[seen].mean(),
        "macro_f1": (2 * hits / np.maximum(both, 1))[seen].mean(),
    }


def of_positive_class(tally: Array) -> dict[str, float]:
    """Return precision, recall and F1 of class 1 of two.

    Precision is left out if the class was never predicted, recall if it was never a label, and F1
    if it was neither.
    """
    if tally.shape[1] < 2:
        return {}
    support, predicted, hits = tally[:, 1].tolist()
    shares = {
        "precision": (hits, predicted),
        "recall": (hits, support),
        "f1": (2 * hits, support + predicted),
    }
    return {name: part / whole for name, (part, whole) in shares.items() if whole}


def by_class(confusion: Array) -> Array:
    """Return precision, recall, F1 and number of labels (4, k) of each class from a confusion
    matrix (k, k); NaN where undefined."""
    hits, support, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    shares = ((hits, predicted), (hits, support), (2 * hits, support + predicted))
    rows = [
        np.divide(part, whole, out=np.full(len(hits), np.nan), where=whole > 0)
        for part, whole in shares
    ]
    return np.stack([*rows, support])


def are_unequal(support: Array) -> bool:
    """Return whether the most frequent class has at least three times as many labels as the
    others on average, by the number of labels (k,) of each class."""
    seen = support[support > 0]
    if len(seen) < 2:
        return False
    most = seen.max()
    return bool(most * (len(seen) - 1) >= _UNEQUAL * (seen.sum() - most))


def add_confusion(confusion: Array, y: Array, value: Array, classes: int) -> Array | None:
    """Add to a confusion matrix: rows are labels, columns are predictions.

    Args:
        confusion: (k, k) int64; is changed if it is large enough.
        y: (m,) labels.
        value: (m,) predictions.
        classes: number of classes seen by now.

    Returns:
        The matrix; None for more than ``MOST_CLASSES`` classes.
    """
    if classes > MOST_CLASSES:
        return None
    if classes > len(confusion):
        larger = np.zeros((classes, classes), np.int64)
        larger[: len(confusion), : len(confusion)] = confusion
        confusion = larger
    np.add.at(confusion.reshape(-1), y * len(confusion) + value, 1)
    return confusion


def histogram_of(y: Array, score: Array) -> Ints:
    """Return the histogram of scores (m,) by binary labels (m,) with one bin for each score."""
    _, group = np.unique(score, return_inverse=True)
    return np.stack([np.bincount(group, y == 0), np.bincount(group, y == 1)]).astype(np.int64)


def auc(histogram: Array) -> float | None:
    """Return the area under the ROC curve from a histogram; None with one class only.

    Scores in one bin are ties and count half: the error is at most half the share of pairs within
    one bin.
    """
    negative, positive = histogram
    pairs = float(negative.sum()) * float(positive.sum())
    if not pairs:
        return None
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / pairs)


def average_precision(histogram: Array) -> float | None:
    """Return the average precision from a histogram: the mean over the events of class 1 of the
    precision among the scores in their bin and above. None without class 1.

    Scores in one bin are ties. The error is at most the mean over the events of class 1 of
    (m - 1) / n, for m scores in their bin and n in it and above.
    """
    positive = histogram[1][::-1]
    total = int(positive.sum())
    if not total:
        return None
    above = np.cumsum(histogram.sum(0)[::-1])
    precision = np.cumsum(positive) / np.maximum(above, 1)
    return float((positive * precision).sum() / total)


def calibration_table(confidence: Array, hit: Array) -> Array:
    """Return the calibration table (3, ``CALIBRATION_BINS``) float64 of confidences (m,) and of
    whether each prediction was correct (m,). Bin i is (i / 15, (i + 1) / 15]; 0 is in the first."""
    bins = np.searchsorted(_EDGES, confidence)
    table = np.empty((3, CALIBRATION_BINS))
    for row, weights in zip(table, (None, hit, confidence), strict=True):
        row[:] = np.bincount(bins, weights, CALIBRATION_BINS)
    return table


def calibration_error(table: Array) -> float | None:
    """Return the expected calibration error (Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017):
    the mean over predictions of |accuracy - mean confidence| of their bin; None without any."""
    count, hits, confidence = table
    total = count.sum()
    return float(np.abs(hits - confidence).sum() / total) if total else None


def calibration_of_table(table: Array) -> CalibrationCurve:
    """Return the calibration curve of the confidences in a calibration table."""
    count, hits, confidence = table[:, table[0] > 0]
    return CalibrationCurve(confidence / count, hits / count, count.astype(np.int64))


def calibration_of_histogram(histogram: Array) -> CalibrationCurve:
    """Return the calibration curve of class 1 in 16 bins from a histogram (2, b) of equal bins.

    A score counts as the middle of its bin: the error is at most half a bin.
    """
    middles = (np.arange(histogram.shape[1]) + 0.5) / histogram.shape[1]
    parts = histogram.reshape(2, _CURVE_BINS, -1)
    sums = (histogram.sum(0) * middles).reshape(_CURVE_BINS, -1).sum(1)
    (_, positive), count = parts.sum(2), parts.sum((0, 2))
    seen = count > 0
    return CalibrationCurve(sums[seen] / count[seen], positive[seen] / count[seen], count[seen])


def of_counts(
    tally: Array, scores: Array | None, brier: Array | None, calibration: Array | None, binary: bool
) -> dict[str, float]:
    """Return the metrics by name, without a suffix, that follow from counts and sums.

    Args:
        tally: (3, k).
        scores: histogram (2, b) of the scores of class 1.
        brier: sum and number of Brier scores, in their form for many classes.
        calibration: calibration table.
        binary: whether there are at most two classes.
    """
    metrics = of_tally(tally)
    if binary:
        metrics |= of_positive_class(tally)
    if binary and scores is not None:
        metrics |= _defined(auc=auc(scores), average_precision=average_precision(scores))
    if brier is not None and brier[1]:
        metrics["brier"] = brier[0] / brier[1] / (2 if binary else 1)
    if calibration is not None:
        metrics |= _defined(calibration_error=calibration_error(calibration))
    return metrics


def _defined(**metrics: float | None) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value is not None}


def scores_of(y: Array, value: Array, proba: Array) -> tuple[Array, Array, Array, Array]:
    """Return the log-loss, the score of class 1, the Brier score in its form for many classes, and
    the confidence of the prediction, each (m,).

    A class unknown to the model has probability 0. All but the score are NaN where a probability is
    NaN.

    Args:
        y: (m,) labels.
        value: (m,) predictions.
        proba: (m, classes) float64; is overwritten.
    """
    width = proba.shape[1]
    of_label, of_value = _probability_of(y, proba), _probability_of(value, proba)
    # For any width: concatenated rows have the width of the widest.
    score = proba[:, 1].copy() if width >= 2 else np.zeros(len(y))
    known = np.flatnonzero(y < width)
    proba.reshape(-1)[known * width + y[known]] -= 1
    brier = _sums(np.square(proba, out=proba))
    brier[y >= width] += 1
    missing = np.isnan(brier)
    of_label[missing] = of_value[missing] = np.nan
    return -np.log(np.maximum(of_label, FLOOR)), score, brier, of_value


def _sums(rows: Array) -> Array:
    """Return the sum (m,) of each row (m, k), from left to right.

    A product or a sum of NumPy adds in an order that depends on the width, which is that of the
    widest prediction that still waits for its label.
    """
    return rows.cumsum(1)[:, -1] if rows.shape[1] else np.zeros(len(rows))


def _probability_of(codes: Array, proba: Array) -> Array:
    """Return the probability (m,) of one class code (m,) in each row; 0 of an unknown class."""
    width = proba.shape[1]
    known = (codes >= 0) & (codes < width)
    if known.all():
        return np.asarray(proba.reshape(-1)[np.arange(len(codes)) * width + codes])
    of_code = np.zeros(len(codes))
    of_code[known] = proba[known, codes[known]]
    return of_code
