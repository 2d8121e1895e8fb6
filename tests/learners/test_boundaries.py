"""Where tasks end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from learners.base import LearnerError
from learners.boundaries import Boundaries
from streams.core.batch import Batch


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
