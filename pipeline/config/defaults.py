"""What a job file may leave out: its name, the kind of its stream, and its learner."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.default_learner import MICRO_BATCH, default_batch_size, default_settings

STREAM_KINDS = {"path": "recorded", "servers": "kafka", "topic": "kafka"}
"""The kind of a stream that states none, by a key that it has."""


def with_defaults(raw: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return the plain values of a job with what it leaves out.

    - ``name``: the name of the job file, without its suffix.
    - ``stream.kind``: ``recorded`` with a path, ``kafka`` with servers or a topic.
    - ``learner``: the default learner. A learner without a kind is the default one with other
      settings; a text is a kind.
    - With the default learner: ``stream.aggregates`` is ``auto``, and ``stream.batch_size`` as many
      events as labels are late, from 32 to 128.

    What cannot be filled in stays as it is, for the validation to name.
    """
    data = dict(raw)
    if data.get("name") is None:
        data["name"] = name_of(file)
    stream = data.get("stream")
    if isinstance(stream, dict) and "kind" not in stream:
        for key, kind in STREAM_KINDS.items():
            if key in stream:
                data["stream"] = {"kind": kind, **stream}
                break
    learner = data.get("learner")
    if isinstance(learner, str):
        data["learner"] = {"kind": learner}
    elif learner is None or (isinstance(learner, dict) and "kind" not in learner):
        size = _add_to_stream(data)
        data["learner"] = changed(default_settings(size), learner or {})
    return data


def _add_to_stream(data: dict[str, Any]) -> int:
    """Let the stream of a default learner have aggregates, also where it has only numbers, and a
    size of micro-batches that suits it. Return that size."""
    stream = data.get("stream")
    if not isinstance(stream, dict):
        return MICRO_BATCH
    size = default_batch_size(_delay(stream))
    data["stream"] = {"aggregates": "auto", "batch_size": size, **stream}
    stated = data["stream"]["batch_size"]
    return stated if type(stated) is int and stated > 0 else size


def _delay(stream: Mapping[str, Any]) -> int | None:
    """Return how many events labels are late; None where that is not known."""
    delay = stream.get("label_delay")
    if not delay:
        return None if stream.get("labels") else 0
    events = delay.get("events") if isinstance(delay, dict) else None
    return events if type(events) is int else None


def name_of(file: Path) -> str:
    """Return a job's name from that of its file: what a name cannot have becomes a hyphen."""
    name = re.sub(r"[^\w.-]+", "-", file.stem).strip("_.-")
    if not name:
        return "job"
    return name if re.match(r"[A-Za-z0-9]", name) else f"job-{name}"


def changed(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with changes at any depth. A part of another kind replaces the whole part."""
    merged = dict(settings)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            same = value.get("kind", old.get("kind")) == old.get("kind")
            merged[key] = changed(old, value) if same else value
        else:
            merged[key] = value
    return merged
