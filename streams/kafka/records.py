"""Messages of several partitions, put into one order.

Each partition's own order stands; between partitions, messages go by their times, and labels go
first where times are equal. Where a broker keeps no times, they take turns, as many of each as
there are. The order of a set of ranges is a function of these ranges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from streams.core.batch import Array, Ints
from streams.core.errors import StreamError
from streams.core.stream import Cursor

TOPIC_BITS = 16
PIECE = 65_536
"""Messages of one partition that a consumer may give before any of another."""
BLOCK_BYTES = 32 << 20
"""About so many bytes of messages make a block, however few they are."""

Place = tuple[str, int]
"""A topic, and the number of a partition of it."""


class Fetched(NamedTuple):
    """n messages of one partition, in their order: ``offset`` (n,), ``time`` (n,) int64
    milliseconds (-1: the broker keeps none), ``values``."""

    place: Place
    offset: Ints
    time: Ints
    values: list[bytes | None]

    @property
    def bytes(self) -> int:
        return sum(map(len, filter(None, self.values)))

    def rows(self, rows: slice) -> Fetched:
        return Fetched(self.place, self.offset[rows], self.time[rows], self.values[rows])


class Messages(NamedTuple):
    """n messages in the order in which they are to be read.

    Attributes:
        label: (n,) whether each is one of labels.
        partition: (n,) int32, of the stream. offset: (n,).
        time: (n,) int64 milliseconds.
        values: n.
    """

    label: Array
    partition: Array
    offset: Ints
    time: Ints
    values: list[bytes | None]

    def take(self, rows: Ints) -> Messages:
        return Messages(
            self.label[rows],
            self.partition[rows],
            self.offset[rows],
            self.time[rows],
            [self.values[row] for row in rows.tolist()],
        )

    def at(self, partition: int, offset: int) -> int:
        """Which of them stands at a position."""
        return int(np.argmax((self.offset == offset) & (self.partition == partition)))


class Topics:
    """Topics by name, and what their partitions are called in a stream.

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

    def partition(self, place: Place) -> int:
        return self._numbers[place[0]][0] << TOPIC_BITS | place[1]

    def name(self, place: Place) -> str:
        """What a cursor calls it."""
        labels = self._numbers[place[0]][1]
        return f"{'labels/' if labels else ''}{self.partition(place)}"

    def place(self, name: str) -> Place:
        """Where a partition of a cursor is. Raises ``StreamError`` for one of an unknown topic."""
        labels, partition = name.startswith("labels/"), int(name.removeprefix("labels/"))
        for topic, known in self._numbers.items():
            if known == (partition >> TOPIC_BITS, labels):
                return topic, partition & (1 << TOPIC_BITS) - 1
        raise StreamError(f"stream.topic: the run has read partition {name}, of a topic not named")

    def cursor(self, positions: Mapping[Place, int]) -> Cursor:
        return {self.name(place): position for place, position in sorted(positions.items())}

    def rank(self, place: Place) -> tuple[bool, int]:
        """Which partition goes first where times are equal."""
        return not self._numbers[place[0]][1], self.partition(place)

    def merge(self, pieces: Iterable[Fetched]) -> Messages:
        """The messages in the order in which they are read."""
        by_place: dict[Place, list[Fetched]] = {}
        for piece in pieces:
            by_place.setdefault(piece.place, []).append(piece)
        places = sorted(by_place, key=self.rank)
        whole = [_joined(by_place[place]) for place in places]
        if not whole:
            none = np.empty(0, np.int64)
            return Messages(none.astype(np.bool_), none.astype(np.int32), none, none, [])
        lengths = [len(piece.values) for piece in whole]
        partitions = np.array([self.partition(place) for place in places], np.int32)
        messages = Messages(
            np.repeat([self._numbers[topic][1] for topic, _ in places], lengths),
            np.repeat(partitions, lengths),
            np.concatenate([piece.offset for piece in whole]),
            np.concatenate([piece.time for piece in whole]),
            [value for piece in whole for value in piece.values],
        )
        if len(whole) == 1:
            return messages
        return messages.take(np.argsort(np.concatenate(_clocks(whole)), kind="stable"))


