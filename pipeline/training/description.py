"""Describe a job before its first event: what it reads, and how its learner takes that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from learners.pretrained.encoders.columns import EncodedColumns
from learners.results import Encoding
from pipeline.config.job import LoadedJob
from pipeline.training.builder import Parts, aggregates_of_job
from streams.core.description import StreamDescription, describe_schema
from streams.core.errors import one_line
from streams.operators.features.aggregates import describe_aggregates
from streams.operators.features.histories import Histories
from streams.operators.features.sequences import Sequences


@dataclass(frozen=True, slots=True)
class JobDescription:
    """What a job reads, and how its learner takes each feature.

    Attributes:
        name: of the job, or of the data.
        stream: what is read.
        learner: the settings that the job, or the default, states of the learner; empty for data.
        encodings: how each feature is encoded; empty where the learner does not say.
        warnings: what looks wrong, each on one line with its remedy.
        aggregates: what the job adds to the features, each on one line.
        sequences: how the events of a key make a sequence; empty where they do not.
        history: what it adds of the last events of a key; empty: nothing.
        memories: what the learner stores of events to correct its predictions by, each on one line.
    """

    name: str
    stream: StreamDescription
    learner: Mapping[str, Any]
    encodings: Mapping[str, Encoding]
    warnings: tuple[str, ...]
    aggregates: tuple[str, ...] = ()
    sequences: str = ""
    history: str = ""
    memories: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the description as plain values."""
        stream = asdict(self.stream)
        for column in stream["columns"]:
            encoding = self.encodings.get(column["name"])
            column["encoding"] = None if encoding is None else encoding.text
        learner = dict(self.learner) or None
        return {
            "job": self.name,
            "learner": learner,
            **stream,
            "aggregates": list(self.aggregates),
            "sequences": self.sequences or None,
            "history": self.history or None,
            "memories": list(self.memories),
            "warnings": list(self.warnings),
        }


def describe(loaded: LoadedJob, parts: Parts) -> JobDescription:
    """Return the description of a job that is built.

    If the stream cannot describe itself, a warning says so: that is no reason to stop a run.
    """
    stream, learner = parts.stream, parts.loop.learner
    try:
        described = stream.describe()
    except Exception as error:  # of a user's class, which may raise anything
        described = describe_schema(stream.kind, stream.schema)
        problem = f"the columns cannot be described: {type(error).__name__}: {one_line(error)}"
        described = replace(described, warnings=(problem,))
    encodings = _with_encoders(learner.encodings(), parts.encoded)
    warnings = (
        *described.warnings,
        *_shared_places(described, encodings),
        *learner.warnings(described.classes),
    )
    settings = loaded.job.learner.model_dump(mode="json", exclude_unset=True, serialize_as_any=True)
    schema = stream.schema if parts.encoded is None else parts.encoded.schema
    aggregates = describe_aggregates(aggregates_of_job(loaded, stream, schema), schema)
    operators = parts.loop.operators
    sequences = [o.describe() for o in operators if isinstance(o, Sequences)]
    histories = [o.describe() for o in operators if isinstance(o, Histories)]
    if sequences:
        described = replace(described, task="sequences")
    return JobDescription(
        loaded.job.name,
        described,
        settings,
        encodings,
        warnings,
        aggregates,
        "".join(sequences),
        "".join(histories),
        learner.memories(),
    )


def _with_encoders(
    encodings: Mapping[str, Encoding], encoded: EncodedColumns | None
) -> dict[str, Encoding]:
    """Return how each feature is encoded, with the frozen encoder that it goes through first."""
    whole = dict(encodings)
    for name, column in ({} if encoded is None else encoded.columns).items():
        first = f"{column.encoder['kind']}: {column.dimension:,} numbers"
        then = encodings.get(name)
        whole[name] = Encoding(first if then is None else f"{first}, {then.text}")
    return whole


def _shared_places(stream: StreamDescription, encodings: Mapping[str, Encoding]) -> tuple[str, ...]:
    """Return a warning for each category with more values than its encoding has places."""
    lines = []
    for column in stream.columns:
        encoding = encodings.get(column.name)
        places = None if encoding is None else encoding.places
        if places is not None and column.distinct is not None and column.distinct > places:
            lines.append(
                f"column {column.name!r} is categorical with {column.distinct} values in the "
                f"sample, and a network has {places:,} places for them, so it cannot tell all "
                "apart: use a network with embeddings (learner.inputs.categories), or with more of "
                "them (learner.inputs.rows)"
            )
    return tuple(lines)
