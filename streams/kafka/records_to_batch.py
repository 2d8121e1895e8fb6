"""From messages to a block of events, with labels and dead ones among them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from streams.core.batch import Array, Batch, DeadLetter, Ints, Labels, reject_rows
from streams.core.errors import StreamError
from streams.decoding.decoder import POSITION_BITS, Decoder
from streams.decoding.formats.factory import Format
from streams.kafka.records import Messages

Reader = tuple[Format, Decoder]
"""What turns values into a table, and a table into a batch."""


class Blocks:
    """Turns messages into blocks; what becomes of a message depends on that message alone.

    Args:
        events: reads messages of events; kept as ``of_events``.
        labels: reads messages of labels; kept as ``of_labels``.
        time: the field of event time, if there is one.
        ahead: seconds that it may be later than the time of its message.
        max_bytes: of a message.
        stamped: whether events are of no use without the time of their message.
    """

    def __init__(
        self,
        events: Reader,
        labels: Reader,
        time: str | None,
        ahead: float,
        max_bytes: int,
        stamped: bool = False,
    ) -> None:
        self.of_events = events
        self.of_labels = labels
        self._time = time
        self._ahead = ahead
        self._max_bytes = max_bytes
        self._stamped = stamped

    def __call__(self, messages: Messages) -> Batch:
        label = messages.label
        if not label.any():
            return self._events(messages)[0]
        rows = np.flatnonzero(~label)
        events, alive = self._events(messages.take(rows))
        place = np.zeros(len(rows) + 1, np.int64)  # events that are alive before each
        np.cumsum(alive, out=place[1:])
        before = place[np.cumsum(~label)[label]]
        return self._labelled(events, messages.take(np.flatnonzero(label)), before)

    def _events(self, messages: Messages) -> tuple[Batch, Array]:
        """The events, and which of the messages are alive, (n,) bool."""
        if self._stamped and (messages.time < 0).any():
            raise StreamError(
                "stream.label_timeout_seconds: messages of this broker have no time stamps: name a "
                "field of time (stream.time)"
            )
        batch, alive = self._read(messages, *self.of_events, label=False)
        if self._time is None or not len(batch):
            return batch, alive
        sent = messages.time[alive] / 1000.0
        gone = (batch.time > sent + self._ahead) & (sent >= 0)
        if gone.any():
            why = [
                f"column {self._time!r} holds {t:.17g}; expected a time at most "
                f"{self._ahead:g} s after that of the message, {at:.3f}"
                for t, at in zip(batch.time[gone].tolist(), sent[gone].tolist(), strict=True)
            ]
            batch = reject_rows(batch, gone, why)
            alive[np.flatnonzero(alive)[gone]] = False
            dead = _with_values(batch.dead, messages)
            dead = sorted(dead, key=lambda d: messages.at(d.partition, d.offset))
            batch = replace(batch, dead=tuple(dead))
        return batch, alive

    def _labelled(self, events: Batch, messages: Messages, before: Ints) -> Batch:
        """The events with the labels among them; ``before`` (n,) the row that each comes before."""
        labels, alive = self._read(messages, *self.of_labels, label=True)
        dead = list(events.dead)
        for d in labels.dead:
            row = messages.at(d.partition, d.offset)
            dead.append(replace(d, insert_before=int(before[row])))
        dead.sort(key=lambda d: d.insert_before)
        batch = replace(events, dead=tuple(dead))
        if not len(labels):
            return batch
        assert labels.y is not None
        arrivals = Labels(
            labels.ids, labels.y, labels.time, labels.partition, labels.offset, before[alive]
        )
        return replace(batch, arrivals=arrivals, classes=labels.classes)

    def _read(
        self, messages: Messages, format: Format, decode: Decoder, label: bool
    ) -> tuple[Batch, Array]:
        """Messages, decoded; those that cannot be are dead, and not alive."""
        values, most = messages.values, self._max_bytes
        large: list[int] = []
        if max(map(len, filter(None, values)), default=0) > most:
            large = [i for i, value in enumerate(values) if value is not None and len(value) > most]
            values = list(values)
            for i in large:
                values[i] = None
        table, bad = format.read(values)
        alive = np.ones(len(values), np.bool_)
        alive[[i for i, _ in bad]] = False
        aside: list[DeadLetter] = []
        if bad:
            place = np.zeros(len(values) + 1, np.int64)
            np.cumsum(alive, out=place[1:])
            sizes = {i: len(messages.values[i] or b"") for i in large}
            for i, why in bad:
                if i in sizes:
                    why = f"{sizes[i]:,} bytes; expected at most {most:,} (stream.max_bytes)"
                where = int(messages.partition[i]), int(messages.offset[i])
                aside.append(
                    DeadLetter(*where, why, (where[0] << POSITION_BITS) + where[1], int(place[i]))
                )
        partition, offset, time = (column[alive] for column in messages[1:4])
        # Without a time stamp a label's time is unknown; an event's has to be some time.
        sent = np.where(time < 0, np.nan if label else 0.0, time / 1000.0)
        batch = decode(table, partition, offset, sent, aside)
        if batch.dead:
            dead = _with_values(batch.dead, messages)
            batch = replace(batch, dead=tuple(replace(d, label=label) for d in dead))
            alive[[messages.at(d.partition, d.offset) for d in dead]] = False
        return batch, alive


def _with_values(dead: Iterable[DeadLetter], messages: Messages) -> list[DeadLetter]:
    return [
        d
        if d.value is not None
        else replace(d, value=messages.values[messages.at(d.partition, d.offset)])
        for d in dead
    ]
