"""Sends the rows of a file to Kafka, and their labels after them: a live stream to try a job on."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from streams.produce.messages import MessageGenerator, ProduceError, ProducePlan
from streams.produce.senders import Confluent, KafkaPython, Sender, prepare

CHUNK_EVENTS = 2048


def produce(
    plan: ProducePlan,
    servers: str,
    topic: str,
    labels_topic: str | None = None,
    partitions: int | None = None,
    rate: float | None = None,
    fast: bool = False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Sends what is planned; returns what was sent.

    Args:
        plan: what is sent.
        servers: ``host:port`` of some of the brokers, with commas between.
        topic: of the events.
        labels_topic: of the labels, where the plan has them on a topic of their own.
        partitions: topics that are not there are made with so many; None: they have to be there.
        rate: events a second; None: as fast as they are taken.
        fast: by confluent-kafka.
        clock: what the rate goes by, in seconds.
        sleep: waits for so many seconds.

    Raises:
        ProduceError: nothing was sent.
        SendError, StreamError: it broke off on the way.
    """
    if fast and find_spec("confluent_kafka") is None:
        raise ProduceError("--fast: confluent-kafka is not installed: pip install confluent-kafka")
    out = MessageGenerator(plan, 1)  # the file before the broker: it is the nearer of the two
    topics = [topic] if labels_topic is None else [topic, labels_topic]
    out.partitions = prepare(servers, topics, partitions)
    sender: Sender = Confluent(servers) if fast else KafkaPython(servers)
    begun = clock()
    try:
        ended = _send(out, sender, topics, rate, clock, sleep)
    finally:
        sender.close()
    took = max(clock() - begun, 1e-9)
    sent: dict[str, Any] = {
        "ended": ended,
        "topic": topic,
        "partitions": out.partitions,
        "events": out.events,
        "bad_events": dict(sorted(out.poison.events.items())),
    }
    if labels_topic is not None:
        bad = dict(sorted(out.poison.labels.items()))
        sent |= {"labels_topic": labels_topic, "labels": out.labels, "bad_labels": bad}
    if out.skipped:
        sent["skipped_rows"] = out.skipped
    if out.layout is not None:
        sent["frame"] = out.layout
    return sent | {"seconds": round(took, 3), "events_per_s": round(out.events / took, 1)}


def _send(
    out: MessageGenerator,
    sender: Sender,
    topics: list[str],
    rate: float | None,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> str:
    """Sends all; whether it is ``done``, or was ``stopped`` by Ctrl-C."""
    ended, due = "done", clock()
    # At a rate they go out in small chunks, fifty a second.
    size = CHUNK_EVENTS if rate is None else max(1, min(CHUNK_EVENTS, int(rate / 50)))
    try:
        for events, messages in out.chunks(size):
            if rate is not None:
                if (wait := due - clock()) > 0:
                    sleep(wait)
                due = max(due, clock() - 1.0) + events / rate  # not hurried by more than a second
            sender.send([(topics[m.label], m) for m in messages])
    except KeyboardInterrupt:
        ended = "stopped"
    sender.finish()
    return ended
