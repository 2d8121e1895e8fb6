"""The three label joins against plain simulators that go through the stream event by event.

Both sides give a *trace*: ``("predict", i)`` and ``("learn", i, y, kind)`` in the order in which a
learner that goes event by event would see them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.core.batch import Batch, Labels, Ragged
from streams.core.state_dict import copied, digest
from streams.operators.label_join import LabelJoin
from streams.operators.labels_by_id import JoinById
from streams.operators.labels_in_rows import DelayByEvents, DelayByEventTime

SIZES = (1, 7, 32)
Trace = list[tuple[Any, ...]]


def events(n: int, seed: int = 0, numeric: bool = False, missing: float = 0.1) -> Batch:
    """n events with gaps between their ids, labels that are sometimes missing, and probes."""
    rng = np.random.default_rng(seed)
    y: Any = rng.normal(size=n) if numeric else rng.integers(0, 4, n)
    y[rng.random(n) < missing] = np.nan if numeric else -1
    ids = np.arange(n, dtype=np.int64) * 3 + 5
    return Batch(
        ids=ids,
        time=np.cumsum(rng.integers(0, 3, n)).astype(float),
        x=np.stack([ids, ids * 2], axis=1).astype(float),
        partition=np.zeros(n, np.int32),
        offset=np.arange(n, dtype=np.int64),
        y=y,
        segment=np.arange(n) // 10,
        probe=rng.random(n) < 0.2,
        classes=("a", "b", "c", "d"),
    )


@dataclass
class JoinTrace:
    """What came out of a join, checked on the way."""

    trace: Trace = field(default_factory=list)
    fates: dict[int, str] = field(default_factory=dict)
    met: dict[int, tuple[float, float, float]] = field(default_factory=dict)  # y, value, no_change
    corrected: list[tuple[int, float]] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)

    def take(self, rows: list[int], revealed: Any, outcome: Any) -> None:
        """Joins what is revealed among predictions of ``rows`` into the trace."""
        before = outcome_before = revealed.insert_before.tolist()
        assert before == sorted(before)
        assert all(0 <= b <= len(rows) for b in outcome_before)
        ids, y = revealed.batch.ids.tolist(), revealed.batch.y.tolist()
        np.testing.assert_array_equal(revealed.batch.x[:, 0], revealed.batch.ids)
        at = 0
        for row, i in [*enumerate(rows), (len(rows), None)]:
            while at < len(ids) and before[at] <= row:
                self.trace.append(("learn", ids[at], y[at]))
                at += 1
            if i is not None:
                self.trace.append(("predict", i))
        assert at == len(ids)
        assert outcome.learned.tolist() == ids
        for fate in ("learned", "probe", "unlabelled", "expired"):
            for i in getattr(outcome, fate).tolist():
                assert i not in self.fates, f"{i} meets two fates"
                self.fates[i] = fate
        scored = zip(
            *(getattr(outcome, n).tolist() for n in ("ids", "y", "value", "no_change")), strict=True
        )
        for i, label, value, no_change in scored:
            assert i not in self.met
            self.met[i] = (label, value, no_change)
            assert self.fates[i] in ("learned", "probe")
        if revealed.corrected is not None:
            self.corrected += zip(*(c.tolist() for c in revealed.corrected), strict=True)


def predicted(ids: Any, numeric: bool) -> Any:
    """The prediction for an event: a function of its id, so that it can be told apart."""
    return ids * 0.5 if numeric else ids % 5


def run(
    join: LabelJoin, batch: Batch, size: int, numeric: bool = False, end: bool = True
) -> JoinTrace:
    done = JoinTrace()
    for part in batch.micro_batches(size):
        pushed = join.push(part)
        revealed = pushed.revealed
        assert revealed.batch.segment is None
        outcome = pushed.settle(predicted(part.ids, numeric), None).outcome()
        done.take(part.ids.tolist(), revealed, outcome)
        done.digests.append(digest(join.state()))
    if end:
        for revealed, settled in join.finish(size):
            outcome = settled.outcome()
            done.take([], revealed, outcome)
        assert len(join) == 0
        assert set(done.fates) == set(batch.ids.tolist())
    return done


def known(y: float) -> bool:
    return y == y and y != -1


@dataclass
class Simulator:
    """A stream, one event at a time: the plain meaning of what the joins do in columns."""

    batch: Batch
    timeout_events: int
    numeric: bool = False
    trace: Trace = field(default_factory=list)
    fates: dict[int, str] = field(default_factory=dict)
    met: dict[int, tuple[float, float, float]] = field(default_factory=dict)
    asked: dict[int, float] = field(default_factory=dict)  # id -> last label known when predicted

    def __post_init__(self) -> None:
        assert self.batch.probe is not None
        self.last = np.nan if self.numeric else -1
        self.probes = dict(zip(self.batch.ids.tolist(), self.batch.probe.tolist(), strict=True))

    def predict(self, i: int) -> None:
        self.trace.append(("predict", i))
        self.asked[i] = self.last

    def label(self, i: int, y: float) -> None:
        if not known(y):
            self.fates[i] = "unlabelled"
            return
        self.last = y
        self.met[i] = (y, predicted(i, self.numeric), self.asked[i])
        self.fates[i] = "probe" if self.probes[i] else "learned"
        if not self.probes[i]:
            self.trace.append(("learn", i, y))

    def by_rows(self, known_before: Any) -> Simulator:
        """Labels in the rows. ``known_before(j)``: positions, in order, of the labels that are
        known before event j, but not before event j - 1; j == n: after the last, and so on."""
        n = len(self.batch)
        ids, y = self.batch.ids.tolist(), self.batch.y.tolist()  # type: ignore[union-attr]
        for j in range(n):
            for k in known_before(j):
                if j - k - 1 < self.timeout_events:
                    self.label(ids[k], y[k])
            for k in range(j + 1):
                if j - k >= self.timeout_events:
                    self.fates.setdefault(ids[k], "expired")
            self.predict(ids[j])
        for k in range(n):
            if n - 1 - k >= self.timeout_events:
                self.fates.setdefault(ids[k], "expired")
        for k in known_before(n):
            if self.fates.get(ids[k]) != "expired":
                self.label(ids[k], y[k])
        for i in ids:
            self.fates.setdefault(i, "unlabelled")
        return self


def same(done: JoinTrace, plain: Simulator) -> None:
    assert done.trace == plain.trace
    assert done.fates == plain.fates
    np.testing.assert_equal(done.met, plain.met)


def of_events(batch: Batch, delay: int, timeout_events: int, numeric: bool = False) -> Simulator:
    n = len(batch)
    table: dict[int, list[int]] = {}
    for k in range(n):
        table.setdefault(min(k + max(delay, 1), n), []).append(k)
    return Simulator(batch, timeout_events, numeric).by_rows(lambda j: table.get(j, []))


def of_time(batch: Batch, due: Any, timeout_events: int, numeric: bool = False) -> Simulator:
    n = len(batch)
    now = np.maximum.accumulate(batch.time)
    table: dict[int, list[tuple[float, int]]] = {}
    for k in range(n):
        if not np.isnan(due[k]):
            later = [j for j in range(k + 1, n) if now[j] >= due[k]]
            # Within one gap between two events a label that the clock has reached already comes
            # first; the order of ``due`` is that order.
            table.setdefault(later[0] if later else n, []).append((due[k], k))
    return Simulator(batch, timeout_events, numeric).by_rows(
        lambda j: [k for _, k in sorted(table.get(j, []))]
    )


@pytest.mark.parametrize("numeric", [False, True])
@pytest.mark.parametrize("delay", [0, 1, 5, 48, 500])
def test_by_events(delay: int, numeric: bool) -> None:
    batch = events(150, delay, numeric)
    plain = of_events(batch, delay, 1000, numeric)
    for size in SIZES:
        same(run(DelayByEvents(delay, 1000, exact=True), batch, size, numeric), plain)


@given(st.integers(0, 9), st.integers(0, 70), st.integers(1, 20), st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_by_events_result_is_the_same_at_any_size(delay: int, n: int, size: int, seed: int) -> None:
    batch = events(n, seed)
    same(
        run(DelayByEvents(delay, delay + 1, exact=True), batch, size),
        of_events(batch, delay, delay + 1),
    )


@pytest.mark.parametrize("numeric", [False, True])
@pytest.mark.parametrize("delay", [0.0, 1.0, 7.5, 48.0, 1e9])
@pytest.mark.parametrize("timeout_events", [1, 6, 40, 1000])
def test_by_time(delay: float, timeout_events: int, numeric: bool) -> None:
    batch = events(120, int(delay) % 7, numeric)
    plain = of_time(batch, batch.time + delay, timeout_events, numeric)
    for size in SIZES:
        same(run(DelayByEventTime(delay, timeout_events, exact=True), batch, size, numeric), plain)


@given(st.integers(0, 80), st.integers(1, 20), st.integers(1, 30), st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_by_due_column(n: int, size: int, timeout_events: int, seed: int) -> None:
    """Due before its event, now, later, never; and event time that steps back."""
    batch = events(n, seed)
    rng = np.random.default_rng(seed)
    time = batch.time - rng.integers(0, 3, n)
    due = time + rng.choice([-5.0, 0.0, 1.0, 4.0, 20.0, np.nan], n)
    batch = replace(batch, time=time, due=due)
    same(
        run(DelayByEventTime(None, timeout_events, exact=True), batch, size),
        of_time(batch, due, timeout_events),
    )


class ById(Simulator):
    """Labels that come on their own, one at a time."""

    def go(self, exact: bool = True) -> ById:
        ids, arrivals = self.batch.ids.tolist(), self.batch.arrivals
        assert arrivals is not None
        self.counts = dict.fromkeys(("duplicate", "corrected", "late", "early", "stray"), 0)
        self.corrected: list[tuple[int, float]] = []
        self.position = {i: k for k, i in enumerate(ids)}
        self.current: dict[int, float] = {}  # labels of events that were given out
        self.early: dict[int, float] = {}
        comes = list(
            zip(
                arrivals.insert_before.tolist(),
                arrivals.ids.tolist(),
                arrivals.y.tolist(),
                strict=True,
            )
        )
        for j, i in enumerate(ids):
            for before, k, y in comes:
                if before == j:
                    self.arrive(j, k, y)
            self.predict(i)
            if j - self.timeout_events >= 0:
                self.fates.setdefault(ids[j - self.timeout_events], "expired")
            if i in self.early:
                self.give(i, self.early.pop(i))
        for before, k, y in comes:
            if before == len(ids):
                self.arrive(len(ids), k, y)
        for i in ids:
            self.fates.setdefault(i, "unlabelled")
        self.counts["stray"] += len(self.early)
        return self

    def give(self, i: int, y: float) -> None:
        self.current[i] = y
        self.label(i, y)

    def arrive(self, j: int, i: int, y: float) -> None:
        if not known(y):
            return
        if i in self.current:
            if self.current[i] == y:
                self.counts["duplicate"] += 1
            else:
                self.counts["corrected"] += 1
                self.corrected.append((i, y))
                self.current[i] = y
        elif self.fates.get(i) == "expired":
            self.counts["late"] += 1
        elif self.position.get(i, j) < j:
            self.give(i, y)
        elif i in self.early:
            self.counts["duplicate" if self.early[i] == y else "corrected"] += 1
            self.early[i] = y
        else:
            self.counts["early"] += 1
            self.early[i] = y


def arriving(n: int, seed: int, numeric: bool = False, much: float = 2.0) -> Batch:
    """Labels early, late, twice, corrected, empty, and for events that never come."""
    batch = events(n, seed, numeric)
    rng = np.random.default_rng(seed + 1000)
    m = int(n * much)
    which = rng.integers(0, n + 3, m)
    y: Any = rng.integers(0, 3, m)
    if numeric:
        y = y.astype(float)
    y[rng.random(m) < 0.05] = np.nan if numeric else -1
    before = np.clip(which + rng.integers(-4, 15, m), 0, n)
    order = np.argsort(before, kind="stable")
    arrivals = Labels(
        ids=which[order] * 3 + 5,
        y=y,
        time=before[order].astype(float),
        partition=np.zeros(m, np.int32),
        offset=np.arange(m),
        insert_before=before[order],
    )
    return replace(batch, y=None, arrivals=arrivals)


@given(st.integers(1, 60), st.integers(1, 33), st.integers(1, 30), st.integers(0, 999))
@settings(deadline=None, max_examples=150)
def test_by_id(n: int, size: int, timeout_events: int, seed: int) -> None:
    numeric = seed % 2 == 0
    batch = arriving(n, seed, numeric)
    plain = ById(batch, timeout_events, numeric).go()
    if len(plain.early) + plain.counts["early"] > timeout_events:
        timeout_events = (
            1000  # how many early labels are held may depend on the cuts; see the test below
        )
        plain = ById(batch, timeout_events, numeric).go()
    join = JoinById(timeout_events, exact=True, numeric=numeric)
    done = run(join, batch, size, numeric)
    same(done, plain)
    assert join.counts == plain.counts
    assert dict(done.corrected) == dict(plain.corrected)


def labels(*rows: tuple[int, int, int]) -> Labels:
    """Of (before, id, y)."""
    before, ids, y = (np.array(c, np.int64) for c in zip(*rows, strict=True))
    zero = np.zeros(len(ids), np.int64)
    return Labels(ids, y, zero.astype(float), zero.astype(np.int32), np.arange(len(ids)), before)


def four(*rows: tuple[int, int, int]) -> Batch:
    """Events 5, 8, 11, 14, no probes."""
    batch = events(4)
    return replace(batch, y=None, probe=None, arrivals=labels(*rows))


def test_correction_in_the_same_micro_batch_replaces() -> None:
    rows = (1, 5, 0), (2, 8, 1), (3, 5, 2)
    join = JoinById(10)
    pushed = join.push(four(*rows))
    revealed = pushed.revealed
    assert list(zip(revealed.batch.ids, revealed.batch.y, revealed.insert_before, strict=True)) == [
        (8, 1, 2),
        (5, 2, 3),
    ]
    assert revealed.corrected is None
    # The baseline knows no label before its time.
    assert pushed.settle(np.zeros(4, np.int64), None).outcome().no_change.tolist() == [-1, -1]

    exact = JoinById(10, exact=True)
    pushed = exact.push(four(*rows))
    revealed = pushed.revealed
    assert revealed.batch.y.tolist() == [0, 1]  # type: ignore[union-attr]
    assert [c.tolist() for c in revealed.corrected or ()] == [[5], [2]]
    assert join.counts == exact.counts
    assert join.counts["corrected"] == 1


def test_class_new_with_its_label_has_a_name() -> None:
    join = JoinById(10)
    first = replace(four((4, 99, 0)), classes=("a",))
    pushed = join.push(first)
    pushed.settle(np.zeros(4, np.int64), None)
    later = replace(events(0), y=None, classes=("a", "b"), arrivals=labels((0, 5, 1)))
    pushed = join.push(later)
    revealed = pushed.revealed
    assert revealed.batch.classes == ("a", "b")
    assert revealed.batch.ids.tolist() == [5]


def test_id_used_again_while_it_waits() -> None:
    """Labels go to the newer event; the older expires; a resumed join knows which is which."""
    join = JoinById(6)
    twice = replace(events(8, missing=0), ids=np.array([1, 2, 1, 3, 4, 5, 6, 7]), probe=None)
    twice = replace(twice, y=None, arrivals=labels((3, 1, 2)))
    met, fates = [], []
    for part in twice.micro_batches(1):
        pushed = join.push(part)
        outcome = pushed.settle(np.zeros(1, np.int64), None).outcome()
        met += outcome.ids.tolist()
        fates += outcome.expired.tolist()
        again = JoinById(6)
        again.load(copied(join.state()), twice.classes)
        assert digest(again.state()) == digest(join.state())
        join = again
    assert met == [1]
    assert fates == [1, 2]
    assert len(join) == 5


def test_early_labels_are_bounded_strays_are_counted() -> None:
    join = JoinById(3)
    strays = replace(events(0), y=None, arrivals=labels(*((0, 100 + i, 1) for i in range(10))))
    pushed = join.push(strays)
    pushed.settle(np.empty(0, np.int64), None)
    assert (join.counts["early"], join.counts["stray"]) == (10, 7)
    assert len(join.state()["early_ids"]) == 3
    assert list(join.finish(5)) == []
    assert join.counts["stray"] == 10


def test_past_ids_are_bounded() -> None:
    batch = arriving(300, 1)
    join = JoinById(20, window=16)
    run(join, batch, 8)
    assert len(join.state()["past_ids"]) <= 16


def test_by_id_regression_baseline_starts_unknown() -> None:
    join = JoinById(10, numeric=True)
    empty = replace(events(3, numeric=True), y=None)
    pushed = join.push(empty)
    assert np.isnan(pushed.settle(np.zeros(3), None).outcome().no_change).all()
    assert np.isnan(join.state()["no_change"]).all()


JOINS: dict[str, Any] = {
    "events-0": lambda: (DelayByEvents(0, 100), events(160, 1)),
    "events-1": lambda: (DelayByEvents(1, 100), events(160, 2)),
    "events-48": lambda: (DelayByEvents(48, 100), events(160, 3)),
    "seconds": lambda: (DelayByEventTime(20.0, 25), events(160, 4)),
    "column": lambda: (DelayByEventTime(None, 25), with_due(events(160, 5))),
    "id": lambda: (JoinById(12, window=40), arriving(160, 6)),
    "id-exact": lambda: (JoinById(12, exact=True), arriving(160, 7)),
}


def with_due(batch: Batch) -> Batch:
    rng = np.random.default_rng(0)
    due = batch.time + rng.choice([0.0, 3.0, 40.0, np.nan], len(batch))
    return replace(batch, due=due)


def outputs(join: LabelJoin, parts: list[Batch], size: int) -> list[Any]:
    """All that a join gives out, plainly comparable."""
    found: list[Any] = []

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return (str(value.dtype), value.shape, value.tobytes())
        if isinstance(value, Ragged):
            return value.texts()
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, tuple):
            return tuple(plain(v) for v in value)
        if hasattr(value, "__dataclass_fields__"):
            return {k: plain(getattr(value, k)) for k in value.__dataclass_fields__}
        return value

    for number, part in parts_with_numbers(parts):
        pushed = join.push(part)
        revealed = pushed.revealed
        n, width = len(part), 1 + number // 4
        # The model knows ever more classes, and now and then gives no probabilities.
        proba = None if number % 5 == 4 else np.full((n, width), 1 / width, np.float32)
        found.append(plain((revealed, pushed.settle(predicted(part.ids, False), proba).outcome())))
        found.append(digest(join.state()))
    found += [plain((revealed, s.outcome())) for revealed, s in join.finish(size)]
    found.append(digest(join.state()))
    return found


def parts_with_numbers(parts: list[Batch]) -> list[tuple[int, Batch]]:
    return [(int(part.offset[0]) // 8, part) for part in parts]


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", JOINS)
def test_join_state_resumes_from_any_micro_batch(name: str, mixed: bool) -> None:
    join, batch = JOINS[name]()
    if mixed:
        words = Ragged.of_text([f"w{i}" * (i % 4) for i in range(len(batch))])
        batch = replace(batch, x={"word": words, "number": batch.x[:, 0]})
    parts = list(batch.micro_batches(8))
    whole = outputs(join, parts, 8)
    for stop in range(len(parts) + 1):
        first, _ = JOINS[name]()
        second, _ = JOINS[name]()
        for number, part in parts_with_numbers(parts[:stop]):
            pushed = first.push(part)
            n, width = len(part), 1 + number // 4
            proba = None if number % 5 == 4 else np.full((n, width), 1 / width, np.float32)
            pushed.settle(predicted(part.ids, False), proba)
        second.load(copied(first.state()), batch.classes)
        assert len(second) == len(first)
        assert outputs(second, parts[stop:], 8) == whole[2 * stop :]


def test_probabilities_grow_with_the_classes() -> None:
    join = DelayByEvents(4, 100)
    batch = replace(events(12, missing=0), probe=None)
    outcomes = []
    probas = [np.full((4, 1), 1.0), None, np.full((4, 3), 0.2)]
    for part, proba in zip(batch.micro_batches(4), probas, strict=True):
        pushed = join.push(part)
        outcomes.append(pushed.settle(predicted(part.ids, False), proba).outcome())
    outcomes += [settled.outcome() for _, settled in join.finish(100)]
    assert [o.proba is None for o in outcomes] == [True, False, True, False]
    assert outcomes[1].proba.shape == (4, 1)
    assert outcomes[3].proba.shape == (4, 3)

    ragged = DelayByEvents(4, 100)
    parts = list(batch.micro_batches(2))
    for number, part in enumerate(parts):
        pushed = ragged.push(part)
        pushed.settle(
            predicted(part.ids, False), np.full((2, number + 1), 0.5) if number % 2 else None
        )
    ((_, settled),) = ragged.finish(100)
    outcome = settled.outcome()
    np.testing.assert_array_equal(outcome.proba, [[np.nan] * 6] * 2 + [[0.5] * 6] * 2)


def test_lag_counts_events_predicted_in_between() -> None:
    batch = replace(events(64, missing=0), probe=None)
    frozen, exact = DelayByEvents(5, 100), DelayByEvents(5, 100, exact=True)
    for part in batch.micro_batches(8):
        pushed = frozen.push(part)
        revealed = pushed.revealed
        lag = pushed.settle(predicted(part.ids, False), None).outcome().lag
        assert lag.tolist() == (len(part) - revealed.insert_before).tolist()
        pushed = exact.push(part)
        assert not pushed.settle(predicted(part.ids, False), None).outcome().lag.any()


@pytest.mark.parametrize(
    "join",
    [DelayByEvents(48, 100), DelayByEventTime(5.0, 50), DelayByEventTime(1e12, 50), JoinById(50)],
    ids=["events", "seconds", "never-due", "id"],
)
def test_memory_is_bounded(join: LabelJoin) -> None:
    batch = events(4000)
    if isinstance(join, JoinById):
        batch = replace(batch, y=None)
    for part in batch.micro_batches(16):
        pushed = join.push(part)
        pushed.settle(predicted(part.ids, False), None)
        assert len(join) <= 50
        assert len(join._chunks) <= 50 // 16 + 2
        assert len(getattr(join, "_first_due", ())) <= 40


def test_label_join_hides_due_and_segment() -> None:
    batch = replace(with_due(events(20, missing=0)), probe=None)
    for segments in (False, True):
        join = DelayByEventTime(None, 100, segments)
        pushed = join.push(batch)
        pushed.settle(predicted(batch.ids, False), None)
        for revealed, _ in join.finish(10):
            assert revealed.batch.due is None
            assert (revealed.batch.segment is not None) == segments
            assert revealed.batch.arrivals is None
            assert revealed.batch.dead == ()


def test_finish_reveals_labels_in_order() -> None:
    batch = replace(events(10, missing=0), probe=None, time=np.arange(10.0))
    due = np.array([30, 20, np.nan, 25, 40, 21, 22, 23, 24, np.nan], float)
    join = DelayByEventTime(None, 100)
    pushed = join.push(replace(batch, due=due))
    pushed.settle(predicted(batch.ids, False), None)
    rest = list(join.finish(3))
    order = [i for revealed, _ in rest for i in ((revealed.batch.ids - 5) // 3).tolist()]
    assert order == [1, 5, 6, 7, 8, 3, 0, 4]
    assert [len(r) for r, _ in rest] == [3, 3, 2, 0]
    assert [i for _, s in rest for i in s.outcome().unlabelled.tolist()] == [2 * 3 + 5, 9 * 3 + 5]


def test_delay_beyond_the_timeout_is_refused() -> None:
    with pytest.raises(ValueError, match="the label delay is 5 events, but events expire after 5"):
        DelayByEvents(5, 5)


def test_push_without_labels_is_refused() -> None:
    with pytest.raises(AssertionError, match="arrivals"):
        DelayByEvents(1, 5).push(replace(events(3), y=None))


def test_pushed_batches_may_be_settled_in_any_order() -> None:
    batch = events(8)
    outcomes = []
    for backwards in (False, True):
        join = DelayByEvents(4, 100)
        pushed = [(part, join.push(part)) for part in batch.micro_batches(4)]
        scored = {}
        for part, handle in reversed(pushed) if backwards else pushed:
            scored[int(part.ids[0])] = handle.settle(predicted(part.ids, False), None)
        outcomes.append([scored[i].outcome() for i in sorted(scored)])
    for first, second in zip(*outcomes, strict=True):
        assert np.array_equal(first.ids, second.ids)
        assert np.array_equal(first.value, second.value)
    assert np.array_equal(outcomes[0][1].value, predicted(outcomes[0][1].ids, False))
    assert len(outcomes[0][1].ids) == 4
