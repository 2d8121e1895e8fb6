"""Events and labels from Kafka topics, exactly once.

Partition p of the stream is partition ``p & 0xffff`` of topic number ``p >> 16`` of the job;
partitions of the label topic are named alike, as ``labels/p``. A block is a range of offsets of
some partitions, its records ordered by timestamp as far as the order in each partition allows.
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
from streams.core.schema import Feature, FeatureKind, Scalar, Schema, Task
from streams.core.stream import Cursor, JsonLayout
from streams.decoding.decoder import Columns, Decoder, NamedColumn
from streams.decoding.formats.factory import Field, FieldKind, make
from streams.kafka.clients.consumer import Consumer
from streams.kafka.clients.factory import create_consumer, create_producer
from streams.kafka.clients.producer import Producer
from streams.kafka.config import KafkaConfig, KafkaLabel, KafkaLabels
from streams.kafka.fetcher import IDLE_POLL_S, Fetcher, partitions_of
from streams.kafka.range_reader import (
    MAX_SKIP_RECORDS,
    OffsetRanges,
    RangeReader,
    last_record_ends,
)
from streams.kafka.records import RecordBatch, TopicPartition, Topics
from streams.kafka.records_to_batch import BlockDecoder, ValueReader

REREAD_TIMEOUT_S = 2.0
"""How long records may take to be read again before the caller decides whether to retry."""
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
        label = _label_config(config)
        features, fields = _features(config.features)
        fields += _role_fields(config, label)
        _check_unique(fields)
        format_ = make(config.format, fields, folder)
        self.schema = Schema(features, _task(label), label.classes)
        self.has_ids = config.id is not None
        self.has_time = config.time is not None
        self.has_arrivals = config.labels is not None
        self.gapless = config.gaps == "refuse"
        self.id_type = config.id_type
        self.dtype = format_.dtype()
        self.readers = config.consumers
        self.bounded = config.stop == "latest"
        events = labels = (format_, Decoder(self.schema, _columns(config, label), self.dtype))
        if config.labels is not None:
            labels = _label_reader(config, config.labels, label, folder)
        self.decoder = BlockDecoder(
            events,
            labels,
            config.time,
            config.max_future_seconds,
            config.max_bytes,
            needs_timestamps=config.label_timeout_seconds is not None and config.time is None,
        )
        self._metadata_consumer: Consumer | None = None  # for ``end``
        self._range_reader: RangeReader | None = None  # for ``read_ranges``
        self._to_commit: Cursor | None = None

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

    def commit(self, cursor: Cursor) -> None:
        self._to_commit = cursor

    def close(self) -> None:
        cursor, self._to_commit = self._to_commit, None
        if cursor and self.config.assign == "all":  # a group accepts commits of members alone
            thread = threading.Thread(target=self._commit_on_close, args=(cursor,), daemon=True)
            thread.start()
            thread.join(FINAL_COMMIT_TIMEOUT_S)
        for connection in (self._metadata_consumer, self._range_reader):
            if connection is not None:
                connection.close()
        self._metadata_consumer = self._range_reader = None

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        cursor = dict(cursor)
        nothing = self._block([])
        while True:
            try:
                with closing(self._connect()) as consumer:
                    fetcher = Fetcher(
                        consumer, self._topics, self.config, cursor, self._commit_offsets
                    )
                    for batches, flush in fetcher.blocks(block_size):
                        if not batches and not flush:
                            yield nothing
                            continue
                        for batch in batches:
                            key = self._topics.cursor_key(batch.partition)
                            cursor[key] = int(batch.offset[-1]) + 1
                        block = self._block(batches, time.time())
                        # Labels and dead letters do not wait for the next event.
                        yield replace(block, flush=flush or not len(block))
            except BrokerUnavailableError:  # reading resumes at the cursor once it is back
                yield nothing
                time.sleep(IDLE_POLL_S)

    def read_ranges(self, ranges: Ranges, read_at: float | None = None) -> Batch:
        offsets = {self._topics.topic_partition(key): span for key, span in ranges.items()}
        return self._block(self._read_again(offsets, REREAD_TIMEOUT_S), read_at)

    def json_layout(self) -> JsonLayout:
        """Return the layout: JSON of the fields of a message, whatever its format. Frames know no
        objects in objects, and hold images as pixels."""
        format_, decoder = self.decoder.events
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

    def topic_partition(self, partition: int, label: bool) -> TopicPartition:
        """Return the topic and partition that a partition of the stream stands for."""
        return self._topics.topic_partition(f"{'labels/' if label else ''}{partition}")

    def place_name(self, partition: int, label: bool) -> str:
        return "{}/{}".format(*self.topic_partition(partition, label))

    def fetch_values(
        self, positions: Iterable[tuple[TopicPartition, int]]
    ) -> dict[tuple[TopicPartition, int], bytes]:
        """Return the values of records by partition and offset, without those that were deleted.

        Raise ``BrokerUnavailableError``.
        """
        values: dict[tuple[TopicPartition, int], bytes] = {}
        by_partition: dict[TopicPartition, list[int]] = {}
        for partition, offset in sorted(set(positions)):
            by_partition.setdefault(partition, []).append(offset)
        for partition, offsets in by_partition.items():
            wanted = set(offsets)
            cuts = np.flatnonzero(np.diff(offsets) > MAX_SKIP_RECORDS) + 1
            for near in np.split(np.array(offsets), cuts):
                span = (int(near[0]), int(near[-1]) + 1)
                try:
                    batches = self._read_again({partition: span}, FETCH_TIMEOUT_S)
                except BrokerUnavailableError:
                    raise
                except StreamError:  # deleted
                    continue
                for batch in batches:
                    for offset, value in zip(batch.offset.tolist(), batch.values, strict=True):
                        if value is not None and offset in wanted:
                            values[partition, offset] = value
        return values

    def producer(self) -> Producer:
        """Return a producer for the brokers of this stream."""
        return create_producer(self.config.library, self._servers, self.config.options())

    def _read_again(self, ranges: OffsetRanges, timeout: float) -> list[RecordBatch]:
        """Return the records of these ranges.

        Raise ``BrokerUnavailableError`` if nothing arrives for ``timeout`` seconds, and
        ``StreamError`` if they were deleted.
        """
        if not ranges:
            return []
        if self._range_reader is None:
            self._range_reader = RangeReader(self._connect(), self._servers)
        try:
            return self._range_reader(ranges, timeout)
        except BrokerUnavailableError:
            raise
        except StreamError:
            broken, self._range_reader = self._range_reader, None
            broken.close()
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
        return replace(self.decoder(self._topics.merge(batches)), read_at=read_at)

    def _connect(self) -> Consumer:
        config = self.config
        group = config.group or self.group or "everlearn"
        return create_consumer(config.library, self._servers, group, config.options())


def topics_from(config: KafkaConfig) -> Topics:
    """Return the topics that a stream of this configuration reads."""
    label_topic = None if config.labels is None else config.labels.topic
    return Topics(_as_list(config.topic), label_topic)


_FIELD_KINDS: dict[str, FieldKind] = {
    "str": "text",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
}


def _as_list(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names


def _label_config(config: KafkaConfig) -> KafkaLabel:
    if isinstance(config.label, str):
        return KafkaLabel(column=config.label)
    return config.label if isinstance(config.label, KafkaLabel) else KafkaLabel()


def _task(label: KafkaLabel) -> Task:
    return label.task or "classification"


def _class_type(label: KafkaLabel) -> Scalar:
    """Return the type of the classes."""
    if label.task == "regression":
        return "float"
    kinds = {type(name).__name__ for name in label.classes}
    stated: Scalar = label.type or "str"
    return stated if not kinds else "float" if len(kinds) > 1 else kinds.pop()  # type: ignore[return-value]


def _label_kind(label: KafkaLabel) -> FieldKind:
    return "number" if _task(label) == "regression" else _FIELD_KINDS[_class_type(label)]


def _id_kind(config: KafkaConfig) -> FieldKind:
    return "integer" if config.id_type == "int" else "text"


def _label_in_event(config: KafkaConfig, label: KafkaLabel) -> bool:
    return config.labels is None and label.column is not None


def _role_fields(config: KafkaConfig, label: KafkaLabel) -> list[Field]:
    """Return the fields of an event that are no features."""
    fields = []
    if config.id is not None:
        fields.append(Field(config.id, _id_kind(config)))
    if config.time is not None:
        fields.append(Field(config.time, "time"))
    if config.key is not None:
        fields.append(Field(config.key, "text"))
    if _label_in_event(config, label):
        fields.append(Field(label.column or "", _label_kind(label), required=False))
    if config.label_delay.column is not None:
        fields.append(Field(config.label_delay.column, "time", required=False))
    return fields


def _check_unique(fields: Iterable[Field]) -> None:
    for name, times in Counter(field.name for field in fields).items():
        if times > 1:
            raise StreamError(f"stream: field {name!r} is named {times} times")


def _columns(config: KafkaConfig, label: KafkaLabel) -> Columns:
    """Return the roles of an event's columns."""
    in_event = _label_in_event(config, label)
    return Columns(
        id=None if config.id is None else NamedColumn(config.id, config.id_type),
        time=config.time,
        label=NamedColumn(label.column or "", _class_type(label)) if in_event else None,
        key=None if config.key is None else NamedColumn(config.key),
        due=config.label_delay.column,
    )


def _label_reader(
    config: KafkaConfig, label_topic_config: KafkaLabels, label: KafkaLabel, folder: Path
) -> ValueReader:
    """Return what reads the records of the label topic."""
    names = label_topic_config
    fields = [Field(names.id, _id_kind(config)), Field(names.label, _label_kind(label))]
    if names.time is not None:
        fields.append(Field(names.time, "time"))
    columns = Columns(
        id=NamedColumn(names.id, config.id_type),
        time=names.time,
        label=NamedColumn(names.label, _class_type(label)),
    )
    return (
        make(names.format or config.format, fields, folder),
        Decoder(Schema((), _task(label), label.classes), columns),
    )


def _features(
    stated: Mapping[FeatureKind, list[str] | dict[str, int | tuple[int, ...]]],
) -> tuple[tuple[Feature, ...], list[Field]]:
    """Return the features of the schema, and their fields."""
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
