"""Controls against values computed by hand, and the entropy of their own processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from learners.base import Learner
from learners.sequences.controls.last_type import LastType
from learners.sequences.controls.poisson import Poisson
from learners.sequences.controls.popular_type import PopularType
from learners.sequences.controls.recent_history import RecentHistory
from learners.sequences.forecast import time_scores, type_scores
from streams.core.batch import Array, Batch
from streams.core.schema import Feature, Schema
from streams.core.stream_config import SequenceConfig
from streams.operators.features.sequences import Sequences

USERS = Schema((Feature("user", "categorical"),), "classification", ("a", "b", "c"))
CONFIG = SequenceConfig(by="user", length=4, keys=64)


def control(cls: type[Learner], **settings: Any) -> Any:
    schema = Sequences(CONFIG, USERS).schema(USERS)
    return cls(cls.Config.model_validate({"kind": cls.kind, **settings}), schema, 0)


def events(types: Sequence[int] | Array, time: Sequence[float] | Array) -> Batch:
    """Return the events of one key, with their sequences."""
    n = len(types)
    offset, y = np.arange(n), np.array(types)
    x = {"user": np.zeros(n, np.int64)}
    part = np.zeros(n, np.int32)
    batch = Batch(offset, np.array(time), x, part, offset, y, classes=("a", "b", "c"))
    return Sequences(CONFIG, USERS).apply(batch)


def lessons(batch: Batch) -> Batch:
    """Return all events but the last with their labels."""
    assert batch.y is not None
    return replace(batch[:-1], y=batch.y[1:], wait=np.diff(batch.time))


BATCH = events([0, 1, 0, 0, 2], [0.0, 1.0, 3.0, 3.0, 8.0])
"""Labels: type 1 after 1 s, 0 after 2 s, 0 after 0 s, 2 after 5 s."""


def test_poisson_counts_types_and_seconds() -> None:
    learner = control(Poisson)
    learner._learn(lessons(BATCH))
    prediction = learner.predict(replace(BATCH[-1:], y=None))
    assert prediction.proba[0] == pytest.approx([2.5 / 5.5, 1.5 / 5.5, 1.5 / 5.5])
    assert prediction.forecast[0, 0].tolist() == [0.0, 0.5]  # 4 events in 8 seconds
    assert prediction.value.tolist() == [0]


def test_seconds_without_an_event_lower_the_rate() -> None:
    learner = control(Poisson)
    learner._learn(lessons(BATCH))
    silent = replace(BATCH[:1], y=np.array([-1]), wait=np.array([8.0]))
    learner._learn(silent)
    assert learner.predict(BATCH[:1]).forecast[0, 0, 1] == 0.25
    assert learner.predict(BATCH[:1]).proba[0, 0] == pytest.approx(2.5 / 5.5)


def test_popular_type_forgets_by_its_half_life() -> None:
    learner = control(PopularType, half_life=1.0)
    learner._learn(lessons(BATCH))  # weights 1/8, 1/4, 1/2 and 1
    prediction = learner.predict(BATCH[:1])
    assert prediction.proba[0] == pytest.approx(np.array([1.25, 0.625, 1.5]) / 3.375)
    assert prediction.forecast[0, 0, 1] == pytest.approx(1.875 / (1 / 8 + 2 / 4 + 5))
    assert prediction.value.tolist() == [2]


def test_last_type_repeats_as_often_as_it_was_seen_to() -> None:
    """Of 4 labels one repeats the last type: with the prior of one in two, 2 of 6 do."""
    learner = control(LastType, half_life=None)
    learner._learn(lessons(BATCH))
    (proba,) = learner.predict(BATCH[-1:]).proba
    assert proba[2] == pytest.approx(1 / 3)
    assert proba[0] / proba[1] == pytest.approx(2.5 / 1.5)
    assert proba.sum() == pytest.approx(1)


def test_recent_history_adds_the_prior_to_its_own_counts() -> None:
    learner = control(RecentHistory, half_life=None, prior=2.0)
    learner._learn(lessons(BATCH))
    prediction = learner.predict(BATCH[-1:])  # its last 4 events: 1, 0, 0, 2 with gaps of 2, 0, 5
    overall = np.array([2.5, 1.5, 1.5]) / 5.5
    assert prediction.proba[0] == pytest.approx((np.array([2, 1, 1]) + 2 * overall) / 6)
    assert prediction.forecast[0, 0, 1] == pytest.approx((3 + 2) / (7 + 2 / 0.5))


def test_sequence_of_length_one_has_no_gap() -> None:
    learner = control(RecentHistory, half_life=None)
    learner._learn(lessons(BATCH))
    assert learner.predict(BATCH[:1]).forecast[0, 0, 1] == 0.5  # the rate of all keys


def test_request_for_an_unknown_key_has_what_all_keys_do() -> None:
    unknown = Sequences(CONFIG, USERS).view(replace(BATCH[:1], y=None))
    for cls in (Poisson, PopularType, LastType, RecentHistory):
        learner = control(cls, half_life=None)
        learner._learn(lessons(BATCH))
        prediction = learner.predict(unknown)
        assert prediction.proba[0] == pytest.approx(np.array([2.5, 1.5, 1.5]) / 5.5)
        assert prediction.forecast[0, 0, 1] == 0.5


@pytest.mark.parametrize("cls", [Poisson, PopularType, LastType, RecentHistory])
def test_controls_know_nothing_before_something_came(cls: type[Learner]) -> None:
    learner = control(cls)
    learner._learn(replace(BATCH[:1], y=np.array([-1]), wait=np.array([8.0])))
    prediction = learner.predict(BATCH)
    assert (prediction.value == -1).all()
    assert (prediction.proba == 0).all()
    assert np.isnan(prediction.forecast[:, 0, 1]).all()


def test_poisson_reaches_the_entropy_of_its_own_process() -> None:
    """At rate 2 an event costs 1 - ln 2 = 0.307 nats for its time, and the entropy of its type."""
    rng, p = np.random.default_rng(0), np.array([0.6, 0.3, 0.1])
    n = 20_000
    batch = events(rng.choice(3, n, p=p), np.cumsum(rng.exponential(0.5, n)))
    learner, past = control(Poisson), lessons(batch[: n // 2])
    learner._learn(past)
    ahead = lessons(batch[n // 2 :])
    said = learner.predict(replace(ahead, y=None, wait=None))
    assert ahead.y is not None
    assert ahead.wait is not None
    time = time_scores(said.forecast, ahead.wait, ahead.y >= 0, 1e-6)
    kinds = type_scores(said.forecast, said.proba, ahead.wait, ahead.y)
    entropy = -(p * np.log(p)).sum()
    assert time.mean() == pytest.approx(1 - np.log(2), abs=0.04)  # 4 standard errors
    assert kinds.mean() == pytest.approx(entropy, abs=0.03)
    shifted = type_scores(said.forecast, np.roll(said.proba, 1, axis=1), ahead.wait, ahead.y)
    assert shifted.mean() > entropy + 0.3, "marks that are shifted by one pass"
