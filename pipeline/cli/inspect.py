"""``everlearn inspect``, and ``everlearn run --dry-run``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import print_result, reports_errors, say
from pipeline.config import job as jobs
from pipeline.config.errors import JobError
from pipeline.config.job import LoadedJob
from pipeline.training.description import JobDescription, describe
from streams.core.description import with_examples
from streams.core.errors import StreamError, one_line
from streams.core.live_stream import LiveStream

SAMPLED_MESSAGES = 200
"""Messages of each partition that are sampled."""

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the job.")
]


def inspect(
    path: Annotated[
        Path, typer.Argument(help="A job (YAML), or data (CSV, Parquet).", show_default=False)
    ],
    json_: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    set_: Overrides = None,
) -> None:
    """Show what a job reads, what it takes each column for, and what looks wrong; run nothing."""
    with reports_errors(refused=(JobError, StreamError), started=False):
        if _is_data(path):
            from streams.files.stream import describe_data

            stream = describe_data(path)
            description = JobDescription(str(path), stream, {}, {}, stream.warnings)
        else:
            description = describe_job(jobs.load(path, set_ or []))
        show_description(description, json_)


def describe_job(loaded: LoadedJob) -> JobDescription:
    """Return the description of a job. Raises ``JobError`` and ``StreamError``."""
    from pipeline.training.builder import build

    parts = build(loaded.on_device("cpu"))
    description = describe(loaded, parts)
    if isinstance(parts.stream, LiveStream):
        return _sampled(description, parts.stream)
    return description


def _sampled(description: JobDescription, stream: LiveStream) -> JobDescription:
    """Return a description with examples from the first messages, if there are any."""
    try:
        batch = stream.sample(SAMPLED_MESSAGES)
    except StreamError as error:
        say(f"no message was sampled: {one_line(error)}")
        return description
    finally:
        stream.close()
    if batch is None:
        say("no message was sampled: there is none yet where a new run starts")
        return description
    described = with_examples(description.stream, batch)
    return replace(description, stream=described, warnings=described.warnings)


def show_description(description: JobDescription, as_json: bool = False) -> None:
    """Print a description on standard output, and its warnings on standard error."""
    from pipeline.callbacks.job_table import job_table

    if as_json:
        typer.echo(json.dumps(description.as_json(), default=str))
        return
    print_result(job_table(description))
    for warning in description.warnings:
        say(f"warning: {warning}")


def _is_data(path: Path) -> bool:
    from streams.files.readers import SUFFIXES

    return path.name.endswith(SUFFIXES) or path.is_dir()
