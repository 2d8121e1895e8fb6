"""`everlearn produce`."""

from __future__ import annotations

import json
import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from streams.core.errors import StreamError
from streams.produce.messages import Delay, Drift, ProduceError, ProducePlan
from streams.produce.produce import produce
from streams.produce.senders import SendError


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
        plan = ProducePlan(
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
