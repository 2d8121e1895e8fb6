import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from buffers.admission.base import MAX_CLASSES, Admission
from buffers.admission.class_balanced import ClassBalanced
from buffers.admission.reservoir import Reservoir
from buffers.admission.ring import RandomInsert, Ring
from buffers.registry import ADMISSIONS, find_admission

Cuts = st.lists(st.integers(0, 40), max_size=12)


def offer(
    rule: Admission, y: np.ndarray, cuts: list[int], seed: int, kept: dict[int, int] | None = None
) -> dict[int, int]:
    """Offers the stream ``y`` in batches of these sizes, then the rest: slot -> position."""
    rng = np.random.default_rng(seed)
    kept = {} if kept is None else kept
    bounds = [*np.minimum(np.cumsum([0, *cuts]), len(y)).tolist(), len(y)]
    for start, stop in pairwise(bounds):
        x = np.sin(np.arange(start, stop)[:, None] * np.arange(1, 6))
        rows, slots = rule.place({"y": y[start:stop], "x": x}, stop - start, rng)
        assert len(set(slots.tolist())) == len(slots) == len(rows)
        assert rows.dtype == slots.dtype == np.int64
        kept |= dict(zip(slots.tolist(), (rows + start).tolist(), strict=True))
        assert sorted(kept) == list(range(rule.filled))
    return kept


def imbalanced(n: int, classes: int, seed: int) -> np.ndarray:
    """A stream in which every class is half as frequent as the one before."""
    share = 0.5 ** np.arange(classes)
    return np.random.default_rng(seed).choice(classes, n, p=share / share.sum())


def chi_square(counts: np.ndarray, expected: float) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


# --- what every rule promises


