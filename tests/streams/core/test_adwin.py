"""ADWIN: where it sees a change, how seldom it sees one that is none, and exact resume."""

from __future__ import annotations

import numpy as np
import pytest
from river import drift

from streams.core.batch import Array
from streams.core.statistics.adwin import Adwin


def changes(values: Array, clock: int = 1) -> list[int]:
    adwin = Adwin(0.002, clock)
    return [i for i, value in enumerate(values.tolist()) if adwin.add(value)]


def means_of_32(rates: Array, seed: int) -> Array:
    return np.random.default_rng(seed).binomial(32, rates) / 32


@pytest.mark.parametrize("seed", range(10))
def test_adwin_detects_the_same_changes_as_river(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(300, 900, 4)
    levels = np.cumsum(rng.uniform(0.2, 0.4, 4)) % 1  # each at least 0.2 from the one before
    values = means_of_32(np.repeat(levels, lengths), seed)
    theirs, seen = drift.ADWIN(0.002, clock=1), []
    for i, value in enumerate(values.tolist()):
        theirs.update(value)
        if theirs.drift_detected:
            seen.append(i)
    ours = changes(values)
    assert ours[0] == seen[0]  # until then the windows are the same
    borders = np.cumsum(lengths)[:-1]
    for border in borders:  # each is seen once it has happened, by both, and soon
        assert any(border < i <= border + 100 for i in ours), (border, ours)
    assert len(ours) <= len(borders) + 1


def test_adwin_without_change_seldom_alarms() -> None:
    alarms = sum(len(changes(means_of_32(np.full(2000, 0.3), seed))) for seed in range(50))
    assert alarms <= 2


def test_adwin_memory_grows_with_the_logarithm() -> None:
    adwin = Adwin(0.002)
    sizes = []
    for i, value in enumerate(means_of_32(np.full(20_000, 0.5), 0).tolist()):
        adwin.add(value)
        if i + 1 in (1250, 5000, 20_000):
            sizes.append(len(adwin.state()["buckets"]))
    assert adwin.width == 20_000
    assert sizes[2] - sizes[1] <= 12
    assert sizes[2] < 80


def test_adwin_mean_and_width_match_its_window() -> None:
    adwin = Adwin(0.002)
    assert np.isnan(adwin.mean)
    values = np.random.default_rng(3).random(777)
    for value in values.tolist():
        adwin.add(value)
    assert adwin.width == 777
    assert adwin.mean == pytest.approx(values.mean())


def test_adwin_loaded_from_state_continues_the_same() -> None:
    values = means_of_32(np.repeat([0.2, 0.5, 0.3], 400), 5)
    whole, first = Adwin(0.002), Adwin(0.002)
    seen = [whole.add(value) for value in values.tolist()]
    again = [first.add(value) for value in values[:555].tolist()]
    second = Adwin(0.002)
    second.load(first.state())
    again += [second.add(value) for value in values[555:].tolist()]
    assert again == seen
    assert sum(seen) >= 2
    np.testing.assert_array_equal(second.state()["buckets"], whole.state()["buckets"])
