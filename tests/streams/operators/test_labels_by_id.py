"""The window of event time in which a label that arrives on its own may meet its event."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.core.batch import Batch, Labels
from streams.core.state_dict import copied, digest
from streams.operators.labels_by_id import JoinById

NAN = math.nan


class ArrivingLabel(NamedTuple):
    before: int
    id: int
    y: int
    time: float = NAN


def stream(times: list[float], labels: list[ArrivingLabel], ids: list[int] | None = None) -> Batch:
    """Events with ids 0, 1, ..., and labels, in the order of ``before``."""
    n, m = len(times), len(labels)
    arrivals = Labels(
        ids=np.array([label.id for label in labels], np.int64),
        y=np.array([label.y for label in labels], np.int64),
        time=np.array([label.time for label in labels], float),
        partition=np.zeros(m, np.int32),
        offset=np.arange(m),
        insert_before=np.array([label.before for label in labels], np.int64),
    )
    return Batch(
        ids=np.arange(n) if ids is None else np.array(ids, np.int64),
        time=np.array(times, float),
        x=np.zeros((n, 1)),
        partition=np.zeros(n, np.int32),
        offset=np.arange(n),
        classes=("a", "b", "c"),
        arrivals=arrivals,
    )


class Seen(NamedTuple):
    """How a join stands after some events."""

    waiting: int
    counts: dict[str, int]


class Done(NamedTuple):
    """What came of a stream. ``learned``: (id, label, position of the event that came next)."""

    learned: list[tuple[int, int, int]]
    fates: dict[int, str]
    counts: dict[str, int]
    corrected: list[tuple[int, int]]
    seen: dict[int, Seen]


def joined(batch: Batch, cuts: list[int], *args: Any, **options: Any) -> Done:
    """The join's answer, with the stream cut at ``cuts``, and taken up from its state at each."""
    done = Done([], {}, {}, [], {})
    join = JoinById(*args, exact=True, **options)
    for start, stop in pairwise([0, *cuts, len(batch)]):
        part = batch[start:stop]
        pushed = join.push(part)
        revealed = pushed.revealed
        outcome = pushed.settle(np.zeros(len(part), np.int64), None).outcome()
        columns = (revealed.batch.ids, revealed.batch.y, revealed.insert_before + start)
        done.learned.extend(zip(*(c.tolist() for c in columns), strict=True))  # type: ignore[union-attr]
        if revealed.corrected is not None:
            done.corrected.extend(zip(*(c.tolist() for c in revealed.corrected), strict=True))
        fates(done, outcome)
        done.seen[stop] = Seen(len(join), dict(join.counts))
        again = JoinById(*args, exact=True, **options)
        again.load(copied(join.state()), batch.classes)
        assert digest(again.state()) == digest(join.state())
        join = again
    for _, settled in join.finish(7):
        fates(done, settled.outcome())
    done.counts.update(join.counts)
    return done


def fates(done: Done, outcome: Any) -> None:
    for fate in ("learned", "expired", "unlabelled"):
        for i in getattr(outcome, fate).tolist():
            assert i not in done.fates, f"{i} meets two fates"
            done.fates[i] = fate


