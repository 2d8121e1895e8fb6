from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from buffers.recall.base import RecallOutcome
from buffers.recall.by_forgetting_curve import ForgettingCurve, retention_probability
from experiments.studies.controls import Reversed

Times = st.floats(0, 1e4)
Strengths = st.floats(1, 16)


def outcome(*correct: bool) -> RecallOutcome:
    return RecallOutcome(np.zeros(len(correct), np.float32), np.array(correct))


def test_retention_worked_by_hand() -> None:
    assert retention_probability(0, 3, 100) == 1
    np.testing.assert_allclose(
        retention_probability([50, 100, 400], 1, 100), [0.60653, 0.36788, 0.018316], 1e-4
    )
    np.testing.assert_allclose(
        retention_probability(100, [1, 2, 4], 100), [0.36788, 0.60653, 0.77880], 1e-4
    )


@given(time=Times, more=st.floats(1, 1e3), strength=Strengths, stronger=st.floats(1.01, 4))
def test_retention_falls_with_time_and_grows_with_strength(
    time: float, more: float, strength: float, stronger: float
) -> None:
    now = retention_probability(time, strength, 1000)
    assert retention_probability(time + more, strength, 1000) < now
    if time > 1:
        assert retention_probability(time, strength * stronger, 1000) > now

    def published(elapsed: float, strength: float) -> float:  # MemoryBank's code: exp(-t / 5 * S)
        return float(np.exp(-elapsed / 5 * strength))

    if 1 < time < 100:
        assert published(time, strength * stronger) < published(time, strength)


@given(times=st.lists(st.floats(0, 300), min_size=1, max_size=10), strength=Strengths)
def test_retention_is_memoryless(times: list[float], strength: float) -> None:
    steps = np.prod([retention_probability(time, strength, 500) for time in times])
    np.testing.assert_allclose(steps, retention_probability(sum(times), strength, 500), rtol=1e-5)
    # To apply the whole time at every look, as MemoryBank does, forgets too much.
    looks = np.cumsum(times)
    if len(looks) > 1 and looks[0] > 1:
        repeated = np.prod(retention_probability(looks, strength, 500))
        assert repeated < 0.999 * steps


def test_strength_grows_by_success_and_resets_by_failure() -> None:
    rule = ForgettingCurve(4, growth=3, strongest=20)
    rule.put(np.arange(4), 4)
    for _ in range(2):
        rule.update(np.array([0, 1, 3]), outcome(True, True, True))
    rule.update(np.array([1, 3]), outcome(False, True))
    assert rule.row_values(4)["strength"].tolist() == [9, 1, 1, 20]
    rule.put(np.array([3]), 5)
    rule.move(np.array([0]), np.array([2]))
    assert rule.row_values(4)["strength"].tolist() == [9, 1, 9, 1]


def test_retention_counts_from_last_recall() -> None:
    rule = ForgettingCurve(10, views=2, cycles=0.5)  # a time constant of 10 presentations
    rule.put(np.arange(4), 4)
    rule.present(np.array([0, 1]), 10)
    rule.update(np.array([0, 1]), outcome(True, False))
    np.testing.assert_allclose(rule.row_values(4)["retention"], [1, 1, 0.36788, 0.36788], 1e-4)
    rule.present(np.array([3]), 10)
    np.testing.assert_allclose(
        rule.row_values(4)["retention"], [0.60653, 0.36788, 0.13534, 1], 1e-4
    )
    rule.put(np.array([2]), 5)
    assert rule.row_values(4)["retention"][2] == 1


@pytest.mark.parametrize(("rule", "chance"), [(ForgettingCurve, 1), (Reversed, -1)])
@pytest.mark.parametrize("capacity", [8, 2000])  # few rows, where lots are as large, and many
def test_draws_follow_forgetting(rule: type[ForgettingCurve], chance: int, capacity: int) -> None:
    curve, rng = rule(capacity, floor=0.2), np.random.default_rng(5)
    ages = np.array([0, 0.5, 1, 3]) * capacity
    strengths = np.array([1, 8])
    curve.clock = 3 * capacity
    curve.last = (curve.clock - np.resize(ages, capacity)).astype(np.int64)
    curve.strength = np.resize(np.repeat(strengths, 4), capacity).astype(np.float32)
    runs = 16000
    first = np.array([curve.draw(1, capacity, rng)[0] for _ in range(runs)])
    counts = np.bincount(first % 8, minlength=8)
    retained = np.exp(-np.tile([0, 0.5, 1, 3], 2) / np.repeat(strengths, 4))
    weights = 0.2 + (1 - retained if chance > 0 else retained)
    expected = runs * weights / weights.sum()
    # 7 degrees of freedom: 99.9% are below 24.3.
    assert ((counts - expected) ** 2 / expected).sum() < 24.3


def test_known_row_waits_longer_than_unknown() -> None:
    capacity, k = 200, 10
    rule, rng = ForgettingCurve(capacity), np.random.default_rng(0)
    rule.put(np.arange(capacity), capacity)
    waits: dict[bool, list[int]] = {True: [], False: []}
    known = np.arange(capacity) < 100
    for draw in range(3000):
        slots = rule.draw(k, capacity, rng)
        if draw > 500:
            for slot in slots.tolist():
                waits[bool(known[slot])].append(rule.clock - int(rule.last[slot]))
        rule.present(slots, k)
        rule.update(slots, outcome(*known[slots].tolist()))
    assert rule.row_values(capacity)["strength"].reshape(2, 100).mean(axis=1).tolist() == [16, 1]
    # Over 12 seeds 2.47 to 2.53 times as long; with strength on the wrong side of the fraction, as
    # in MemoryBank's code, 0.6 times.
    assert np.mean(waits[True]) > 2 * np.mean(waits[False])


@pytest.mark.parametrize(
    "setting",
    [
        {"cycles": 0.0},
        {"cycles": float("nan")},
        {"growth": 1.0},
        {"strongest": 0.5},
        {"strongest": float("inf")},
        {"floor": 0.0},
    ],
)
def test_settings_out_of_range_raise_with_name(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(setting))}: .* is expected"):
        ForgettingCurve(10, **setting)
