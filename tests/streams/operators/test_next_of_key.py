"""The join of sequences against a simulator: next events, silence, cuts, timeouts and resume."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from streams.core.batch import Batch
from streams.core.state_dict import copied, digest
from streams.operators.next_of_key import NextOfKey
from streams.operators.outcomes import Outcome, outcome_of

N = 300


class Label(NamedTuple):
    """A label as the simulator gives it: of which event, before which, and what it is."""

    id: int
    before: int
    y: int
    wait: float


def events(n: int = N, users: int = 6, seed: int = 0, back: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    offset = np.arange(n)
    time = np.cumsum(rng.integers(0, 3, n)) * 1.0
    if back:  # never more than ``back`` seconds behind the latest
        time -= np.where(rng.random(n) < 0.3, rng.integers(0, back + 1, n), 0)
    key, y = rng.integers(0, users, n), rng.integers(0, 3, n)
    key[n // 3 : n // 2] %= 2  # the others are silent for long
    x = {"user": key}
    part = np.zeros(n, np.int32)
    return Batch(offset, time, x, part, offset, y, key=key, classes=("a", "b", "c"))


def simulated(batch: Batch, horizon: float, lateness: float, timeout: int) -> list[Label]:
    """Return all labels by the definition, in the order in which they become known."""
    assert batch.key is not None
    assert batch.y is not None
    waiting: dict[int, tuple[int, float, float]] = {}  # by key: event, its time, the clock then
    labels: list[Label] = []
    now = -np.inf
    for i in range(len(batch)):
        now = max(now, float(batch.time[i]))
        waiting = {k: w for k, w in waiting.items() if i - w[0] <= timeout}
        for key, (event, _, clock) in sorted(waiting.items(), key=lambda item: item[1][0]):
            if clock + (horizon + lateness) < now:
                labels.append(Label(event, i, -1, horizon))
                del waiting[key]
        key, time = int(batch.key[i]), float(batch.time[i])
        if key in waiting:
            event, last, _ = waiting[key]
            time = max(time, last)
            came = time - last <= horizon
            label = (int(batch.y[i]), time - last) if came else (-1, horizon)
            labels.append(Label(event, i, *label))
        waiting[key] = (i, time, now)
    return labels


def joined(join: NextOfKey, batch: Batch, size: int) -> tuple[list[Label], Outcome]:
    """Return all labels that the join gives out, and the outcomes of predictions of the id."""
    labels, scored = [], []
    for part in batch.micro_batches(size):
        pushed = join.push(part)
        out = pushed.revealed
        start = int(part.offset[0])
        assert out.batch.y is not None
        assert out.batch.wait is not None or not len(out)
        wait = np.zeros(0) if out.batch.wait is None else out.batch.wait
        rows = zip(out.batch.ids, out.insert_before + start, out.batch.y, wait, strict=True)
        labels += [Label(int(i), int(b), int(y), float(w)) for i, b, y, w in rows]
        proba = np.tile(part.ids[:, None] * 1.0, (1, 3))
        forecast = np.tile(part.ids[:, None, None] * 1.0, (1, 2, 2))
        scored.append(pushed.settle(part.ids % 3, proba, forecast))
    return labels, outcome_of(scored)


@pytest.mark.parametrize("size", [1, 7, 64, N])
@pytest.mark.parametrize(
    ("horizon", "back", "timeout"),
    [(np.inf, 0, 10_000), (9.0, 0, 10_000), (9.0, 4, 10_000), (9.0, 4, 12), (np.inf, 4, 3)],
)
def test_labels_are_those_of_the_simulator(
    size: int, horizon: float, back: int, timeout: int
) -> None:
    batch = events(back=back)
    join = NextOfKey(None if np.isinf(horizon) else horizon, back, timeout)
    labels, outcome = joined(join, batch, size)
    expected = simulated(batch, horizon, back, timeout)
    assert labels == expected
    assert outcome.ids.tolist() == [label.id for label in expected]
    assert outcome.wait is not None
    assert outcome.wait.tolist() == [label.wait for label in expected]
    assert outcome.forecast is not None
    assert outcome.proba is not None
    assert np.array_equal(outcome.forecast[:, 1, 1], outcome.ids)  # the forecast of that event
    assert np.array_equal(outcome.proba[:, 0], outcome.ids)
    kinds = {label.y for label in labels}
    assert (-1 in kinds) == np.isfinite(horizon)
    rest = [revealed for revealed, _ in join.finish(50)]
    fates = sum(len(each) for each in (outcome.learned, outcome.expired))
    assert not sum(map(len, rest))  # what waits at the end has no label
    assert fates + len(simulated_open(batch, expected, timeout)) == N


def simulated_open(batch: Batch, labels: list[Label], timeout: int) -> set[int]:
    """Return the events that still wait after the last one."""
    done = {label.id for label in labels}
    return {i for i in range(len(batch)) if i not in done and len(batch) - i <= timeout}


def test_event_of_a_length_one_sequence_has_no_label() -> None:
    join = NextOfKey(None, 0.0, 10_000)
    joined(join, events(1), 1)
    ((revealed, scored),) = join.finish(10)
    assert len(revealed) == 0
    assert scored.outcome().unlabelled.tolist() == [0]


def test_events_at_equal_times_wait_for_zero_seconds() -> None:
    batch = replace(events(3, users=1), time=np.array([5.0, 5.0, 5.0]))
    labels, _ = joined(NextOfKey(2.0, 0.0, 100), batch, 3)
    assert [label.wait for label in labels] == [0.0, 0.0]


def test_horizon_includes_its_last_moment() -> None:
    """After exactly ``horizon`` seconds an event still counts, and silence is not certain yet."""
    batch = replace(events(2, users=1), time=np.array([0.0, 9.0]))
    labels, _ = joined(NextOfKey(9.0, 0.0, 100), batch, 1)
    assert labels[0].wait == 9
    assert labels[0].y >= 0


def test_probe_is_scored_and_not_learned() -> None:
    batch = events()
    probe = batch.ids % 5 == 0
    _, outcome = joined(NextOfKey(9.0, 0.0, 10_000), replace(batch, probe=probe), 16)
    assert len(outcome.probe)
    assert set(outcome.probe % 5) == {0}
    assert not (outcome.learned % 5 == 0).any()
    assert len(outcome.ids) == len(outcome.learned) + len(outcome.probe)


@pytest.mark.parametrize("stop", [0, 1, 40, 111, 160, 299])
@pytest.mark.parametrize("timeout", [10_000, 12])
def test_join_continues_from_a_state(stop: int, timeout: int) -> None:
    batch = events(back=4)
    whole, donor = (NextOfKey(9.0, 4.0, timeout) for _ in range(2))
    all_labels, outcome = joined(whole, batch, 10)
    first, _ = joined(donor, batch[:stop], 10) if stop else ([], None)
    heir = NextOfKey(9.0, 4.0, timeout)
    heir.load(copied(donor.state()), batch.classes)
    assert digest(heir.state()) == digest(donor.state())
    rest, after = joined(heir, batch[stop:], 10)
    assert first + rest == all_labels
    assert outcome.forecast is not None
    assert after.forecast is not None
    assert np.array_equal(after.forecast, outcome.forecast[len(first) :])
    if stop % 10 == 0:
        assert digest(heir.state()) == digest(whole.state())


def test_memory_is_bounded_by_the_timeout() -> None:
    """Keys that never come back leave neither events nor keys behind."""
    n = 2000
    batch = replace(events(n), key=np.arange(n), time=np.arange(n) * 0.001)
    join = NextOfKey(1e9, 0.0, 100)
    joined(join, batch, 25)
    assert len(join) == 100
    assert len(join._latest) == 100
    assert len(join._due) <= 2 * 125 + 16


def test_clock_of_the_stream_tells_when_nothing_came() -> None:
    """Where partitions are interleaved, the stream is as far as its slowest: not one far time of an
    event says that nothing came to other keys."""
    n = 6
    time = np.array([0.0, 1e6, 1.0, 2.0, 30.0, 31.0])
    clock = np.array([0.0, 0.0, 1.0, 2.0, 30.0, 31.0])
    batch = replace(events(n), time=time, clock=clock, key=np.array([0, 1, 2, 3, 4, 4]))
    join = NextOfKey(10.0, 0.0, 100)
    labels, _ = joined(join, batch, 2)
    assert [(label.id, label.before, label.y) for label in labels[:3]] == [
        (0, 4, -1),
        (2, 4, -1),
        (3, 4, -1),
    ]
    assert labels[3].id == 4
    assert len(labels) == 4  # event 1 waits for its far time
