"""A wrong time is set apart alone, wherever it stands, and wherever reading begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.batch import Batch, DeadLetter, Floats
from streams.core.stream import Cursor
from streams.files.time_order import TimeOrder, history
from streams.times import TimeZone

START = datetime(2024, 5, 1, tzinfo=UTC).timestamp()
YEAR = 365 * 86_400.0
VIENNA = TimeZone("Europe/Vienna")


def blocks(
    time: Floats, cuts: list[int], begin: Cursor, seam: int | None = None
) -> Iterator[Batch]:
    """The rows of one file, or of two; a NaN is a row that cannot be read."""
    n = len(time)
    seam = n if seam is None else seam
    edges = sorted({0, seam, n, *cuts})
    for first, stop in pairwise(edges):
        partition, origin = (0, 0) if first < seam else (1, seam)
        rows = np.arange(max(first, origin + begin.get(str(partition), 0)), stop)
        if not len(rows):
            continue
        good = ~np.isnan(time[rows])
        before = np.concatenate([[0], np.cumsum(good)])
        dead = tuple(
            DeadLetter(partition, int(row) - origin, "bad", int(row), int(before[i]))
            for i, row in enumerate(rows.tolist())
            if not good[i]
        )
        kept = rows[good]
        where = np.full(len(kept), partition, np.int32)
        yield Batch(kept, time[kept], np.zeros((len(kept), 1)), where, kept - origin, dead=dead)


def read(
    time: Floats,
    cuts: list[int],
    cursor: Cursor | None = None,
    seam: int | None = None,
    zone: TimeZone | None = None,
    correct: bool = False,
    lateness: float = 0.0,
) -> tuple[dict[int, float], dict[int, str]]:
    """The times of the rows from a cursor on, and the reasons of the dead ones."""
    order = TimeOrder(lateness, zone, correct, lambda partition, offset, what: None)
    cursor = cursor or {}

    def is_open(begin: Cursor) -> bool:
        first = next(blocks(time, [64, *cuts], begin, seam), None)
        return zone is not None and first is not None and bool(zone.fold(first.time[:64]).any())

    begin = history(cursor, is_open)
    alive: dict[int, float] = {}
    dead: dict[int, str] = {}
    for batch in order(blocks(time, cuts, begin, seam), cursor):
        alive |= dict(zip(batch.ids.tolist(), batch.time.tolist(), strict=True))
        dead |= {d.id: d.reason for d in batch.dead}
    return alive, dead


def at(row: int, seam: int) -> Cursor:
    return {"0": row} if row <= seam else {"0": seam, "1": row - seam}


@st.composite
def streams(draw: st.DrawFn) -> tuple[Floats, list[int]]:
    """Times in order, and the rows of wrong ones."""
    n = draw(st.integers(30, 260))
    seed = draw(st.integers(0, 99))
    steps = np.random.default_rng(seed).choice([0.0, 1.0, 60.0], n, p=[0.2, 0.3, 0.5])
    time = START + np.cumsum(steps + 1.0)
    rows = draw(st.lists(st.integers(0, n - 1), max_size=3, unique=True))
    return time, sorted(rows)


@given(
    streams(),
    st.lists(st.integers(1, 259), max_size=4),
    st.integers(1, 259),
    st.integers(0, 259),
    st.sampled_from([2 * YEAR, 31 * 86_400.0, 180 * YEAR]),
)
def test_time_order_any_wrong_time_is_dead_alone(
    stream: tuple[Floats, list[int]], cuts: list[int], seam: int, start: int, ahead: float
) -> None:
    right, rows = stream
    n, time = len(right), right.copy()
    time[rows] += ahead
    cuts, seam = [c for c in cuts if c < n], min(seam, n)
    alive, dead = read(time, cuts, seam=seam)
    assert [*dead] == rows
    assert alive == {i: t for i, t in enumerate(right.tolist()) if i not in rows}
    assert all(reason.endswith("is far ahead of those around it") for reason in dead.values())
    start = min(start, n)
    again = read(time, cuts, at(start, seam), seam)
    assert again == (
        {i: t for i, t in alive.items() if i >= start},
        {i: reason for i, reason in dead.items() if i >= start},
    )


@given(st.integers(40, 200), st.integers(0, 199), st.sampled_from([700.0, 7200.0, 86_000.0]))
def test_time_order_last_rows_ahead_move_nobody(n: int, row: int, ahead: float) -> None:
    """A step to the last row may be a pause: it is learned, but at the time of the row before."""
    right = START + 60.0 * np.arange(n)
    time = right.copy()
    row = n - 1 - row % n
    time[row] += ahead
    alive, dead = read(time, [n // 2])
    if row == n - 1:
        assert not dead
        assert alive[row] == right[row - 1]
    else:
        assert [*dead] == [row]
    assert all(alive[i] == t for i, t in enumerate(right.tolist()) if i != row)


@given(st.integers(3, 200), st.integers(1, 199), st.floats(1.0, 5 * YEAR), st.integers(1, 50))
def test_time_order_a_pause_loses_nothing(n: int, row: int, pause: float, size: int) -> None:
    time = START + 60.0 * np.arange(n + 3)
    time[min(row, n) :] += pause
    alive, dead = read(time, [*range(size, n, size)])
    assert (alive, dead) == (dict(enumerate(time.tolist())), {})


def test_time_order_a_step_back_is_left_to_the_lateness() -> None:
    """A year 1926, and a second file of an earlier year, are not ahead of anything."""
    time = START + 60.0 * np.arange(300)
    time[7] = -1.38e9
    time[150:] -= YEAR
    alive, dead = read(time, [100])
    assert (alive, dead) == (dict(enumerate(time.tolist())), {})


def test_time_order_a_fifth_of_the_rows_ahead_are_dead() -> None:
    fast = np.random.default_rng(3).random(5_000) < 0.2
    time = START + 60.0 * np.arange(5_000) + 86_400.0 * fast
    _, dead = read(time, [*range(512, 5_000, 512)])
    assert sorted(dead) == np.flatnonzero(fast).tolist()


def test_time_order_unreadable_rows_are_not_judged() -> None:
    time = START + 60.0 * np.arange(200)
    time[[3, 40, 41, 199]] = np.nan
    time[42] += YEAR
    alive, dead = read(time, [40, 42, 43])
    assert [*dead] == [3, 40, 41, 42, 199]
    assert dead[42] == "time 2025-05-01T00:42:00Z is far ahead of those around it"
    assert len(alive) == 195


def test_time_order_correct_spreads_wrong_times_evenly() -> None:
    time = START + 60.0 * np.arange(200)
    wrong = time.copy()
    wrong[[0, 50, 51, 199]] += YEAR
    alive, dead = read(wrong, [51], correct=True)
    assert not dead
    expected = time.copy()
    expected[0], expected[199] = time[1], time[198]
    assert [*alive.values()] == pytest.approx(expected.tolist())


def local_times(step: float, n: int, begin: datetime) -> tuple[Floats, Floats]:
    """Times across a night, and what is read of their local texts: the first pass of an hour."""
    time = begin.timestamp() + step * np.arange(n)
    zone = ZoneInfo("Europe/Vienna")
    local = [datetime.fromtimestamp(t, zone).replace(tzinfo=None, fold=0) for t in time.tolist()]
    seconds = [(moment - datetime(1970, 1, 1)) / timedelta(seconds=1) for moment in local]
    return time, VIENNA.to_utc(np.array(seconds))


@given(st.sampled_from([180.0, 600.0, 900.0, 1800.0, 3600.0]), st.data())
def test_time_order_tells_the_passes_of_an_hour_apart(step: float, data: st.DataObject) -> None:
    begin = datetime(2024, 10, 26, 22, tzinfo=UTC)
    n = int(8 * 3600 / step)
    time, first = local_times(step, n, begin)
    cut, start = data.draw(st.integers(1, n - 1)), data.draw(st.integers(0, n))
    alive, dead = read(first, [cut], {"0": start}, zone=VIENNA)
    assert not dead
    assert [*alive.values()] == time[start:].tolist()


@pytest.mark.parametrize("start", [0, 3_500, 5_000])
def test_time_order_many_rows_in_an_hour_resume_exactly(start: int) -> None:
    """Long after the last row outside the hour, its second pass is still known."""
    time, first = local_times(3.0, 6_000, datetime(2024, 10, 26, 22, tzinfo=UTC))
    alive, dead = read(first, [2_000], {"0": start}, zone=VIENNA)
    assert not dead
    assert [*alive.values()] == time[start:].tolist()


def test_time_order_straggler_and_typo_in_the_night_stand_alone() -> None:
    time, first = local_times(60.0, 500, datetime(2024, 10, 26, 22, tzinfo=UTC))
    odd = first.copy()
    odd[170] -= 40 * 60.0  # in the first pass, from before: it alone is late
    odd[200] += YEAR
    alive, dead = read(odd, [100], zone=VIENNA)
    assert [*dead] == [200]
    assert {i: t for i, t in alive.items() if t != time[i]} == {170: odd[170]}


def test_time_order_due_time_follows_its_event() -> None:
    time, first = local_times(600.0, 30, datetime(2024, 10, 26, 23, tzinfo=UTC))
    due = np.array([first[min(i + 1, 29)] for i in range(30)])
    batch = next(blocks(first, [], {}))
    order = TimeOrder(0.0, VIENNA, False, lambda *_: None)
    (found,) = order([replace(batch, due=due)], {})
    assert found.due is not None
    assert found.due[:-1].tolist() == time[1:].tolist()
