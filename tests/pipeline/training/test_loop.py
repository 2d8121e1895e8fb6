"""The whole loop with a learner that only writes down what it was shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learners.base import Learner, LearnerConfig
from learners.results import Prediction
from pipeline.evaluation.prequential import Prequential
from pipeline.training.event_fates import LedgerError
from pipeline.training.loop import Loop
from pipeline.training.reading.batch_reader import BatchReader
from streams.core.batch import Batch, DeadLetter, Labels
from streams.core.schema import Feature, Schema
from streams.core.state_dict import State, copied, digest
from streams.core.stream import Cursor, Stream
from streams.operators.drop_duplicates import DropDuplicates
from streams.operators.holdout import HoldOut
from streams.operators.label_encoder import LabelEncoder
from streams.operators.label_join import LabelJoin
from streams.operators.labels_by_id import JoinById
from streams.operators.labels_in_rows import DelayByEvents, DelayByEventTime

SCHEMA = Schema((Feature("a", "numeric"), Feature("b", "numeric")), "classification")
N = 300


class Recorder(Learner):
    """Says the label that it learned last, and keeps a diary."""

    kind = "recorder"

    def __init__(self, per_event: bool = True, boundaries: bool = False) -> None:
        super().__init__(LearnerConfig(kind="recorder"), SCHEMA, 0)
        self.per_event = per_event  # type: ignore[misc]
        self.needs_boundaries = boundaries  # type: ignore[misc]
        self.diary: list[tuple[str, int]] = []
        self.last = -1

    def predict(self, batch: Batch) -> Prediction:
        for name in ("y", "due", "arrivals"):
            assert getattr(batch, name) is None, "a learner sees no label before it has predicted"
        assert not batch.dead
        assert (batch.segment is not None) == self.needs_boundaries
        self.diary += [("predict", i) for i in batch.ids.tolist()]
        value = np.full(len(batch), self.last, np.int64)
        return Prediction(batch.ids, "classification", value, None, self.classes, self.version)

    def observe(self, batch: Batch) -> None:
        self.diary += [("observe", i) for i in batch.ids.tolist()]

    def learn(self, batch: Batch) -> None:
        assert batch.y is not None
        self.last = int(batch.y[-1])
        self.diary += [("learn", i) for i in batch.ids.tolist()]

    def state(self) -> State:
        return {**self.common_state(), "last": self.last}

    def load(self, state: State) -> None:
        self.load_common(state)
        self.last = state["last"]


class Events(Stream):
    """N events in blocks of an odd length; every seventh id comes twice, every eleventh is dead."""

    kind = "events"
    schema = SCHEMA
    has_ids = True

    def __init__(self, config: Any = None, folder: Path = Path()) -> None:
        at = np.arange(N, dtype=np.int64)
        ids = np.where(at % 7 == 6, at - 1, at)
        x = np.stack([at, -at], 1).astype(float)
        y = np.where(at % 13 == 0, -1, (at // 5) % 3)
        part = np.zeros(N, np.int32)
        classes = ("z", "y", "x")
        self.rows = Batch(ids, at / 1.0, x, part, at, y, segment=at // 50, classes=classes)

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        start = cursor.get("0", 0)
        for a in range(start, N, 37):
            block = self.rows[a : a + 37]
            bad = block.offset % 11 == 10
            dead = tuple(
                DeadLetter(0, int(o), "bad", int(o), int((~bad[: o - a]).sum()))
                for o in block.offset[bad].tolist()
            )
            kept = block.take(~bad)
            yield Batch(**{n: getattr(kept, n) for n in FIELDS}, dead=dead)


FIELDS = ("ids", "time", "x", "partition", "offset", "y", "segment", "classes")


def build(
    size: int, join: LabelJoin, learner: Learner, share: float = 0.1
) -> tuple[BatchReader, Loop]:
    vocabulary = LabelEncoder()
    source = BatchReader(Events(), size, vocabulary, HoldOut(share, 1) if share else None)
    return source, Loop([DropDuplicates(1000)], join, learner, Prequential("classification", 50))


def run_loop(size: int, delay: int = 5, share: float = 0.1) -> tuple[Loop, Recorder]:
    learner = Recorder()
    source, loop = build(size, DelayByEvents(delay, 1000, exact=True), learner, share)
    for batch in source.read({}):
        loop.step(batch)
    loop.finish(size)
    return loop, learner


@pytest.mark.parametrize("size", [1, 7, 32])
@pytest.mark.parametrize("delay", [0, 1, 48])
def test_loop_predicts_each_event_before_learning_it(size: int, delay: int) -> None:
    """Every event is predicted once, learned at most once, and just ``delay`` events later."""
    loop, learner = run_loop(size, delay)
    diary = learner.diary
    assert len(set(diary)) == len(diary)
    alive = [i for kind, i in diary if kind == "predict"]
    place = {entry: k for k, entry in enumerate(diary)}
    for position, i in enumerate(alive):
        if ("learn", i) not in place:
            continue
        later = position + max(delay, 1)
        assert place["predict", i] < place["learn", i]
        if later < len(alive):
            assert place["learn", i] < place["predict", alive[later]]
            assert place["predict", alive[later - 1]] < place["learn", i]
    fates = loop.ledger.fates()
    kinds = [kind for kind, _ in diary]
    assert fates["learned"] == kinds.count("learn")
    assert fates["dead"] == N - len(alive)
    assert sum(fates.values()) == loop.events == N
    assert fates["probe"] > 0
    assert fates["unlabelled"] > 0


def test_loop_neither_learns_nor_observes_probes() -> None:
    loop, learner = run_loop(32)
    entries = set(learner.diary)
    asked = {i for kind, i in entries if kind == "predict"}
    held_out = {i for i in asked if ("observe", i) not in entries}
    assert not any(("learn", i) in entries for i in held_out)
    # A probe without a label is still a probe to the learner, but its fate is that it had none.
    assert loop.ledger.fates()["probe"] <= len(held_out)
    _, all_seen = run_loop(32, share=0)
    assert {i for kind, i in all_seen.diary if kind == "observe"} == asked


def test_loop_learns_the_same_at_any_batch_size() -> None:
    """But for what is observed: that is done once a micro-batch, or before the next label."""
    runs = [run_loop(size) for size in (1, 7, 32)]
    diaries = [[e for e in learner.diary if e[0] != "observe"] for _, learner in runs]
    assert diaries[0] == diaries[1] == diaries[2]
    accuracies = {loop.metrics.results()["online/accuracy"] for loop, _ in runs}
    assert len(accuracies) == 1
    assert len({digest(loop.ledger.state()) for loop, _ in runs}) == 1
    assert len({digest(loop.metrics.state()) for loop, _ in runs}) == 1


def test_loop_no_change_baseline_is_the_last_label() -> None:
    """The recorder says the last label it learned: without probes that is no-change itself."""
    loop, _ = run_loop(16, share=0)
    found = loop.metrics.results()
    assert found["online/accuracy"] == found["online/no_change_accuracy"]


@pytest.mark.parametrize("boundaries", [False, True])
def test_loop_shows_segments_only_where_declared(boundaries: bool) -> None:
    learner = Recorder(False, boundaries)
    source, loop = build(32, DelayByEventTime(20.0, 1000, boundaries), learner)
    for batch in source.read({}):
        loop.step(batch)
    loop.finish(32)
    assert learner.classes == ("z", "y", "x")


@pytest.mark.parametrize("stop", range(0, 11, 2))
def test_loop_state_goes_on_from_any_micro_batch(stop: int) -> None:
    def fresh() -> tuple[BatchReader, Loop]:
        return build(32, DelayByEvents(48, 1000, exact=True), Recorder())

    source, loop = fresh()
    steps = source.read({})
    for _ in range(stop):
        if (batch := next(steps, None)) is not None:
            loop.step(batch)
    cursor = loop.ledger.cursor()
    kept, known = copied(loop.state()), source.vocabulary.state(cursor)
    for batch in steps:
        loop.step(batch)
    loop.finish(32)

    source, again = fresh()
    source.vocabulary.load(known)
    again.load(kept, source.vocabulary)
    for batch in source.read(cursor):
        again.step(batch)
    again.finish(32)
    assert digest(again.state()) == digest(loop.state())
    assert again.metrics.results() == loop.metrics.results()
    assert again.ledger.cursor() == {"0": N}


def test_loop_finds_a_join_that_mixes_up_events() -> None:
    join = DelayByEvents(5, 1000)
    source, loop = build(32, join, Recorder())
    for k, batch in enumerate(source.read({})):
        loop.step(batch)
        if k == 3:
            loop.ledger.fold()
            join._chunks[join._oldest].batch.ids[-1] = 10**6
    with pytest.raises(LedgerError, match="not the same"):
        loop.finish(32)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("make", [DelayByEvents, DelayByEventTime])
def test_loop_batches_without_rows_change_nothing(make: Any, exact: bool) -> None:
    """Dead events alone, before, between and after the others."""
    diaries = []
    for dead in (False, True):
        learner = Recorder(exact)
        source, loop = build(16, make(5, 1000, exact=exact), learner)
        loop.ledger.gapless = False
        for k, batch in enumerate(source.read({})):
            if dead:
                loop.step(replace(batch[:0], dead=(DeadLetter(1, k, "why", -k - 1),)))
            loop.step(batch)
        if dead:
            loop.step(replace(batch[:0], dead=(DeadLetter(1, k + 1, "why", -k - 2),)))
        loop.finish(16)
        assert loop.ledger.fates()["dead"] >= dead * (k + 2)
        diaries.append((learner.diary, loop.metrics.results()))
    assert diaries[0] == diaries[1]


def test_loop_learns_labels_of_a_batch_without_rows() -> None:
    learner = Recorder()
    vocabulary = LabelEncoder()
    source = BatchReader(Events(), 16, vocabulary)
    loop = Loop([], JoinById(1000, exact=True), learner, Prequential("classification", 50))
    batch = next(source.read({}))
    loop.step(replace(batch, y=None))
    at, zero = batch.ids[3:6], np.zeros(3, np.int64)
    labels = Labels(at, zero + 1, zero / 1.0, zero.astype(np.int32), np.arange(3), zero)
    loop.step(replace(batch[:0], y=None, dead=(), arrivals=labels))
    assert learner.diary[-3:] == [("learn", i) for i in at.tolist()]
    assert loop.results()["online/scored"] == 3


def test_loop_events_passed_over_raise() -> None:
    source, loop = build(16, DelayByEvents(5, 1000), Recorder())
    steps = source.read({})
    loop.step(next(steps))
    next(steps)
    loop.step(next(steps))
    with pytest.raises(LedgerError, match="were passed over"):
        loop.finish(16)
