"""The interface of a Kafka producer, which can also read back what its topics hold.

``send`` delivers a few records and says which arrived. ``enqueue`` and ``flush`` deliver many, at
the speed of the library. ``end_offsets`` and ``read_from`` let a caller find out after a crash
which of its records had arrived.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from streams.kafka.records import TopicPartition

MAX_REQUEST_BYTES = 1 << 27
"""Records up to this size are left to the broker to refuse."""
BULK_LINGER_MS = 20
"""How long a bulk producer waits for more records of a request."""


class ProducerRecord(NamedTuple):
    """A record to send; ``partition`` None: the hash of its key chooses one."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]


class Producer(ABC):
    """A producer of Kafka. Only one thread may use it at a time.

    All methods raise ``BrokerUnavailableError`` if no broker answers, and ``StreamError`` for what
    a retry cannot fix.

    Args:
        servers: ``host:port`` of some of the brokers, separated by commas.
        options: ``stream.client`` of a job.
        bulk: send many records with ``enqueue``, fast rather than at once.

    Attributes:
        supports_headers: whether records may have headers.
        delivered: how many records of ``enqueue`` the broker has acknowledged.
    """

    supports_headers: bool = True

    @abstractmethod
    def __init__(self, servers: str, options: Mapping[str, Any], bulk: bool = False) -> None: ...

    @abstractmethod
    def end_offsets(self, topic: str) -> dict[TopicPartition, int]:
        """Return the end offset of each partition, or one before it (Tansu's last batch)."""

    @abstractmethod
    def read_from(self, offsets: Mapping[TopicPartition, int]) -> Iterator[ProducerRecord]:
        """Yield all records from these offsets to the current ends; skip deleted ones."""

    @abstractmethod
    def send(self, records: Sequence[ProducerRecord]) -> list[int]:
        """Send all, and return the indices of those that the broker refused as too large.

        On return all replicas have the others. If it raises, some may have arrived; none arrives
        later.
        """

    @abstractmethod
    def enqueue(self, records: Sequence[ProducerRecord]) -> None:
        """Hand over records for delivery in the background, in the order of each partition.

        Block while too many are undelivered. Raise ``StreamError`` once a delivery has failed.
        """

    @abstractmethod
    def flush(self) -> None:
        """Wait until all records of ``enqueue`` are delivered; raise ``StreamError`` if not."""

    @property
    @abstractmethod
    def delivered(self) -> int: ...

    @abstractmethod
    def close(self) -> None:
        """Disconnect, and drop what is not delivered."""