def plain(
    batch: Batch,
    timeout_events: int,
    label_timeout_seconds: float | None = None,
    lateness: float = 0.0,
) -> Done:
    """The same, one event and one label at a time, by lists that are searched from end to end."""
    span = math.inf if label_timeout_seconds is None else label_timeout_seconds + lateness
    times, n = batch.time.tolist(), len(batch)
    arrivals = batch.arrivals
    assert arrivals is not None
    columns = (arrivals.insert_before, arrivals.ids, arrivals.y, arrivals.time)
    labels = [ArrivingLabel(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]
    done = Done([], {}, {}, [], {})
    counts = dict.fromkeys(("duplicate", "corrected", "late", "early", "stray"), 0)
    held: list[ArrivingLabel] = []
    given: dict[int, int] = {}

    def now(j: int) -> float:
        return max(times[:j], default=-math.inf)

    def has_expired(k: int, j: int) -> bool:
        return k not in given and (j - k > timeout_events or now(j) > times[k] + span)

    for j in range(n + 1):
        for old in [h for h in held if now(j) > h.time + span]:
            held.remove(old)
            counts["stray"] += 1
        for k in range(j):
            if has_expired(k, j):
                done.fates[k] = "expired"
        waiting = sum(k not in given and not has_expired(k, j) for k in range(j))
        done.seen[j] = Seen(waiting, dict(counts))
        for label in [label for label in labels if label.before == j]:
            _, i, y, time = label
            same = [h for h in held if h.id == i]
            if y < 0:
                continue
            if i in given:
                if given[i] != y:
                    done.corrected.append((i, y))
                counts["duplicate" if given[i] == y else "corrected"] += 1
                given[i] = y
            elif done.fates.get(i) == "expired":
                counts["late"] += 1
            elif i < j:
                given[i] = y
                done.learned.append((i, y, j))
                done.fates[i] = "learned"
            elif now(j) > time + span:
                counts["stray"] += 1
            elif same:
                counts["duplicate" if same[0].y == y else "corrected"] += 1
                held[held.index(same[0])] = label
            else:
                counts["early"] += 1
                held.append(label)
                if len(held) > timeout_events:
                    del held[0]
                    counts["stray"] += 1
        if j == n:
            done.seen[n] = Seen(sum(k not in done.fates for k in range(n)), dict(counts))
        for mine in [h for h in held if h.id == j < n]:
            held.remove(mine)
            given[j] = mine.y
            done.learned.append((j, mine.y, j + 1))
            done.fates[j] = "learned"
    counts["stray"] += len(held)
    for k in range(n):
        done.fates.setdefault(k, "unlabelled")
    done.counts.update(counts)
    return done


def counted(**counts: int) -> dict[str, int]:
    return dict.fromkeys(("duplicate", "corrected", "late", "early", "stray"), 0) | counts


CUTS = [[], [1, 2, 3, 4, 5, 6], [3], [2, 5]]


@pytest.mark.parametrize("cuts", CUTS)
def test_event_expires_after_its_timeout_seconds(cuts: list[int]) -> None:
    # Times 0, 4, 10, 11, 12, 30; a window of 10. Event 0 still waits at time 10, not at 11.
    times = [0.0, 4.0, 10.0, 11.0, 12.0, 30.0, 31.0]
    labels = [
        ArrivingLabel(3, 0, 1),  # at time 10: on the edge
        ArrivingLabel(5, 1, 2),  # at time 12, 8 after event 1
        ArrivingLabel(6, 2, 0),  # at time 30, 20 after event 2: late
        ArrivingLabel(6, 3, 0),
        ArrivingLabel(7, 3, 0),  # late again
    ]
    done = joined(stream(times, labels), cuts, 100, label_timeout_seconds=10.0)
    assert done.learned == [(0, 1, 3), (1, 2, 5)]
    late = dict.fromkeys((2, 3, 4), "expired")
    assert done.fates == {0: "learned", 1: "learned", 5: "unlabelled", 6: "unlabelled"} | late
    assert done.counts == counted(late=3)


@pytest.mark.parametrize("cuts", CUTS)
def test_label_just_after_the_timeout_is_late(cuts: list[int]) -> None:
    times = [0.0, 10.0, 10.5, 10.5, 10.5, 10.5, 10.5]
    done = joined(
        stream(times, [ArrivingLabel(3, 0, 1), ArrivingLabel(3, 1, 1)]),
        cuts,
        100,
        label_timeout_seconds=10.0,
    )
    assert done.learned == [(1, 1, 3)]
    assert done.fates[0] == "expired"
    # Events come up to half a second out of order: then 10.5 proves no more than 10 does.
    options = {"label_timeout_seconds": 10.0, "lateness": 0.5}
    done = joined(
        stream(times, [ArrivingLabel(3, 0, 1), ArrivingLabel(3, 1, 1)]), cuts, 100, **options
    )
    assert done.learned == [(0, 1, 3), (1, 1, 3)]
    assert done.counts == counted()


@pytest.mark.parametrize("cuts", CUTS)
def test_event_time_does_not_step_back(cuts: list[int]) -> None:
    # Event 2, of time 9, comes when event time is 20 already: its window has passed.
    times = [0.0, 20.0, 9.0, 12.0, 10.0, 20.0, 30.0]
    labels = [ArrivingLabel(3, 2, 1), ArrivingLabel(4, 3, 1), ArrivingLabel(5, 4, 1)]
    done = joined(stream(times, labels), cuts, 100, label_timeout_seconds=10.0)
    assert done.learned == [(3, 1, 4), (4, 1, 5)]
    assert [i for i, fate in done.fates.items() if fate == "expired"] == [0, 2]
    assert done.counts == counted(late=1)


@pytest.mark.parametrize("cuts", CUTS)
def test_early_labels_expire_by_their_own_time(cuts: list[int]) -> None:
    times = [0.0, 5.0, 11.0, 12.0, 13.0, 14.0, 40.0]
    labels = [
        ArrivingLabel(1, 3, 1, 0.0),  # at time 11, before event 3, its window has passed: stray
        ArrivingLabel(1, 2, 1, 0.0),  # event 2 comes at time 5: held for it
        ArrivingLabel(1, 5, 2),  # of no known time: held
        ArrivingLabel(1, 99, 1, 3.0),  # stray once event time is 14
        ArrivingLabel(4, 98, 1, 1.0),  # at time 12, 11 seconds old: not held
    ]
    done = joined(stream(times, labels), cuts, 100, label_timeout_seconds=10.0)
    assert done.learned == [(2, 1, 3), (5, 2, 6)]
    assert done.counts == counted(early=4, stray=3)
    if 6 in cuts:
        assert done.seen[5].counts["stray"] == 2
        assert done.seen[6].counts["stray"] == 3


def test_the_bound_of_memory_stays() -> None:
    done = joined(
        stream([0.0] * 7, [ArrivingLabel(4, 0, 1), ArrivingLabel(4, 1, 1)]),
        [],
        3,
        label_timeout_seconds=10.0,
    )
    assert done.learned == [(1, 1, 4)]
    assert [i for i, fate in done.fates.items() if fate == "expired"] == [0, 2, 3]
    assert done.counts == counted(late=1)


@pytest.mark.parametrize("cuts", CUTS)
def test_an_id_that_comes_back(cuts: list[int]) -> None:
    """Each label goes to the newest event of its id that has come."""
    batch = stream(
        [0.0] * 7, [ArrivingLabel(1, 5, 1), ArrivingLabel(6, 5, 2)], ids=[5, 1, 2, 5, 3, 4, 6]
    )
    join = JoinById(100)
    met = []
    for start, stop in pairwise([0, *cuts, 7]):
        pushed = join.push(batch[start:stop])
        revealed = pushed.revealed
        pushed.settle(np.zeros(stop - start, np.int64), None)
        columns = revealed.batch.offset, revealed.batch.y
        met += zip(*(c.tolist() for c in columns), strict=True)  # type: ignore[union-attr]
    assert met == [(0, 1), (3, 2)]
    assert join.counts == counted()


def test_event_without_a_time_has_no_timeout_seconds() -> None:
    done = joined(
        stream([0.0, NAN, 100.0], [ArrivingLabel(3, 1, 1), ArrivingLabel(3, 0, 1)]),
        [1],
        9,
        label_timeout_seconds=1.0,
    )
    assert done.learned == [(1, 1, 3)]
    assert done.counts == counted(late=1)


@st.composite
def streams(draw: st.DrawFn) -> Batch:
    steps = st.sampled_from([0.0, 0.5, 1.0, 3.0, -2.0])
    times = np.cumsum(draw(st.lists(steps, min_size=1, max_size=30))).tolist()
    n = len(times)
    label = st.builds(
        ArrivingLabel,
        st.integers(0, n),
        st.integers(0, n + 3),
        st.integers(-1, 2),
        st.sampled_from([NAN, 0.0, 1.0, 4.5, 9.0]),
    )
    labels = sorted(draw(st.lists(label, max_size=40)), key=lambda found: found.before)
    return stream(times, labels)


@settings(max_examples=400)
@given(
    streams(),
    st.lists(st.integers(1, 29), max_size=8),
    st.integers(1, 12),
    st.sampled_from([None, 0.0, 1.0, 2.5, 6.0]),
    st.sampled_from([0.0, 1.0]),
)
def test_as_one_by_one(
    batch: Batch,
    cuts: list[int],
    timeout_events: int,
    label_timeout_seconds: float | None,
    lateness: float,
) -> None:
    """Any stream, cut anywhere: labels, fates and counts are those of a search by hand."""
    cuts = sorted({cut for cut in cuts if cut < len(batch)})
    done = joined(
        batch, cuts, timeout_events, label_timeout_seconds=label_timeout_seconds, lateness=lateness
    )
    slow = plain(batch, timeout_events, label_timeout_seconds, lateness)
    assert done.learned == slow.learned
    assert done.fates == slow.fates
    assert done.counts == slow.counts
    assert dict(done.corrected) == dict(slow.corrected)
    for stop in cuts:
        assert done.seen[stop] == slow.seen[stop]
    # Every label is accounted for.
    arrivals = batch.arrivals
    assert arrivals is not None
    ended = sum(count for name, count in done.counts.items() if name != "early")
    assert len(done.learned) + ended == np.count_nonzero(arrivals.y >= 0)
    assert Counter(done.fates.values())["learned"] == len(done.learned)


def test_timers_are_bounded_when_time_stands_still() -> None:
    """What was to be looked at when a window passes is forgotten with what it was for."""
    join = JoinById(50, label_timeout_seconds=10.0)
    for k in range(400):
        ids = np.arange(k * 8, k * 8 + 8)
        again = [ArrivingLabel(8, int(i), 0, 1.0) for i in ids] + [
            ArrivingLabel(8, 10**6 + k, 0, 1.0)
        ]
        batch = stream([1.0] * 8, again, ids.tolist())
        pushed = join.push(batch)
        assert len(pushed.revealed) == 8
        pushed.settle(np.zeros(8, np.int64), None)
        assert len(join._chunk_timers._heap) <= 20
        assert len(join._early_timers._heap) <= 2 * 51 + 17
    assert len(join) == 0


def test_checkpoint_without_timeouts_loads() -> None:
    batch = stream([0.0, 1.0, 2.0], [ArrivingLabel(1, 7, 2, 0.0)])
    old = JoinById(10)
    pushed = old.push(batch)
    pushed.settle(np.zeros(3, np.int64), None)
    state = copied(old.state())
    del state["now"], state["early_time"]
    join = JoinById(10, label_timeout_seconds=5.0)
    join.load(state, batch.classes)
    later = replace(stream([6.0, 6.5], [ArrivingLabel(1, 1, 1)]), ids=np.array([7, 8]))
    pushed = join.push(later)
    revealed = pushed.revealed
    outcome = pushed.settle(np.zeros(2, np.int64), None).outcome()
    assert revealed.batch.ids.tolist() == [7, 1]
    assert outcome.expired.tolist() == [0]
