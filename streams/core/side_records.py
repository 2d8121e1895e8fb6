"""Side records: what a batch carries between its rows, and what a block says of its partitions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event or a label that cannot be used: its position and the reason. It is logged, never
    learned.

    Attributes:
        partition, offset: the position; in the stream of labels where ``label`` is True.
        reason: why it cannot be used.
        id: the event's id, or its position where it has none.
        insert_before: the row of the batch that it comes just before.
        value: its bytes, where the stream has them.
        label: whether it is a label that arrived on its own.
        key, headers: of its message, where the stream reads them.
    """

    partition: int
    offset: int
    reason: str
    id: int
    insert_before: int = 0
    value: bytes | None = None
    label: bool = False
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Labels:
    """m labels that arrive on their own, apart from their events.

    Attributes:
        ids: (m,) int64, the ids of their events.
        y: (m,) class codes or targets.
        time: (m,) float64, when each became known.
        partition, offset: (m,) positions in the stream of labels.
        insert_before: (m,) int64, the row of the batch that each comes just before.
        withdrawn: (m,) bool, where the label of the event is taken back: ``y`` is none there.
            None: nowhere.
    """

    ids: Ints
    y: Array
    time: Floats
    partition: Array
    offset: Ints
    insert_before: Ints
    withdrawn: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice | Array) -> Labels:
        """Return the labels at ``rows``; ``insert_before`` is unchanged."""
        return Labels(
            self.ids[rows],
            self.y[rows],
            self.time[rows],
            self.partition[rows],
            self.offset[rows],
            self.insert_before[rows],
            None if self.withdrawn is None else self.withdrawn[rows],
        )

    @property
    def withdrawals(self) -> NDArray[np.bool_]:
        """(m,) ``withdrawn`` as a mask."""
        return np.zeros(len(self), np.bool_) if self.withdrawn is None else self.withdrawn

    def shifted(self, rows: int) -> Labels:
        """Return the labels with ``rows`` added to ``insert_before``."""
        return replace(self, insert_before=self.insert_before + rows)


@dataclass(frozen=True, slots=True)
class Tombstones:
    """m records without a value: deletions of a compacted Kafka topic. They are counted.

    A tombstone of a label is among ``Labels`` where its key names the event: it withdraws the
    label. It is here where its key does not.

    Attributes:
        partition, offset: (m,) positions.
        label: (m,) bool, whether the position is in the stream of labels.
        insert_before: (m,) int64, the row of the batch that each comes just before.
    """

    partition: Array
    offset: Ints
    label: NDArray[np.bool_]
    insert_before: Ints

    def __len__(self) -> int:
        return len(self.offset)

    def __getitem__(self, rows: slice | Array) -> Tombstones:
        """Return those at ``rows``; ``insert_before`` is unchanged."""
        return Tombstones(
            self.partition[rows], self.offset[rows], self.label[rows], self.insert_before[rows]
        )

    def select(self, rows: Array) -> Tombstones | None:
        """Return those where the mask ``rows`` is True; None where there are none."""
        return self[rows] if rows.any() else None

    def shifted(self, rows: int) -> Tombstones:
        """Return them with ``rows`` added to ``insert_before``."""
        return replace(self, insert_before=self.insert_before + rows)


class ReadMark(NamedTuple):
    """How far a partition of a live stream has been read.

    Attributes:
        offset: of the last record that was read.
        digest: a hash of that record.
        position: where reading goes on: the offsets between hold no record.
    """

    offset: int
    digest: str
    position: int


class ReadMarks(NamedTuple):
    """What a block of a live stream says of the partitions that it is from.

    Attributes:
        last: partition to mark; label partitions are ``labels/...``.
        ordered: whether the order of the block's records is that of their timestamps, so that the
            order of the rest does not depend on its first records.
    """

    last: dict[str, ReadMark]
    ordered: bool
