"""Describe a stream from Kafka by what its job states. No broker is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streams.core.description import ColumnDescription, StreamDescription, describe_features
from streams.core.schema import Schema
from streams.kafka.config import KafkaConfig

_USES = {"due": "label time"}
"""What a role of a column is called, where that is not the role itself."""


def describe_topics(
    config: KafkaConfig, schema: Schema, roles: Mapping[str, Any]
) -> StreamDescription:
    """Return the description of the topics of a job.

    Args:
        config: the settings.
        schema: the features and the label.
        roles: the columns that are not features: role to name, or to ``[name, type]``.
    """
    columns = [*describe_features(schema)]
    for role, named in roles.items():
        name, type_ = named if isinstance(named, list) else (named, "")
        columns.append(ColumnDescription(name, _USES.get(role, role), type_))
    if labels := config.labels:
        columns.append(ColumnDescription(labels.label, f"label (in topic {labels.topic})"))
    topics = [config.topic] if isinstance(config.topic, str) else config.topic
    servers = [config.servers] if isinstance(config.servers, str) else config.servers
    sources = [f"topic {topic} at {', '.join(servers)} ({config.format.kind})" for topic in topics]
    if labels:
        sources.append(f"topic {labels.topic} (labels)")
    time = roles.get("time")
    return StreamDescription(
        sources=tuple(sources),
        columns=tuple(columns),
        task=schema.task,
        classes=schema.classes,
        classes_stated=bool(schema.classes),
        time="the timestamps of the messages" if time is None else f"{time}, as the job states",
    )
