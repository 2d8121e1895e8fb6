"""Sequences against a dictionary of lists; cuts, bounded memory, expiry, resume and serving."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from streams.core.batch import Array, Batch
from streams.core.errors import StreamError
from streams.core.schema import Feature, Schema
from streams.core.state_dict import copied, digest
from streams.core.stream_config import SequenceConfig
from streams.operators.features.sequences import GAPS, TIME, TYPES, Sequences

SCHEMA = Schema((Feature("user", "categorical"),), "classification")
LENGTH = 4


def sequences(**settings: Any) -> Sequences:
    settings = {"by": "user", "length": LENGTH, "keys": 64, **settings}
    return Sequences(SequenceConfig.model_validate(settings), SCHEMA)


def events(n: int, users: int = 5, seed: int = 0, back: float = 0.0) -> Batch:
    """Return n events, whole seconds apart; some times step back by up to ``back``."""
    rng = np.random.default_rng(seed)
    offset = np.arange(n)
    time = np.cumsum(rng.integers(0, 3, n)) - np.floor(rng.uniform(0, back + 1, n))
    y = rng.integers(0, 3, n)
    x = {"user": rng.integers(0, users, n)}
    return Batch(offset, time, x, np.zeros(n, np.int32), offset, y, classes=("a", "b", "c"))


def column(batch: Batch, name: str) -> Array:
    assert not isinstance(batch.x, np.ndarray)
    return np.asarray(batch.x[name])


def applied(operator: Sequences, batch: Batch, size: int) -> Batch:
    return Batch.concat([operator.apply(part) for part in batch.micro_batches(size)])


def expected(batch: Batch, expire: float = np.inf) -> list[list[tuple[int, float]]]:
    """Return the events (type, gap) of the key of each event, by the definition."""
    last: dict[int, float] = {}
    past: dict[int, list[tuple[int, float]]] = {}
    found = []
    assert batch.y is not None
    for key, y, time in zip(column(batch, "user").tolist(), batch.y, batch.time, strict=True):
        known = key in last and max(time - last[key], 0) <= expire
        gap = max(time - last[key], 0) if known else 0
        past[key] = [*past.get(key, []), (int(y), gap)] if known else [(int(y), 0)]
        last[key] = max(time, last.get(key, time))
        found.append(past[key][-LENGTH:])
    return found


@pytest.mark.parametrize("size", [1, 7, 200])
@pytest.mark.parametrize("expire", [None, 4.0])
def test_sequence_is_the_last_events_of_a_key(size: int, expire: float | None) -> None:
    batch = events(200, back=3)
    out = applied(sequences(expire=expire), batch, size)
    for i, past in enumerate(expected(batch, expire or np.inf)):
        rest = LENGTH - len(past)
        assert column(out, TYPES)[i].tolist() == [y for y, _ in past] + [-1] * rest
        assert column(out, GAPS)[i].tolist() == [gap for _, gap in past] + [0.0] * rest
    assert out.key is not None
    assert np.array_equal(out.key, column(batch, "user"))
    assert out.y is batch.y or np.array_equal(out.y, batch.y)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [3, 16, 300])
def test_full_table_does_not_depend_on_cuts(size: int) -> None:
    """With 8 rows for 40 keys almost every event takes the row of another key."""
    batch = events(300, users=40)
    one, other = sequences(keys=8), sequences(keys=8)
    outs = [applied(one, batch, 1), applied(other, batch, size)]
    for name in (TYPES, GAPS, TIME):
        assert np.array_equal(*(column(out, name) for out in outs))
    assert digest(one.state()) == digest(other.state())


def test_full_table_keeps_the_keys_seen_last() -> None:
    """In one set of 8 rows, the ninth key takes the row of the one not seen for longest."""
    operator = sequences(keys=8)
    order = [*range(8), 0, 8, 0, 1]
    n = len(order)
    batch = replace(events(n), x={"user": np.array(order)}, time=np.arange(n) * 1.0)
    out = applied(operator, batch, n)
    lengths = (column(out, TYPES) >= 0).sum(1)
    assert lengths.tolist() == [1] * 8 + [2, 1, 3, 1]  # 1 had to go for 8
    assert operator.memory_bytes() == sequences(keys=8).memory_bytes()


def test_event_without_type_is_dead() -> None:
    batch = events(6)
    batch = replace(batch, y=np.array([0, -1, 1, 2, -1, 0]))
    out = sequences().apply(batch)
    assert out.ids.tolist() == [0, 2, 3, 5]
    assert [(dead.offset, dead.insert_before) for dead in out.dead] == [(1, 1), (4, 3)]
    assert "has no type" in out.dead[0].reason


@pytest.mark.parametrize("stop", [0, 1, 33, 100])
def test_sequences_continue_from_a_state(stop: int) -> None:
    batch = events(200)
    whole, donor, heir = sequences(), sequences(), sequences()
    applied(heir, events(50, seed=9), 16)
    expected_out = applied(whole, batch, 16)
    for part in batch[:stop].micro_batches(16):
        donor.apply(part)
    heir.load(copied(donor.state()))
    out = applied(heir, batch[stop:], 16)
    for name in (TYPES, GAPS, TIME):
        assert np.array_equal(column(out, name), column(expected_out, name)[stop:])
    assert digest(heir.state()) == digest(whole.state())


def test_view_of_a_key_is_the_sequence_of_its_last_event() -> None:
    batch = events(100)
    operator = sequences()
    out = applied(operator, batch, 16)
    served = sequences()
    served.load(copied(operator.servable()))
    users = np.array([3, 99, 3])
    request = replace(events(3), x={"user": users}, y=None, time=np.full(3, np.nan))
    before = digest(operator.state())
    for each in (operator, served):
        seen = each.view(request)
        row = int(np.flatnonzero(column(batch, "user") == 3)[-1])
        for name in (TYPES, GAPS, TIME):
            assert np.array_equal(column(seen, name)[0], column(out, name)[row])
        assert (column(seen, TYPES)[1] == -1).all()
        assert np.isnan(column(seen, TIME)[1])
    assert digest(operator.state()) == before


@pytest.mark.parametrize(
    ("schema", "match"),
    [
        (Schema((Feature("a", "categorical"),), "classification"), "by: .* column 'user'"),
        (Schema((Feature("user", "numeric"),), "classification"), "by: .* column 'user'"),
        (Schema((Feature("user", "categorical"),), "regression"), "is a number"),
        (
            Schema((Feature("user", "categorical"), Feature(TIME, "numeric")), "classification"),
            "give that column another name",
        ),
    ],
)
def test_wrong_columns_are_refused(schema: Schema, match: str) -> None:
    with pytest.raises(StreamError, match=match):
        Sequences(SequenceConfig(by="user"), schema)
