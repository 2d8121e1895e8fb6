"""Records of several partitions, merged into one order.

Each partition keeps its own order. Between partitions, records go by timestamp; labels go first
where timestamps are equal. Where a broker keeps no timestamps, partitions are interleaved in
proportion to their lengths. The order of a set of ranges is a function of these ranges alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from streams.core.batch import Array, Ints
from streams.core.errors import StreamError
from streams.core.stream import Cursor
from streams.decoding.wrong_times import corrected, far_ahead
from streams.kafka.record_times import right_stamps

T = TypeVar("T")

TOPIC_BITS = 16
MAX_CONSECUTIVE_RECORDS = 65_536
"""Records of one partition that a consumer may return before any of another."""
BLOCK_BYTES = 32 << 20
"""A block holds at most about this many bytes of values, however few records that is."""


class TopicPartition(NamedTuple):
    """A topic, and the number of one of its partitions."""

    topic: str
    partition: int


Headers = Sequence[tuple[str, bytes | None]]
"""The headers of a record, in their order; a name may repeat."""


class RecordBatch(NamedTuple):
    """n records of one partition, in offset order: ``offset`` (n,), ``time`` (n,) int64
    milliseconds (-1: the broker keeps no timestamps), ``values`` n; ``keys`` n and ``headers`` n
    where the consumer was asked for them."""

    partition: TopicPartition
    offset: Ints
    time: Ints
    values: list[bytes | None]
    keys: list[bytes | None] | None = None
    headers: list[Headers] | None = None

    @property
    def bytes(self) -> int:
        return sum(map(len, filter(None, self.values)))

    def rows(self, rows: slice) -> RecordBatch:
        return RecordBatch(
            self.partition,
            self.offset[rows],
            self.time[rows],
            self.values[rows],
            None if self.keys is None else self.keys[rows],
            None if self.headers is None else self.headers[rows],
        )


class MergedRecords(NamedTuple):
    """n records in reading order.

    Attributes:
        label: (n,) bool, whether each record is a label.
        partition: (n,) int32, partition of the stream. offset: (n,).
        time: (n,) int64 milliseconds.
        values: n.
        keys, headers: n where the consumer was asked for them.
        sent: (n,) int64 milliseconds, as in ``RecordTimes``; None: all times are as they are.
        status: (n,) as in ``RecordTimes``.
    """

    label: Array
    partition: Array
    offset: Ints
    time: Ints
    values: list[bytes | None]
    keys: list[bytes | None] | None = None
    headers: list[Headers] | None = None
    sent: Ints | None = None
    status: Array | None = None

    def take(self, rows: Ints) -> MergedRecords:
        listed = rows.tolist()
        return MergedRecords(
            self.label[rows],
            self.partition[rows],
            self.offset[rows],
            self.time[rows],
            [self.values[row] for row in listed],
            None if self.keys is None else [self.keys[row] for row in listed],
            None if self.headers is None else [self.headers[row] for row in listed],
            None if self.sent is None else self.sent[rows],
            None if self.status is None else self.status[rows],
        )

    def row_at(self, partition: int, offset: int) -> int:
        """Return the row of the record at a position."""
        return int(np.argmax((self.offset == offset) & (self.partition == partition)))


class Topics:
    """The topics of a stream, and the keys of their partitions in a cursor.

    Args:
        events: topics of events, in the order of the job.
        labels: the topic of labels, if there is one.
    """

    def __init__(self, events: Sequence[str], labels: str | None) -> None:
        self._numbers = {topic: (i, False) for i, topic in enumerate(events)}
        if labels in self._numbers:
            raise StreamError(f"stream.labels.topic: {labels!r} is a topic of events")
        if labels is not None:
            self._numbers[labels] = (0, True)

    @property
    def names(self) -> list[str]:
        return [*self._numbers]

    def stream_partition(self, partition: TopicPartition) -> int:
        """Return the number of the partition in the stream: topic number, then partition."""
        topic, number = partition
        return self._numbers[topic][0] << TOPIC_BITS | number

    def cursor_key(self, partition: TopicPartition) -> str:
        labels = self._numbers[partition[0]][1]
        return f"{'labels/' if labels else ''}{self.stream_partition(partition)}"

    def topic_partition(self, key: str) -> TopicPartition:
        """Return the partition of a cursor key. Raise ``StreamError`` if its topic is unknown."""
        labels, partition = key.startswith("labels/"), int(key.removeprefix("labels/"))
        for topic, number in self._numbers.items():
            if number == (partition >> TOPIC_BITS, labels):
                return TopicPartition(topic, partition & (1 << TOPIC_BITS) - 1)
        raise StreamError(
            f"stream.topic: the run has read partition {key} of a topic that the job does not name"
        )

    def cursor(self, positions: Mapping[TopicPartition, int]) -> Cursor:
        return {self.cursor_key(partition): at for partition, at in sorted(positions.items())}

    def rank(self, partition: TopicPartition) -> tuple[bool, int]:
        """Return the sort key that orders partitions where timestamps are equal."""
        return not self._numbers[partition[0]][1], self.stream_partition(partition)

    def merge(
        self, batches: Iterable[RecordBatch], read_at: float | None = None, lateness: float = 0.0
    ) -> MergedRecords:
        """Return the records in reading order.

        Args:
            batches: the records of a block.
            read_at: the reader's clock when it was read, by which wrong times are put right; None:
                times are as they are.
            lateness: seconds by which times may step back.
        """
        by_partition: dict[TopicPartition, list[RecordBatch]] = {}
        for batch in batches:
            by_partition.setdefault(batch.partition, []).append(batch)
        partitions = sorted(by_partition, key=self.rank)
        joined = [_concatenate(by_partition[partition]) for partition in partitions]
        if not joined:
            none = np.empty(0, np.int64)
            return MergedRecords(none.astype(np.bool_), none.astype(np.int32), none, none, [])
        sent = status = None
        if read_at is not None:
            times = [right_stamps(batch.time, read_at, lateness) for batch in joined]
            joined = [b._replace(time=t.time) for b, t in zip(joined, times, strict=True)]
            sent = np.concatenate([t.sent for t in times])
            status = np.concatenate([t.status for t in times])
        lengths = [len(batch.values) for batch in joined]
        numbers = np.array([self.stream_partition(p) for p in partitions], np.int32)
        records = MergedRecords(
            np.repeat([self._numbers[topic][1] for topic, _ in partitions], lengths),
            np.repeat(numbers, lengths),
            np.concatenate([batch.offset for batch in joined]),
            np.concatenate([batch.time for batch in joined]),
            [value for batch in joined for value in batch.values],
            _joined([batch.keys for batch in joined]),
            _joined([batch.headers for batch in joined]),
            sent,
            status,
        )
        if len(joined) == 1:
            return records
        return records.take(np.argsort(np.concatenate(_clocks(joined)), kind="stable"))


class PartitionBuffers:
    """Records that were fetched and not yet read, one buffer per assigned partition.

    Args:
        topics: gives the order of partitions.
        partitions: the assigned ones.
    """

    def __init__(self, topics: Topics, partitions: Iterable[TopicPartition]) -> None:
        self._topics = topics
        self._buffers: dict[TopicPartition, list[RecordBatch]] = {p: [] for p in partitions}
        self._bytes = 0

    def __len__(self) -> int:
        return sum(map(_length, self._buffers.values()))

    @property
    def partitions(self) -> list[TopicPartition]:
        return [*self._buffers]

    @property
    def empty(self) -> set[TopicPartition]:
        """The partitions whose buffer is empty."""
        return {partition for partition, batches in self._buffers.items() if not batches}

    def fills_block(self, size: int) -> bool:
        """Return whether there are ``size`` records, or as many bytes as a block may hold."""
        return len(self) >= size or self._bytes >= BLOCK_BYTES

    def has_room(self, size: int) -> bool:
        """Return whether to fetch more.

        The limit is two blocks, plus one for each empty partition: a consumer returns one partition
        after another.
        """
        blocks = 2 + len(self.empty)
        records = blocks * max(size, MAX_CONSECUTIVE_RECORDS)
        return len(self) < records and self._bytes < blocks * BLOCK_BYTES

    def add(self, batch: RecordBatch) -> None:
        """Buffer more records; ignore those of a partition that is no longer assigned."""
        if batch.partition in self._buffers:
            self._buffers[batch.partition].append(batch)
            self._bytes += batch.bytes

    def take(self, size: int, complete: set[TopicPartition]) -> list[RecordBatch]:
        """Remove and return the first ``size`` records, fewer where they are large.

        Args:
            size: records to take at most.
            complete: partitions at their high watermark. No record is taken that is later than what
                another partition may still deliver, so that the order is certain.
        """
        size = min(size, max(1, len(self) * BLOCK_BYTES // max(self._bytes, 1)))
        filled = sorted(
            (p for p, batches in self._buffers.items() if batches), key=self._topics.rank
        )
        joined = [_concatenate(self._buffers[partition]) for partition in filled]
        clocks = _clocks([batch._replace(time=_steady(batch.time)) for batch in joined])
        last = [c[-1] for p, c in zip(filled, clocks, strict=True) if p not in complete]
        if last and _have_timestamps(joined):
            clocks = [clock[: np.searchsorted(clock, min(last), "right")] for clock in clocks]
        clocks = [clock[:size] for clock in clocks]
        counts = [len(clock) for clock in clocks]
        if sum(counts) > size:
            order = np.argsort(np.concatenate(clocks), kind="stable")[:size]
            sources = np.repeat(np.arange(len(clocks)), counts)[order]
            counts = np.bincount(sources, minlength=len(clocks)).tolist()
        taken = []
        for batch, n in zip(joined, counts, strict=True):
            taken.append(batch.rows(slice(n)))
            rest = batch.rows(slice(n, None))
            self._buffers[batch.partition] = [rest] if rest.values else []
        self._bytes -= sum(batch.bytes for batch in taken)
        return [batch for batch in taken if batch.values]


def _have_timestamps(batches: Sequence[RecordBatch]) -> bool:
    return all(batch.time[0] >= 0 for batch in batches)


def _steady(time: Ints) -> Ints:
    """Return timestamps without those that are far ahead of those around them."""
    seconds = time / 1000.0
    wrong = far_ahead(seconds, 0.0)
    return (
        time if not wrong.any() else np.round(corrected(seconds, wrong) * 1000.0).astype(np.int64)
    )


def _clocks(batches: Sequence[RecordBatch]) -> list[Array]:
    """Return the sort key (n,) of each batch's records: the running maximum of their timestamps.

    Where a batch has no timestamps, it is each record's relative position in its batch.
    """
    if _have_timestamps(batches):
        return [np.maximum.accumulate(batch.time) for batch in batches]
    return [(np.arange(len(batch.time)) + 0.5) / len(batch.time) for batch in batches]


def _length(batches: Sequence[RecordBatch]) -> int:
    return sum(len(batch.values) for batch in batches)


def _concatenate(batches: Sequence[RecordBatch]) -> RecordBatch:
    if len(batches) == 1:
        return batches[0]
    return RecordBatch(
        batches[0].partition,
        np.concatenate([batch.offset for batch in batches]),
        np.concatenate([batch.time for batch in batches]),
        [value for batch in batches for value in batch.values],
        _joined([batch.keys for batch in batches]),
        _joined([batch.headers for batch in batches]),
    )


def _joined(parts: Sequence[list[T] | None]) -> list[T] | None:
    """Return the lists as one; None where one of them is not there."""
    present = [part for part in parts if part is not None]
    if len(present) < len(parts):
        return None
    return [item for part in present for item in part]
