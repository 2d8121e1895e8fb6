"""Merging of trained parameters."""

from __future__ import annotations

import numpy as np
import pytest

from learners.base import LearnerError, NotFiniteError
from learners.pretrained.merging import History, average, ties, weighted
from streams.core.batch import Array

State = dict[str, Array]


def states(k: int) -> list[State]:
    rng = np.random.default_rng(k)
    return [
        {"down": rng.normal(size=(2, 3)).astype(np.float32), "up": rng.normal(size=4)}
        for _ in range(k)
    ]


def same(one: State, other: State) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one.keys() | other.keys())


def close(one: State, other: State) -> None:
    for name, array in one.items():
        np.testing.assert_allclose(array, other[name], rtol=1e-6, atol=1e-7)


def test_average_is_the_mean() -> None:
    given = states(3)
    merged = average(given)
    assert merged["down"].dtype == np.float32
    close(merged, {name: np.mean([s[name] for s in given], 0) for name in given[0]})
    assert same(average(given[:1]), given[0])


def test_weights_are_divided_by_their_sum() -> None:
    given = states(2)
    close(weighted(given, [3, 1]), {n: 0.75 * given[0][n] + 0.25 * given[1][n] for n in given[0]})
    close(weighted(given, [30, 10]), weighted(given, [0.75, 0.25]))
    assert same(weighted(given, [0, 2]), given[1])


def test_prefix_sums_are_the_naive_mean() -> None:
    given, history = states(5), History()
    for k, state in enumerate(given, 1):
        history.add(state)
        close(history.mean(), average(given[:k]))
    assert history.count == 5


def test_a_merge_moves_by_alpha_towards_the_mean() -> None:
    *earlier, state = states(4)
    history = History()
    assert same(history.merged(state, 0.5), state)  # there is nothing to merge with
    for old in earlier:
        history.add(old)
    before = {name: array.copy() for name, array in state.items()}
    assert same(history.merged(state, 0.0), state)
    close(history.merged(state, 1.0), average(earlier))
    close(history.merged(state, 0.1), weighted([state, average(earlier)], [0.9, 0.1]))
    assert same(state, before)


def test_each_merge_retains_one_minus_alpha() -> None:
    old, state = states(2)
    history = History()
    history.add(old)
    merged = state
    for step in range(1, 6):
        merged = history.merged(merged, 0.1)
        for name, array in merged.items():
            retained = (array - old[name]) / (state[name] - old[name])
            np.testing.assert_allclose(retained, 0.9**step, rtol=1e-4)


def test_ties_by_hand() -> None:
    """Ten parameters, of which a density of 0.4 keeps four."""
    ancestor = {"a": np.array([1.0, 1, 1, 1, 1]), "b": np.zeros((5, 1))}
    one = np.array([4.0, -3, 2, 0, 0.5, 0, 0, 0, 1, 0.1])  # trimmed: 4, -3, 2, ., ., . . . 1, .
    two = np.array([2.0, 1, -2, 3, 0.1, 0, 0, 0, 0.2, 0])  # trimmed: 2, 1, -2, 3, then 0
    given = [
        {"a": ancestor["a"] + change[:5], "b": ancestor["b"] + change[5:, None]}
        for change in (one, two)
    ]
    # Sums: 6, -2, 0, 3, 0 ... 1. Means over those of this sign: 3, -3, none, 3, 0, ... 1.
    merged = ties(ancestor, given, density=0.4)
    np.testing.assert_allclose(merged["a"], [4, -2, 1, 4, 1])
    np.testing.assert_allclose(merged["b"], [[0], [0], [0], [1], [0]])
    half = ties(ancestor, given, density=0.4, strength=0.5)
    np.testing.assert_allclose(half["a"], [2.5, -0.5, 1, 2.5, 1])


def test_ties_of_one_state_is_that_state() -> None:
    ancestor, state = states(2)
    close(ties(ancestor, [state], density=1.0), state)


def test_what_does_not_fit_is_refused() -> None:
    one, two = states(2)
    with pytest.raises(LearnerError, match=r"'up' is \(4,\) in the first, and \(3,\) in state 1"):
        average([one, {**two, "up": two["up"][:3]}])
    with pytest.raises(LearnerError, match="at least one state"):
        average([])
    with pytest.raises(LearnerError, match="one weight >= 0 for each of 2"):
        weighted([one, two], [1, -1])
    with pytest.raises(LearnerError, match=r"density in \(0, 1\]"):
        ties(one, [two], density=0)
    with pytest.raises(LearnerError, match="no earlier state"):
        History().mean()


def test_order_of_names_is_of_no_account() -> None:
    ancestor, *trained = states(4)
    turned = [{"up": state["up"], "down": state["down"]} for state in trained]
    assert same(ties(ancestor, turned, 0.5), ties(ancestor, trained, 0.5))
    assert same(average([trained[0], *turned[1:]]), average(trained))


def test_what_is_not_finite_is_refused() -> None:
    good, bad = states(2)
    bad["up"][1] = np.nan
    history = History()
    with pytest.raises(NotFiniteError, match="'up' of state 1"):
        weighted([good, bad], [1, 0])
    with pytest.raises(NotFiniteError, match="'up' of state 2"):
        ties(good, [good, bad])
    with pytest.raises(NotFiniteError):
        history.add(bad)
    assert history.count == 0
    for weights in ([np.inf, 1], [1e308, 1e308]):
        with pytest.raises(LearnerError, match="finite sum"):
            weighted([good, good], weights)
    with pytest.raises(LearnerError, match="finite strength"):
        ties(good, [good], 1.0, np.nan)


def test_states_without_parameters_merge_to_none() -> None:
    assert average([{}, {}]) == ties({}, [{}, {}]) == {}
