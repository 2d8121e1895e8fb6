"""What a job file may leave out: its name, the kind of its stream, and its learner."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from learners.default import default_settings

STREAM_KINDS = {"path": "recorded", "servers": "kafka", "topic": "kafka"}
"""The kind of a stream that states none, by a key that it has."""


def with_defaults(raw: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return the plain values of a job with what it leaves out.

    - ``name``: the name of the job file, without its suffix.
    - ``stream.kind``: ``recorded`` with a path, ``kafka`` with servers or a topic.
    - ``learner``: the default learner. A learner without a kind is the default one with other
      settings; a text is a kind.
    - ``stream.aggregates``: ``auto`` with the default learner.

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
    elif learner is None:
        data["learner"] = default_settings()
    elif isinstance(learner, dict) and "kind" not in learner:
        data["learner"] = changed(default_settings(), learner)
    if data["learner"] is not learner and not isinstance(learner, str):
        _add_aggregates(data)
    return data


def _add_aggregates(data: dict[str, Any]) -> None:
    """Let the stream of a default learner have aggregates, also where it has only numbers."""
    if isinstance(data.get("stream"), dict):
        data["stream"] = {"aggregates": "auto", **data["stream"]}


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
