"""Live streams: their order is known only once they have been read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from streams.core.batch import Array, Batch, Ints, ReadMark
from streams.core.errors import StreamChangedError, StreamError
from streams.core.stream import Cursor, Stream

Ranges = dict[str, tuple[int, int]]
"""Partition to a range of its offsets, the end exclusive; label partitions are ``labels/...``."""


class Identity(NamedTuple):
    """What a run knows of the topics that it has read.

    Attributes:
        topics: name to id; without those that have none.
        marks: partition to how far it has been read.
    """

    topics: Mapping[str, str]
    marks: Mapping[str, ReadMark]


def check_topic_ids(known: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise ``StreamChangedError`` where a topic has another id than it had.

    What has no id, or is not there, is taken for the same.
    """
    for topic, id_ in known.items():
        if now.get(topic, id_) != id_:
            raise StreamChangedError(
                f"the topic {topic!r} is another one now: it was deleted and made anew since this "
                f"run began to read it (topic id {now[topic]}, formerly {id_})"
            )


def another_record_error(place: str, offset: int) -> StreamChangedError:
    """Return the error for another record at an offset of a partition (``topic/number``)."""
    return StreamChangedError(
        f"{place} holds another record at offset {offset} than the one that this run has read: the "
        "topic was deleted and made anew, or its log was truncated"
    )


class BrokerUnavailableError(StreamError):
    """The broker does not answer. Retry later."""


class LiveStream(Stream):
    """A stream that is written while it is read.

    The interleaving of its partitions depends on the time of reading, so two readings differ. The
    block of given offset ranges and a given reader's clock is always the same. A run logs both for
    each of its blocks (the *journal*), and reads the same blocks again after a crash.

    ``read`` yields blocks of consecutive offsets of each partition, from the cursor on. It yields
    an empty block now and then while nothing arrives. It never returns.

    Attributes:
        bounded: whether it ends at the last message that exists when a run begins.
        schema_ids: topic to the id of the schema that its messages are read by, where the job
            states none.
    """

    interleaved_partitions = True
    bounded: bool = False
    schema_ids: Mapping[str, int] = MappingProxyType({})

    def find_schema_ids(self, start: Cursor) -> dict[str, int]:
        """Return ``schema_ids`` for a new run, by the messages that are there. Raises
        ``StreamError``."""
        return {}

    def use_schema_ids(self, ids: Mapping[str, int]) -> None:
        """Read messages by these ids, which the run keeps from its beginning on."""
        self.schema_ids = dict(ids)

    @abstractmethod
    def start(self) -> Cursor:
        """Return where a new run begins, for every partition. Raises ``StreamError``."""

    def stop(self) -> Cursor:
        """Return where a run that begins now ends; for a bounded stream."""
        return self.end()

    @abstractmethod
    def end(self) -> Cursor:
        """Return the current end offset of every partition. May be called in another thread than
        ``read``. Raises ``BrokerUnavailableError``."""

    @abstractmethod
    def read_ranges(self, ranges: Ranges, read_at: float | None = None) -> Batch:
        """Return the block of these ranges, exactly as it was first read.

        Args:
            ranges: the ranges of its offsets.
            read_at: its ``read_at``; None where it had none.

        Raises ``StreamError`` if it no longer exists."""

    def topic_ids(self) -> dict[str, str]:
        """Return the id of each topic, which another topic of the same name does not have.

        Leave out those that have none. Raises ``BrokerUnavailableError``.
        """
        return {}

    def verify(self, known: Identity, cursor: Cursor) -> Cursor:
        """Check that this is the stream that a run has read up to a cursor, and holds the rest.

        Returns:
            The first offset that each partition still holds; empty where nothing is ever deleted.

        Raises:
            StreamChangedError: it is another stream now, or events after the cursor are lost.
            BrokerUnavailableError: there is no answer.
        """
        return {}

    def sample(self, size: int) -> Batch | None:
        """Return some of the first events that a new run would read, at most ``size`` of each
        partition; None: there are none yet. Nothing is committed. Raises ``StreamError``."""
        end = self.end()
        ranges = {
            name: (first, min(first + size, end[name]))
            for name, first in self.start().items()
            if not name.startswith("labels/") and first < end.get(name, first)
        }
        return self.read_ranges(ranges) if ranges else None

    def close(self) -> None:
        """Close connections. ``read_ranges`` and ``end`` may still be called afterwards."""


