"""Sends records to topics exactly once, also if the process is killed at any moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from streams.kafka.clients.producer import Producer, ProducerRecord
from streams.kafka.records import TopicPartition

Offsets = dict[TopicPartition, int]


class IdempotentPublisher:
    """Sends records that have ids, each once.

    The caller repeats four steps, and stores what the steps say on disk:

    1. ``begin`` returns where the topics end. The caller stores it: the intent.
    2. ``missing`` drops the ids of records that arrived already.
    3. ``send`` sends the others; when it returns, all replicas have them.
    4. The caller stores that they were sent: the outcome.

    A crash, or an error, between 1 and 4 leaves an intent without an outcome. Then the caller calls
    ``recover`` with the stored offsets; ``missing`` reads the topics from there, once, to find what
    arrived.

    All methods raise ``BrokerUnavailableError`` and ``StreamError``.

    Args:
        producer: the caller closes it.
        id_of: returns the id of a record that was read, or None if another sender wrote it.
    """

    def __init__(self, producer: Producer, id_of: Callable[[ProducerRecord], str | None]) -> None:
        self._producer = producer
        self._id_of = id_of
        self._unconfirmed: Offsets | None = None  # records after these may have arrived

    def begin(self, topics: Iterable[str]) -> Offsets:
        """Return the end offsets of the topics, before anything is sent to them."""
        offsets: Offsets = {}
        for topic in sorted(set(topics)):
            offsets |= self._producer.end_offsets(topic)
        self._unconfirmed = None
        return offsets

    def recover(self, offsets: Offsets) -> None:
        """Make ``missing`` look for records that arrived after a stored intent."""
        self._unconfirmed = offsets

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Return the ids of records that have not arrived, in order."""
        if self._unconfirmed is None:
            return [*ids]
        arrived = set(map(self._id_of, self._producer.read_from(self._unconfirmed)))
        return [id_ for id_ in ids if id_ not in arrived]

    def send(self, records: Mapping[str, ProducerRecord]) -> list[str]:
        """Send records by id; return the ids of those that the broker refused as too large."""
        if not records:
            return []
        ids = [*records]
        return [ids[i] for i in self._producer.send([*records.values()])]
