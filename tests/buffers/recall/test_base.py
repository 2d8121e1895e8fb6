import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from buffers.buffer import Buffer
from buffers.recall.base import RecallOutcome, Uniform
from buffers.registry import RECALLS, find_recall


@given(k=st.integers(0, 80), filled=st.integers(0, 400), seed=st.integers(0, 99))
def test_draw_has_no_duplicates(k: int, filled: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    uniform = Uniform(400)
    for _ in range(5):
        slots = uniform.draw(k, filled, rng)
        assert slots.dtype == np.int64
        assert len(set(slots.tolist())) == len(slots) == min(k, filled)
        assert all(0 <= slot < filled for slot in slots.tolist())


@pytest.mark.parametrize(("k", "filled"), [(2, 50), (12, 50), (13, 50), (40, 50), (50, 50)])
def test_slots_are_equally_likely_at_each_position(k: int, filled: int) -> None:
    runs = 6000
    uniform, rng = Uniform(1000), np.random.default_rng(3)
    draws = np.array([uniform.draw(k, filled, rng) for _ in range(runs)])
    # 49 degrees of freedom: 99.9% of flat counts are below 85.4.
    for place in (0, k // 2, k - 1):
        counts = np.bincount(draws[:, place], minlength=filled)
        assert ((counts - runs / filled) ** 2 / (runs / filled)).sum() < 85.4
    counts = np.bincount(draws.ravel(), minlength=filled)
    expected = runs * k / filled
    assert ((counts - expected) ** 2 / expected).sum() < 85.4


def test_pairs_are_equally_likely() -> None:
    runs, filled = 20000, 12
    uniform, rng = Uniform(filled), np.random.default_rng(4)
    counts = np.zeros((filled, filled))
    for _ in range(runs):
        a, b, _ = uniform.draw(3, filled, rng)
        counts[a, b] += 1
    pairs = counts[~np.eye(filled, dtype=bool)]
    # 131 degrees of freedom: 99.9% of flat counts are below 187.
    assert np.trace(counts) == 0
    assert ((pairs - runs / 132) ** 2 / (runs / 132)).sum() < 187


@pytest.mark.parametrize("name", RECALLS)
def test_draws_depend_on_state_alone(name: str) -> None:
    rule, twin = find_recall(name)(300), find_recall(name)(300)
    rng = np.random.default_rng(0)
    for k in (5, 60, 100):
        rule.put(np.arange(k), k)
        rule.draw(k, 300, rng)
    twin.load(rule.state(300))
    one, other = np.random.default_rng(1), np.random.default_rng(1)
    for k in (5, 60, 100):
        np.testing.assert_array_equal(rule.draw(k, 300, one), twin.draw(k, 300, other))


class Counting(np.random.Generator):
    """Counts the numbers that are asked for."""

    numbers = 0

    def random(self, size: int) -> np.ndarray:  # type: ignore[override]
        self.numbers += size
        return super().random(size)

    def permutation(self, x: int) -> np.ndarray:  # type: ignore[override]
        self.numbers += x
        return super().permutation(x)


@pytest.mark.parametrize("name", RECALLS)
def test_work_of_draw_is_independent_of_capacity(name: str) -> None:
    numbers = []
    for capacity in (10**3, 10**5, 10**6):
        rng, rule = Counting(np.random.PCG64(0)), find_recall(name)(capacity)
        slots = np.arange(capacity)
        for tenth in range(10):  # rows of all ages and strengths, as many of each in a thousand
            rule.put(slots[tenth::10], (tenth + 1) * capacity // 10)
            rule.present(slots[:0], capacity // 10)
        for _ in range(3):
            rule.update(slots, RecallOutcome(np.zeros(capacity, np.float32), slots // 10 % 4 > 0))
        for draw in range(480):
            if draw == 80:  # by then the size of lots has settled
                rng.numbers = 0
            rule.draw(2, capacity, rng)
        numbers.append(rng.numbers)
    assert max(numbers) <= 1.07 * min(numbers)
    assert max(numbers) <= 400 * 2 * 13


@pytest.mark.parametrize("capacity", [512, 1024, 500])
def test_intervals_count_all_phases_of_a_schedule(capacity: int) -> None:
    """A sweep through 512 rows by 32 takes 16 draws."""
    rng, rule = np.random.default_rng(0), find_recall("repeated-random")(capacity)
    rule.put(np.arange(capacity), capacity)
    every = np.zeros(63, np.int64)
    for draw in range(4000):
        slots = rule.draw(32, capacity, rng)
        if draw > 100:
            bins = np.log2(rule.clock + 32 - rule.last[slots]).astype(int)
            every += np.bincount(bins, minlength=63)
        rule.present(slots, 32)
    np.testing.assert_allclose(
        rule.intervals / rule.intervals.sum(), every / every.sum(), atol=0.05
    )


def test_clock_counts_presentations() -> None:
    buffer = Buffer(100, "ring", find_recall("uniform")(100, views=4))
    buffer.add(np.arange(100), y=np.zeros(100, int))
    buffer.sample(2)
    assert buffer.recall.clock == 8
    buffer.sample(2, draws=3, presentations=10)
    assert buffer.recall.clock == 38
    buffer = Buffer(100, "ring", "highest-loss")
    buffer.add(np.arange(3), y=np.zeros(3, int))
    candidates = buffer.sample(2)
    assert buffer.recall.clock == 0
    buffer.choose(candidates, np.array([0]), 2)
    assert buffer.recall.clock == 2
