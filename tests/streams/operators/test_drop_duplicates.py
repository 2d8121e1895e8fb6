"""Duplicates and time that goes back: set aside with their reason, nothing lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.batch import Batch, DeadLetter, Labels, reject_rows
from streams.core.state_dict import copied, digest
from streams.operators.base import Operator
from streams.operators.drop_duplicates import DropDuplicates
from streams.operators.drop_late import DropLate


def batch(ids: list[int], time: list[float] | None = None) -> Batch:
    n = len(ids)
    return Batch(
        np.array(ids, np.int64),
        np.arange(n, dtype=float) if time is None else np.array(time, float),
        np.zeros((n, 2)),
        np.zeros(n, np.int32),
        np.arange(n, dtype=np.int64) + 100,
        np.zeros(n, np.int64),
    )


def apply(operator: Operator, rows: Batch) -> Batch:
    out = operator.apply(rows)
    assert sorted(out.offset.tolist() + [d.offset for d in out.dead]) == rows.offset.tolist()
    return out


@given(st.lists(st.integers(0, 30), max_size=80), st.integers(1, 12))
def test_unique_ids(ids: list[int], size: int) -> None:
    """Within the window every second one is found; far beyond it none is."""
    window = 10
    operator = DropDuplicates(window)
    fresh: list[int] = []  # all that passed so far, in order
    for part in batch(ids).micro_batches(size):
        out = apply(operator, part)
        passed = fresh[:]
        for i, offset in zip(part.ids.tolist(), part.offset.tolist(), strict=True):
            dead = offset not in out.offset.tolist()
            if i in passed[-window:]:
                assert dead
            if i not in passed[-window - 2 * size :]:
                assert not dead
            if not dead:
                passed.append(i)
        fresh = passed
        assert all("duplicate id" in d.reason for d in out.dead)
        assert len(operator.state()["ids"]) < window + size


def test_drop_duplicates_reason_names_the_window() -> None:
    out = apply(DropDuplicates(50), batch([1, 2, 1]))
    assert out.dead == (
        DeadLetter(0, 102, "duplicate id 1: seen before within the last 50 events", 1, 2),
    )


def test_endless_repetition_needs_bounded_memory() -> None:
    operator = DropDuplicates(100)
    for _ in range(50):
        apply(operator, batch([1, 2, 3]))
    assert operator.state()["lengths"].tolist() == [3]


@given(st.lists(st.integers(-20, 20), max_size=40), st.integers(1, 9), st.integers(0, 8))
def test_time_order(time: list[int], size: int, lateness: int) -> None:
    operator = DropLate(lateness)
    kept, latest = [], -np.inf
    for t in time:
        if t >= latest - lateness:
            kept.append(float(t))
        latest = max(latest, t)
    found = [
        t
        for part in batch(list(range(len(time))), [float(t) for t in time]).micro_batches(size)
        for t in apply(operator, part).time.tolist()
    ]
    assert found == kept


def test_drop_late_reason_names_both_times() -> None:
    out = apply(DropLate(2), batch([1, 2, 3], [10, 8, 7.5]))
    assert [d.reason for d in out.dead] == [
        "time goes back: 7.5 is 2.5 s before 10, the latest seen, and lateness is 2 s"
    ]


@given(st.data(), st.integers(0, 10))
def test_reject_rows_keeps_side_records(data: st.DataObject, n: int) -> None:
    """Everything stands before the same kept row as before, in the order of the stream."""
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), np.bool_)
    places = st.lists(st.integers(0, n), max_size=5).map(sorted)
    dead, labels = data.draw(places), np.array(data.draw(places), np.int64)
    rows = replace(
        batch(list(range(n))),
        dead=tuple(DeadLetter(0, k, "old", k, before) for k, before in enumerate(dead)),
        arrivals=Labels(*(labels,) * 5, insert_before=labels),
    )
    out = reject_rows(rows, mask, ["new"] * int(mask.sum()))
    kept_before = [int((~mask[:b]).sum()) for b in range(n + 1)]
    assert out.ids.tolist() == np.flatnonzero(~mask).tolist()
    assert out.arrivals is not None
    assert out.arrivals.insert_before.tolist() == [kept_before[b] for b in labels]
    assert sorted((d.insert_before, d.reason, d.id) for d in out.dead) == sorted(
        [(kept_before[b], "old", k) for k, b in enumerate(dead)]
        + [(kept_before[r], "new", int(r)) for r in np.flatnonzero(mask)]
    )
    assert [d.insert_before for d in out.dead] == sorted(d.insert_before for d in out.dead)


@pytest.mark.parametrize("make", [lambda: DropDuplicates(7), lambda: DropLate(1.0)])
def test_join_state_resumes_from_any_micro_batch(make: Callable[[], Operator]) -> None:
    rng = np.random.default_rng(0)
    ids = [*[3] * 4, *rng.integers(0, 12, 60).tolist()]
    parts = list(batch(ids, (np.arange(64) + rng.integers(-3, 3, 64)).tolist()).micro_batches(4))
    for stop in range(len(parts)):
        first, second = make(), make()
        for part in parts[:stop]:
            apply(first, part)
        second.load(copied(first.state()))
        for part in parts[stop:]:
            assert apply(first, part).dead == apply(second, part).dead
            assert digest(first.state()) == digest(second.state())
