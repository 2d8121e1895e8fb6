"""The clock of a partition follows its events; one wrong time does not move it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.batch import Batch, TimeStatus
from streams.core.state_dict import State, digest
from streams.operators.partition_clocks import PartitionClocks
from streams.times import TimeZone

START = 1_704_067_200.0
DAY = 86_400.0


def batch(
    time: Any, partition: Any = 0, status: Any = TimeStatus.UNCONFIRMED, read_at: Any = None
) -> Batch:
    n = len(time)
    rows = np.arange(n)
    return Batch(
        rows,
        np.array(time, np.float64),
        np.zeros((n, 1)),
        np.full(n, partition, np.int32) if np.isscalar(partition) else np.array(partition, "i4"),
        rows,
        time_status=np.full(n, status, np.int8),
        ingestion_time=None if read_at is None else np.array(read_at, np.float64),
    )


def run(operator: PartitionClocks, whole: Batch, cuts: list[int]) -> tuple[Any, Any, list[str]]:
    """The ids and clocks that come out, and the reasons; saved and loaded at each cut."""
    ids: list[int] = []
    clocks: list[float] = []
    reasons: list[str] = []
    n = len(whole)
    edges = sorted({0, n, *(c for c in cuts if c < n)})
    for first, stop in pairwise(edges):
        out = operator.apply(whole[first:stop])
        assert out.clock is not None
        assert out.time_status is None
        ids += out.ids.tolist()
        clocks += out.clock.tolist()
        reasons += [d.reason for d in out.dead]
        state = operator.state()
        operator.load(state)
        assert digest(operator.state()) == digest(state)
    return ids, clocks, reasons


CUTS = st.lists(st.integers(1, 199), max_size=5)


@given(
    st.integers(20, 200),
    st.data(),
    st.sampled_from([1.0, 30.0, 900.0, 3600.0]),
    st.sampled_from([DAY, 5 * DAY, 180 * 365 * DAY]),
    CUTS,
)
def test_clocks_one_wrong_time_moves_no_clock(
    n: int, data: st.DataObject, step: float, ahead: float, cuts: list[int]
) -> None:
    """Nothing is known of later rows, as if each had been read alone. The pace is known by then;
    until then the clock is a row behind."""
    right = START + step * np.arange(n)
    time = right.copy()
    row = data.draw(st.integers(6, n - 1))
    time[row] += max(ahead, 12 * step)
    status = np.array([TimeStatus.CONFIRMED, *[TimeStatus.UNCONFIRMED] * (n - 1)])
    ids, clocks, reasons = run(PartitionClocks(0.0), batch(time, status=status), cuts)
    assert (ids, reasons) == (list(range(n)), [])
    expected = right.copy()
    expected[row] = right[row - 1]
    assert clocks[4:] == expected[4:].tolist()


@given(st.integers(0, 5), CUTS)
def test_clocks_a_wrong_time_among_the_first_kills_nobody(row: int, cuts: list[int]) -> None:
    time = START + np.arange(100.0)
    time[row] += DAY
    ids, clocks, _ = run(PartitionClocks(0.0), batch(time), cuts)
    assert ids == list(range(100))
    assert clocks[-1] == time[-1]


@given(st.integers(5, 60), st.floats(0.0, 400 * DAY), CUTS, st.booleans())
def test_clocks_a_pause_is_believed(
    row: int, pause: float, cuts: list[int], confirmed: bool
) -> None:
    time = START + 5.0 * np.arange(100)
    time[row:] += pause
    status = TimeStatus.CONFIRMED if confirmed else TimeStatus.UNCONFIRMED
    ids, clocks, reasons = run(PartitionClocks(0.0), batch(time, status=status), cuts)
    assert (ids, reasons) == (list(range(100)), [])
    if confirmed:
        assert clocks == time.tolist()
    else:  # eight events in a row confirm it
        assert clocks[row + 8 :] == time[row + 8 :].tolist()


@given(st.lists(st.sampled_from([0.0, 1.0, 50.0]), min_size=1, max_size=60), CUTS)
def test_clocks_clean_partitions_keep_the_state_of_before(
    steps: list[float], cuts: list[int]
) -> None:
    time = START + np.cumsum([*steps, *[1.0] * 8])
    partition = np.arange(len(time)) % 2
    operator = PartitionClocks(0.0)
    _, clocks, _ = run(operator, batch(time, partition), cuts)
    assert clocks[2:] == time[2:].tolist()
    assert sorted(operator.state()) == ["latest", "partitions"]


def test_clocks_late_events_are_dead_by_partition() -> None:
    time = [START, START + 100, START - 50, START + 50, START + 99]
    out = PartitionClocks(0.0).apply(batch(time, [0, 1, 0, 0, 1], TimeStatus.CONFIRMED))
    assert out.ids.tolist() == [0, 1, 3]
    assert [d.reason for d in out.dead] == [
        "time goes back: 2023-12-31T23:59:10Z is 50 s before 2024-01-01T00:00:00Z, the latest "
        "seen, and lateness is 0 s",
        "time goes back: 2024-01-01T00:01:39Z is 1 s before 2024-01-01T00:01:40Z, the latest "
        "seen, and lateness is 0 s",
    ]


def test_clocks_by_the_slowest_live_partition() -> None:
    """Partition 1 is an hour behind, then silent for longer than the idle timeout."""
    time = [0, -3600, 10, -3590, 20, 30, 31]
    read_at = [0, 0, 1, 1, 2, 40, 70]
    operator = PartitionClocks(0.0, slowest=True, idle_s=60.0)
    whole = batch(START + np.array(time), [0, 1, 0, 1, 0, 0, 0], TimeStatus.CONFIRMED, read_at)
    _, clocks, _ = run(operator, whole, [3])
    assert [c - START for c in clocks] == [0, 0, 0, 0, 0, 0, 31]
    assert [clock - START for clock in operator.state()["latest"].tolist()] == [31, -3590]


@given(st.lists(st.integers(0, 2), min_size=2, max_size=60), CUTS)
def test_clocks_slowest_do_not_hang_on_micro_batches(partition: list[int], cuts: list[int]) -> None:
    n = len(partition)
    time, read_at = START + 7.0 * np.arange(n) - 100.0 * np.array(partition), 10.0 * np.arange(n)
    whole = batch(time, partition, TimeStatus.CONFIRMED, read_at)
    one = run(PartitionClocks(1e9, slowest=True, idle_s=35.0), whole, [])
    assert run(PartitionClocks(1e9, slowest=True, idle_s=35.0), whole, cuts) == one


def test_clocks_count_what_was_bounded() -> None:
    operator = PartitionClocks(0.0)
    whole = batch(START + np.arange(5))
    status = np.array([2, 1, 3, 3, 0], np.int8)
    operator.apply(
        Batch(whole.ids, whole.time, whole.x, whole.partition, whole.offset, time_status=status)
    )
    assert operator.counts == {"bounded": 1, "corrected": 2}
    again = PartitionClocks(0.0)
    again.load(operator.state())
    assert again.counts == operator.counts


def test_clocks_read_the_state_of_before() -> None:
    state: State = {"partitions": np.array([3]), "latest": np.array([START])}
    operator = PartitionClocks(0.0, slowest=True)
    operator.load(state)
    assert len(operator.apply(batch([START - 1, START + 1], 3, TimeStatus.CONFIRMED))) == 1


@pytest.mark.parametrize("cuts", [[], [5], list(range(1, 36))])
def test_clocks_resolve_the_second_pass_through_an_hour(cuts: list[int]) -> None:
    """The night of 27 October 2024 in Vienna, a row every ten minutes from 23:00 UTC."""
    right = 1_729_983_600 + 600.0 * np.arange(36)
    first = np.where((right >= 1_729_990_800) & (right < 1_729_994_400), right - 3600, right)
    ids, clocks, _ = run(
        PartitionClocks(0.0, zone=TimeZone("Europe/Vienna")), batch(first, 0, 1), cuts
    )
    assert ids == list(range(36))
    assert clocks == right.tolist()
