"""What was served, scored when its label comes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.serving import scoring as module
from pipeline.serving.scoring import PredictionLog, ServedPredictionScorer


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def answered(
    scores: ServedPredictionScorer, ids: np.ndarray, value: np.ndarray, version: int
) -> None:
    told = PredictionLog(ids, value, np.full(len(ids), version), np.array([0.2]), np.array([0.004]))
    scores.answered(told)


@pytest.fixture
def scores(tmp_path: Path) -> ServedPredictionScorer:
    return ServedPredictionScorer("classification", tmp_path / "served.json")


def test_an_answer_is_scored_when_its_label_comes(scores: ServedPredictionScorer) -> None:
    answered(scores, ints(1, 2, 3), ints(0, 1, 1), version=5)
    scores.labelled(ints(7, 1, 2), ints(0, 0, 0), ints(5, 5, 5))
    found = scores.results()
    assert found["served/accuracy"] == 0.5
    assert found["served/scored"] == 2
    assert found["served/late"] == 0
    assert found["served/requests"] == 1
    assert found["served/model_age_p50_s"] == pytest.approx(0.2)
    assert found["served/answer_p99_s"] == pytest.approx(0.004)
    scores.labelled(ints(3), ints(1), ints(9))
    assert scores.results()["served/accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("label_first", [False, True])
def test_only_a_model_that_had_not_learned_the_label_counts(
    scores: ServedPredictionScorer, label_first: bool
) -> None:
    def label() -> None:
        scores.labelled(ints(1, 2), ints(0, 0), ints(5, 5))

    if label_first:  # replicas tell what they answered a little later
        label()
    answered(scores, ints(1), ints(0), version=5)
    answered(scores, ints(2), ints(0), version=6)
    if not label_first:
        label()
    found = scores.results()
    assert (found["served/scored"], found["served/late"]) == (1, 1)


def test_the_first_answer_counts_and_an_event_counts_once(scores: ServedPredictionScorer) -> None:
    answered(scores, ints(1), ints(1), version=1)
    answered(scores, ints(1), ints(0), version=2)
    scores.labelled(ints(1), ints(0), ints(4))
    scores.labelled(ints(1), ints(1), ints(4))
    answered(scores, ints(1), ints(0), version=3)
    found = scores.results()
    assert (found["served/scored"], found["served/accuracy"]) == (1, 0.0)


def test_an_answer_that_says_nothing_is_not_scored(scores: ServedPredictionScorer) -> None:
    answered(scores, ints(1), ints(-1), version=1)
    scores.labelled(ints(1), ints(0), ints(4))
    assert scores.results()["served/scored"] == 0
    assert "served/accuracy" not in scores.results()


def test_targets_are_scored_by_their_distance(tmp_path: Path) -> None:
    scores = ServedPredictionScorer("regression", tmp_path / "served.json")
    answered(scores, ints(1, 2, 3), np.array([1.0, -4.0, np.nan]), version=1)
    scores.labelled(ints(1, 2, 3), np.array([1.5, -2.0, 0.0]), ints(4, 4, 4))
    found = scores.results()
    assert found["served/mae"] == pytest.approx(1.25)
    assert found["served/scored"] == 2


def test_a_target_counts_once_however_often_it_is_asked_for_or_labelled(tmp_path: Path) -> None:
    scores = ServedPredictionScorer("regression", tmp_path / "served.json")
    answered(scores, ints(1), np.array([1.0]), version=1)
    scores.labelled(ints(1, 1), np.array([3.0, 9.0]), ints(4, 4))
    answered(scores, ints(1), np.array([8.0]), version=1)
    found = scores.results()
    assert (found["served/scored"], found["served/mae"]) == (1, 2.0)


def test_one_that_is_started_again_goes_on_counting(
    scores: ServedPredictionScorer, tmp_path: Path
) -> None:
    answered(scores, ints(1), ints(0), version=1)
    scores.labelled(ints(1), ints(0), ints(4))
    scores.keep()
    heir = ServedPredictionScorer("classification", tmp_path / "served.json")
    answered(heir, ints(2), ints(0), version=1)
    heir.labelled(ints(2), ints(1), ints(4))
    assert heir.results()["served/accuracy"] == 0.5
    assert heir.results()["served/requests"] == 2


def test_a_file_that_is_broken_is_no_reason_to_fail(tmp_path: Path) -> None:
    for text in ("{", "3", "[1]", "null"):
        (tmp_path / "served.json").write_text(text)
        assert (
            ServedPredictionScorer("classification", tmp_path / "served.json").results()[
                "served/requests"
            ]
            == 0
        )


def test_memory_is_bounded(scores: ServedPredictionScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY", 1000)
    for start in range(0, 20_000, 500):
        ids = np.arange(start, start + 500)
        answered(scores, ids + 10**6, np.zeros(500, np.int64), version=1)  # never labelled
        answered(scores, ids[:10], np.zeros(10, np.int64), version=1)
        scores.labelled(ids, np.zeros(500, np.int64), np.full(500, 4))
    sizes = [len(getattr(scores, name)) for name in ("_predicted", "_known", "_done")]
    assert max(sizes) <= 1500
    assert scores.results()["served/scored"] == 400
