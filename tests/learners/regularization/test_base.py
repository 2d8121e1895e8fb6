from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from learners.base import LearnerError
from learners.regularization.base import Boundaries
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


@pytest.mark.parametrize("kind", ["ewc", "lwf"])
def test_run_on_a_stream_without_segments_is_refused(kind: str, everlearn: Any) -> None:
    """Before the start; with ``every``, or the column of the task, it runs."""
    rows = "".join(f"{i % 7},{i // 100},{'ab'[i % 2]}\n" for i in range(300))
    Path("a.csv").write_text("x,part,y\n" + rows)
    stream = {"kind": "recorded", "path": "a.csv", "label": "y"}
    for more, learner, code in (
        ({}, {}, 2),
        ({"segment": "part"}, {}, 0),
        ({}, {"every": 100}, 0),
    ):
        job = {"name": "tasks", "stream": stream | more, "learner": {"kind": kind} | learner}
        Path("job.yaml").write_text(yaml.safe_dump(job))
        done = everlearn("run", "job.yaml", "--run-dir", f"run{code}{len(more)}", code=code)
        if code:
            assert f"learner {kind!r} needs to know where tasks end" in done.line
            assert "or take a learner that needs no boundaries, as replay" in done.line
            assert not Path("run20/checkpoints").exists()
