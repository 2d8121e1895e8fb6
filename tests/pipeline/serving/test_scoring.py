"""Served predictions are scored when their labels arrive."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from pipeline.evaluation.metric_names import unknown_metric
from pipeline.serving import scoring as module
from pipeline.serving.scoring import PredictionLog, ServedPredictionScorer

SCORES = ("precision", "recall", "f1")


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def answered(
    scores: ServedPredictionScorer, ids: np.ndarray, value: np.ndarray, version: int
) -> None:
    log = PredictionLog(ids, value, np.full(len(ids), version), np.array([0.2]), np.array([0.004]))
    scores.answered(log)


@pytest.fixture
def scores(tmp_path: Path) -> ServedPredictionScorer:
    return ServedPredictionScorer("classification", tmp_path / "served.json")


def test_scorer_scores_when_the_label_arrives(scores: ServedPredictionScorer) -> None:
    answered(scores, ints(1, 2, 3), ints(0, 1, 1), version=5)
    scores.labelled(ints(7, 1, 2), ints(0, 0, 0), ints(5, 5, 5))
    results = scores.results()
    assert results["served/accuracy"] == 0.5
    assert results["served/scored"] == 2
    assert results["served/late"] == 0
    assert results["served/requests"] == 1
    assert results["served/model_age_p50_s"] == pytest.approx(0.2)
    assert results["served/answer_p99_s"] == pytest.approx(0.004)
    scores.labelled(ints(3), ints(1), ints(9))
    assert scores.results()["served/accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("label_first", [False, True])
def test_scorer_ignores_models_that_learned_the_label(
    scores: ServedPredictionScorer, label_first: bool
) -> None:
    def label() -> None:
        scores.labelled(ints(1, 2), ints(0, 0), ints(5, 5))

    if label_first:  # replicas report a little later
        label()
    answered(scores, ints(1), ints(0), version=5)
    answered(scores, ints(2), ints(0), version=6)
    if not label_first:
        label()
    results = scores.results()
    assert (results["served/scored"], results["served/late"]) == (1, 1)


def test_scorer_first_prediction_of_an_event_counts_once(scores: ServedPredictionScorer) -> None:
    answered(scores, ints(1), ints(1), version=1)
    answered(scores, ints(1), ints(0), version=2)
    scores.labelled(ints(1), ints(0), ints(4))
    scores.labelled(ints(1), ints(1), ints(4))
    answered(scores, ints(1), ints(0), version=3)
    results = scores.results()
    assert (results["served/scored"], results["served/accuracy"]) == (1, 0.0)


def test_scorer_null_prediction_is_not_scored(scores: ServedPredictionScorer) -> None:
    answered(scores, ints(1), ints(-1), version=1)
    scores.labelled(ints(1), ints(0), ints(4))
    assert scores.results()["served/scored"] == 0
    assert "served/accuracy" not in scores.results()


@pytest.mark.parametrize("classes", [2, 4])
def test_scorer_scores_classes_as_scikit_learn(
    scores: ServedPredictionScorer, tmp_path: Path, classes: int
) -> None:
    """In all, also after a restart, and of the last 1,000."""
    rng = np.random.default_rng(classes)
    y, value = rng.integers(0, classes, (2, 1200))
    ids = np.arange(1200)
    answered(scores, ids, value, version=1)
    scores.labelled(ids[:700], y[:700], np.full(700, 4))
    scores.labelled(ids[700:], y[700:], np.full(500, 4))
    scores.keep()
    results = scores.results()
    for form, cut in (("", slice(None)), ("_window", slice(-1000, None))):
        for average in ("macro", "binary"):
            names = [f"served/{'macro_' * (average == 'macro')}{n}{form}" for n in SCORES]
            if average == "binary" and classes > 2:
                assert not results.keys() & set(names)
                continue
            expected = sk.precision_recall_fscore_support(y[cut], value[cut], average=average)[:3]
            assert [results[name] for name in names] == pytest.approx(expected)
        assert results[f"served/accuracy{form}"] == (y[cut] == value[cut]).mean()
        assert not [name for name in results if unknown_metric(name)]
    restarted = ServedPredictionScorer("classification", tmp_path / "served.json")
    answered(restarted, ints(5000), ints(0), version=1)
    restarted.labelled(ints(5000), ints(0), ints(4))
    f1 = sk.f1_score([*y, 0], [*value, 0], average="macro")
    assert restarted.results()["served/macro_f1"] == pytest.approx(f1)


def test_scorer_of_an_older_file_has_no_total_of_classes(
    scores: ServedPredictionScorer, tmp_path: Path
) -> None:
    """The totals of classes would miss what was scored before."""
    old = {"requests": 3, "failed": 0, "scored": 3, "late": 0, "gain": 2.0}
    (tmp_path / "served.json").write_text(json.dumps(old))
    scores = ServedPredictionScorer("classification", tmp_path / "served.json")
    answered(scores, ints(1, 2), ints(1, 1), version=1)
    scores.labelled(ints(1, 2), ints(1, 0), ints(4, 4))
    results = scores.results()
    assert results["served/accuracy"] == pytest.approx(3 / 5)
    assert results["served/precision_window"] == 0.5
    assert not {"served/f1", "served/macro_f1"} & results.keys()


def test_scorer_targets_give_absolute_errors(tmp_path: Path) -> None:
    scores = ServedPredictionScorer("regression", tmp_path / "served.json")
    answered(scores, ints(1, 2, 3), np.array([1.0, -4.0, np.nan]), version=1)
    scores.labelled(ints(1, 2, 3), np.array([1.5, -2.0, 0.0]), ints(4, 4, 4))
    results = scores.results()
    assert results["served/mae"] == pytest.approx(1.25)
    assert results["served/scored"] == 2


def test_scorer_repeated_target_counts_once(tmp_path: Path) -> None:
    scores = ServedPredictionScorer("regression", tmp_path / "served.json")
    answered(scores, ints(1), np.array([1.0]), version=1)
    scores.labelled(ints(1, 1), np.array([3.0, 9.0]), ints(4, 4))
    answered(scores, ints(1), np.array([8.0]), version=1)
    results = scores.results()
    assert (results["served/scored"], results["served/mae"]) == (1, 2.0)


def test_scorer_restarted_continues_its_totals(
    scores: ServedPredictionScorer, tmp_path: Path
) -> None:
    answered(scores, ints(1), ints(0), version=1)
    scores.labelled(ints(1), ints(0), ints(4))
    scores.keep()
    restarted = ServedPredictionScorer("classification", tmp_path / "served.json")
    answered(restarted, ints(2), ints(0), version=1)
    restarted.labelled(ints(2), ints(1), ints(4))
    assert restarted.results()["served/accuracy"] == 0.5
    assert restarted.results()["served/requests"] == 2


def test_scorer_broken_file_starts_from_zero(tmp_path: Path) -> None:
    for text in ("{", "3", "[1]", "null"):
        (tmp_path / "served.json").write_text(text)
        assert (
            ServedPredictionScorer("classification", tmp_path / "served.json").results()[
                "served/requests"
            ]
            == 0
        )


def test_scorer_memory_is_bounded(
    scores: ServedPredictionScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MEMORY", 1000)
    for start in range(0, 20_000, 500):
        ids = np.arange(start, start + 500)
        answered(scores, ids + 10**6, np.zeros(500, np.int64), version=1)  # never labelled
        answered(scores, ids[:10], np.zeros(10, np.int64), version=1)
        scores.labelled(ids, np.zeros(500, np.int64), np.full(500, 4))
    sizes = [len(getattr(scores, name)) for name in ("_predicted", "_known", "_done")]
    assert max(sizes) <= 1500
    assert scores.results()["served/scored"] == 400
