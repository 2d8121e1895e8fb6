"""A consumer of Kafka, and no more of it than a stream needs: positions are given, never kept.

What is not polled is not fetched beyond what the library reads ahead, so no partition is ever
paused: kafka-python 3.0.12 may forget to resume one.
"""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, ClassVar

import numpy as np

from streams.core.errors import StreamError
from streams.core.live_stream import BrokerUnavailableError
from streams.core.settings import unknown
from streams.kafka.records import Fetched, Place

log = logging.getLogger(__name__)

TRANSACTIONS = (0, 11)
"""The first version of Kafka that has them."""
REACH_S = 10.0
"""How long a broker may take to answer a question before it counts as away."""

Assigned = Callable[[list[Place]], dict[Place, int]]
"""Is told which partitions a group has given, and says where to read each of them on."""


class Consumer(ABC):
    """A connection to Kafka. To be used by one thread at a time.

    Args:
        servers: ``host:port`` of some of the brokers, with commas between.
        group: whose member it is, or for whom it commits.
        options: passed on to the library that does the work.

    Raises ``BrokerUnavailableError`` where no broker answers, and ``StreamError`` for what no
    waiting mends; so do all methods.
    """

    @abstractmethod
    def __init__(self, servers: str, group: str, options: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def places(self, topics: Sequence[str]) -> list[Place]:
        """The partitions of the topics."""

    @abstractmethod
    def first(self, places: Sequence[Place]) -> dict[Place, int]:
        """The position of the first message that is still there."""

    @abstractmethod
    def after(self, places: Sequence[Place]) -> dict[Place, int]:
        """The position after the last message."""

    @abstractmethod
    def at(self, places: Sequence[Place], time: int) -> dict[Place, int]:
        """The position of the first message at or after a time (milliseconds); where there is none
        yet, that after the last."""

    @abstractmethod
    def assign(self, positions: Mapping[Place, int]) -> None:
        """Reads these partitions, all of them, from these positions on."""

    @abstractmethod
    def join(self, topics: Sequence[str], assigned: Assigned) -> None:
        """Reads those partitions that the group gives, as a member of it."""

    @abstractmethod
    def poll(self, timeout: float, most: int) -> list[Fetched]:
        """What has come, at most so many messages; waits ``timeout`` seconds for the first."""

    @abstractmethod
    def drained(self, place: Place) -> bool:
        """Whether all was given out that the partition held when it was last heard of."""

    @abstractmethod
    def commit(self, positions: Mapping[Place, int], wait: float = 0.0) -> None:
        """Lets others see where reading stands, of what this consumer reads. Best effort. With
        ``wait``, which is for one that reads nothing, for about so many seconds."""

    @abstractmethod
    def close(self) -> None: ...


class KafkaPython(Consumer):
    """By kafka-python: pure Python, TLS and SASL of every kind, also with brokers of old."""

    _reserved: ClassVar = {
        "bootstrap_servers",
        "group_id",
        "enable_auto_commit",
        "auto_offset_reset",
        "key_deserializer",
        "value_deserializer",
        "consumer_timeout_ms",
    }

    def __init__(self, servers: str, group: str, options: Mapping[str, Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it reads a file of its own in a way that is going
            import kafka

        known = set(kafka.KafkaConsumer.DEFAULT_CONFIG) - self._reserved
        for name in options:
            if name not in known:
                raise StreamError(f"stream.client: unknown option {unknown(name, sorted(known))}")
        settings = {
            "session_timeout_ms": 10_000,
            "heartbeat_interval_ms": 1_000,
            "bootstrap_timeout_ms": int(REACH_S * 1000),
            "max_partition_fetch_bytes": 4 << 20,
            "fetch_max_wait_ms": 50,  # one that waits at quiet partitions keeps busy ones waiting
            "allow_auto_create_topics": False,  # a name that is misspelt makes no topic
            "metadata_max_age_ms": 60_000,  # new partitions are seen in a minute
            **options,
        }
        version = version_of(options)
        if version is not None:
            settings["api_version"] = version
        if version is None or version >= TRANSACTIONS:  # of aborted ones nothing is learned
            settings.setdefault("isolation_level", "read_committed")
        self._kafka = kafka
        self._servers = servers
        with self._errors(), heard():
            self._consumer = kafka.KafkaConsumer(
                bootstrap_servers=servers.split(","),
                group_id=group,
                enable_auto_commit=False,
                auto_offset_reset="none",
                **settings,
            )
        self._member = False

    def places(self, topics: Sequence[str]) -> list[Place]:
        with self._errors():
            found = []
            for topic in topics:
                partitions = self._consumer.partitions_for_topic(topic)
                if not partitions:
                    raise StreamError(
                        f"there is no topic {topic!r} at {self._servers}: create it, or mend its "
                        "name in the job"
                    )
                found += [(topic, partition) for partition in sorted(partitions)]
            return found

    def first(self, places: Sequence[Place]) -> dict[Place, int]:
        with self._errors():
            return self._places(
                self._consumer.beginning_offsets(self._of(places), int(REACH_S * 1000))
            )

    def after(self, places: Sequence[Place]) -> dict[Place, int]:
        with self._errors():
            return self._places(self._consumer.end_offsets(self._of(places), int(REACH_S * 1000)))

    def at(self, places: Sequence[Place], time: int) -> dict[Place, int]:
        with self._errors():
            found = self._consumer.offsets_for_times(dict.fromkeys(self._of(places), time))
        positions = self.after(places)
        return positions | {(p.topic, p.partition): o.offset for p, o in found.items() if o}

    def assign(self, positions: Mapping[Place, int]) -> None:
        with self._errors():
            self._consumer.assign(self._of(positions))
            for place, position in positions.items():
                self._consumer.seek(self._one(place), position)

    def join(self, topics: Sequence[str], assigned: Assigned) -> None:
        consumer, of, places = self._consumer, self._of, _place

        class Listener(self._kafka.ConsumerRebalanceListener):  # type: ignore[misc, name-defined]
            def on_partitions_revoked(self, revoked: Any) -> None:
                pass

            def on_partitions_assigned(self, given: Any) -> None:
                for place, position in assigned([places(p) for p in given]).items():
                    consumer.seek(of([place])[0], position)

        self._member = True
        with self._errors():
            consumer.subscribe(list(topics), listener=Listener())

    def poll(self, timeout: float, most: int) -> list[Fetched]:
        with self._errors():
            polled = self._consumer.poll(int(timeout * 1000), max_records=most)
        return [_fetched(_place(p), records) for p, records in polled.items() if records]

    def drained(self, place: Place) -> bool:
        partition = self._one(place)
        try:
            with self._errors():
                end = self._consumer.highwater(partition)
                return end is not None and self._consumer.position(partition) >= end
        except self._kafka.errors.IllegalStateError:  # it is another's by now
            return False

    def commit(self, positions: Mapping[Place, int], wait: float = 0.0) -> None:
        metadata = self._kafka.OffsetAndMetadata
        mine = self._consumer.assignment() if self._member else self._of(positions)
        offsets = {
            partition: metadata(positions[_place(partition)], "", -1)
            for partition in mine
            if _place(partition) in positions
        }
        if offsets and wait:
            with self._errors():
                self._consumer.commit(offsets, timeout_ms=int(wait * 1000))
        elif offsets:
            self._consumer.commit_async(offsets, callback=_ignore)

    def close(self) -> None:
        try:
            self._consumer.close(autocommit=False, timeout_ms=1000)
        except self._kafka.errors.KafkaError:
            log.debug("a consumer was not closed in order", exc_info=True)

    def _one(self, place: Place) -> Any:
        return self._kafka.TopicPartition(*place)

    def _of(self, places: Sequence[Place] | Mapping[Place, int]) -> list[Any]:
        return [self._kafka.TopicPartition(*place) for place in places]

    @staticmethod
    def _places(positions: Mapping[Any, int]) -> dict[Place, int]:
        return {_place(partition): position for partition, position in positions.items()}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What the library raises, as what it means for a stream."""
        errors = self._kafka.errors
        try:
            yield
        except errors.OffsetOutOfRangeError as error:
            gone = ", ".join(f"{p.topic}/{p.partition} at {o}" for p, o in error.args[0].items())
            raise StreamError(
                f"the topic no longer holds where reading was to go on ({gone}): its retention is "
                "shorter than the job was away. Start another run to go on with what is there"
            ) from None
        except errors.IllegalStateError:
            raise
        except (
            errors.SaslAuthenticationFailedError,
            errors.UnsupportedSaslMechanismError,
            errors.AuthorizationError,
            errors.UnsupportedVersionError,
            errors.KafkaConfigurationError,
        ) as error:
            raise StreamError(f"stream.client: {self._servers}: {_said(error)}") from None
        except (ValueError, TypeError, AssertionError, ImportError) as error:
            raise StreamError(f"stream.client: {_said(error)}") from None
        except (errors.KafkaError, OSError) as error:
            raise BrokerUnavailableError(
                f"stream.servers: no answer from Kafka at {self._servers} ({_said(error)})"
            ) from None


LIBRARIES: dict[str, str] = {
    "kafka-python": "streams.kafka.clients.consumer:KafkaPython",
    "confluent-kafka": "streams.kafka.clients.confluent_consumer:Confluent",
}


def connect(library: str, servers: str, group: str, options: Mapping[str, Any]) -> Consumer:
    """A consumer by that library."""
    module, _, name = LIBRARIES[library].partition(":")
    consumer: type[Consumer] = getattr(import_module(module), name)
    return consumer(servers, group, options)


def version_of(options: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The version of Kafka that kafka-python is to take for granted. Raises ``StreamError``."""
    version = options.get("api_version")
    if version is None:
        return None
    listed = isinstance(version, list | tuple) and len(version) > 1
    if not listed or not all(type(number) is int for number in version):
        raise StreamError(
            f"stream.client.api_version: {version!r} given; a list as [0, 9] is wanted"
        )
    return tuple(version)  # JSON and YAML know no tuples


@contextmanager
def heard() -> Iterator[None]:
    """Where kafka-python finds nobody, what it has only told its log of why: whom it could reach
    and not come to terms with."""
    said: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = " ".join(record.getMessage().split())
            if not message.startswith("Bootstrap"):  # that is the outcome, not the cause
                said.append(message)

    ear, library = Ear(logging.ERROR), logging.getLogger("kafka")
    level = library.level
    library.setLevel(logging.ERROR)  # whoever keeps it quiet: what it says is told by us
    library.addHandler(ear)
    try:
        yield
    except Exception as error:
        if said and type(error).__name__ == "KafkaTimeoutError":
            if "Sasl" in said[-1]:  # no waiting mends it
                raise ValueError(said[-1]) from None
            raise OSError(said[-1]) from None
        raise
    finally:
        library.removeHandler(ear)
        library.setLevel(level)


def _place(partition: Any) -> Place:
    return (partition.topic, partition.partition)


def _fetched(place: Place, records: Sequence[Any]) -> Fetched:
    n = len(records)
    first, last = records[0].offset, records[-1].offset
    offsets = (
        np.arange(first, last + 1)
        if last - first == n - 1
        else np.fromiter((record.offset for record in records), np.int64, n)
    )
    stamps = (-1 if (at := record.timestamp) is None else at for record in records)  # None: of old
    time = np.fromiter(stamps, np.int64, n)
    return Fetched(place, offsets, time, [record.value for record in records])


def _ignore(*_: Any) -> None:
    """What becomes of a commit is nobody's concern: positions are kept elsewhere."""


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
