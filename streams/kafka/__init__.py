"""Kafka topics as a stream, exactly once: checkpoints hold the offsets.

- ``stream`` is the stream, and ``config`` its settings in a job.
- ``fetcher`` polls the partitions and hands out blocks; ``range_reader`` reads old ranges again.
- ``records`` merges partitions into one order; ``records_to_batch`` decodes them.
- ``message_layout`` and ``record_fields`` find the fields of a message, beside its value too.
- ``record_times`` bounds times by the clocks of brokers and reader; ``tombstones`` counts records
  without a value.
- ``identity`` compares the topics with those that were read; ``description`` says what is read.
- ``clients`` holds the consumers and producers of both client libraries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.kafka.config import KafkaConfig
    from streams.kafka.records import TopicPartition
    from streams.kafka.stream import KafkaStream

__all__ = [
    "KafkaConfig",
    "KafkaStream",
    "TopicPartition",
]

_MODULES = {
    "KafkaConfig": "streams.kafka.config",
    "KafkaStream": "streams.kafka.stream",
    "TopicPartition": "streams.kafka.records",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
