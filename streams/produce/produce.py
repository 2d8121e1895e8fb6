"""Sends the rows of a file to Kafka, and their labels after them: a live stream to try a job on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from streams.core.errors import StreamError
from streams.kafka.clients.factory import create_producer
from streams.kafka.clients.producer import Producer
from streams.produce.messages import MessageGenerator, ProduceError, ProducePlan
from streams.produce.topics import ensure_topics

CHUNK_EVENTS = 2048
CHUNKS_PER_SECOND = 50
"""At a rate, chunks are so small that about this many go out in a second."""
MAX_CATCH_UP_S = 1.0
"""A sender that fell behind its rate catches up on no more than this."""


class SendError(Exception):
    """Sending broke off: the message says why, and how many messages were delivered."""


@dataclass(frozen=True, slots=True)
class ProduceTarget:
    """Where messages go, and how fast.

    Attributes:
        servers: ``host:port`` of some of the brokers, separated by commas.
        topic: of the events.
        labels_topic: of the labels, if the plan sends them to a topic of their own.
        partitions: of topics that do not exist, which are created; None: all must exist.
        rate: events per second; None: as fast as the broker accepts them.
        fast: use confluent-kafka.
    """

    servers: str
    topic: str
    labels_topic: str | None = None
    partitions: int | None = None
    rate: float | None = None
    fast: bool = False


def produce(
    plan: ProducePlan,
    target: ProduceTarget,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Send the messages of a plan, and return what was sent.

    Args:
        plan: what to send.
        target: where to, and how fast.
        clock: gives seconds; the rate is kept by it.
        sleep: waits for a number of seconds.

    Raises:
        ProduceError: nothing was sent.
        SendError, StreamError: sending broke off.
    """
    if target.fast and find_spec("confluent_kafka") is None:
        raise ProduceError("--fast: confluent-kafka is not installed: pip install confluent-kafka")
    # Problems of the file are reported before those of the broker.
    generator = MessageGenerator(plan, 1, target.topic, target.labels_topic)
    topics = [target.topic] if target.labels_topic is None else [target.topic, target.labels_topic]
    generator.partitions = ensure_topics(target.servers, topics, target.partitions)
    library = "confluent-kafka" if target.fast else "kafka-python"
    producer = create_producer(library, target.servers, {}, bulk=True)
    start = clock()
    try:
        ended = _send_all(generator, producer, target.rate, clock, sleep)
    finally:
        producer.close()
    return _report(generator, target, ended, max(clock() - start, 1e-9))


def _send_all(
    generator: MessageGenerator,
    producer: Producer,
    rate: float | None,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> str:
    """Send all messages; return ``done``, or ``stopped`` after Ctrl-C."""
    ended, due = "done", clock()
    size = CHUNK_EVENTS
    if rate is not None:
        size = max(1, min(CHUNK_EVENTS, int(rate / CHUNKS_PER_SECOND)))
    try:
        for events, records in generator.chunks(size):
            if rate is not None:
                if (wait := due - clock()) > 0:
                    sleep(wait)
                due = max(due, clock() - MAX_CATCH_UP_S) + events / rate
            with _report_delivered(producer):
                producer.enqueue(records)
    except KeyboardInterrupt:
        ended = "stopped"
    with _report_delivered(producer):
        producer.flush()
    return ended


@contextmanager
def _report_delivered(producer: Producer) -> Iterator[None]:
    """Raise a failed delivery as ``SendError`` that says how many messages were delivered."""
    try:
        yield
    except StreamError as error:
        delivered = f"{producer.delivered:,} messages were delivered before"
        raise SendError(f"{error} ({delivered})") from None


def _report(
    generator: MessageGenerator, target: ProduceTarget, ended: str, seconds: float
) -> dict[str, Any]:
    """Return what was sent."""
    report: dict[str, Any] = {
        "ended": ended,
        "topic": target.topic,
        "partitions": generator.partitions,
        "events": generator.events,
        "bad_events": dict(sorted(generator.poison.events.items())),
    }
    if target.labels_topic is not None:
        report |= {
            "labels_topic": target.labels_topic,
            "labels": generator.labels,
            "bad_labels": dict(sorted(generator.poison.labels.items())),
        }
    if generator.skipped:
        report["skipped_rows"] = generator.skipped
    if generator.layout is not None:
        report["frame"] = generator.layout
    rate = round(generator.events / seconds, 1)
    return report | {"seconds": round(seconds, 3), "events_per_s": rate}
