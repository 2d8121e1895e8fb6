"""The generator: its likelihood against quadrature, its moments, drift, and its stream."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streams.core.batch import Batch
from streams.integrations.sequences.hawkes import HawkesProcess, HawkesStream, HawkesStreamConfig

MU = np.array([[0.3, 0.1], [0.05, 0.6]])
ALPHA = np.array([[[0.5, 0.2], [0.1, 0.3]], [[0.0, 0.6], [0.3, 0.1]]])
ENDS = np.array([4.0, np.inf])


def intensity(process: HawkesProcess, t: float, time: Any, kind: Any) -> Any:
    """Return the intensities (k,) at t by the definition."""
    period = int(np.searchsorted(process.ends, t, side="right"))
    past = time < t
    kernel = process.b * np.exp(-process.b * (t - time[past]))
    return process.mu[period] + process.alpha[period][:, kind[past]] @ kernel


def test_scores_are_those_of_fine_quadrature() -> None:
    """Across a change of the parameters at 4 seconds, and with two events at one time."""
    process = HawkesProcess(MU, ALPHA, 1.5, ENDS)
    time, kind = np.array([0.5, 1.0, 1.0, 2.5, 6.0, 6.2]), np.array([0, 1, 1, 0, 1, 0])
    of_time, of_type = process.scores(time, kind)
    for i in range(5):
        if time[i] == time[i + 1]:
            continue
        parts = np.unique(np.clip([time[i], 4.0, time[i + 1]], time[i], time[i + 1]))
        total = 0.0
        for a, b in pairwise(parts):
            t = np.linspace(a + 1e-9, b - 1e-9, 4001)
            rates = [intensity(process, each, time[: i + 1], kind[: i + 1]).sum() for each in t]
            total += np.trapezoid(rates, t)
        rates = intensity(process, time[i + 1], time[: i + 1], kind[: i + 1])
        assert of_time[i] == pytest.approx(total - np.log(rates.sum()), abs=1e-5)
        assert of_type[i] == pytest.approx(-np.log(rates[kind[i + 1]] / rates.sum()), abs=1e-6)
    assert np.isnan(of_time[-1])


def test_poisson_process_has_its_known_scores() -> None:
    """Without excitation: rate 2 costs 1 - ln 2 = 0.307 nats an event."""
    process = HawkesProcess(np.array([[1.5, 0.5]]), np.zeros((1, 2, 2)), 1.0, np.array([np.inf]))
    time, kind = process.simulate(20_000.0, np.random.default_rng(0))
    of_time, of_type = process.scores(time, kind)
    assert np.nanmean(of_time) == pytest.approx(1 - np.log(2), abs=0.03)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert np.nanmean(of_type) == pytest.approx(entropy, abs=0.02)


def test_mean_rate_is_that_of_theory() -> None:
    """The stationary rates are (I - alpha)^-1 mu (Hawkes 1971)."""
    process = HawkesProcess(MU[:1], ALPHA[:1], 1.5, np.array([np.inf]))
    _, kind = process.simulate(20_000.0, np.random.default_rng(1))
    rates = np.bincount(kind) / 20_000
    assert rates == pytest.approx(np.linalg.solve(np.eye(2) - ALPHA[0], MU[0]), rel=0.05)


def test_integrals_between_events_are_exponential() -> None:
    """The integral of the intensity from event to event has mean 1 and variance 1 (random time
    change; Daley and Vere-Jones 2003, 7.4), also where parameters change."""
    process = HawkesProcess(MU, ALPHA, 1.5, np.array([5000.0, np.inf]))
    time, kind = process.simulate(10_000.0, np.random.default_rng(2))
    of_time, _ = process.scores(time, kind)
    integrals = []
    for i in range(len(time) - 1):
        rows = slice(max(i - 200, 0), i + 1)  # older ones have no effect left
        rates = intensity(process, time[i + 1], time[rows], kind[rows])
        integrals.append(of_time[i] + np.log(rates.sum()))
    assert np.mean(integrals) == pytest.approx(1, abs=0.04)
    assert np.var(integrals) == pytest.approx(1, abs=0.12)


def stream(**settings: Any) -> HawkesStream:
    small = {"kind": "hawkes", "events": 2000, "users": 20, **settings}
    return HawkesStream(HawkesStreamConfig.model_validate(small), Path())


def test_stream_is_in_order_and_in_equal_slices() -> None:
    made = stream()
    batch = Batch.concat(list(made.read({}, 300)))
    assert len(batch) == len(made) == pytest.approx(2000, rel=0.2)
    assert (np.diff(batch.time) >= 0).all()
    assert batch.segment is not None
    counts = np.bincount(batch.segment)
    assert len(counts) == made.tasks == 8
    assert counts.max() - counts.min() <= 1
    assert [start for start, _ in made.begins] == [0, *np.cumsum(counts)[:-1]]
    assert batch.classes == made.schema.classes == ("0", "1", "2", "3", "4")


@pytest.mark.parametrize("start", [0, 1, 777])
def test_stream_reads_on_from_any_cursor(start: int) -> None:
    made = stream()
    whole, rest = (Batch.concat(list(made.read({"0": at}, 100))) for at in (0, start))
    assert np.array_equal(rest.ids, whole.ids[start:])
    assert np.array_equal(rest.time, whole.time[start:])
    assert np.array_equal(rest.y, whole.y[start:])  # type: ignore[arg-type, index]


def test_seed_makes_the_stream() -> None:
    times = [stream(seed=seed).events.time for seed in (1, 1, 2)]
    assert np.array_equal(times[0], times[1])
    assert not np.array_equal(times[0][:50], times[2][:50])


def test_tests_are_of_other_users_and_labelled() -> None:
    made = stream()
    tests = [made.task_test(i) for i in range(made.tasks)]
    assert not set(made.events.user) & set(made.test.user)
    rows = Batch.concat(tests)
    known = len(made.test) - len(np.unique(made.test.user))  # the last of each has no next event
    assert len(rows) == known
    for i, test in enumerate(tests):
        assert (test.segment == i).all()
        assert test.wait is not None
        assert test.y is not None
        row = int(-1 - test.ids[0])
        later = np.flatnonzero(made.test.user[row + 1 :] == made.test.user[row])[0] + row + 1
        assert test.y[0] == made.test.kind[later]
        assert test.wait[0] == made.test.time[later] - made.test.time[row]


def test_concepts_come_back() -> None:
    process = stream(concepts=2).process
    assert np.array_equal(process.alpha[0], process.alpha[2])
    assert not np.array_equal(process.alpha[0], process.alpha[1])
    assert process.alpha.sum(1).max() == pytest.approx(0.6)
