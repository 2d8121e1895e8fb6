"""Tombstones, missing offsets and deleted records change nothing in what is learned."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage.offset_journal import Journal
from pipeline.training.event_fates import Ledger
from pipeline.training.journaled_source import JournaledSource
from streams.core.batch import Batch
from streams.core.errors import StreamChangedError
from streams.core.live_stream import Identity, LiveStream, Ranges
from streams.core.stream import Cursor
from streams.kafka.config import KafkaConfig
from streams.kafka.identity import ReadPositions
from streams.kafka.records import PartitionBuffers, RecordBatch, TopicPartition, Topics
from streams.kafka.stream import KafkaStream
from streams.operators.microbatch import rebatch

TOPICS = Topics(["ev"], "lab")
PLACES = [TopicPartition("ev", 0), TopicPartition("ev", 1), TopicPartition("lab", 0)]
BLOCK, SIZE = 7, 4
READ_AT = 60.0  # seconds of the reader's clock, after all timestamps
DECODE = KafkaStream(
    KafkaConfig(
        kind="kafka",
        servers="none:1",
        topic="ev",
        features={"numeric": ["a"]},
        id="id",
        label={"classes": ["no", "yes"]},
        labels={"topic": "lab", "id": "id", "label": "y"},
    ),
    Path(),
).decoder


class TopicLog(LiveStream):
    """Topics in memory, as a broker keeps them: some offsets have no record, the first none any
    more. Records are decoded as those of Kafka."""

    kind = "log"
    bounded = True

    def __init__(self, records: Iterable[RecordBatch]) -> None:
        self.records = {batch.partition: batch for batch in records}
        self.first = dict.fromkeys(self.records, 0)

    def start(self) -> Cursor:
        return TOPICS.cursor(dict.fromkeys(self.records, 0))

    def end(self) -> Cursor:
        return TOPICS.cursor({p: int([-1, *b.offset][-1]) + 1 for p, b in self.records.items()})

    def verify(self, known: Identity, cursor: Cursor) -> Cursor:
        first = TOPICS.cursor(self.first)
        assert all(cursor[key] >= offset for key, offset in first.items())
        return first

    def read_ranges(self, ranges: Ranges, read_at: float | None = None) -> Batch:
        batches = []
        for key, (start, stop) in ranges.items():
            partition = TOPICS.topic_partition(key)
            if start < self.first[partition]:
                raise StreamChangedError("deleted")
            batches.append(self._between(partition, start, stop))
        return self._block([batch for batch in batches if batch.values])

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        buffers = PartitionBuffers(TOPICS, self.records)
        for partition in self.records:
            batch = self._between(partition, cursor.get(TOPICS.cursor_key(partition), 0), 1 << 40)
            if batch.values:
                buffers.add(batch)
        while len(buffers):
            yield self._block(buffers.take(block_size, set(self.records)))

    def _between(self, partition: TopicPartition, start: int, stop: int) -> RecordBatch:
        batch = self.records[partition]
        return batch.rows(slice(*np.searchsorted(batch.offset, (start, stop)).tolist()))

    @staticmethod
    def _block(batches: list[RecordBatch]) -> Batch:
        marks = ReadPositions(TOPICS).add(batches, lambda _: 0)
        return replace(DECODE(TOPICS.merge(batches, READ_AT), READ_AT), marks=marks)


@st.composite
def logs(draw: st.DrawFn) -> tuple[TopicLog, TopicLog]:
    """Topics with tombstones and missing offsets, and the same without."""
    whole, clean = [], []
    for place in PLACES:
        kinds = draw(st.lists(st.sampled_from(["event", "event", "event", "tombstone", "none"])))
        steps = draw(st.lists(st.integers(0, 3), min_size=len(kinds), max_size=len(kinds)))
        rows: list[tuple[int, int, Any, Any]] = []
        for offset, (kind, time) in enumerate(zip(kinds, np.cumsum([0, *steps]), strict=False)):
            id_ = offset if place.topic == "lab" else 100 * place.partition + offset
            row = {"id": id_, "y": "yes"} if place.topic == "lab" else {"id": id_, "a": 0.5}
            value = json.dumps(row).encode() if kind == "event" else None
            if kind != "none":
                rows.append((offset, 1000 + int(time), value, b"9999"))  # the key is of no event
        whole.append(batch_of(place, rows))
        clean.append(batch_of(place, [row for row in rows if row[2] is not None]))
    return TopicLog(whole), TopicLog(clean)


def batch_of(place: TopicPartition, rows: list[tuple[int, int, Any, Any]]) -> RecordBatch:
    offset, time, values, keys = ([row[i] for row in rows] for i in range(4))
    return RecordBatch(place, np.array(offset, np.int64), np.array(time, np.int64), values, keys)


def learned(batches: Iterable[Batch]) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids of events, and labels with the number of events that each comes after."""
    ids: list[int] = []
    labels: list[tuple[int, int]] = []
    for batch in batches:
        if (a := batch.arrivals) is not None:
            kept = a[~a.withdrawals]
            labels += zip(kept.ids.tolist(), (len(ids) + kept.insert_before).tolist(), strict=True)
        ids += batch.ids.tolist()
    return ids, labels


def run(stream: TopicLog, folder: Path, stop: int | None, ledger: Ledger) -> list[Batch]:
    """Read ``stop`` micro-batches from where the ledger stands; None: all."""
    journal = Journal(folder)
    source = JournaledSource(stream, journal, lambda c: stream.read(c, BLOCK), bool, print)
    if ledger.cursor():
        source.resume(json.loads((folder / "position").read_text()))
    else:
        ledger.begin(source.begin({}))
    batches = []
    for batch in rebatch(source.batches(ledger.cursor()), SIZE):
        ledger.enter(batch)
        batches.append(batch)
        if len(batches) == stop:
            break
    (folder / "position").write_text(json.dumps(source.position(ledger.cursor())))
    journal.close()
    return batches


@given(logs(), st.integers(1, 8), st.data())
def test_log_with_holes_and_a_cut_head_learns_the_same(
    both: tuple[TopicLog, TopicLog], stop: int, data: st.DataObject
) -> None:
    """Any tombstones and missing offsets; cut anywhere before the cursor when it is resumed."""
    whole, clean = both
    ledger, of_clean = Ledger(gapless=False), Ledger(gapless=False)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        found = run(whole, Path(one), stop, ledger)
        for key, at in ledger.cursor().items():
            place = TOPICS.topic_partition(key)
            whole.first[place] = data.draw(st.integers(0, at))
        found += run(whole, Path(one), None, ledger)
        expected = run(clean, Path(other), None, of_clean)
    assert learned(found) == learned(expected)
    values = [value for batch in whole.records.values() for value in batch.values]
    assert sum(ledger.tombstones().values()) == values.count(None)
    assert all(ledger.cursor().get(key, 0) >= at for key, at in whole.end().items())


def test_block_out_of_order_without_its_head_is_refused(tmp_path: Path) -> None:
    """Its records after the cut may have stood in another order: by the latest time before them."""
    rows = [(i, 1000 - i, b'{"id": %d, "a": 0.5}' % i, None) for i in range(6)]
    other = [(i, 997, b'{"id": %d, "a": 0.5}' % (100 + i), None) for i in range(2)]
    stream = TopicLog([batch_of(PLACES[0], rows), batch_of(PLACES[1], other)])
    ledger = Ledger(gapless=False)
    run(stream, tmp_path, 1, ledger)
    stream.first[PLACES[0]] = 1
    with pytest.raises(StreamChangedError, match="block 0 of the journal cannot be read again"):
        run(stream, tmp_path, None, ledger)
