from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from buffers.buffer import Buffer
from buffers.recall.when_due import WhenDue

RNG = np.random.default_rng(0)


def buffer(capacity: int, views: int, rows: int, rest: bool = False) -> Buffer:
    made = Buffer(capacity, "ring", WhenDue(capacity, views, rest))
    made.add(np.arange(rows), y=np.zeros(rows, np.int64))
    return made


@pytest.mark.parametrize(("n", "k", "views"), [(60, 10, 4), (60, 60, 2), (12, 1, 1), (500, 20, 16)])
@pytest.mark.parametrize("rest", [False, True])
def test_recall_interval_is_views_times_rows(n: int, k: int, views: int, rest: bool) -> None:
    memory, at = buffer(n, views, n, rest), defaultdict(list)
    # With rest the first are due in draw n // k.
    for _ in range(6 * n // k - 1 if rest else 5 * n // k):
        clock = memory.recall.clock
        for slot in memory.sample(k).slots.tolist():
            at[slot].append(clock)
    assert {gap for times in at.values() for gap in np.diff(times).tolist()} == {views * n}
    assert {slot: len(times) for slot, times in at.items()} == dict.fromkeys(range(n), 5)


def test_intervals_count_by_powers_of_two() -> None:
    memory = buffer(60, 4, 60)
    for _ in range(6):
        memory.sample(10)
    memory.recall.intervals.fill(0)
    for _ in range(6 * 16):
        memory.sample(10)
    intervals = memory.recall.intervals  # of some draws: all after 240 presentations
    assert intervals[7] == intervals.sum() > 0


def test_rest_draws_longest_due_rows_only() -> None:
    memory = buffer(10, 2, 4, rest=True)  # due after 2 * 4 presentations; a draw of 3 takes 6
    assert memory.sample(3).slots.tolist() == []  # at 6
    assert memory.sample(3).slots.tolist() == [0, 1, 2]  # at 12
    assert memory.sample(3).slots.tolist() == [3]  # at 18: 0, 1, 2 had 6
    memory.add([4], y=[0])  # 10 for each row from now on
    assert memory.sample(3).slots.tolist() == [0, 1, 2]  # at 24: 12 each
    assert memory.sample(3).slots.tolist() == [3, 4]  # at 30: 12 each
    memory.add(np.arange(5, 10), y=np.zeros(5, int))  # 20 for each row
    for _ in range(2):
        assert memory.sample(3).slots.tolist() == []  # up to 42: 18 since 24
    assert memory.recall.draw(9, 10, RNG).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    memory.delete([0, 3])  # the last rows, 8 and 9, are in slots 0 and 3 now
    assert memory.recall.draw(9, 8, RNG).tolist() == [1, 2, 4, 5, 6, 7, 0, 3]


def test_without_rest_draws_are_full() -> None:
    memory = buffer(10, 2, 4)
    assert memory.sample(3).slots.tolist() == [0, 1, 2]
    memory.add([4, 5], y=[0, 0])
    assert memory.sample(3).slots.tolist() == [3, 0, 1]
    assert memory.sample(3).slots.tolist() == [2, 4, 5]
    assert len(memory.sample(9).slots) == 6


Steps = st.lists(
    st.tuples(st.sampled_from(["put", "draw", "draw", "forget"]), st.integers(0, 12)), max_size=40
)


@given(
    capacity=st.integers(1, 12),
    views=st.integers(1, 3),
    rest=st.booleans(),
    steps=Steps,
    seed=st.integers(0, 9),
)
def test_queue_equals_list_by_last_presentation(
    capacity: int, views: int, rest: bool, steps: list[tuple[str, int]], seed: int
) -> None:
    rule, rng = WhenDue(capacity, views, rest), np.random.default_rng(seed)
    waiting: list[tuple[int, int]] = []  # slots and when they were there last, the earliest first
    clock = filled = 0
    for kind, n in steps:
        if kind == "put":
            filled = max(filled, min(n, capacity))
            slots = rng.permutation(filled)[: max(n, 1)]
            fresh = [slot for slot in range(filled) if slot not in dict(waiting)]
            slots = np.array([*fresh, *(slot for slot in slots.tolist() if slot not in fresh)], int)
            rule.put(slots, 0)
            waiting = [each for each in waiting if each[0] not in slots]
            waiting += [(slot, clock) for slot in slots.tolist()]
        elif kind == "forget":
            gone = rng.permutation(filled)[:n]
            left = filled - len(gone)
            target = np.sort(gone[gone < left])
            source = np.array([slot for slot in range(left, filled) if slot not in gone], int)
            rule.move(source, target)
            renamed = dict(zip(source.tolist(), target.tolist(), strict=True))
            waiting = [
                (renamed.get(slot, slot), last) for slot, last in waiting if slot not in gone
            ]
            filled = left
        else:
            due = [
                slot
                for slot, last in waiting
                if not rest or clock + n * views - last >= views * filled
            ][:n]
            slots = rule.draw(n, filled, rng)
            assert slots.tolist() == due
            rule.present(slots, n * views)
            clock += n * views
            waiting = [each for each in waiting if each[0] not in due]
            waiting += [(slot, clock) for slot in due]
