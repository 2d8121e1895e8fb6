"""Events and labels from topics of Kafka: whatever breaks, none is lost and none comes twice.

Partition p of the stream is partition ``p & 0xffff`` of topic number ``p >> 16`` of the job;
partitions of labels are named alike, as ``labels/p``. A block is a range of offsets of each of some
partitions, its messages in the order of their times, as far as each partition's own order allows.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from streams.core.batch import Batch
from streams.core.errors import StreamError
from streams.core.live_stream import BrokerUnavailableError, LiveStream, Ranges
from streams.core.schema import Feature, FeatureKind, Scalar, Schema
from streams.core.stream import Cursor, JsonLayout
from streams.decoding.decoder import Columns, Decoder, NamedColumn
from streams.decoding.formats.factory import Field, FieldKind, make
from streams.kafka.clients.consumer import Consumer, connect
from streams.kafka.clients.producer import Outbox, outbox
from streams.kafka.config import KafkaConfig, KafkaLabel
from streams.kafka.range_reader import NEAR, Rereader, after_last
from streams.kafka.records import Fetched, Held, Place, Topics
from streams.kafka.records_to_batch import Blocks

IDLE_S = 0.2
"""After so long without a message a reader is told that there is none."""
PATIENCE_S = 1.0
"""How long a partition that has fallen silent is waited for, to take its messages in order."""
REFRESH_S = 60.0
"""How often it is looked whether there are new partitions."""
AGAIN_S = 2.0
"""How long nothing may come of messages that were read before until the caller is told."""
VALUES_S = 30.0
"""The same, where the caller has other things to do than to try again."""
LAST_S = 2.0
"""How long the last positions may take to be told to Kafka."""


class KafkaStream(LiveStream):
    """Events, and labels, from topics.

    Attributes:
        blocks: what makes messages into blocks.
    """

    kind = "kafka"
    Config = KafkaConfig

    def __init__(self, config: KafkaConfig, folder: Path) -> None:
        self.config = config
        self._servers = ",".join(_listed(config.servers))
        apart = config.labels
        self._topics = self.topics(config)
        label = config.label if isinstance(config.label, KafkaLabel) else KafkaLabel()
        label = KafkaLabel(column=config.label) if isinstance(config.label, str) else label
        task = label.task or "classification"
        answer = NamedColumn(label.column or "", _type_of(label))
        answer_kind: FieldKind = "number" if task == "regression" else _KINDS[answer.type]
        id_kind: FieldKind = "integer" if config.id_type == "int" else "text"
        features, fields = _features(config.features)
        if config.id is not None:
            fields.append(Field(config.id, id_kind))
        if config.time is not None:
            fields.append(Field(config.time, "time"))
        if config.key is not None:
            fields.append(Field(config.key, "text"))
        if inside := config.labels is None and label.column is not None:
            fields.append(Field(answer.column, answer_kind, required=False))
        if (due := config.label_delay.column) is not None:
            fields.append(Field(due, "time", required=False))
        for name, times in Counter(field.name for field in fields).items():
            if times > 1:
                raise StreamError(f"stream: field {name!r} is named {times} times")
        format_ = make(config.format, fields, folder)
        self.schema = Schema(features, task, label.classes)
        self.has_ids = config.id is not None
        self.has_time = config.time is not None
        self.has_arrivals = apart is not None
        self.gapless = not config.gaps
        self.id_type = config.id_type
        self.dtype = format_.dtype()
        self.readers = config.consumers
        self.bounded = config.stop == "latest"
        columns = Columns(
            id=None if config.id is None else NamedColumn(config.id, config.id_type),
            time=config.time,
            label=answer if inside else None,
            key=None if config.key is None else NamedColumn(config.key),
            due=due,
        )
        events = labels = (format_, Decoder(self.schema, columns, self.dtype))
        if apart is not None:
            wanted = [Field(apart.id, id_kind), Field(apart.label, answer_kind)]
            if apart.time is not None:
                wanted.append(Field(apart.time, "time"))
            named = NamedColumn(apart.label, answer.type)
            columns = Columns(
                id=NamedColumn(apart.id, config.id_type), time=apart.time, label=named
            )
            labels = (
                make(apart.format or config.format, wanted, folder),
                Decoder(Schema((), task, label.classes), columns),
            )
        stamped = config.label_timeout_seconds is not None and config.time is None
        self.blocks = Blocks(
            events, labels, config.time, config.max_future_seconds, config.max_bytes, stamped
        )
        self._asking: Consumer | None = None  # of ``end``
        self._rereading: Rereader | None = None  # of ``again``
        self._committed: Cursor | None = None  # and not yet told

    def start(self) -> Cursor:
        since = self.config.start
        with closing(self._connect()) as consumer:
            places = consumer.places(self._topics.names)
            if since == "earliest":
                return self._topics.cursor(consumer.first(places))
            if since == "latest":
                return self._topics.cursor(consumer.after(places))
            assert isinstance(since, float)
            return self._topics.cursor(consumer.at(places, round(since * 1000)))

    def stop(self) -> Cursor:
        with closing(self._connect()) as consumer:
            places = consumer.places(self._topics.names)
            return self._topics.cursor(after_last(consumer, places))

    def end(self) -> Cursor:
        try:
            self._asking = self._asking or self._connect()
            places = self._asking.places(self._topics.names)
            return self._topics.cursor(self._asking.after(places))
        except StreamError:
            asking, self._asking = self._asking, None
            if asking is not None:
                asking.close()
            raise

    def commit(self, cursor: Cursor) -> None:
        self._committed = cursor

    def close(self) -> None:
        committed, self._committed = self._committed, None
        if committed and self.config.assign == "all":  # a group takes it of its members alone
            telling = threading.Thread(target=self._tell_last, args=(committed,), daemon=True)
            telling.start()
            telling.join(LAST_S)
        for connection in (self._asking, self._rereading):
            if connection is not None:
                connection.close()
        self._asking = self._rereading = None

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        cursor = dict(cursor)
        nothing = self._block([])
        while True:
            try:
                with closing(self._connect()) as consumer:
                    for pieces, ends in self._follow(consumer, cursor, block_size):
                        if not pieces and not ends:
                            yield nothing
                            continue
                        for piece in pieces:
                            cursor[self._topics.name(piece.place)] = int(piece.offset[-1]) + 1
                        block = self._block(pieces)
                        # Labels, and what is dead, do not wait for an event to come.
                        yield replace(block, flush=ends or not len(block))
            except BrokerUnavailableError:  # it comes back, and reading goes on where it was
                yield nothing
                time.sleep(IDLE_S)

    def read_ranges(self, ranges: Ranges) -> Batch:
        wanted = {self._topics.place(name): positions for name, positions in ranges.items()}
        return self._block(self._read_again(wanted, AGAIN_S))

    @staticmethod
    def topics(config: KafkaConfig) -> Topics:
        """What its partitions are called."""
        apart = config.labels
        return Topics(_listed(config.topic), None if apart is None else apart.topic)

    def json_layout(self) -> JsonLayout:
        """Return the layout: JSON of the fields of a message, whatever its format. Frames know no
        objects in objects, and hold images as pixels."""
        format_, decoder = self.blocks.of_events
        features = {feature.name for feature in self.schema.features}
        others = [field for field in format_.fields if field.name not in features]
        frames = self.config.format.kind == "frames"
        return {
            "cells": "json",
            "nested": not frames,
            "pixels": frames,
            "id": self.config.id,
            "fields": [[field.name, field.kind, field.required] for field in others],
            "columns": decoder.columns.roles(),
        }

    def place(self, partition: int, label: bool) -> Place:
        """The topic and the partition of it that a partition of the stream is."""
        return self._topics.place(f"{'labels/' if label else ''}{partition}")

    def place_name(self, partition: int, label: bool) -> str:
        return "{}/{}".format(*self.place(partition, label))

    def values(self, positions: Iterable[tuple[Place, int]]) -> dict[tuple[Place, int], bytes]:
        """The bytes of messages, as far as they are still to be had. Raises
        ``BrokerUnavailableError``."""
        found: dict[tuple[Place, int], bytes] = {}
        by_place: dict[Place, list[int]] = {}
        for place, offset in sorted(set(positions)):
            by_place.setdefault(place, []).append(offset)
        for place, offsets in by_place.items():
            wanted = set(offsets)
            cuts = np.flatnonzero(np.diff(offsets) > NEAR) + 1
            for near in np.split(np.array(offsets), cuts):
                reached = (int(near[0]), int(near[-1]) + 1)
                try:
                    pieces = self._read_again({place: reached}, VALUES_S)
                except BrokerUnavailableError:
                    raise
                except StreamError:  # deleted since
                    continue
                for piece in pieces:
                    for offset, value in zip(piece.offset.tolist(), piece.values, strict=True):
                        if value is not None and offset in wanted:
                            found[place, offset] = value
        return found

    def outbox(self) -> Outbox:
        """What sends messages to where this stream comes from."""
        return outbox(self.config.library, self._servers, self.config.options())

    def _read_again(
        self, wanted: Mapping[Place, tuple[int, int]], patience: float
    ) -> list[Fetched]:
        """The messages of these ranges. Raises ``BrokerUnavailableError`` where nothing comes for
        so many seconds, ``StreamError`` where they are gone."""
        if not wanted:
            return []
        reread = self._rereading = self._rereading or Rereader(self._connect(), self._servers)
        try:
            return reread(wanted, patience)
        except BrokerUnavailableError:
            raise
        except StreamError:
            self._rereading = None
            reread.close()
            raise

    def _follow(
        self, consumer: Consumer, cursor: Cursor, size: int
    ) -> Iterator[tuple[list[Fetched], bool]]:
        """What came, some ``size`` messages at a time, and whether nothing more came for a while;
        nothing at all, now and then, where nothing comes."""
        linger = self.config.linger
        held = self._assign(consumer, cursor)
        since = refreshed = time.monotonic()  # when the first of those came that are held
        learning = True  # all that was given out is learned without anything coming after it
        while True:
            self._tell(consumer)
            if time.monotonic() - refreshed > REFRESH_S:
                refreshed = time.monotonic()
                held = self._refreshed(consumer, cursor, held)
            waiting = len(held[0]) > 0
            waits = min(linger, IDLE_S) if waiting or not learning else IDLE_S
            came = []
            if held[0].may_grow(size):
                came = consumer.poll(0.0 if held[0].fills(size) else waits, size)
            now = time.monotonic()
            since = since if waiting else now
            for piece in came:
                held[0].add(piece)
            if not len(held[0]):
                yield [], not learning
                learning = True
                continue
            drained = {place for place in held[0].places if consumer.drained(place)}
            late = now - since >= linger and (not came or len(drained) == len(held[0].places))
            full = held[0].fills(size)
            silent = held[0].empty - drained and now - since < linger + PATIENCE_S
            if (silent and held[0].may_grow(size)) or not (full or late):
                continue
            pieces = held[0].take(size, drained)
            since = now
            learning = not full and not len(held[0])
            yield pieces, learning

    def _assign(self, consumer: Consumer, cursor: Cursor) -> list[Held]:
        """Has the consumer read what is this reader's to read, from the cursor on. What is held of
        it stands in the list, anew whenever a group gives other partitions."""
        held = [Held(self._topics, ())]

        def given(places: list[Place]) -> dict[Place, int]:
            held[0] = Held(self._topics, places)
            names = {place: self._topics.name(place) for place in places}
            new = [place for place, name in names.items() if name not in cursor]
            first = consumer.first(new) if new else {}
            return {place: cursor.get(name, first.get(place, 0)) for place, name in names.items()}

        if self.config.assign == "group":
            consumer.join(self._topics.names, given)
        else:
            consumer.assign(given(consumer.places(self._topics.names)))
        return held

    def _refreshed(self, consumer: Consumer, cursor: Cursor, held: list[Held]) -> list[Held]:
        """With partitions that were added since; a group sees to that itself."""
        there = set(consumer.places(self._topics.names))
        if self.config.assign == "all" and there - set(held[0].places):
            return self._assign(consumer, cursor)
        return held

    def _tell(self, consumer: Consumer) -> None:
        committed, self._committed = self._committed, None
        if committed is not None:
            consumer.commit({self._topics.place(name): at for name, at in committed.items()})

    def _tell_last(self, committed: Cursor) -> None:
        """What was committed since reading has ended. Best effort."""
        with suppress(StreamError), closing(self._connect()) as consumer:
            positions = {self._topics.place(name): at for name, at in committed.items()}
            consumer.commit(positions, wait=LAST_S)

    def _block(self, pieces: Iterable[Fetched]) -> Batch:
        return self.blocks(self._topics.merge(pieces))

    def _connect(self) -> Consumer:
        config = self.config
        group = config.group or self.group or "everlearn"
        return connect(config.library, self._servers, group, config.options())


_KINDS: dict[str, FieldKind] = {
    "str": "text",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
}


def _listed(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else given


def _type_of(label: KafkaLabel) -> Scalar:
    """What the classes are read as."""
    if label.task == "regression":
        return "float"
    kinds = {type(name).__name__ for name in label.classes}
    stated: Scalar = label.type or "str"
    return stated if not kinds else "float" if len(kinds) > 1 else kinds.pop()  # type: ignore[return-value]


def _features(
    stated: Mapping[FeatureKind, list[str] | dict[str, int | tuple[int, ...]]],
) -> tuple[tuple[Feature, ...], list[Field]]:
    kinds: dict[FeatureKind, FieldKind] = {
        "numeric": "number",
        "categorical": "text",
        "text": "text",
        "vector": "vector",
        "image": "image",
    }
    features, fields = [], []
    for kind, names in stated.items():
        for name in names:
            shape = names[name] if isinstance(names, dict) else ()
            shape = (shape,) if isinstance(shape, int) else shape
            features.append(Feature(name, kind, shape))
            fields.append(Field(name, kinds[kind], shape))
    return tuple(features), fields
