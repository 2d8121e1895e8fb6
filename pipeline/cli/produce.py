"""`everlearn produce`."""

from __future__ import annotations

import json
import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from streams.core.errors import StreamError
from streams.produce.messages import Delay, Drift, ProduceError, ProducePlan
from streams.produce.produce import ProduceTarget, SendError, produce


class EventFormat(StrEnum):
    """The format of an event's message."""

    json = "json"
    frames = "frames"


FileArgument = Annotated[Path, typer.Argument(help="A Parquet or CSV file.", show_default=False)]
ServersOption = Annotated[str, typer.Option(metavar="HOST:PORT", help="Kafka.", show_default=False)]
TopicOption = Annotated[str, typer.Option(help="Topic of the events.", show_default=False)]
LabelsTopicOption = Annotated[
    str | None, typer.Option(help="Topic of the labels; without it they stay in their events.")
]
LabelDelayOption = Annotated[
    str | None,
    typer.Option(
        metavar="EVENTS|SECONDSs",
        help="When a label follows its event: after 48 events, or 30s of event time.",
    ),
]
RateOption = Annotated[
    float | None,
    typer.Option(min=0.001, help="Events per second; without it, as fast as possible."),
]
IdOption = Annotated[
    str | None, typer.Option("--id", help="Column of ids; without it, `id` numbers the events.")
]
TimeOption = Annotated[str | None, typer.Option("--time", help="Column of event time.")]
LabelOption = Annotated[str | None, typer.Option(help="Column of labels.")]
FormatOption = Annotated[
    EventFormat, typer.Option("--format", help="Format of an event's message.")
]
PartitionsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Create topics that do not exist, with this many partitions."),
]
RepeatOption = Annotated[int, typer.Option(min=1, help="Send the file this many times.")]
MaxEventsOption = Annotated[int | None, typer.Option(min=1, help="Stop after this many events.")]
DriftOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="EVENT:KIND",
        help="From an event on: swap (classes), shift or shuffle (columns of numbers).",
    ),
]
PoisonOption = Annotated[float, typer.Option(min=0, max=1, help="Bad messages per good message.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of drift and poison.")]
KeyOption = Annotated[
    str | None,
    typer.Option(help="Column that is the key of an event's message, and not in its value."),
]
HeaderOption = Annotated[
    list[str] | None,
    typer.Option(help="Column that is a header of that name, and not in the value; repeatable."),
]
FastOption = Annotated[bool, typer.Option("--fast", help="Use confluent-kafka.")]


def command(
    file: FileArgument,
    servers: ServersOption,
    topic: TopicOption,
    labels_topic: LabelsTopicOption = None,
    label_delay: LabelDelayOption = None,
    rate: RateOption = None,
    id_: IdOption = None,
    time_: TimeOption = None,
    label: LabelOption = None,
    format_: FormatOption = EventFormat.json,
    partitions: PartitionsOption = None,
    repeat: RepeatOption = 1,
    max_events: MaxEventsOption = None,
    drift: DriftOption = None,
    poison: PoisonOption = 0.0,
    seed: SeedOption = 0,
    fast: FastOption = False,
    key: KeyOption = None,
    header: HeaderOption = None,
) -> None:
    """Send a file to Kafka as a live stream; print what was sent as one line of JSON."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what matters of it is reported below
    try:
        plan = ProducePlan(
            file,
            id=id_,
            time=time_,
            label=label,
            labels=labels_topic is not None,
            delay=Delay() if label_delay is None else Delay.read(label_delay),
            format=format_.value,
            repeat=repeat,
            max_events=max_events,
            drift=tuple(map(Drift.read, drift or ())),
            poison=poison,
            seed=seed,
            key=key,
            headers=tuple(header or ()),
        )
        target = ProduceTarget(servers, topic, labels_topic, partitions, rate, fast)
        report = produce(plan, target)
    except ProduceError as error:
        _exit(str(error), 2)
    except (SendError, StreamError) as error:
        _exit(f"sending broke off: {error}", 1)
    except KeyboardInterrupt:
        _exit("stopped at once", 1)
    typer.echo(json.dumps(report))
    sys.exit(0 if report["ended"] == "done" else 1)


def _exit(message: str, status: int) -> NoReturn:
    console = Console(stderr=True)
    console.print(f"everlearn: {message}", highlight=False, markup=False, soft_wrap=True)
    sys.exit(status)
