"""The interface of a Kafka consumer: no more of it than a stream needs.

Offsets are kept in checkpoints, so a consumer gets its positions and never looks them up. No
partition is paused, as kafka-python 3.0.12 may fail to resume one: records that are not polled are
not fetched, but for the library's own prefetch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from streams.kafka.records import RecordBatch, TopicPartition

RecordParts = frozenset[Literal["keys", "headers"]]
"""What is read of a record beside its value, offset and timestamp."""
NO_PARTS: RecordParts = frozenset()
ALL_PARTS: RecordParts = frozenset(("keys", "headers"))

OnAssign = Callable[[list[TopicPartition]], dict[TopicPartition, int]]
"""Called at a rebalance with the assigned partitions; returns the position to read each from."""


class Consumer(ABC):
    """A consumer of Kafka. Only one thread may use it at a time.

    All methods, and the constructor, raise ``BrokerUnavailableError`` if no broker answers, and
    ``StreamError`` for what a retry cannot fix.

    Args:
        servers: ``host:port`` of some of the brokers, separated by commas.
        group: consumer group, to join or to commit for.
        options: passed on to the client library.
        parts: what ``poll`` returns of a record beside its value.
    """

    @abstractmethod
    def __init__(
        self, servers: str, group: str, options: Mapping[str, Any], parts: RecordParts = NO_PARTS
    ) -> None: ...

    @abstractmethod
    def partitions_for_topic(self, topic: str) -> list[TopicPartition]:
        """Return the partitions of a topic, in order. Raise ``StreamError`` if there is none."""

    @abstractmethod
    def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the offset of the first record that is still there."""

    @abstractmethod
    def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the offset after the last record."""

    @abstractmethod
    def offsets_for_times(
        self, partitions: Sequence[TopicPartition], timestamp_ms: int
    ) -> dict[TopicPartition, int]:
        """Return the offset of the first record at or after a timestamp.

        Where there is none yet, return the end offset.
        """

    @abstractmethod
    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read these partitions, and no others, from these positions."""

    @abstractmethod
    def subscribe(self, topics: Sequence[str], on_assign: OnAssign) -> None:
        """Join the group, and read the partitions that it assigns."""

    @abstractmethod
    def poll(self, timeout: float, max_records: int) -> list[RecordBatch]:
        """Return at most ``max_records``; wait ``timeout`` seconds for the first."""

    @abstractmethod
    def at_high_watermark(self, partition: TopicPartition) -> bool:
        """Return whether all records up to the last known high watermark were polled."""

    @abstractmethod
    def position(self, partition: TopicPartition) -> int:
        """Return the offset to read next of an assigned partition; 0 where it is not known.

        Offsets between the last record and it hold no record: they were compacted away, aborted,
        or end a transaction.
        """

    @abstractmethod
    def commit(self, positions: Mapping[TopicPartition, int], timeout: float = 0.0) -> None:
        """Commit the positions of assigned partitions, best effort, for others to see.

        With ``timeout``, for a consumer that reads nothing, wait about that number of seconds.
        """

    @abstractmethod
    def close(self) -> None: ...
