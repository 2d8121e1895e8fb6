"""Kafka by confluent-kafka, that is librdkafka: several times as fast as kafka-python."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from streams.core.errors import StreamError
from streams.core.live_stream import BrokerUnavailableError
from streams.kafka.clients.consumer import REACH_S, Assigned, Consumer
from streams.kafka.records import Fetched, Place

log = logging.getLogger(__name__)
log.addHandler(logging.NullHandler())  # what librdkafka says is for those who ask for it

_EARLIEST, _LATEST = -2, -1  # in place of a time


class Confluent(Consumer):
    """By confluent-kafka. Options are librdkafka's, with dots or underscores in their names."""

    _defaults: ClassVar[dict[str, Any]] = {
        "session.timeout.ms": 10_000,
        "heartbeat.interval.ms": 1_000,
        "max.partition.fetch.bytes": 4 << 20,
        "fetch.queue.backoff.ms": 10,  # else it rests for a second whenever its queue is full
        "reconnect.backoff.max.ms": 1_000,
        "topic.metadata.refresh.interval.ms": 60_000,
    }

    _passing: ClassVar = (
        "_TRANSPORT",
        "_ALL_BROKERS_DOWN",
        "_RESOLVE",
        "_TIMED_OUT",
        "_MAX_POLL_EXCEEDED",
    )
    """Errors that librdkafka gets over by itself."""

    _final: ClassVar = (
        "_AUTHENTICATION",
        "_CONFLICT",
        "_INVALID_ARG",
        "_NOT_IMPLEMENTED",
        "_SSL",
        "_UNSUPPORTED_FEATURE",
        "CLUSTER_AUTHORIZATION_FAILED",
        "GROUP_AUTHORIZATION_FAILED",
        "SASL_AUTHENTICATION_FAILED",
        "TOPIC_AUTHORIZATION_FAILED",
        "UNSUPPORTED_SASL_MECHANISM",
        "UNSUPPORTED_VERSION",
    )
    """Errors that no waiting mends."""

    def __init__(self, servers: str, group: str, options: Mapping[str, Any]) -> None:
        try:
            import confluent_kafka
        except ImportError:
            raise StreamError(
                "stream.library: confluent-kafka is not installed: pip install "
                "'everlearn[confluent]', or take kafka-python"
            ) from None
        reserved = {
            "bootstrap.servers": servers,
            "metadata.broker.list": servers,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
        }
        given = {name.replace("_", "."): value for name, value in options.items()}
        for name in given:
            if name in reserved:
                raise StreamError(f"stream.client: {name!r} is not to be chosen")
        del reserved["metadata.broker.list"]  # another name of the first
        self._library = confluent_kafka
        self._servers = servers
        self._refused = ""  # why a broker has let nobody in
        self._next: dict[Place, int] = {}  # of the partitions that are read
        self._turn = 0  # counts assignments
        with self._errors():
            self._consumer = confluent_kafka.Consumer(
                self._defaults | given | reserved | {"error_cb": self._happened}, logger=log
            )
            try:
                self._consumer.list_topics(timeout=REACH_S)  # whether anybody is there
            except confluent_kafka.KafkaException:
                self._consumer.poll(0)  # has it tell what happened
                self._consumer.close()
                raise

    def places(self, topics: Sequence[str]) -> list[Place]:
        found = []
        for topic in topics:
            with self._errors():
                about = self._consumer.list_topics(topic, timeout=REACH_S).topics[topic]
                error = about.error
                if error is not None and not self._is(error, ("UNKNOWN_TOPIC_OR_PART",)):
                    raise self._library.KafkaException(error)
            if not about.partitions:
                raise StreamError(
                    f"there is no topic {topic!r} at {self._servers}: create it, or mend its name "
                    "in the job"
                )
            found += [(topic, partition) for partition in sorted(about.partitions)]
        return found

    def first(self, places: Sequence[Place]) -> dict[Place, int]:
        return self._offsets(places, _EARLIEST)

    def after(self, places: Sequence[Place]) -> dict[Place, int]:
        return self._offsets(places, _LATEST)

    def at(self, places: Sequence[Place], time: int) -> dict[Place, int]:
        found = self._offsets(places, max(time, 0))
        none = [place for place, offset in found.items() if offset < 0]
        return found | self.after(none)

    def assign(self, positions: Mapping[Place, int]) -> None:
        with self._errors():
            self._consumer.assign(self._begin(positions))

    def join(self, topics: Sequence[str], assigned: Assigned) -> None:
        def given(consumer: Any, partitions: Sequence[Any]) -> None:
            consumer.assign(self._begin(assigned([(p.topic, p.partition) for p in partitions])))

        def taken(consumer: Any, partitions: Sequence[Any]) -> None:
            self._begin({})
            assigned([])
            consumer.unassign()

        with self._errors():
            self._consumer.subscribe(list(topics), on_assign=given, on_revoke=taken, on_lost=taken)

    def poll(self, timeout: float, most: int) -> list[Fetched]:
        with self._errors():
            came = self._consumer.consume(most, 0)
            if not came and timeout:
                came = self._consumer.consume(1, timeout)
                turn = self._turn  # what came before a change of members comes again
                more = self._consumer.consume(most - 1, 0) if came and most > 1 else []
                came = came + more if turn == self._turn else more
            by_place: dict[Place, list[Any]] = {}
            for message in came:
                if message.error() is None:
                    place = message.topic(), message.partition()
                    by_place.setdefault(place, []).append(message)
                else:
                    self._failed(message)
        return [
            self._fetched(place, messages)
            for place, messages in by_place.items()
            if place in self._next
        ]

    def drained(self, place: Place) -> bool:
        with self._errors():
            known = self._consumer.get_watermark_offsets(self._of([place])[0], cached=True)
        return known is not None and 0 <= known[1] <= self._next.get(place, -1)

    def commit(self, positions: Mapping[Place, int], wait: float = 0.0) -> None:
        mine = {place: at for place, at in positions.items() if wait or place in self._next}
        try:
            if mine:
                self._consumer.commit(offsets=self._of(mine, mine), asynchronous=not wait)
        except self._library.KafkaException:
            log.debug("positions were not committed", exc_info=True)

    def close(self) -> None:
        try:
            self._consumer.close()
        except self._library.KafkaException:
            log.debug("a consumer was not closed in order", exc_info=True)

    def _begin(self, positions: Mapping[Place, int]) -> list[Any]:
        """Takes note of what is read from now on."""
        self._next = dict(positions)
        self._turn += 1
        return self._of(positions, positions)

    def _offsets(self, places: Sequence[Place], time: int) -> dict[Place, int]:
        if not places:
            return {}
        with self._errors():
            asked = self._of(places, dict.fromkeys(places, time))
            found = self._consumer.offsets_for_times(asked, timeout=REACH_S)
            for partition in found:
                if partition.error is not None:
                    raise self._library.KafkaException(partition.error)
        return {(p.topic, p.partition): p.offset for p in found}

    def _fetched(self, place: Place, messages: list[Any]) -> Fetched:
        n, first, last = len(messages), messages[0].offset(), messages[-1].offset()
        self._next[place] = last + 1
        offsets = (
            np.arange(first, last + 1)
            if last - first == n - 1
            else np.array([message.offset() for message in messages], np.int64)
        )
        time = np.array([message.timestamp()[1] for message in messages], np.int64)
        return Fetched(place, offsets, time, [message.value() for message in messages])

    def _failed(self, message: Any) -> None:
        """What came in place of a message."""
        error, place = message.error(), (message.topic(), message.partition())
        if self._is(error, ("_PARTITION_EOF",)):
            if place in self._next:
                self._next[place] = max(self._next[place], message.offset())
        elif self._is(error, ("_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE")):
            raise StreamError(
                f"the topic no longer holds where reading was to go on ({place[0]}/{place[1]} at "
                f"{self._next.get(place, message.offset())}): its retention is shorter than the "
                "job was away. Start another run to go on with what is there"
            )
        elif not self._is(error, self._passing):
            raise self._library.KafkaException(error)

    def _happened(self, error: Any) -> None:
        """Is told of what goes on between librdkafka and the brokers."""
        log.debug("%s", error)
        if self._is(error, self._final) or error.fatal():
            self._refused = error.str()

    def _of(self, places: Iterable[Place], at: Mapping[Place, int] | None = None) -> list[Any]:
        partition = self._library.TopicPartition
        if at is None:
            return [partition(*place) for place in places]
        return [partition(*place, at[place]) for place in places]

    def _is(self, error: Any, names: Sequence[str]) -> bool:
        return error.code() in {getattr(self._library.KafkaError, name) for name in names}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What the library raises, as what it means for a stream."""
        try:
            yield
        except self._library.KafkaException as caught:
            error = caught.args[0]
            if self._refused or self._is(error, self._final) or error.fatal():
                raise StreamError(f"stream.client: {self._refused or error.str()}") from None
            raise BrokerUnavailableError(
                f"stream.servers: no answer from Kafka at {self._servers} ({error.str()})"
            ) from None
        except (ValueError, TypeError, RuntimeError) as error:
            raise StreamError(f"stream.client: {' '.join(str(error).split())}") from None
