"""Records of several partitions merged: none lost, none twice, no partition reordered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.batch import Ints
from streams.core.errors import StreamError
from streams.decoding.wrong_times import corrected, far_ahead
from streams.kafka import records as module
from streams.kafka.records import (
    MergedRecords,
    PartitionBuffers,
    RecordBatch,
    TopicPartition,
    Topics,
)

TOPICS = Topics(["ev", "more"], "lab")
PARTITIONS = [TopicPartition(t, n) for t, n in (("ev", 0), ("ev", 3), ("more", 0), ("lab", 1))]


def batch(partition: tuple[str, int], offset: Sequence[int], time: Sequence[int]) -> RecordBatch:
    values: list[bytes | None] = [f"{partition[0]}{partition[1]}@{at}".encode() for at in offset]
    return RecordBatch(
        TopicPartition(*partition), np.array(offset, np.int64), np.array(time, np.int64), values
    )


def values_of(messages: MergedRecords) -> list[bytes | None]:
    return messages.values


def test_topics_partition_maps_to_cursor_key_and_back() -> None:
    named = {partition: TOPICS.cursor_key(partition) for partition in PARTITIONS}
    assert named == {
        ("ev", 0): "0",
        ("ev", 3): "3",
        ("more", 0): "65536",
        ("lab", 1): "labels/1",
    }
    assert [TOPICS.topic_partition(name) for name in named.values()] == PARTITIONS
    assert TOPICS.cursor({TopicPartition("lab", 1): 5, TopicPartition("ev", 0): 7}) == {
        "0": 7,
        "labels/1": 5,
    }
    assert TOPICS.names == ["ev", "more", "lab"]


@pytest.mark.parametrize("name", ["131072", "labels/65536"])
def test_topic_partition_removed_topic_raises(name: str) -> None:
    with pytest.raises(StreamError, match=rf"^stream\.topic: the run has read partition {name}"):
        TOPICS.topic_partition(name)


def test_topics_label_topic_is_event_topic_raises() -> None:
    with pytest.raises(StreamError, match=r"stream\.labels\.topic: 'ev' is a topic of events"):
        Topics(["ev"], "ev")


def test_merge_orders_by_time_labels_first() -> None:
    merged = TOPICS.merge(
        [
            batch(("ev", 0), [4, 5], [10, 30]),
            batch(("lab", 1), [0, 1], [30, 31]),
            batch(("ev", 3), [9, 10, 11], [20, 5, 30]),  # the second came late: it stays behind
            batch(("ev", 0), [6], [29]),
        ]
    )
    assert values_of(merged) == [
        b"ev0@4",  # 10
        b"ev3@9",  # 20
        b"ev3@10",  # 5, counts as 20
        b"lab1@0",  # 30: labels go first
        b"ev0@5",  # 30
        b"ev0@6",  # 29, counts as 30
        b"ev3@11",  # 30
        b"lab1@1",  # 31
    ]
    assert merged.label.tolist() == [False] * 3 + [True] + [False] * 3 + [True]
    assert merged.partition.tolist() == [0, 3, 3, 1, 0, 0, 3, 1]
    assert merged.partition.dtype == np.int32
    assert merged.time.tolist() == [10, 20, 5, 30, 30, 29, 30, 31]
    assert merged.row_at(3, 10) == 2


def test_merge_no_batches_gives_typed_columns() -> None:
    merged = TOPICS.merge([])
    assert merged.values == []
    assert merged.partition.dtype == np.int32
    assert merged.offset.dtype == merged.time.dtype == np.int64
    assert merged.label.dtype == np.bool_


def test_merge_without_timestamps_interleaves() -> None:
    """An old broker keeps no timestamps: partitions are interleaved evenly, labels first."""
    batches = [batch(("ev", 0), [0, 1], [-1, -1]), batch(("lab", 1), [0, 1, 2, 3], [-1] * 4)]
    # shares: 1/4 and 3/4; 1/8, 3/8, 5/8 and 7/8
    assert values_of(TOPICS.merge(batches)) == [
        b"lab1@0",
        b"ev0@0",
        b"lab1@1",
        b"lab1@2",
        b"ev0@1",
        b"lab1@3",
    ]


offsets = st.lists(st.integers(1, 3), max_size=12).map(lambda steps: np.cumsum([0, *steps]))
"""Those of a partition, with gaps."""


@st.composite
def partitions(draw: st.DrawFn) -> dict[TopicPartition, RecordBatch]:
    """Some partitions, each with its messages; their times, if any, go back and forth."""
    found, time = {}, draw(st.sampled_from([st.integers(0, 8), st.integers(0, 8), st.just(-1)]))
    for partition in PARTITIONS:
        at = draw(offsets).tolist()[: draw(st.integers(0, 12))]
        times = st.lists(time, min_size=len(at), max_size=len(at))
        found[partition] = batch(partition, at, draw(times))
    return found


@st.composite
def torn(draw: st.DrawFn, whole: RecordBatch) -> list[RecordBatch]:
    """The same messages in several pieces."""
    n = len(whole.values)
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=3)))
    places = zip([0, *cuts], [*cuts, n], strict=True)
    return [whole.rows(slice(a, b)) for a, b in places if a < b]


@given(partitions(), st.data())
def test_merge_any_split_gives_same_order(
    batches: dict[TopicPartition, RecordBatch], data: st.DataObject
) -> None:
    """However the records are split into batches, and in any order of partitions."""
    plain = TOPICS.merge([whole for whole in batches.values() if whole.values])
    order = data.draw(st.permutations(PARTITIONS))
    again = TOPICS.merge([p for partition in order for p in data.draw(torn(batches[partition]))])
    assert values_of(plain) == values_of(again)
    for one, other in zip(plain[:4], again[:4], strict=True):
        np.testing.assert_array_equal(one, other)
    for partition, whole in batches.items():  # each partition in its own order
        mine = [
            v
            for v in values_of(plain)
            if v and v.startswith(f"{partition[0]}{partition[1]}@".encode())
        ]
        assert mine == whole.values


@given(partitions(), st.data())
def test_buffers_take_each_record_once_in_order(
    batches: dict[TopicPartition, RecordBatch], data: st.DataObject
) -> None:
    """Adding and taking in any turns keeps each partition whole and in order.

    Nothing is taken that is later than what a partition that is behind may still deliver.
    """
    buffers = PartitionBuffers(TOPICS, PARTITIONS)
    coming = {partition: data.draw(torn(whole)) for partition, whole in batches.items()}
    given: dict[TopicPartition, list[bytes | None]] = {partition: [] for partition in PARTITIONS}
    while any(coming.values()) or len(buffers):
        for partition in data.draw(st.lists(st.sampled_from(PARTITIONS), max_size=4)):
            if coming[partition]:
                buffers.add(coming[partition].pop(0))
        behind = {partition for partition in PARTITIONS if coming[partition]}
        if waits := sorted(behind & buffers.empty):  # nothing of it yet: the caller waits
            buffers.add(coming[waits[0]].pop(0))
            continue
        if not len(buffers):
            continue
        size = data.draw(st.integers(1, 9))
        clock = {p: clock_of(buffers, p) for p in PARTITIONS if p not in buffers.empty}
        certain = min((int(clock[partition][-1]) for partition in behind), default=99)
        taken = buffers.take(size, {partition for partition in PARTITIONS if not coming[partition]})
        assert 1 <= sum(len(p.values) for p in taken) <= size
        for p in taken:
            given[p.partition] += p.values
            assert int(clock[p.partition][len(p.values) - 1]) <= certain
    assert given == {partition: whole.values for partition, whole in batches.items()}


def clock_of(buffers: PartitionBuffers, partition: TopicPartition) -> Ints:
    """The latest time so far at each buffered record; a wrong time does not count."""
    time = np.concatenate([p.time for p in buffers._buffers[partition]])
    seconds = time / 1000.0
    right = np.round(corrected(seconds, far_ahead(seconds, 0.0)) * 1000.0)
    return np.maximum.accumulate(right.astype(np.int64))


def test_buffers_take_stops_at_partition_behind() -> None:
    buffers = PartitionBuffers(TOPICS, PARTITIONS[:2])
    buffers.add(batch(PARTITIONS[0], [0, 1, 2, 3], [1, 5, 6, 9]))
    buffers.add(batch(PARTITIONS[1], [0, 1], [2, 5]))
    taken = buffers.take(100, {PARTITIONS[0]})  # of the second more may come, at 5 or later
    assert [p.offset.tolist() for p in taken] == [[0, 1], [0, 1]]
    assert len(buffers) == 2
    assert buffers.empty == {PARTITIONS[1]}
    buffers.add(batch(PARTITIONS[1], [2], [6]))
    assert [p.offset.tolist() for p in buffers.take(1, set(PARTITIONS))] == [[2]]
    taken = buffers.take(100, set(PARTITIONS))
    assert [(p.partition, p.offset.tolist()) for p in taken] == [
        (PARTITIONS[0], [3]),
        (PARTITIONS[1], [2]),
    ]


def test_buffers_add_unassigned_partition_is_ignored() -> None:
    buffers = PartitionBuffers(TOPICS, PARTITIONS[:1])
    buffers.add(batch(PARTITIONS[1], [0], [1]))
    assert len(buffers) == 0
    assert buffers.partitions == PARTITIONS[:1]
    assert buffers.take(5, set()) == []


def test_buffers_large_records_make_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 100)
    buffers = PartitionBuffers(TOPICS, PARTITIONS[:2])
    buffers.add(batch(PARTITIONS[0], range(19), range(19)))  # of 5 and, from the tenth on, 6 bytes
    buffers.add(batch(PARTITIONS[1], [0], [0]))
    assert len(buffers) == 20
    assert buffers.fills_block(1000)
    assert buffers.has_room(1000)
    assert sum(len(p.values) for p in buffers.take(1000, set(PARTITIONS))) == 20 * 100 // 109
    buffers.add(batch(PARTITIONS[0], range(19, 120), range(19, 120)))
    assert not buffers.has_room(1000)
    while len(buffers):
        assert 1 <= sum(len(p.values) for p in buffers.take(1000, set(PARTITIONS))) <= 20
    assert not buffers.fills_block(1)
    assert buffers.empty == set(PARTITIONS[:2])
    assert buffers.has_room(1)
