"""The grouped AUC against scikit-learn, group by group; bounded memory, cuts and resume."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.evaluation.online.grouped_auc import GroupedAuc
from pipeline.evaluation.prequential import Prequential
from streams.core.batch import Array, Ints
from streams.core.hashing import mix
from streams.core.state_dict import copied, digest
from streams.operators.outcomes import NONE, Outcome


def rows(n: int, groups: int, seed: int = 0) -> tuple[Ints, Ints, Array]:
    """Return keys of groups, labels, and scores in steps of a bin, many of them equal."""
    rng = np.random.default_rng(seed)
    group = mix(rng.integers(0, groups, n), 7).view(np.int64)
    y = rng.integers(0, 2, n)
    odds = np.round(rng.normal(size=n) + y) / 4 + 0.05
    return group, y, 1 / (1 + np.exp(-odds))


def expected(group: Ints, y: Ints, score: Array) -> float:
    """Return the mean of scikit-learn's AUC by group, weighted by events."""
    total = weight = 0.0
    for key in np.unique(group):
        own = group == key
        if len(set(y[own].tolist())) == 2:
            total += own.sum() * roc_auc_score(y[own], score[own])
            weight += own.sum()
    return total / weight


def fed(auc: GroupedAuc, columns: tuple[Array, ...], size: int) -> GroupedAuc:
    for start in range(0, len(columns[0]), size):
        auc.add(*(column[start : start + size] for column in columns))
    return auc


def test_groups_are_scored_as_by_scikit_learn() -> None:
    columns = rows(3000, 200)
    results = fed(GroupedAuc(window=700), columns, 37).results()
    assert results["gauc"] == pytest.approx(expected(*columns))
    group, y, score = (column[-700:] for column in columns)
    assert results["gauc_window"] == pytest.approx(expected(group, y, score))


def test_window_is_exact_for_any_score() -> None:
    group, y, _ = rows(600, 30)
    score = np.random.default_rng(1).random(600)
    results = fed(GroupedAuc(window=600), (group, y, score), 50).results()
    assert results["gauc_window"] == pytest.approx(expected(group, y, score))
    assert results["gauc"] == pytest.approx(expected(group, y, score), abs=0.02)


def test_without_a_group_of_both_classes_it_is_absent() -> None:
    group = np.arange(100)
    assert fed(GroupedAuc(100), (group, group % 2, np.full(100, 0.5)), 10).results() == {}
    assert GroupedAuc(100).results() == {}


def test_groups_that_gave_way_still_count_in_bounded_memory() -> None:
    """Each group comes in one run of events, so that one that gave way does not come back."""
    n, groups = 8000, 1000
    order = np.sort(np.arange(n) % groups)
    _, y, score = rows(n, 1)
    columns = mix(order, 7).view(np.int64), y, score
    auc = fed(GroupedAuc(window=100, groups=64), columns, 100)
    assert auc.results()["gauc"] == pytest.approx(expected(*columns))
    assert len(auc.state()["used"]) <= 64


@pytest.mark.parametrize("size", [1, 13, 512, 2000])
def test_state_does_not_depend_on_batches_and_resumes(size: int) -> None:
    columns = rows(2000, 300)
    whole = fed(GroupedAuc(window=500, groups=64), columns, 100)
    half = fed(GroupedAuc(window=500, groups=64), tuple(c[:900] for c in columns), size)
    other = GroupedAuc(window=500, groups=64)
    other.load(copied(half.state()))
    fed(other, tuple(c[900:] for c in columns), size)
    assert digest(other.state()) == digest(whole.state())
    assert other.results() == whole.results()


def outcome(group: Ints | None, y: Ints, score: Array) -> Outcome:
    proba = np.stack([1 - score, score], 1).astype(np.float32)
    ids = np.arange(len(y))
    columns = (ids, y, proba.argmax(1), proba, y, ids % 3)
    return Outcome(*columns, ids, NONE, NONE, NONE, group)


def test_prequential_has_grouped_auc_and_calibration_ratio() -> None:
    group, y, score = rows(1500, 40)
    metrics = Prequential("classification", window=400, group_by="user")
    for start in range(0, 1500, 50):
        part = slice(start, start + 50)
        metrics.add(outcome(group[part], y[part], score[part]))
    other = Prequential("classification", window=400, group_by="user")
    other.load(copied(metrics.state()))
    results = other.results()
    assert results["online/gauc"] == pytest.approx(expected(group, y, score))
    assert results["online/calibration_ratio"] == pytest.approx(score.sum() / y.sum())
    recent = score[-400:].sum() / y[-400:].sum()
    assert results["online/calibration_ratio_window"] == pytest.approx(recent)


def test_calibration_ratio_is_absent_without_a_click() -> None:
    metrics = Prequential("classification")
    metrics.add(outcome(None, np.zeros(20, np.int64), np.full(20, 0.1)))
    names = metrics.results()
    assert not [name for name in names if "calibration_ratio" in name or "gauc" in name]
