from itertools import permutations

import numpy as np
import pytest

from buffers.recall.base import Ints
from buffers.recall.weighted_base import Weighted, Weights


class Fixed(Weighted):
    """Weights that are given, over and over."""

    name = "fixed"

    def __init__(self, capacity: int, weights: list[float]) -> None:
        super().__init__(capacity)
        self.given = np.array(weights, np.float32)

    def _weights(self, slots: Ints) -> Weights:
        return self.given[slots % len(self.given)]


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("filled", [4, 40, 4000])  # 4 by waiting times, the others by proposals
def test_draws_are_proportional_to_weights(filled: int) -> None:
    rule, rng = Fixed(4000, [0.1, 0.2, 0.3, 1.0]), np.random.default_rng(1)
    runs = 12000
    first = np.array([rule.draw(1, filled, rng)[0] for _ in range(runs)])
    counts = np.bincount(first % 4, minlength=4)
    # 3 degrees of freedom: 99.9% are below 16.3.
    assert chi_square(counts, runs * np.array([0.1, 0.2, 0.3, 1.0]) / 1.6) < 16.3


@pytest.mark.parametrize("lot", [2, 3])  # proposals in the first lot; 6 are worth no lot
def test_draw_equals_sequential_draws_without_replacement(lot: int) -> None:
    # P(a, then b) = w_a / W * w_b / (W - w_a), here W = 2, of which P({a, b}) is the sum of both.
    weights = [1.0, 0.4, 0.3, 0.2, 0.1, 0.00001]
    rule, rng = Fixed(6, weights), np.random.default_rng(lot)
    runs, counts = 20000, np.zeros((6, 6))
    for _ in range(runs):
        rule._share = (2 + 2 * 2**0.5 + 4 / 6) / lot * 1.001  # so that lots are of this size
        a, b = sorted(rule.draw(2, 6, rng).tolist())
        counts[a, b] += 1
    expected = np.zeros((6, 6))
    for a, b in permutations(range(6), 2):
        chance = weights[a] / 2.00001 * weights[b] / (2.00001 - weights[a])
        expected[min(a, b), max(a, b)] += runs * chance
    common = expected > 5
    assert common.sum() == 10
    # 9 degrees of freedom: 99.9% are below 27.9.
    assert chi_square(counts[common], expected[common]) < 27.9


def test_draw_returns_all_distinct_rows() -> None:
    rule, rng = Fixed(500, [1e-6, 1e-6, 1.0]), np.random.default_rng(0)
    for filled in (0, 1, 7, 500):
        for k in (0, 1, 3, 100, 400, 499, 600):
            slots = rule.draw(k, filled, rng)
            assert slots.dtype == np.int64
            assert len(set(slots.tolist())) == len(slots) == min(k, filled)
            assert all(0 <= slot < filled for slot in slots.tolist())


def test_lot_size_adapts() -> None:
    rule, rng = Fixed(10**5, [0.01]), np.random.default_rng(0)
    for _ in range(200):
        assert len(rule.draw(10, 10**5, rng)) == 10
    assert rule.state(0)["share"] == pytest.approx(0.01, rel=0.2)
