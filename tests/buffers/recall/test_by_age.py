from typing import Any

import numpy as np
import pytest

from buffers.recall.by_age import ByAge, Exponential, PowerLaw


def chances(rule: ByAge, n: int, draws: int) -> np.ndarray:
    rng = np.random.default_rng(2)
    first = np.array([rule.draw(1, n, rng)[0] for _ in range(draws)])
    return np.bincount(first, minlength=n)


LAWS: dict[str, tuple[type[ByAge], dict[str, Any], list[float]]] = {
    # Eight rows that came as the 1st, ..., 8th of 8: their ages are 7/8, 6/8, ..., 0.
    "power-law": (PowerLaw, {}, [1 / (1 + 10 * age / 8) for age in range(7, -1, -1)]),
    "steep power-law": (
        PowerLaw,
        {"exponent": 2.0, "grain": 0.5},
        [1 / (1 + age / 4) ** 2 for age in range(7, -1, -1)],
    ),
    "power-law with a horizon": (  # of 4 rows
        PowerLaw,
        {"horizon": 4},
        [1 / 11, 1 / 11, 1 / 11, 1 / 11, 1 / 8.5, 1 / 6, 1 / 3.5, 1],
    ),
    "exponential": (Exponential, {}, [np.exp(-3 * age / 8) for age in range(7, -1, -1)]),
}


@pytest.mark.parametrize("capacity", [8, 800])  # few rows, where lots are as large, and many
@pytest.mark.parametrize(("law", "settings", "weights"), LAWS.values(), ids=LAWS.keys())
def test_draws_follow_age(
    law: type[ByAge], settings: dict[str, Any], weights: list[float], capacity: int
) -> None:
    rule = law(capacity, **settings)
    for lot in range(8):  # slots lot, lot + 8, lot + 16, ...
        rule.put(np.arange(lot, capacity, 8), lot + 1)
    runs = 12000
    counts = chances(rule, capacity, runs).reshape(-1, 8).sum(axis=0)
    expected = runs * np.array(weights) / sum(weights)
    # 7 degrees of freedom: 99.9% are below 24.3.
    assert ((counts - expected) ** 2 / expected).sum() < 24.3


def test_ages_are_shares_of_the_stream() -> None:
    rule = PowerLaw(4)
    rule.put(np.arange(4), 100)
    assert rule.row_values(4)["age"].tolist() == [0, 0, 0, 0]
    rule.put(np.array([1]), 400)
    rule.move(np.array([3]), np.array([0]))
    rule.put(np.array([3]), 1000)
    np.testing.assert_allclose(rule.row_values(4)["age"], [0.9, 0.6, 0.9, 0])


@pytest.mark.parametrize(
    ("rule", "setting"),
    [
        (PowerLaw, {"exponent": -1.0}),
        (PowerLaw, {"grain": 0.0}),
        (PowerLaw, {"horizon": 0}),
        (Exponential, {"rate": float("nan")}),
        (Exponential, {"horizon": 0}),
    ],
)
def test_settings_out_of_range_raise_with_name(rule: type[ByAge], setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(setting))}: .* is expected"):
        rule(10, **setting)
