import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from buffers.recall.repeated_random import RepeatedRandom


@given(n=st.integers(1, 60), ks=st.lists(st.integers(0, 60), max_size=40), seed=st.integers(0, 99))
def test_sweep_draws_each_row_once(n: int, ks: list[int], seed: int) -> None:
    rule, rng = RepeatedRandom(60), np.random.default_rng(seed)
    drawn: list[int] = []
    for k in ks:
        slots = rule.draw(k, n, rng).tolist()
        assert len(set(slots)) == len(slots) == min(k, n)
        drawn += slots
        counts = np.bincount(drawn, minlength=n)
        assert len(counts) == n
        assert counts.max() - counts.min() <= 1
    for start in range(0, len(drawn) - n + 1, n):
        assert sorted(drawn[start : start + n]) == list(range(n))


@pytest.mark.parametrize(("n", "k"), [(40, 4), (40, 13)])
def test_sweep_orders_are_equally_likely(n: int, k: int) -> None:
    runs, rng = 4000, np.random.default_rng(1)
    counts = np.zeros((3, n))
    for _ in range(runs):
        rule = RepeatedRandom(100)
        sweep = np.concatenate([rule.draw(k, n, rng) for _ in range(3)])
        counts[range(3), sweep[[0, k, 3 * k - 1]]] += 1
    # 39 degrees of freedom: 99.9% of flat counts are below 72.1.
    for places in counts:
        assert ((places - runs / n) ** 2 / (runs / n)).sum() < 72.1


def test_two_sweeps_differ() -> None:
    rule, rng = RepeatedRandom(100), np.random.default_rng(2)
    one, other = (np.concatenate([rule.draw(10, 100, rng) for _ in range(10)]) for _ in range(2))
    assert sorted(one.tolist()) == sorted(other.tolist())
    assert (one == other).sum() < 10


def test_new_slot_joins_current_sweep() -> None:
    rule, rng = RepeatedRandom(20), np.random.default_rng(3)
    rule.put(np.arange(6), 6)
    drawn = rule.draw(4, 6, rng).tolist()
    rule.put(np.array([6, 7]), 8)
    drawn += rule.draw(4, 8, rng).tolist()
    assert sorted(drawn) == list(range(8))


def test_moved_row_keeps_its_turn() -> None:
    rule, rng = RepeatedRandom(20), np.random.default_rng(4)
    rule.put(np.arange(8), 8)
    first = rule.draw(4, 8, rng).tolist()
    # Delete one row that had its turn and one that had not; the last rows come in their place.
    gone = sorted([first[0], next(slot for slot in range(8) if slot not in first)])
    rows = {slot: slot for slot in range(8) if slot not in gone}
    left = [slot for slot in gone if slot < 6]
    last = [slot for slot in (6, 7) if slot not in gone]
    rule.move(np.array(last, int), np.array(left, int))
    for source, target in zip(last, left, strict=True):
        rows[target] = rows.pop(source)
    drawn = [rows[slot] for slot in rule.draw(3, 6, rng).tolist()]
    assert sorted(drawn) == sorted(set(range(8)) - set(first) - set(gone))
