"""Show what a job reads, as a table."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.training.description import JobDescription
from streams.core.description import ColumnDescription
from streams.decoding.class_names import shown

CLASSES_SHOWN = 12
"""Classes that are named."""


def job_table(description: JobDescription, rows: int | None = None) -> RenderableType:
    """Return the table of a job's columns, and lines about its label, its time and its sources.

    Args:
        description: of the job.
        rows: the most columns that are shown; None: all.
    """
    stream = description.stream
    shown = Table(title=f"{description.name}: what it reads", title_justify="left")
    for header in ("column", "taken for", "encoding", "missing", "distinct", "examples"):
        right = header in ("missing", "distinct")
        shown.add_column(header, justify="right" if right else "left", overflow="fold")
    columns = stream.columns if rows is None else stream.columns[:rows]
    for column in columns:
        shown.add_row(*map(_plain, _cells(column, description)))
    lines = [_label(description), f"time: {stream.time}" if stream.time else ""]
    lines += [f"aggregates: {line}" for line in description.aggregates]
    lines.append(f"sequences: {description.sequences}" if description.sequences else "")
    lines.append(f"history: {description.history}" if description.history else "")
    lines.append(_learner(description.learner))
    lines += [f"memory: {line}" for line in description.memories]
    if more := len(stream.columns) - len(columns):
        lines.insert(0, f"{more:,} more columns: everlearn inspect shows all")
    sampled = f", {stream.sampled:,} rows sampled" if stream.sampled else ""
    lines += [_sources(stream.sources, sampled)]
    return Group(shown, *(_plain(line) for line in lines if line))


def _cells(column: ColumnDescription, description: JobDescription) -> tuple[str, ...]:
    encoding = description.encodings.get(column.name)
    missing = "" if column.missing is None else f"{column.missing:.1%}"
    if column.missing and column.if_missing:
        missing += f" ({column.if_missing})"
    return (
        column.name,
        column.use,
        "" if encoding is None else encoding.text,
        missing,
        "" if column.distinct is None else f"{column.distinct:,}",
        ", ".join(column.examples),
    )


def _label(description: JobDescription) -> str:
    stream = description.stream
    if stream.task is None:
        return "label: none is stated"
    if stream.task == "regression":
        return "label: regression, a number"
    where = "stated" if stream.classes_stated else "in the sample"
    if not stream.classes:
        return f"label: {stream.task}; the classes are those of the stream"
    names = ", ".join(map(shown, stream.classes[:CLASSES_SHOWN]))
    more = len(stream.classes) - CLASSES_SHOWN
    return f"label: {stream.task}; {len(stream.classes)} classes {where}: {names}" + (
        f", and {more} more" if more > 0 else ""
    )


def _learner(settings: Mapping[str, Any]) -> str:
    """Return the kind of a learner, with the settings that are stated."""
    if not settings:
        return ""
    others = {key: value for key, value in settings.items() if key != "kind"}
    stated = yaml.safe_dump(others, default_flow_style=True, sort_keys=False, width=sys.maxsize)
    return f"learner: {settings['kind']}" + (f" {stated.strip()}" if others else "")


def _sources(sources: Iterable[str], sampled: str) -> str:
    names = list(sources)
    if len(names) == 1:
        return f"source: {names[0]}{sampled}"
    listed = "".join(f"\n  {name}" for name in names)
    return f"sources, in this order{sampled}:{listed}"


def _plain(text: str) -> Text:
    """Return a text without markup, on printable characters."""
    lines = ("".join(c if c.isprintable() else "?" for c in line) for line in text.split("\n"))
    return Text("\n".join(lines))
