"""Histories against a dictionary; labels, bounded memory, resume and serving."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from streams.core.batch import Batch
from streams.core.errors import StreamError
from streams.core.schema import Feature, Schema
from streams.core.state_dict import copied, digest
from streams.core.stream_config import HistoryConfig
from streams.operators.features.histories import NO_VALUE, Histories

SCHEMA = Schema((Feature("user", "categorical"), Feature("item", "categorical")), "classification")


def histories(**settings: Any) -> Histories:
    settings = {"by": "user", "of": "item", "length": 4, "keys": 64, **settings}
    return Histories(HistoryConfig.model_validate(settings), SCHEMA)


def events(n: int, users: int = 5, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    offset = np.arange(n)
    x = {"user": rng.integers(0, users, n), "item": rng.integers(0, 100, n)}
    y = rng.integers(0, 2, n)
    return Batch(offset, offset * 1.0, x, np.zeros(n, np.int32), offset, y, classes=(0, 1))


def learned(operator: Histories, batch: Batch, size: int = 16) -> Histories:
    for part in batch.micro_batches(size):
        operator.learn(operator.apply(part))
    return operator


def of_users(operator: Histories, batch: Batch) -> list[list[int]]:
    x = operator.apply(batch).x
    assert not isinstance(x, np.ndarray)
    history = np.asarray(x["history"])
    return [sorted(v for v in row if v != NO_VALUE) for row in history.tolist()]


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("size", [1, 7, 50])
def test_history_is_the_last_values_of_a_key(positive: bool, size: int) -> None:
    batch = events(200)
    operator = learned(histories(positive=positive), batch, size)
    expected: dict[int, list[int]] = defaultdict(list)
    x, y = batch.x, batch.y
    assert not isinstance(x, np.ndarray)
    assert y is not None
    for user, item, label in zip(x["user"], x["item"], y, strict=True):
        if label or not positive:
            expected[int(user)].append(int(item))
    fresh = events(20, users=6, seed=1)
    assert not isinstance(fresh.x, np.ndarray)
    users = np.asarray(fresh.x["user"]).tolist()
    assert of_users(operator, fresh) == [sorted(expected[user][-4:]) for user in users]


def test_value_enters_only_when_its_label_is_known() -> None:
    operator = histories()
    batch = events(10)
    operator.apply(batch)
    assert of_users(operator, batch) == [[]] * 10


def test_memory_is_bounded_over_new_keys() -> None:
    operator = histories(positive=False)
    before = operator.memory_bytes()
    learned(operator, events(5000, users=1_000_000), 100)
    assert operator.memory_bytes() == before
    assert len(operator.state()["used"]) <= 64


def test_key_that_takes_a_row_begins_with_no_values() -> None:
    operator = histories(keys=8, positive=False)
    for user in range(40):
        learned(operator, one(user, user), 1)
        assert of_users(operator, one(user, 0)) == [[user]]


def one(user: int, item: int) -> Batch:
    at = np.zeros(1, np.int64)
    x = {"user": np.array([user]), "item": np.array([item])}
    return Batch(at, at * 1.0, x, np.zeros(1, np.int32), at, np.ones(1, np.int64), classes=(0, 1))


def test_resume_and_serving() -> None:
    batch = events(300, users=30)
    whole, half, other = learned(histories(), batch), learned(histories(), batch[:144]), histories()
    other.load(copied(half.state()))
    assert digest(learned(other, batch[144:]).state()) == digest(whole.state())
    served = Histories.of_settings(whole.settings(), SCHEMA)
    served.load(copied(whole.servable()))
    assert of_users(served, batch[:20]) == of_users(whole, batch[:20])


@pytest.mark.parametrize("key", ["by", "of"])
def test_column_that_is_no_category_is_refused(key: str) -> None:
    with pytest.raises(StreamError, match=rf"stream.history.{key}.*user"):
        histories(**{key: "usr"})
