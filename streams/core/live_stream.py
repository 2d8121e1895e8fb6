"""What a live stream is: one whose order is known only once it has been read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from streams.core.batch import Array, Batch, Ints, Labels
from streams.core.errors import StreamError
from streams.core.stream import Cursor, Stream

Ranges = dict[str, tuple[int, int]]
"""Partition to the first position of a range in it and the one after the last; those of labels are
named ``labels/...``."""


class BrokerUnavailableError(StreamError):
    """Nobody answers where the stream comes from: it is worth while to wait, and to try again."""


class LiveStream(Stream):
    """A stream that others write while it is read.

    How its partitions are interleaved hangs on what had come when, so two readings of it differ.
    What does not: the block of given ranges, whenever it is read. A run keeps the ranges of its
    blocks (the *journal*), and reads the same again after a crash.

    ``read`` gives blocks of consecutive positions, partition by partition from its cursor on, and
    one without anything in it, now and then, where nothing comes. It never returns.

    Attributes:
        bounded: whether it ends, at the last message that there is as a run begins.
        readers: actors that read it at once, each its share of the partitions.
        group: a name for those that read it, where the job has stated none: the name of the job.
    """

    interleaved_partitions = True
    bounded: bool = False
    readers: int = 1
    group: str = ""

    @abstractmethod
    def start(self) -> Cursor:
        """Where a new run begins: every partition that there is. Raises ``StreamError``."""

    def stop(self) -> Cursor:
        """Where a run ends that begins now; of a bounded stream."""
        return self.end()

    @abstractmethod
    def end(self) -> Cursor:
        """The position after the last that there is now, of every partition. May be called in
        another thread than ``read``. Raises ``BrokerUnavailableError``."""

    @abstractmethod
    def read_ranges(self, ranges: Ranges) -> Batch:
        """The block of these ranges, exactly as it was when it was read for the first time. Raises
        ``StreamError`` where it is no more to be had."""

    def commit(self, cursor: Cursor) -> None:
        """A checkpoint holds all before this cursor: who keeps positions for others to look at may
        now be told. Never waits."""

    def close(self) -> None:
        """Lets go of connections. ``again`` and ``end`` may be called afterwards all the same."""


def ranges_of(block: Batch) -> Ranges:
    """The ranges of positions in a block, bad ones among them."""
    found: Ranges = {}

    def add(prefix: str, partition: Array, offset: Array) -> None:
        parts = partition[:1] if (partition == partition[:1]).all() else np.unique(partition)
        for part in parts.tolist():
            offsets = offset if len(parts) == 1 else offset[partition == part]
            name, low, high = f"{prefix}{part}", int(offsets.min()), int(offsets.max()) + 1
            first, after = found.get(name, (low, high))
            found[name] = (min(first, low), max(after, high))

    add("", block.partition, block.offset)
    if block.arrivals is not None:
        add("labels/", block.arrivals.partition, block.arrivals.offset)
    for prefix, wanted in (("", False), ("labels/", True)):
        dead = [d for d in block.dead if d.label is wanted]
        if dead:
            add(
                prefix,
                np.array([d.partition for d in dead]),
                np.array([d.offset for d in dead], np.int64),
            )
    return found


def skip_before(block: Batch, cursor: Cursor) -> Batch:
    """What of a block stands at or after a cursor; those before it have been dealt with."""

    def fresh(prefix: str, partition: Array, offset: Ints) -> Array:
        start = np.zeros(len(partition), np.int64)
        for part in np.unique(partition).tolist():
            start[partition == part] = cursor.get(f"{prefix}{part}", 0)
        return np.asarray(offset >= start)

    return _only(block, fresh)


def truncate_at(block: Batch, stop: Cursor) -> Batch:
    """What of a block stands before a position; of partitions that it does not name, nothing."""

    def early(prefix: str, partition: Array, offset: Ints) -> Array:
        end = np.zeros(len(partition), np.int64)
        for part in np.unique(partition).tolist():
            end[partition == part] = stop.get(f"{prefix}{part}", 0)
        return np.asarray(offset < end)

    return _only(block, early)


def reached(cursor: Mapping[str, int], stop: Mapping[str, int]) -> bool:
    """Whether every partition has come to a position."""
    return all(cursor.get(name, 0) >= position for name, position in stop.items())


def _only(block: Batch, wanted: Callable[[str, Array, Ints], Array]) -> Batch:
    """The rows, labels and dead ones whose positions are wanted, in their order."""
    rows = wanted("", block.partition, block.offset)
    arrivals = block.arrivals
    labels = None if arrivals is None else wanted("labels/", arrivals.partition, arrivals.offset)
    dead = [
        d
        for d in block.dead
        if wanted(
            "labels/" if d.label else "", np.array([d.partition]), np.array([d.offset], np.int64)
        )[0]
    ]
    if rows.all() and (labels is None or labels.all()) and len(dead) == len(block.dead):
        return block
    place = np.zeros(len(block) + 1, np.int64)  # wanted rows before each row
    np.cumsum(rows, out=place[1:])
    if arrivals is not None:
        columns = (getattr(arrivals, name)[labels] for name in Labels.__slots__)
        arrivals = Labels(*columns)
        arrivals = (
            replace(arrivals, insert_before=place[arrivals.insert_before])
            if len(arrivals)
            else None
        )
    return replace(
        block.take(rows),
        arrivals=arrivals,
        dead=tuple(replace(d, insert_before=int(place[d.insert_before])) for d in dead),
        flush=block.flush,
    )