class Held:
    """Messages that have come and are not read yet, of the partitions that are read.

    Args:
        topics: names of the partitions.
        places: those that are read.
    """

    def __init__(self, topics: Topics, places: Iterable[Place]) -> None:
        self._topics = topics
        self._pieces: dict[Place, list[Fetched]] = {place: [] for place in places}
        self._bytes = 0

    def __len__(self) -> int:
        return sum(map(_length, self._pieces.values()))

    @property
    def places(self) -> list[Place]:
        return [*self._pieces]

    @property
    def empty(self) -> set[Place]:
        """Partitions of which there is nothing."""
        return {place for place, got in self._pieces.items() if not got}

    def fills(self, size: int) -> bool:
        """Whether there is enough for a block of ``size`` messages, or of as many bytes as one may
        have."""
        return len(self) >= size or self._bytes >= BLOCK_BYTES

    def may_grow(self, size: int) -> bool:
        """Whether more may come: until there are two blocks, and one more for each partition of
        which there is nothing yet, for a consumer gives them one by one."""
        most = 2 + len(self.empty)
        return len(self) < most * max(size, PIECE) and self._bytes < most * BLOCK_BYTES

    def add(self, piece: Fetched) -> None:
        """More messages; those of a partition that is another's by now are let go."""
        if piece.place in self._pieces:
            self._pieces[piece.place].append(piece)
            self._bytes += piece.bytes

    def take(self, size: int, drained: set[Place]) -> list[Fetched]:
        """The first ``size`` messages (fewer where they are large), as far as the order is certain:
        none that is later than what may yet come of a partition that is not drained."""
        size = min(size, max(1, len(self) * BLOCK_BYTES // max(self._bytes, 1)))
        places = sorted((p for p, got in self._pieces.items() if got), key=self._topics.rank)
        whole = [_joined(self._pieces[place]) for place in places]
        clocks = _clocks(whole)
        last = [c[-1] for place, c in zip(places, clocks, strict=True) if place not in drained]
        if last and _timed(whole):
            clocks = [clock[: np.searchsorted(clock, min(last), "right")] for clock in clocks]
        clocks = [clock[:size] for clock in clocks]
        most = [len(clock) for clock in clocks]
        if sum(most) > size:
            order = np.argsort(np.concatenate(clocks), kind="stable")[:size]
            whose = np.repeat(np.arange(len(clocks)), most)[order]
            most = np.bincount(whose, minlength=len(clocks)).tolist()
        taken = []
        for piece, n in zip(whole, most, strict=True):
            taken.append(piece.rows(slice(n)))
            left = piece.rows(slice(n, None))
            self._pieces[piece.place] = [left] if left.values else []
        self._bytes -= sum(piece.bytes for piece in taken)
        return [piece for piece in taken if piece.values]


def _timed(pieces: Sequence[Fetched]) -> bool:
    return all(piece.time[0] >= 0 for piece in pieces)


def _clocks(pieces: Sequence[Fetched]) -> list[Array]:
    """Of each piece (n,), what its messages go by: their times, which do not go back; where any has
    none, their share of the piece."""
    if _timed(pieces):
        return [np.maximum.accumulate(piece.time) for piece in pieces]
    return [(np.arange(len(piece.time)) + 0.5) / len(piece.time) for piece in pieces]


def _length(pieces: Sequence[Fetched]) -> int:
    return sum(len(piece.values) for piece in pieces)


def _joined(pieces: Sequence[Fetched]) -> Fetched:
    if len(pieces) == 1:
        return pieces[0]
    return Fetched(
        pieces[0].place,
        np.concatenate([piece.offset for piece in pieces]),
        np.concatenate([piece.time for piece in pieces]),
        [value for piece in pieces for value in piece.values],
    )