def ranges_of(block: Batch) -> Ranges:
    """Return the offset ranges of a block, dead letters included."""
    ranges: Ranges = {}

    def add(prefix: str, partition: Array, offset: Array) -> None:
        parts = partition[:1] if (partition == partition[:1]).all() else np.unique(partition)
        for part in parts.tolist():
            offsets = offset if len(parts) == 1 else offset[partition == part]
            name, low, high = f"{prefix}{part}", int(offsets.min()), int(offsets.max()) + 1
            start, stop = ranges.get(name, (low, high))
            ranges[name] = (min(start, low), max(stop, high))

    add("", block.partition, block.offset)
    if block.arrivals is not None:
        add("labels/", block.arrivals.partition, block.arrivals.offset)
    for prefix, of_labels in (("", False), ("labels/", True)):
        tombstones = block.tombstones
        if tombstones is not None:
            tombstones = tombstones.select(tombstones.label == of_labels)
        if tombstones is not None:
            add(prefix, tombstones.partition, tombstones.offset)
        dead = [d for d in block.dead if d.label is of_labels]
        if dead:
            add(
                prefix,
                np.array([d.partition for d in dead]),
                np.array([d.offset for d in dead], np.int64),
            )
    return ranges


def skip_before(block: Batch, cursor: Cursor) -> Batch:
    """Return what of a block is at or after a cursor."""

    def is_after(prefix: str, partition: Array, offset: Ints) -> Array:
        start = np.zeros(len(partition), np.int64)
        for part in np.unique(partition).tolist():
            start[partition == part] = cursor.get(f"{prefix}{part}", 0)
        return np.asarray(offset >= start)

    return _select(block, is_after)


def truncate_at(block: Batch, stop: Cursor) -> Batch:
    """Return what of a block is before a cursor: nothing of partitions that are not in it."""

    def is_before(prefix: str, partition: Array, offset: Ints) -> Array:
        end = np.zeros(len(partition), np.int64)
        for part in np.unique(partition).tolist():
            end[partition == part] = stop.get(f"{prefix}{part}", 0)
        return np.asarray(offset < end)

    return _select(block, is_before)


def reached(cursor: Mapping[str, int], stop: Mapping[str, int]) -> bool:
    """Whether a cursor has reached ``stop`` in every partition."""
    return all(cursor.get(name, 0) >= position for name, position in stop.items())


def _select(block: Batch, selects: Callable[[str, Array, Ints], Array]) -> Batch:
    """Return the rows, labels and dead letters of the selected positions.

    Args:
        block: the block.
        selects: a mask of positions, from the prefix of their partitions (``labels/`` or none),
            their partitions and their offsets.
    """
    rows = selects("", block.partition, block.offset)
    arrivals = block.arrivals
    labels = None if arrivals is None else selects("labels/", arrivals.partition, arrivals.offset)
    dead = [
        d
        for d in block.dead
        if selects(
            "labels/" if d.label else "", np.array([d.partition]), np.array([d.offset], np.int64)
        )[0]
    ]
    tombstones = block.tombstones
    if tombstones is not None:
        kept = np.where(
            tombstones.label,
            selects("labels/", tombstones.partition, tombstones.offset),
            selects("", tombstones.partition, tombstones.offset),
        )
        tombstones = tombstones if kept.all() else tombstones.select(kept)
    unchanged = len(dead) == len(block.dead) and tombstones is block.tombstones
    if rows.all() and (labels is None or labels.all()) and unchanged:
        return block
    insert_before = np.zeros(len(block) + 1, np.int64)  # selected rows before each row
    np.cumsum(rows, out=insert_before[1:])
    if arrivals is not None and labels is not None:
        arrivals = arrivals[labels]
        arrivals = (
            replace(arrivals, insert_before=insert_before[arrivals.insert_before])
            if len(arrivals)
            else None
        )
    if tombstones is not None:
        before = insert_before[tombstones.insert_before]
        tombstones = replace(tombstones, insert_before=before)
    return replace(
        block.take(rows),
        arrivals=arrivals,
        tombstones=tombstones,
        dead=tuple(replace(d, insert_before=int(insert_before[d.insert_before])) for d in dead),
        flush=block.flush,
        read_at=block.read_at,
    )
