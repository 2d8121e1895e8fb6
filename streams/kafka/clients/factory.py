"""Clients by the name of their library, imported when they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from streams.kafka.clients.consumer import NO_PARTS, Consumer, RecordParts
from streams.kafka.clients.producer import Producer
from streams.kafka.clients.topic_ids import ConfluentTopicIds, KafkaPythonTopicIds, TopicIds

CONSUMERS: dict[str, str] = {
    "kafka-python": "streams.kafka.clients.kafka_python_consumer:KafkaPythonConsumer",
    "confluent-kafka": "streams.kafka.clients.confluent_consumer:ConfluentConsumer",
}
PRODUCERS: dict[str, str] = {
    "kafka-python": "streams.kafka.clients.kafka_python_producer:KafkaPythonProducer",
    "confluent-kafka": "streams.kafka.clients.confluent_producer:ConfluentProducer",
}


def create_consumer(
    library: str,
    servers: str,
    group: str,
    options: Mapping[str, Any],
    parts: RecordParts = NO_PARTS,
) -> Consumer:
    """Return a connected consumer of that library. See ``Consumer`` for arguments and errors."""
    consumer: type[Consumer] = _load(CONSUMERS[library])
    return consumer(servers, group, options, parts)


def create_topic_ids(library: str, servers: str, options: Mapping[str, Any]) -> TopicIds:
    """Return what looks up topic ids by that library, and connects when it is used."""
    kind = ConfluentTopicIds if library == "confluent-kafka" else KafkaPythonTopicIds
    return kind(servers, options)


def create_producer(
    library: str, servers: str, options: Mapping[str, Any], bulk: bool = False
) -> Producer:
    """Return a producer of that library, which connects when it is used. See ``Producer``."""
    producer: type[Producer] = _load(PRODUCERS[library])
    return producer(servers, options, bulk)


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
