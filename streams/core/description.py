"""What a stream reads: its columns, and what it takes each of them for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from streams.core.batch import Batch, ClassName, Features, Ragged
from streams.core.errors import one_line
from streams.core.schema import Feature, Schema, Task

NOT_USED = "not used"
EXAMPLES = 3
EXAMPLE_LENGTH = 24
"""Examples of a column, and characters of each."""


@dataclass(frozen=True, slots=True)
class ColumnDescription:
    """One column of a stream.

    Attributes:
        name: its name.
        use: what it is taken for: the kind of a feature, ``label``, ``time``, ``id``, ``key``,
            ``segment``, ``label time``, or ``not used``.
        type: its type in the source; empty where that is unknown.
        missing: the share of the sampled rows that have no value; None: nothing was sampled.
        if_missing: what becomes of a missing value of a feature (``Schema.missing_policy``).
        distinct: the number of different values in the sample; None: not counted.
        examples: a few of its values, as text.
    """

    name: str
    use: str
    type: str = ""
    missing: float | None = None
    if_missing: str = ""
    distinct: int | None = None
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamDescription:
    """What a stream reads, as far as that is known before reading.

    Attributes:
        sources: where events come from, in the order in which they are read.
        columns: all columns, those that are not used among them.
        task: classification or regression; None: there is no label.
        classes: the classes that the job states, or those in the sample.
        classes_stated: whether the job states the classes.
        time: what event time is: its column, unit, zone and first value.
        sampled: the number of rows that were sampled; 0: only the job was read.
        warnings: what looks wrong, each on one line with its remedy.
    """

    sources: tuple[str, ...]
    columns: tuple[ColumnDescription, ...]
    task: Task | None
    classes: tuple[ClassName, ...] = ()
    classes_stated: bool = False
    time: str = ""
    sampled: int = 0
    warnings: tuple[str, ...] = ()


def use_of(feature: Feature) -> str:
    """Return the kind of a feature, with the shape that one row has, as ``vector of 3``."""
    if not feature.shape:
        return feature.kind
    return f"{feature.kind} of {'x'.join(map(str, feature.shape))}"


def describe_features(schema: Schema) -> tuple[ColumnDescription, ...]:
    """Return what a schema alone tells of its features."""
    return tuple(
        ColumnDescription(f.name, use_of(f), if_missing=schema.missing_policy(f))
        for f in schema.features
    )


def describe_schema(kind: str, schema: Schema) -> StreamDescription:
    """Return the description of a stream of which only the schema is known."""
    return StreamDescription(
        (kind,),
        describe_features(schema),
        schema.task,
        schema.classes,
        classes_stated=bool(schema.classes),
    )


def with_examples(described: StreamDescription, batch: Batch) -> StreamDescription:
    """Return a description with examples from a batch, and a warning if it has dead letters."""
    columns = tuple(
        replace(column, examples=_examples(batch.x, column.name, described))
        for column in described.columns
    )
    warnings = described.warnings
    if dead := [letter for letter in batch.dead if not letter.label]:
        warnings += (
            f"{len(dead):,} of the first {batch.events:,} events are dead, as at "
            f"{dead[0].partition}/{dead[0].offset}: {one_line(dead[0].reason)}",
        )
    return replace(described, columns=columns, sampled=batch.events, warnings=warnings)


def _examples(x: Features, name: str, described: StreamDescription) -> tuple[str, ...]:
    """Return a few different values of a feature; none of vectors and images."""
    if isinstance(x, np.ndarray):
        names = [column.name for column in described.columns]
        j = names.index(name)
        if x.ndim != 2 or j >= x.shape[1]:
            return ()
        values = x[:, j].tolist()
    elif name not in x:
        return ()
    else:
        column = x[name]
        values = column.texts() if isinstance(column, Ragged) else column.tolist()
    values = [value for value in values if isinstance(value, str | int | float)]
    return tuple(str(value)[:EXAMPLE_LENGTH] for value in dict.fromkeys(values))[:EXAMPLES]
