"""Sends the rows of a file to Kafka, and their labels after them: a live stream to try a job on."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from streams.core.errors import StreamError
from streams.produce.messages import Delay, Drift, Outgoing, Plan, ProduceError
from streams.produce.senders import Confluent, KafkaPython, Sender, SendError, prepare

CHUNK_EVENTS = 2048


def produce(
    plan: Plan,
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
    out = Outgoing(plan, 1)  # the file before the broker: it is the nearer of the two
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
    out: Outgoing,
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


class EventFormat(StrEnum):
    """What a message of an event is."""

    json = "json"
    frames = "frames"


def command(
    file: Annotated[Path, typer.Argument(help="A Parquet or CSV file.", show_default=False)],
    servers: Annotated[str, typer.Option(metavar="HOST:PORT", help="Kafka.", show_default=False)],
    topic: Annotated[str, typer.Option(help="Topic of the events.", show_default=False)],
    labels_topic: Annotated[
        str | None,
        typer.Option(help="Topic of the labels; without one, they stay in their events."),
    ] = None,
    label_delay: Annotated[
        str | None,
        typer.Option(
            metavar="EVENTS|SECONDSs",
            help="When a label follows its event: after 48 events, or 30s of event time.",
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Events a second; else as fast as can be.")
    ] = None,
    id_: Annotated[
        str | None, typer.Option("--id", help="Column of ids; else events are numbered in `id`.")
    ] = None,
    time_: Annotated[str | None, typer.Option("--time", help="Column of event time.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of labels.")] = None,
    format_: Annotated[
        EventFormat, typer.Option("--format", help="What a message of an event is.")
    ] = EventFormat.json,
    partitions: Annotated[
        int | None, typer.Option(min=1, help="Creates topics that are not there, with so many.")
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Send the file so many times.")] = 1,
    max_events: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    drift: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EVENT:KIND",
            help="From an event on: swap (classes), shift or shuffle (columns of numbers).",
        ),
    ] = None,
    poison: Annotated[
        float, typer.Option(min=0, max=1, help="Bad messages for each good one.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of drift and poison.")] = 0,
    fast: Annotated[bool, typer.Option("--fast", help="By confluent-kafka.")] = False,
) -> None:
    """Sends a file to Kafka as a live stream; one line of JSON says what was sent."""
    console = Console(stderr=True)

    def say(what: str) -> None:
        console.print(f"everlearn: {what}", highlight=False, markup=False, soft_wrap=True)

    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what matters of it is told below
    logging.getLogger("confluent_kafka").setLevel(logging.CRITICAL)
    try:
        plan = Plan(
            file,
            id_,
            time_,
            label,
            labels_topic is not None,
            Delay() if label_delay is None else Delay.read(label_delay),
            format_.value,
            repeat,
            max_events,
            tuple(map(Drift.read, drift or ())),
            poison,
            seed,
        )
        sent = produce(plan, servers, topic, labels_topic, partitions, rate, fast)
    except ProduceError as error:
        say(str(error))
        sys.exit(2)
    except (SendError, StreamError) as error:
        say(f"sending broke off: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        say("left at once")
        sys.exit(1)
    typer.echo(json.dumps(sent))
    sys.exit(0 if sent["ended"] == "done" else 1)
