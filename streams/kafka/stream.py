"""Events and labels from Kafka topics, exactly once.

Partition p of the stream is partition ``p & 0xffff`` of topic number ``p >> 16`` of the job;
partitions of the label topic are named alike, as ``labels/p``. A block is a range of offsets of
some partitions, its records ordered by timestamp as far as the order in each partition allows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from streams.core.batch import Batch
from streams.core.description import StreamDescription
from streams.core.errors import StreamError
from streams.core.live_stream import (
    BrokerUnavailableError,
    Identity,
    LiveStream,
    Ranges,
    check_topic_ids,
)
from streams.core.schema import Schema, with_missing, with_zone
from streams.core.stream import Cursor, JsonLayout
from streams.decoding.decoder import Decoder
from streams.decoding.formats.factory import make
from streams.kafka.clients.consumer import ALL_PARTS, NO_PARTS, Consumer, RecordParts
from streams.kafka.clients.errors import OutOfRangeError
from streams.kafka.clients.factory import create_consumer, create_producer, create_topic_ids
from streams.kafka.clients.producer import Producer, ProducerRecord
from streams.kafka.clients.topic_ids import TopicIds
from streams.kafka.config import KafkaConfig
from streams.kafka.description import describe_topics
from streams.kafka.fetcher import IDLE_POLL_S, Fetcher, partitions_of
from streams.kafka.identity import ReadPositions, out_of_range_error, verify
from streams.kafka.message_layout import (
    columns,
    event_fields,
    features_of,
    fields_beside,
    key_reader,
    label_config,
    label_reader,
    own_time,
    request_columns,
    task_of,
)
from streams.kafka.range_reader import (
    MAX_SKIP_RECORDS,
    OffsetRanges,
    RangeReader,
    first_schema_id,
    last_record_ends,
)
from streams.kafka.record_fields import RecordFields
from streams.kafka.records import RecordBatch, TopicPartition, Topics
from streams.kafka.records_to_batch import BlockDecoder, RecordReader

REREAD_TIMEOUT_S = 2.0
"""How long records may take to be read again before the caller decides whether to retry."""
TOPIC_ID_CHECK_S = 5.0
"""How often to check, while a topic is read, that it was not made anew."""
FETCH_TIMEOUT_S = 30.0
"""The same for values of single records, whose caller does not retry at once."""
FINAL_COMMIT_TIMEOUT_S = 2.0
"""How long the last commit may take."""


class KafkaStream(LiveStream):
    """Events, and labels, from topics.

    Attributes:
        decoder: decodes records to blocks.
    """

    kind = "kafka"
    Config = KafkaConfig

    def __init__(self, config: KafkaConfig, folder: Path) -> None:
        self.config = config
        self._servers = ",".join(_as_list(config.servers))
        self._topics = topics_from(config)
        label = label_config(config)
        features = with_missing(features_of(config.features), config.missing)
        features = with_zone(features, config.time_zone)
        self.schema = Schema(features, task_of(label), label.classes)
        format_ = make(config.format, event_fields(config, self.schema, label), folder)
        self.has_ids = config.id is not None
        self.has_time = config.time is not None
        self.has_arrivals = config.labels is not None
        self.has_segments = False
        self.gapless = config.gaps == "refuse"
        self.id_type = config.id_type
        self.dtype = format_.dtype()
        self.readers = config.consumers
        self.bounded = config.stop == "latest"
        times = config.times(numbers_read=True)
        decoder = Decoder(self.schema, columns(config, label), self.dtype, times)
        self.time_zone = config.time_zone
        events = labels = RecordReader(format_, decoder, RecordFields(fields_beside(config, label)))
        if config.labels is not None:
            labels = label_reader(config, config.labels, label, folder)
        keys = key_reader(config, label)
        self.decoder = BlockDecoder(
            events,
            labels,
            own_time(config),
            config.max_future_seconds,
            config.max_bytes,
            needs_timestamps=config.label_timeout_seconds is not None and config.time is None,
            keys=keys,
            lateness=config.lateness,
        )
        # Topics of events share a format, and the id of its schema.
        self._formats = dict.fromkeys(self._topics.names, format_)
        if config.labels is not None:
            self._formats[config.labels.topic] = labels.format
        self._parts = events.beside.parts | labels.beside.parts
        if keys is not None:
            self._parts |= keys.beside.parts
        self._metadata_consumer: Consumer | None = None  # for ``end``
        self._range_readers: dict[RecordParts, RangeReader] = {}  # by what they return
        self._to_commit: Cursor | None = None
        self._read_positions = ReadPositions(self._topics)
        self._id_lookup: TopicIds | None = None
        self._known_ids: dict[str, str] = {}  # of the topics, since they were first looked up

    def describe(self) -> StreamDescription:
        return describe_topics(
            self.config, self.schema, self.decoder.events.decoder.columns.roles()
        )

    def start(self) -> Cursor:
        start = self.config.start
        with closing(self._connect()) as consumer:
            partitions = partitions_of(consumer, self._topics)
            if start == "earliest":
                return self._topics.cursor(consumer.beginning_offsets(partitions))
            if start == "latest":
                return self._topics.cursor(consumer.end_offsets(partitions))
            assert isinstance(start, float)
            offsets = consumer.offsets_for_times(partitions, round(start * 1000))
            return self._topics.cursor(offsets)

    def stop(self) -> Cursor:
        with closing(self._connect()) as consumer:
            partitions = partitions_of(consumer, self._topics)
            return self._topics.cursor(last_record_ends(consumer, partitions))

    def end(self) -> Cursor:
        try:
            consumer = self._metadata_consumer = self._metadata_consumer or self._connect()
            partitions = partitions_of(consumer, self._topics)
            return self._topics.cursor(consumer.end_offsets(partitions))
        except StreamError:
            broken, self._metadata_consumer = self._metadata_consumer, None
            if broken is not None:
                broken.close()
            raise

    def topic_ids(self) -> dict[str, str]:
        if self._id_lookup is None:
            config = self.config
            self._id_lookup = create_topic_ids(config.library, self._servers, config.options())
        return self._id_lookup(self._topics.names)

    def find_schema_ids(self, start: Cursor) -> dict[str, int]:
        named = {
            topic: self._formats[topic]
            for topic in self._topics.names
            if self._formats[topic].needs_schema_id
        }
        if not named:
            return {}
        positions = self._positions(start)
        with closing(self._connect()) as consumer:
            return {
                topic: first_schema_id(consumer, topic, positions, FETCH_TIMEOUT_S)
                for topic in named
            }

    def use_schema_ids(self, ids: Mapping[str, int]) -> None:
        super().use_schema_ids(ids)
        for topic, id_ in ids.items():
            self._formats[topic].schema_id = id_

    def verify(self, known: Identity, cursor: Cursor) -> Cursor:
        check_topic_ids(known.topics, self.topic_ids())
        self._known_ids |= known.topics
        with closing(self._connect()) as consumer:
            return verify(consumer, self._topics, known.marks, cursor)

    def commit(self, cursor: Cursor) -> None:
        self._to_commit = cursor

    def close(self) -> None:
        cursor, self._to_commit = self._to_commit, None
        if cursor and self.config.assign == "all":  # a group accepts commits of members alone
            thread = threading.Thread(target=self._commit_on_close, args=(cursor,), daemon=True)
            thread.start()
            thread.join(FINAL_COMMIT_TIMEOUT_S)
        connections = (self._metadata_consumer, self._id_lookup, *self._range_readers.values())
        for connection in connections:
            if connection is not None:
                connection.close()
        self._metadata_consumer = self._id_lookup = None
        self._range_readers = {}

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        cursor = dict(cursor)
        nothing = self._block([])
        while True:
            try:
                with closing(self._connect(self._parts)) as consumer:
                    self._check_topic_ids()
                    yield from self._blocks(consumer, cursor, block_size)
            except BrokerUnavailableError:  # reading resumes at the cursor once it is back
                yield nothing
                time.sleep(IDLE_POLL_S)

    def _blocks(self, consumer: Consumer, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        """Yield blocks from a cursor on, over one connection; move the cursor past each."""
        fetcher = Fetcher(consumer, self._topics, self.config, cursor, self._commit_offsets)
        nothing = self._block([])
        checked = time.monotonic()
        try:
            for batches, flush in fetcher.blocks(block_size):
                if time.monotonic() - checked > TOPIC_ID_CHECK_S:
                    self._check_topic_ids()
                    checked = time.monotonic()
                marks = self._read_positions.add(batches, fetcher.read_up_to)
                if not batches and not flush:
                    yield replace(nothing, marks=marks)
                    continue
                for batch in batches:
                    key = self._topics.cursor_key(batch.partition)
                    cursor[key] = int(batch.offset[-1]) + 1
                block = self._block(batches, time.time())
                # Labels and dead letters do not wait for the next event.
                yield replace(block, flush=flush or not len(block), marks=marks)
        except OutOfRangeError as error:
            self._check_topic_ids()
            raise out_of_range_error(consumer, error) from None

    def _check_topic_ids(self) -> None:
        """Raise ``StreamChangedError`` if a topic was made anew since it was first looked up."""
        now = self.topic_ids()
        check_topic_ids(self._known_ids, now)
        self._known_ids = now | self._known_ids

    def read_ranges(self, ranges: Ranges, read_at: float | None = None) -> Batch:
        offsets = {self._topics.topic_partition(key): span for key, span in ranges.items()}
        batches = self._read_again(offsets, REREAD_TIMEOUT_S, self._parts)
        marks = ReadPositions(self._topics).add(batches, lambda _: 0)
        return replace(self._block(batches, read_at), marks=marks)

    def json_layout(self) -> JsonLayout:
        """Return the layout: JSON of the fields of a message, whatever its format. Frames know no
        objects in objects, and hold images as pixels."""
        format_ = self.decoder.events.format
        features = {feature.name for feature in self.schema.features}
        others = [field for field in format_.fields if field.name not in features]
        taken = {field.name for field in format_.fields}
        named, beside = request_columns(self.config, label_config(self.config), taken)
        frames = self.config.format.kind == "frames"
        times = self.config.times()
        layout: JsonLayout = {
            "cells": "json",
            "nested": not frames,
            "pixels": frames,
            "id": None if named.id is None else named.id.column,
            "fields": [[field.name, field.kind, field.required] for field in [*others, *beside]],
            "columns": named.roles(),
        }
        if not times.plain:
            layout["times"] = {**times.settings}
        return layout

    def topic_partition(self, partition: int, label: bool) -> TopicPartition:
        """Return the topic and partition that a partition of the stream stands for."""
        return self._topics.topic_partition(f"{'labels/' if label else ''}{partition}")

    def place_name(self, partition: int, label: bool) -> str:
        return "{}/{}".format(*self.topic_partition(partition, label))

    def fetch_records(
        self, positions: Iterable[tuple[TopicPartition, int]]
    ) -> dict[tuple[TopicPartition, int], ProducerRecord]:
        """Return whole records by partition and offset, without those that were deleted.

        Raise ``BrokerUnavailableError``.
        """
        records: dict[tuple[TopicPartition, int], ProducerRecord] = {}
        by_partition: dict[TopicPartition, list[int]] = {}
        for partition, offset in sorted(set(positions)):
            by_partition.setdefault(partition, []).append(offset)
        for partition, offsets in by_partition.items():
            wanted = set(offsets)
            cuts = np.flatnonzero(np.diff(offsets) > MAX_SKIP_RECORDS) + 1
            for near in np.split(np.array(offsets), cuts):
                span = (int(near[0]), int(near[-1]) + 1)
                try:
                    batches = self._read_again({partition: span}, FETCH_TIMEOUT_S, ALL_PARTS)
                except BrokerUnavailableError:
                    raise
                except StreamError:  # deleted
                    continue
                for batch in batches:
                    found = zip(
                        batch.offset.tolist(),
                        batch.values,
                        batch.keys or (),
                        batch.headers or (),
                        strict=True,
                    )
                    for offset, value, key, headers in found:
                        if offset in wanted:
                            named = {name: text or b"" for name, text in headers}
                            records[partition, offset] = ProducerRecord(
                                *partition, key, value, named
                            )
        return records

    def producer(self) -> Producer:
        """Return a producer for the brokers of this stream."""
        return create_producer(self.config.library, self._servers, self.config.options())

    def _read_again(
        self, ranges: OffsetRanges, timeout: float, parts: RecordParts
    ) -> list[RecordBatch]:
        """Return the records of these ranges.

        Raise ``BrokerUnavailableError`` if nothing arrives for ``timeout`` seconds, and
        ``StreamError`` if they were deleted.
        """
        if not ranges:
            return []
        if parts not in self._range_readers:
            self._range_readers[parts] = RangeReader(self._connect(parts), self._servers)
        try:
            return self._range_readers[parts](ranges, timeout)
        except BrokerUnavailableError:
            raise
        except StreamError as error:
            with closing(self._range_readers.pop(parts)) as broken:
                if isinstance(error, OutOfRangeError):
                    raise out_of_range_error(broken.consumer, error) from None
                raise

    def _commit_offsets(self, consumer: Consumer) -> None:
        cursor, self._to_commit = self._to_commit, None
        if cursor is not None:
            consumer.commit(self._positions(cursor))

    def _commit_on_close(self, cursor: Cursor) -> None:
        """Commit what came after reading ended. Best effort."""
        with suppress(StreamError), closing(self._connect()) as consumer:
            consumer.commit(self._positions(cursor), timeout=FINAL_COMMIT_TIMEOUT_S)

    def _positions(self, cursor: Cursor) -> dict[TopicPartition, int]:
        return {self._topics.topic_partition(key): offset for key, offset in cursor.items()}

    def _block(self, batches: Iterable[RecordBatch], read_at: float | None = None) -> Batch:
        lateness = self.config.lateness
        return self.decoder(self._topics.merge(batches, read_at, lateness), read_at)

    def _connect(self, parts: RecordParts = NO_PARTS) -> Consumer:
        config = self.config
        group = config.group or self.group or "everlearn"
        return create_consumer(config.library, self._servers, group, config.options(), parts)


def topics_from(config: KafkaConfig) -> Topics:
    """Return the topics that a stream of this configuration reads."""
    label_topic = None if config.labels is None else config.labels.topic
    return Topics(_as_list(config.topic), label_topic)


def _as_list(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names
