"""Where tasks end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from learners.base import LearnerError
from learners.boundaries import Boundaries, OnDrift
from streams.core.batch import Array, Batch
from streams.core.state_dict import copied, digest


def batch(segment: list[int] | None, n: int = 0, start: int = 0) -> Batch:
    i = np.arange(start, start + (n if segment is None else len(segment)))
    given = None if segment is None else np.array(segment)
    return Batch(i, i * 1.0, np.zeros((len(i), 2)), i.astype(np.int32), i, i, segment=given)


def cuts(boundaries: Boundaries, given: Batch) -> list[tuple[bool, list[int]]]:
    return [(ended, part.ids.tolist()) for ended, part in boundaries.cut(given)]


def test_boundary_where_segment_changes() -> None:
    boundaries = Boundaries(None)
    assert cuts(boundaries, batch([7, 7])) == [(False, [0, 1])], "the first task ends none"
    assert cuts(boundaries, batch([7, 4, 4])) == [(False, [0]), (True, [1, 2])]
    assert cuts(boundaries, batch([5])) == [(True, [0])]
    assert cuts(boundaries, batch([5, 6, -1, 6])) == [
        (False, [0]),
        (True, [1]),
        (True, [2]),
        (True, [3]),
    ]
    assert boundaries.parts == 8


def test_boundary_every_n_events_ignores_segments() -> None:
    boundaries = Boundaries(3)
    assert cuts(boundaries, batch([1, 2])) == [(False, [0, 1])]
    assert cuts(boundaries, batch(None, 1, 2)) == [(False, [2])]
    assert cuts(boundaries, batch([9] * 7)) == [(True, [0, 1, 2]), (True, [3, 4, 5]), (True, [6])]


def errors(n: int, share: float, seed: int = 0) -> Array:
    wrong: Array = (np.random.default_rng(seed).random(n) < share).astype(np.float64)
    return wrong


def test_boundary_where_errors_rise() -> None:
    """A task ends before the event with whose error ADWIN sees the change, in its micro-batch."""
    boundaries = Boundaries(OnDrift(0.002))
    wrong = np.concatenate([errors(200, 0.1), errors(100, 0.9), errors(300, 0.1)])
    stream, ends, numbers = batch(None, 600), [], set()
    for start in range(0, 600, 10):
        part = stream[start : start + 10]
        for ended, some in boundaries.cut(part, wrong[start : start + 10]):
            ends += [int(some.ids[0])] if ended else []
            numbers.add(boundaries.state()["last"])
    assert len(ends) == 1, "errors that fall end no task"
    assert 200 < ends[0] < 225
    assert numbers == {0, 1}


def test_drift_is_seen_in_the_same_place_in_any_micro_batches() -> None:
    wrong = np.concatenate([errors(150, 0.1), errors(50, 0.9)])
    found = []
    for size in (1, 7, 200):
        boundaries = Boundaries(OnDrift(0.002))
        cut = [
            part
            for start in range(0, 200, size)
            for part in boundaries.cut(
                batch(None, 200)[start : start + size], wrong[start : start + size]
            )
        ]
        found.append([int(part.ids[0]) for ended, part in cut if ended])
    assert found[0] == found[1] == found[2] != []


def test_drift_signal_continues_exactly() -> None:
    wrong = np.concatenate([errors(100, 0.1), errors(60, 0.9)])
    whole, stream = Boundaries(OnDrift(0.002)), batch(None, 160)
    expected = [(ended, part.ids.tolist()) for ended, part in whole.cut(stream, wrong)]
    first, again = Boundaries(OnDrift(0.002)), Boundaries(OnDrift(0.002))
    found = [len(part) for _, part in first.cut(stream[:105], wrong[:105])]
    again.load(copied(first.state()))
    rest = [(ended, part.ids.tolist()) for ended, part in again.cut(stream[105:], wrong[105:])]
    assert found == [105]
    assert rest == [(False, expected[0][1][105:]), *expected[1:]]
    assert digest({**again.state(), "parts": 0}) == digest({**whole.state(), "parts": 0})


def test_load_continues_exactly() -> None:
    for every, segment in ((None, [0, 0, 1, 1]), (3, None)):
        whole, first = Boundaries(every), Boundaries(every)
        list(whole.cut(batch(segment, 4)))
        list(first.cut(batch(segment, 4)))
        again = Boundaries(every)
        again.load(first.state())
        following = batch(None if segment is None else [1, 2, 2], 3)
        assert cuts(again, following) == cuts(whole, following)
        assert again.state() == whole.state()


def test_boundaries_without_segments_or_every_raise() -> None:
    with pytest.raises(LearnerError, match=r"learner\.every.*no segments"):
        list(Boundaries(None).cut(replace(batch([1, 2]), segment=None)))
