"""Messages that were read before, range after range; and where the last of a partition stands."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from streams.core.errors import StreamError
from streams.core.live_stream import BrokerUnavailableError
from streams.kafka.clients.consumer import Consumer
from streams.kafka.records import BLOCK_BYTES, Fetched, Place

POLL_S = 0.2
"""How long one look for messages may take."""
MOST = 10_000
"""Messages of one look."""
NEAR = 5000
"""Messages that are read and dropped sooner than that a partition is asked anew."""
SURPLUS = 2 * BLOCK_BYTES
"""About so many bytes that came with others are kept until they are asked for."""
SILENT_S = 5.0
"""A partition that says nothing for so long, while its broker answers, has nothing to say."""

Spans = Mapping[Place, tuple[int, int]]
"""Of each partition a position, and the one after the last."""


class Rereader:
    """Reads ranges by one connection. Where they follow one another, so does the reading: to ask a
    partition anew takes confluent-kafka half a second.

    Args:
        consumer: the connection; closed with ``close``.
        servers: for errors.
    """

    def __init__(self, consumer: Consumer, servers: str) -> None:
        self._consumer = consumer
        self._servers = servers
        self._held: dict[Place, list[Fetched]] = {}  # what came and was not asked for yet
        self._from: dict[Place, int] = {}  # where that begins
        self._come: dict[Place, int] = {}  # where it ends, and reading goes on
        self._size: dict[Place, int] = {}  # bytes of it
        self._reading: set[Place] = set()

    def __call__(self, wanted: Spans, patience: float) -> list[Fetched]:
        """The messages of these ranges.

        Raises ``BrokerUnavailableError`` when nothing has come for ``patience`` seconds; asked
        once more, it goes on where it was. Raises ``StreamError`` where they are gone.
        """
        self._aim(wanted)
        deadline = time.monotonic() + patience
        while missing := {p for p, (_, after) in wanted.items() if self._come[p] < after}:
            for piece in self._consumer.poll(POLL_S, MOST):
                self._add(piece)
                if piece.place in missing:
                    deadline = time.monotonic() + patience
            if time.monotonic() > deadline:
                raise self._silence(wanted, missing)
            others = self._reading - missing
            if others and sum(self._size[place] for place in others) > SURPLUS:
                self._leave(others, wanted)
        pieces = [piece for place, span in wanted.items() for piece in self._take(place, *span)]
        return [piece for piece in pieces if piece.values]

    def close(self) -> None:
        self._consumer.close()

    def _aim(self, wanted: Spans) -> None:
        """Has the consumer read what is wanted, beside what it reads already."""
        anew = False
        for place, (first, after) in wanted.items():
            come = self._come.get(place, -1)
            if not self._from.get(place, first + 1) <= first <= come + NEAR:
                self._begin(place, first)
                anew = True
            elif place not in self._reading and come < after:
                anew = True
        if anew:
            self._assign(self._come)

    def _begin(self, place: Place, first: int) -> None:
        self._from[place] = self._come[place] = first
        self._held[place], self._size[place] = [], 0

    def _assign(self, places: Iterable[Place]) -> None:
        self._reading = set()  # as long as that has not come off
        at = {place: self._come[place] for place in places}
        self._consumer.assign(at)
        self._reading = set(at)

    def _add(self, piece: Fetched) -> None:
        place = piece.place
        if place not in self._reading:
            return
        piece = piece.rows(slice(int(np.searchsorted(piece.offset, self._come[place])), None))
        if piece.values:
            self._held[place].append(piece)
            self._come[place] = int(piece.offset[-1]) + 1
            self._size[place] += piece.bytes

    def _take(self, place: Place, first: int, after: int) -> list[Fetched]:
        taken, left = [], []
        for piece in self._held[place]:
            low, high = np.searchsorted(piece.offset, (first, after)).tolist()
            taken.append(piece.rows(slice(low, high)))
            if high < len(piece.values):
                left.append(piece.rows(slice(high, None)))
        self._held[place], self._from[place] = left, after
        self._size[place] = sum(piece.bytes for piece in left)
        return taken

    def _leave(self, others: Collection[Place], wanted: Spans) -> None:
        """Reads no more of these for now, and lets go of what came too soon."""
        for place in others:
            if place not in wanted:
                del self._from[place], self._come[place], self._held[place], self._size[place]
                continue
            first, after = wanted[place]
            kept = [piece for piece in self._take(place, first, after) if piece.values]
            self._begin(place, first)
            self._held[place], self._come[place] = kept, after
            self._size[place] = sum(piece.bytes for piece in kept)
        self._assign(self._reading - set(others))

    def _silence(self, wanted: Spans, missing: Collection[Place]) -> StreamError:
        """Why nothing comes. Raises ``BrokerUnavailableError`` where the broker does not answer."""
        places = sorted(missing)
        ends = self._consumer.after(places)
        for place in places:
            if ends[place] < wanted[place][1]:
                return StreamError(
                    f"the topic {place[0]} ends at {ends[place]} in partition {place[1]}, before "
                    f"what this run has read of it ({wanted[place][1]}): it was made anew; start "
                    "another run"
                )
        named = ", ".join(f"{topic}/{number}" for topic, number in places)
        return BrokerUnavailableError(
            f"stream.servers: {self._servers} does not give again what was read of {named}"
        )


def after_last(consumer: Consumer, places: Collection[Place]) -> dict[Place, int]:
    """The position after the last message that there is now to be read of each partition; its first
    position where there is none.

    The last positions of a partition may be none of messages: they end transactions, belong to such
    as were given up, or were compacted away.
    """
    first, end = consumer.first([*places]), consumer.after([*places])
    found, step = dict(first), 1
    unknown = {place for place in places if end[place] > first[place]}
    while unknown:
        begin = {place: max(first[place], end[place] - step) for place in unknown}
        last = _last(consumer, {place: (at, end[place]) for place, at in begin.items()})
        found |= {place: at + 1 for place, at in last.items()}
        unknown = {place for place in unknown - set(last) if begin[place] > first[place]}
        step *= 8
    return found


def _last(consumer: Consumer, spans: Spans) -> dict[Place, int]:
    """The position of the last message of each range, if it has one."""
    consumer.assign({place: first for place, (first, _) in spans.items()})
    last: dict[Place, int] = {}
    unread, deadline = set(spans), time.monotonic() + SILENT_S
    while unread:
        for piece in consumer.poll(POLL_S, MOST):
            after = spans[piece.place][1]
            if n := int(np.searchsorted(piece.offset, after)):
                last[piece.place] = int(piece.offset[n - 1])
            if piece.offset[-1] >= after - 1:
                unread.discard(piece.place)
            deadline = time.monotonic() + SILENT_S
        unread -= {place for place in unread if consumer.drained(place)}
        if unread and time.monotonic() > deadline:
            consumer.after([*unread])  # raises where nobody is there
            break
    return last
