"""A live stream gives the same micro-batches from any of them on, by the journal."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage.offset_journal import Journal
from pipeline.training.event_fates import Ledger
from pipeline.training.event_source import RunStoppedError
from pipeline.training.journaled_source import JournaledSource
from streams.core.batch import Batch, DeadLetter, Labels
from streams.core.live_stream import BrokerUnavailableError, LiveStream, Ranges
from streams.core.stream import Cursor
from streams.kafka.records import PartitionBuffers, RecordBatch, TopicPartition, Topics
from streams.operators import microbatch as cutting
from streams.operators.microbatch import rebatch

TOPICS = Topics(["ev"], "lab")


class Memory(LiveStream):
    """Messages in memory: of each partition its values, ``b"?"`` a bad one, and their times."""

    kind = "memory"
    bounded = True

    def __init__(self, held: Mapping[Any, list[tuple[bytes, int]]]) -> None:
        self.held = {
            TopicPartition(*place): RecordBatch(
                TopicPartition(*place),
                np.arange(len(given), dtype=np.int64),
                np.array([time for _, time in given], np.int64),
                [value for value, _ in given],
            )
            for place, given in held.items()
        }
        self.away = 0  # how often nobody answers
        self.asked: list[Ranges] = []

    def start(self) -> Cursor:
        return TOPICS.cursor(dict.fromkeys(self.held, 0))

    def end(self) -> Cursor:
        return TOPICS.cursor({place: len(given.values) for place, given in self.held.items()})

    def read_ranges(self, ranges: Ranges) -> Batch:
        self.asked.append(ranges)
        if self.away:
            self.away -= 1
            raise BrokerUnavailableError("nobody is there")
        places = {
            TOPICS.topic_partition(name): slice(*positions) for name, positions in ranges.items()
        }
        return self.block([self.held[place].rows(rows) for place, rows in places.items()])

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        held = self.left(cursor)
        while len(held):
            yield self.block(held.take(block_size, set(self.held)))

    def left(self, cursor: Cursor) -> PartitionBuffers:
        """What stands at or after a cursor."""
        held = PartitionBuffers(TOPICS, self.held)
        for place, whole in self.held.items():
            if (rest := whole.rows(slice(cursor.get(TOPICS.cursor_key(place), 0), None))).values:
                held.add(rest)
        return held

    @staticmethod
    def block(pieces: Iterable[RecordBatch]) -> Batch:
        m = TOPICS.merge([piece for piece in pieces if piece.values])
        bad = np.array([value == b"?" for value in m.values], np.bool_)
        open_source, label = ~bad & ~m.label, ~bad & m.label
        place = np.concatenate([[0], np.cumsum(open_source)])
        x = np.stack([m.partition, m.offset], 1)[open_source] / 1.0
        at = place[:-1]
        labels = Labels(
            m.offset[label] * 10 + m.partition[label],
            m.offset[label] % 2,
            m.time[label] / 1.0,
            m.partition[label],
            m.offset[label],
            at[label],
        )
        dead = tuple(
            DeadLetter(int(m.partition[i]), int(m.offset[i]), "why", int(-m.offset[i]), int(at[i]))
            if not m.label[i]
            else DeadLetter(int(m.partition[i]), int(m.offset[i]), "why", 0, int(at[i]), label=True)
            for i in np.flatnonzero(bad)
        )
        ids = m.offset[open_source] * 10 + m.partition[open_source]
        return Batch(
            ids, m.time[open_source] / 1.0, x, m.partition[open_source], m.offset[open_source],
            arrivals=labels if len(labels) else None, dead=dead,
        )  # fmt: skip


def rows_of(batch: Batch) -> tuple[Any, ...]:
    a = batch.arrivals
    labels = [] if a is None else list(zip(a.partition, a.offset, a.insert_before, strict=True))
    dead = [(d.label, d.partition, d.offset, d.insert_before) for d in batch.dead]
    return batch.partition.tolist(), batch.offset.tolist(), labels, dead


OPEN: list[Journal] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def open_source(
    stream: Memory,
    folder: Path,
    read: Callable[[Cursor], Iterable[Batch]] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> tuple[JournaledSource, list[str]]:
    messages: list[str] = []
    given = read or (lambda cursor: stream.read(cursor, 5))
    OPEN.append(Journal(folder))
    return JournaledSource(stream, OPEN[-1], given, stopping, messages.append), messages


@st.composite
def streams(draw: st.DrawFn) -> Memory:
    held: dict[tuple[str, int], list[tuple[bytes, int]]] = {}
    for place in [("ev", 0), ("ev", 1), ("lab", 0), ("lab", 1)]:
        values = draw(st.lists(st.sampled_from([b"x", b"x", b"?"]), max_size=9))
        held[place] = [(value, draw(st.integers(0, 12))) for value in values]
    return Memory(held)


@given(streams(), st.integers(1, 4), st.data())
def test_source_resumed_anywhere_gives_the_same_batches(
    stream: Memory, size: int, data: st.DataObject
) -> None:
    """Whatever the blocks, those that end micro-batches, bad messages, labels and streaks."""

    def read(cursor: Cursor) -> Iterator[Batch]:
        held = stream.left(cursor)
        drained = set(stream.held)
        while len(held):
            pieces = held.take(data.draw(st.integers(1, 8)), drained)
            yield replace(stream.block(pieces), flush=data.draw(st.booleans()))
            if data.draw(st.booleans()):
                yield replace(stream.block([]), flush=True)

    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "STREAK", 4)
        folder = Path(name)
        blocks, _ = open_source(stream, folder, read)
        blocks.journal.begin(stream.start(), stream.end())
        ledger = Ledger()
        ledger.begin(blocks.journal.head())
        found, at = [], []
        for batch in rebatch(blocks.blocks(ledger.cursor(), None), size):
            ledger.enter(batch)
            cursor = ledger.cursor()
            found.append(rows_of(batch))
            at.append((cursor, blocks.journal.position(cursor), ledger.state()))
        blocks.journal.close()
        assert ledger.cursor() == stream.end()
        written = (folder / "journal.jsonl").read_bytes()
        for k, (cursor, position, state) in enumerate(at):
            on, _ = open_source(stream, folder, lambda _: iter(()))
            resumed_ledger = Ledger()
            resumed_ledger.load(state)
            rest = []
            for batch in rebatch(on.blocks(cursor, position), size):
                resumed_ledger.enter(batch)
                rest.append(rows_of(batch))
            on.journal.close()
            assert rest == found[k + 1 :]
            assert resumed_ledger.state() == ledger.state()
        assert (folder / "journal.jsonl").read_bytes() == written


def small_stream() -> Memory:
    events = [(b"x", time) for time in range(12)]
    return Memory({("ev", 0): events, ("ev", 1): events[:3], ("lab", 0): events[:6]})


def test_source_journals_a_block_before_returning_it(tmp_path: Path) -> None:
    stream = small_stream()
    blocks, _ = open_source(stream, tmp_path)
    blocks.journal.begin(stream.start(), stream.end())
    for lines, _ in enumerate(blocks.blocks(stream.start(), None), 2):
        assert len((tmp_path / "journal.jsonl").read_bytes().splitlines()) == lines
    assert blocks.journal.position(stream.end())[1] == lines - 1


def test_source_waits_for_a_broker_to_read_a_block_again(tmp_path: Path) -> None:
    stream = small_stream()
    blocks, _ = open_source(stream, tmp_path)
    blocks.journal.begin(stream.start(), stream.end())
    first = [rows_of(block) for block in blocks.blocks(stream.start(), None)]
    blocks.journal.close()
    stream.away = 2
    blocks, messages = open_source(stream, tmp_path)
    assert [rows_of(block) for block in blocks.blocks(stream.start(), None)] == first
    assert messages == ["nobody is there; the run waits, and goes on when it is back"]
    assert stream.asked[:3] == [stream.asked[0]] * 3


def test_source_stops_while_the_broker_is_away(tmp_path: Path) -> None:
    stream = small_stream()
    blocks, _ = open_source(stream, tmp_path)
    blocks.journal.begin(stream.start(), stream.end())
    list(blocks.blocks(stream.start(), None))
    stream.away = 99
    blocks, _ = open_source(stream, tmp_path, stopping=lambda: True)
    with pytest.raises(RunStoppedError):
        next(blocks.blocks(stream.start(), None))


def test_source_stops_while_no_event_comes(tmp_path: Path) -> None:
    stream = small_stream()

    def idle(_: Cursor) -> Iterator[Batch]:
        while True:
            yield stream.block([])

    asked = iter([False, False, True])
    blocks, _ = open_source(stream, tmp_path, idle, lambda: next(asked))
    blocks.journal.begin(stream.start(), None)
    with pytest.raises(RunStoppedError):
        next(blocks.blocks(stream.start(), None))
    assert len((tmp_path / "journal.jsonl").read_bytes().splitlines()) == 1


def test_source_restarts_a_reader_that_is_out_of_step(tmp_path: Path) -> None:
    """As after a change of a group's members."""
    stream, began = small_stream(), []

    def read(cursor: Cursor) -> Iterator[Batch]:
        began.append(dict(cursor))
        for block in stream.read(cursor, 5):
            yield block
            if len(began) == 1:
                yield block  # not taken: what comes next is asked for from the cursor on
                raise AssertionError("not reached")

    blocks, _ = open_source(stream, tmp_path, read)
    blocks.journal.begin(stream.start(), stream.end())
    found = [rows_of(block) for block in blocks.blocks(stream.start(), None)]
    assert found == [rows_of(block) for block in stream.read(stream.start(), 5)]
    assert began == [stream.start(), {"0": 2, "1": 1, "labels/0": 2}]


def test_source_ends_at_the_stop_of_the_journal(tmp_path: Path) -> None:
    stream = small_stream()
    blocks, _ = open_source(stream, tmp_path)
    stop = {"0": 4, "1": 3, "labels/0": 0}
    blocks.journal.begin(stream.start(), stop)
    ledger = Ledger()
    for block in blocks.blocks(stream.start(), None):
        ledger.enter(block)
    assert ledger.cursor() == {"0": 4, "1": 3}
    blocks.journal.close()
    again, _ = open_source(stream, tmp_path)  # it has ended, and reads nothing new
    at = blocks.journal.position(stop)
    assert list(again.blocks(stop, at)) == []


def test_source_of_an_empty_bounded_stream_ends(tmp_path: Path) -> None:
    stream = Memory({("ev", 0): []})
    blocks, _ = open_source(stream, tmp_path)
    blocks.journal.begin(stream.start(), stream.end())
    assert list(blocks.blocks(stream.start(), None)) == []
