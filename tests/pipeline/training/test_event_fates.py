"""The books: they balance, and they tell when one event was lost, doubled or swapped."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.training.event_fates import FATES, Ledger, LedgerError
from streams.core.batch import Batch, DeadLetter, Labels
from streams.core.state_dict import copied, digest
from streams.operators.label_join import Outcome

NONE = np.empty(0, np.int64)


def batch(first: int, n: int, partition: int = 0) -> Batch:
    at = np.arange(first, first + n, dtype=np.int64)
    parts = np.full(n, partition, np.int32)
    return Batch(at * 7 + partition, at / 1.0, at[:, None], parts, at)


def fates(**ids: Any) -> Outcome:
    named = {name: np.asarray(ids.get(name, NONE), np.int64) for name in FATES if name != "dead"}
    scored = np.concatenate([named["learned"], named["probe"]])
    return Outcome(scored, scored, scored, None, scored, scored, **named)


def spread(ids: Any) -> Outcome:
    """Ids spread over all fates."""
    names = ("learned", "probe", "unlabelled", "expired")
    return fates(**{name: ids[k::4] for k, name in enumerate(names)})


def test_ledger_of_random_batches_balances() -> None:
    ledger, rng = Ledger(), np.random.default_rng(0)
    ids = []
    for first in range(0, 20_000, 32):
        part = batch(first, 30)
        dead = tuple(DeadLetter(0, first + 30 + k, "why", -first - k - 1, 30) for k in range(2))
        ledger.enter(replace(part, dead=dead))
        ids.append(part.ids)
        if len(ids) == 10:
            ledger.settle(spread(rng.permutation(np.concatenate(ids))))
            ids = []
    ledger.settle(spread(np.concatenate(ids)))
    ledger.verify()
    assert ledger.events == sum(ledger.fates().values()) == 20_000
    assert ledger.fates()["dead"] == 1250
    assert ledger.cursor() == {"0": 20_000}


@pytest.mark.parametrize("seen", [1, 700, 5000])
@pytest.mark.parametrize("change", ["lost", "doubled", "swapped", "invented", "twice and once"])
def test_ledger_with_one_event_amiss_raises(change: str, seen: int) -> None:
    ledger = Ledger()
    part = batch(0, seen)
    ledger.enter(part)
    ids = part.ids.copy()
    at = seen // 2
    if change == "lost":
        ids = np.delete(ids, at)
    elif change == "doubled":
        ids = np.append(ids, ids[at])
    elif change == "swapped":
        ids[at] = 10**9
    elif change == "invented":
        ids = np.append(ids, 10**9)
    elif change == "twice and once":
        ids[at] = ids[at - 1] if seen > 1 else -1
    ledger.settle(spread(ids))
    with pytest.raises(LedgerError, match=rf"{seen} events came in and {len(ids)} met a fate"):
        ledger.verify()


def test_ledger_state_stays_of_one_size() -> None:
    ledger, size = Ledger(), 1 << 13
    lengths = set()
    for first in range(0, 1 << 20, size):
        part = batch(10**9 + first, size)
        ledger.enter(part)
        ledger.settle(fates(learned=part.ids))
        lengths.add(len(json.dumps(ledger.state())) // 32)
        assert not ledger._batches
        assert not ledger._outcomes
    ledger.verify()
    assert ledger.fates()["learned"] == 1 << 20
    assert len(lengths) <= 2  # but for the digits of its numbers


def test_ledger_without_labels_keeps_few_batches() -> None:
    ledger = Ledger()
    for first in range(0, 1_000_000, 32):
        ledger.enter(batch(first, 32))
        ledger.settle(fates())
        assert len(ledger._batches) <= 4096


@pytest.mark.parametrize(
    ("parts", "position"),
    [
        ([(0, 32), (16, 32)], 16),
        ([(0, 32), (100, 32), (100, 32)], 100),
        ([(0, 32), (31, 1)], 31),
        ([(50, 10), (0, 10), (5, 1)], 5),
    ],
)
@pytest.mark.parametrize("folded", [False, True])
def test_ledger_positions_read_twice_raise(
    parts: list[tuple[int, int]], position: int, folded: bool
) -> None:
    ledger = Ledger(gapless=False)
    where = f"position ({position}|0) was read a second time"
    with pytest.raises(LedgerError, match=where):  # noqa: PT012 (at once, or when it is folded)
        for first, n in parts:
            ledger.enter(batch(first, n))
            if folded:
                ledger.fold()
        ledger.fold()


def test_ledger_dead_event_read_twice_raises() -> None:
    ledger = Ledger()
    ledger.enter(replace(batch(0, 4), dead=(DeadLetter(0, 2, "why", 2),)))
    with pytest.raises(LedgerError, match="position 2 was read a second time"):
        ledger.fold()


@pytest.mark.parametrize(
    ("parts", "gap"),
    [
        ([(0, 32), (40, 32)], "32 to 39"),
        ([(7, 4), (12, 1)], "11 to 11"),
        ([(5, 3), (8, 3), (30, 9), (50, 1)], "11 to 29"),
    ],
)
@pytest.mark.parametrize("resumed", [False, True])
def test_ledger_positions_passed_over_raise(
    parts: list[tuple[int, int]], gap: str, resumed: bool
) -> None:
    ledger = Ledger()
    where = f"partition 3: positions {gap} were passed over"
    with pytest.raises(LedgerError, match=where):  # noqa: PT012 (at once, or when it is folded)
        for first, n in parts:
            if resumed:
                kept, ledger = ledger.state(), Ledger()
                ledger.load(kept)
            ledger.enter(batch(first, n, partition=3))
        ledger.fold()


def test_ledger_dead_events_fill_gaps_and_labels_may_have_some() -> None:
    ledger, at = Ledger(), np.array([3, 9, 40], np.int64)
    arrivals = Labels(at, at, at / 1.0, np.zeros(3, np.int32), at, np.zeros(3, np.int64))
    dead = (DeadLetter(0, 9, "why", 0), DeadLetter(0, 14, "why", 4))
    ledger.enter(replace(batch(10, 4), dead=dead, arrivals=arrivals))
    ledger.enter(batch(15, 5))
    assert ledger.cursor() == {"0": 20, "labels/0": 41}


def test_ledger_cursor_covers_partitions_gaps_and_labels() -> None:
    ledger = Ledger(gapless=False)
    assert ledger.cursor() == {}
    two = Batch.concat([batch(10, 3, 0), batch(5, 2, 1), batch(20, 1, 0)])
    at = np.array([3, 4], np.int64)
    arrivals = Labels(at, at, at / 1.0, np.array([0, 0], np.int32), at, at)
    dead = (DeadLetter(2, 7, "why", 1), DeadLetter(1, 9, "why", 2))
    ledger.enter(replace(two, arrivals=arrivals, dead=dead))
    assert ledger.cursor() == {"0": 21, "1": 10, "2": 8, "labels/0": 5}
    assert ledger.state()["positions"] == [
        ["0", 10, 21, 4],
        ["1", 5, 10, 3],
        ["2", 7, 8, 1],
        ["labels/0", 3, 5, 2],
    ]
    ledger.enter(batch(21, 1))  # reading goes on just there
    assert ledger.cursor()["0"] == 22


def test_ledger_loaded_from_its_state_goes_on() -> None:
    first = Ledger()
    for start in range(0, 3000, 50):
        second = Ledger()
        second.load(json.loads(json.dumps(copied(first.state()))))
        part = batch(start, 50)
        for ledger in (first, second):
            ledger.enter(part)
            ledger.settle(spread(part.ids))
        assert digest(first.state()) == digest(second.state())
        assert second.events == start + 50
    second.verify()


def test_ledger_does_not_depend_on_grouping() -> None:
    digests = set()
    for size in (1, 32, 4000):
        ledger = Ledger()
        for part in batch(0, 4000).micro_batches(size):
            ledger.enter(part)
            ledger.settle(fates(learned=part.ids))
        digests.add(digest(ledger.state()))
    assert len(digests) == 1


def test_ledger_without_labels_releases_batches() -> None:
    ledger = Ledger()
    none = np.empty(0, np.int64)
    nothing = Outcome(none, none, none, None, none, none, none, none, none, none)
    for start in range(0, 200_000, 512):
        ids = np.arange(start, start + 512)
        ledger.enter(Batch(ids, ids.astype(float), ids[:, None], ids * 0, ids))
        ledger.settle(nothing)
    assert sum(len(batch) for batch in ledger._batches) <= 8192


def dead_label(partition: int, offset: int, before: int = 0) -> DeadLetter:
    return DeadLetter(partition, offset, "why", -1, before, label=True)


def test_ledger_dead_label_is_not_counted_as_event() -> None:
    ledger = Ledger()
    ledger.begin({"0": 5, "labels/0": 3})
    part = batch(5, 2)
    ledger.enter(replace(part, dead=(dead_label(0, 3), DeadLetter(0, 7, "why", -7, 2))))
    ledger.settle(fates(learned=part.ids))
    assert ledger.events == 3
    assert ledger.fates()["dead"] == 1
    assert ledger.cursor() == {"0": 8, "labels/0": 4}
    ledger.verify()
    assert ["labels/0", 3, 4, 1] in ledger.state()["positions"]


def test_ledger_labels_and_dead_labels_share_positions() -> None:
    ledger = Ledger()
    at = np.array([0, 2], np.int64)
    labels = Labels(at, at, at / 1.0, np.zeros(2, np.int32), at, at)
    part = replace(batch(0, 2), arrivals=labels, dead=(dead_label(0, 1), dead_label(0, 3)))
    ledger.enter(part)
    assert ledger.cursor() == {"0": 2, "labels/0": 4}
    ledger.enter(replace(batch(2, 1), dead=(dead_label(0, 2),)))
    with pytest.raises(LedgerError, match=r"partition labels/0: position 2 was read a second time"):
        ledger.cursor()


@pytest.mark.parametrize("first", [9, 11])
def test_ledger_knows_where_reading_began(first: int) -> None:
    ledger = Ledger()
    ledger.begin({"0": 10})
    assert ledger.cursor() == {"0": 10}
    ledger.enter(batch(first, 3))
    wrong = {9: "position 9 was read a second time", 11: "positions 10 to 10 were passed over"}
    with pytest.raises(LedgerError, match=wrong[first]):
        ledger.cursor()


def test_ledger_later_partition_begins_anywhere() -> None:
    ledger = Ledger()
    ledger.begin({"0": 10})
    ledger.enter(batch(7, 3, partition=4))
    assert ledger.cursor() == {"0": 10, "4": 10}


def test_ledger_begin_keeps_positions_already_read() -> None:
    ledger = Ledger()
    ledger.begin({"0": 10})
    ledger.enter(batch(10, 3))
    ledger.fold()
    ledger.begin({"0": 10, "1": 4})
    assert ledger.cursor() == {"0": 13, "1": 4}
    again = Ledger()
    again.load(copied(ledger.state()))
    assert again.cursor() == {"0": 13, "1": 4}
    assert digest(again.state()) == digest(ledger.state())