@pytest.mark.parametrize("name", ADMISSIONS)
@given(capacity=st.integers(1, 50), n=st.integers(0, 200), cuts=Cuts, seed=st.integers(0, 99))
def test_placement_is_independent_of_batch_cuts(
    name: str, capacity: int, n: int, cuts: list[int], seed: int
) -> None:
    y = imbalanced(n, 5, seed)
    whole, cut, single = (find_admission(name)(capacity) for _ in range(3))
    kept = offer(whole, y, [], seed)
    assert offer(cut, y, cuts, seed) == kept
    assert offer(single, y, [1] * n, seed) == kept
    assert whole.seen == n
    assert whole.filled == min(n, capacity)
    for a, b in zip(whole.state().values(), cut.state().values(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ADMISSIONS)
@given(
    capacity=st.integers(1, 40),
    n=st.integers(0, 150),
    data=st.data(),
    seed=st.integers(0, 99),
)
def test_forget_moves_last_rows_into_holes(
    name: str, capacity: int, n: int, data: st.DataObject, seed: int
) -> None:
    rule = find_admission(name)(capacity)
    kept = offer(rule, imbalanced(n, 4, seed), [], seed)
    gone = data.draw(st.sets(st.integers(0, max(0, len(kept) - 1)), max_size=len(kept)))
    expected = sorted(row for slot, row in kept.items() if slot not in gone)

    source, target = rule.forget(np.array(sorted(gone), np.int64))
    for a, b in zip(source.tolist(), target.tolist(), strict=True):
        kept[b] = kept[a]
    kept = {slot: row for slot, row in kept.items() if slot < rule.filled}
    assert sorted(kept.values()) == expected
    assert len(source) <= len(gone)

    after = imbalanced(100, 4, seed + 1)
    twin = find_admission(name)(capacity)
    twin.load(rule.state())
    apart = offer(twin, after, [7, 30], seed, dict(kept))
    assert offer(rule, after, [], seed, kept) == apart


@pytest.mark.parametrize("name", ADMISSIONS)
def test_state_is_arrays_and_json(name: str) -> None:
    rule = find_admission(name)(10)
    offer(rule, imbalanced(50, 3, 0), [], 0)
    rule.forget(np.array([2]))
    for value in rule.state().values():
        assert isinstance(value, np.ndarray) or json.dumps(value)


@pytest.mark.parametrize("name", ADMISSIONS)
def test_capacity_below_one_raises(name: str) -> None:
    with pytest.raises(ValueError, match="capacity"):
        find_admission(name)(0)


# --- reservoir


def algorithm_r(n: int, capacity: int, seed: int) -> dict[int, int]:
    rng = np.random.default_rng(seed)
    kept: dict[int, int] = {}
    for i in range(n):
        slot = i if i < capacity else int(rng.random() * (i + 1))
        if slot < capacity:
            kept[slot] = i
    return kept


@given(capacity=st.integers(1, 60), n=st.integers(0, 400), cuts=Cuts, seed=st.integers(0, 99))
def test_reservoir_is_algorithm_r(capacity: int, n: int, cuts: list[int], seed: int) -> None:
    y = np.zeros(n, np.int64)
    assert offer(Reservoir(capacity), y, cuts, seed) == algorithm_r(n, capacity, seed)


def test_reservoir_rows_are_equally_likely() -> None:
    runs, n, capacity = 4000, 60, 15
    counts = np.zeros(n)
    for seed in range(runs):
        kept = offer(Reservoir(capacity), np.zeros(n, np.int64), [11, 20], seed)
        counts[list(kept.values())] += 1
    # 59 degrees of freedom: 99.9% of flat counts are below 98.3.
    assert chi_square(counts, runs * capacity / n) < 98.3


def test_reservoir_stays_uniform_after_deletions() -> None:
    runs, n, capacity = 4000, 40, 12
    counts = np.zeros(2 * n)
    sizes = []
    for seed in range(runs):
        rule = Reservoir(capacity)
        rng = np.random.default_rng(seed)
        kept: dict[int, int] = {}
        for start in (0, n):
            rows, slots = rule.place({}, n, rng)
            kept |= dict(zip(slots.tolist(), (rows + start).tolist(), strict=True))
            if start == 0:  # half of what was seen so far is deleted, kept or not
                gone = np.array([slot for slot, row in kept.items() if row % 2], np.int64)
                source, target = rule.forget(gone)
                kept |= {b: kept[a] for a, b in zip(source.tolist(), target.tolist(), strict=True)}
                kept = {slot: row for slot, row in kept.items() if slot < rule.filled}
        counts[list(kept.values())] += 1
        sizes.append(len(kept))
    live = np.concatenate((np.arange(0, n, 2), np.arange(n, 2 * n)))
    assert counts.sum() == counts[live].sum()
    # 59 degrees of freedom, as above; inclusion is capacity / seen for every live row.
    assert chi_square(counts[live], runs * capacity / (2 * n)) < 98.3
    assert max(sizes) <= capacity


# --- ring


@given(capacity=st.integers(1, 50), n=st.integers(0, 300), cuts=Cuts)
def test_ring_keeps_last_rows(capacity: int, n: int, cuts: list[int]) -> None:
    kept = offer(Ring(capacity), np.zeros(n, np.int64), cuts, 0)
    assert sorted(kept.values()) == list(range(max(0, n - capacity), n))


@given(
    capacity=st.integers(1, 12),
    steps=st.lists(st.tuples(st.integers(0, 20), st.sets(st.integers(0, 11))), max_size=10),
)
def test_ring_evicts_oldest_after_deletions(
    capacity: int, steps: list[tuple[int, set[int]]]
) -> None:
    rule, rng = Ring(capacity), np.random.default_rng(0)
    kept: dict[int, int] = {}
    expected: list[int] = []
    seen = 0
    for n, holes in steps:
        rows, slots = rule.place({}, n, rng)
        kept |= dict(zip(slots.tolist(), (rows + seen).tolist(), strict=True))
        expected = (expected + list(range(seen, seen + n)))[-capacity:]
        seen += n
        gone = sorted(slot for slot in holes if slot < rule.filled)
        dropped = {kept[slot] for slot in gone}
        expected = [row for row in expected if row not in dropped]
        source, target = rule.forget(np.array(gone, np.int64))
        kept |= {b: kept[a] for a, b in zip(source.tolist(), target.tolist(), strict=True)}
        kept = {slot: row for slot, row in kept.items() if slot < rule.filled}
        assert sorted(kept.values()) == sorted(expected)


# --- random-insert


def test_random_insert_keeps_new_rows_and_fades_old() -> None:
    runs, capacity = 4000, 10
    left = np.zeros(40)
    for seed in range(runs):
        kept = offer(RandomInsert(capacity), np.zeros(40, np.int64), [13, 8], seed)
        assert 39 in kept.values()
        left[list(kept.values())] += 1
    # (1 - 1/10)**n after n more; the first ten count from when the buffer was full.
    expected = 0.9 ** np.minimum(np.arange(39, -1, -1), 30)
    # Six standard errors: 0.047 at most.
    np.testing.assert_allclose(left / runs, expected, atol=0.047)


# --- class-balanced


def plain_class_balanced(y: np.ndarray, capacity: int, seed: int) -> dict[int, int]:
    """The paper's algorithm, row by row, with one uniform number for each row."""
    rng = np.random.default_rng(seed)
    kept: dict[int, int] = {}
    members: dict[int, list[int]] = {}
    offered: Counter[int] = Counter()
    full: set[int] = set()
    for i, code in enumerate(y.tolist()):
        u = rng.random()
        own = members.setdefault(code, [])
        offered[code] += 1
        if len(kept) < capacity:
            slot = len(kept)
            own.append(slot)
        elif code in full:
            index = int(u * offered[code])
            if index >= len(own):
                continue
            slot = own[index]
        else:
            size = max(map(len, members.values()))
            largest = sorted(c for c, slots in members.items() if len(slots) == size)
            pick = int(u * size * len(largest))
            slots = members[largest[pick // size]]
            slot, slots[pick % size] = slots[pick % size], slots[-1]
            slots.pop()
            own.append(slot)
        kept[slot] = i
        if len(kept) == capacity:
            size = max(map(len, members.values()))
            full |= {c for c, slots in members.items() if len(slots) == size}
    return kept


@given(
    capacity=st.one_of(st.integers(1, 6), st.integers(1, 40)),
    n=st.integers(0, 300),
    classes=st.integers(1, 8),
    cuts=Cuts,
    by_class=st.booleans(),
    seed=st.integers(0, 99),
)
def test_class_balanced_equals_plain_algorithm(
    capacity: int, n: int, classes: int, cuts: list[int], by_class: bool, seed: int
) -> None:
    y = imbalanced(n, classes, seed)
    if by_class:
        y = np.sort(y)
    kept = offer(ClassBalanced(capacity), y, cuts, seed)
    assert kept == plain_class_balanced(y, capacity, seed)


@given(capacity=st.integers(8, 60), n=st.integers(1, 600), cuts=Cuts, seed=st.integers(0, 99))
def test_class_balanced_is_as_balanced_as_possible(
    capacity: int, n: int, cuts: list[int], seed: int
) -> None:
    y = imbalanced(n, 8, seed)
    kept = offer(ClassBalanced(capacity), y, cuts, seed)
    stored, seen = Counter(y[list(kept.values())].tolist()), Counter(y.tolist())
    assert stored.keys() == seen.keys()  # no class is lost while there is a slot for each
    # Either all rows of a class are kept, or no class has two rows more.
    most = max(stored.values())
    assert all(stored[c] == seen[c] or stored[c] >= most - 1 for c in seen)


def test_class_balanced_rows_of_class_are_equally_likely() -> None:
    runs, capacity = 3000, 12
    y = np.array([0, 0, 1, 0, 0, 2] * 10)
    counts = np.zeros(len(y))
    for seed in range(runs):
        kept = offer(ClassBalanced(capacity), y, [5, 30], seed)
        counts[list(kept.values())] += 1
    # 99.9% of flat counts are below 73.4 with 39 degrees of freedom, below 27.9 with 9.
    for code, limit in ((0, 73.4), (1, 27.9), (2, 27.9)):
        own = counts[y == code]
        assert chi_square(own, own.mean()) < limit


def test_class_balanced_deleted_class_can_return() -> None:
    rule = ClassBalanced(20)
    y = np.array([0, 1] * 50)
    kept = offer(rule, y, [], 0)
    gone = np.array([slot for slot, row in kept.items() if y[row] == 1], np.int64)
    source, target = rule.forget(gone)
    kept |= {b: kept[a] for a, b in zip(source.tolist(), target.tolist(), strict=True)}
    kept = {slot: row for slot, row in kept.items() if slot < rule.filled}
    assert {y[row] for row in kept.values()} == {0}
    rng = np.random.default_rng(1)
    rule.place({"y": np.zeros(10, np.int64)}, 10, rng)
    assert len(rule.place({"y": np.ones(5, np.int64)}, 5, rng)[0]) == 5


def test_relabelled_rows_count_for_new_class() -> None:
    rule = ClassBalanced(6)
    kept = offer(rule, np.array([0, 0, 0, 1, 1, 1, 0, 0]), [], 0)
    ones = np.array([slot for slot in kept if rule.state()["slots"].tolist().index(slot) >= 3])
    rule.relabel(ones, np.ones(3, np.int64), np.zeros(3, np.int64))
    state = rule.state()
    assert state["sizes"].tolist() == [6, 0]
    assert state["offered"].tolist() == [8, 0]
    assert state["full"].tolist() == [0]
    rng = np.random.default_rng(0)
    assert len(rule.place({"y": np.array([1, 1, 1])}, 3, rng)[0]) >= 1
    assert rule.state()["sizes"].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("y", "given"),
    [
        (np.array([0, -1]), "-1"),
        (np.array([0, MAX_CLASSES]), str(MAX_CLASSES)),
        (np.array([0.0, 1.0]), "float64"),
        (np.zeros((2, 3), np.int64), r"\(2, 3\)"),
        (None, "no column"),
    ],
)
def test_class_balanced_without_class_codes_raises(y: np.ndarray | None, given: str) -> None:
    rule = ClassBalanced(4)
    with pytest.raises(ValueError, match=rf"column 'y': .*{given}"):
        rule.place({} if y is None else {"y": y}, 2, np.random.default_rng(0))
    assert rule.seen == rule.filled == 0
