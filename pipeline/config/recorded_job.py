"""The job that a recording holds, on the recording in place of its stream."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config.errors import JobError
from pipeline.config.former_names import log_former_names
from pipeline.config.job import LoadedJob, check, importable, override
from pipeline.config.yaml_file import values
from streams.core.errors import StreamError
from streams.core.stream_config import StreamConfig
from streams.recordings.manifest import RecordingManifest


def replayed(
    folder: Path,
    speed: str,
    start: str | None,
    overrides: Sequence[str],
    max_events: int | None = None,
    warm: bool = False,
) -> LoadedJob:
    """The job, named ``...-replay``; it ends where the recorded run was stopped, unless another
    part of the recording is wanted.

    Raises ``JobError``; also where the recorded run was begun with a checkpoint, and this one,
    with the same learner, is not (``warm``).
    """
    file = folder / "job.yaml"
    try:
        about = RecordingManifest.read(folder)
    except StreamError as error:
        raise JobError(str(error)) from None
    raw = values(file)
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        raise JobError(f"{file}: not the job of a recording")
    raw["name"] += "-replay"
    raw["stream"] = {
        **StreamConfig.with_current_names(about.stream),
        "kind": "recording",
        "path": str(folder.resolve()),
        "speed": speed,
        "start": start,
        "stop": "run" if start is None and max_events is None else "end",
    }
    for setting in overrides:
        override(raw, setting)
    modules = Path(about.modules)
    importable(modules)
    loaded = check(raw, file, modules if modules.is_dir() else folder.resolve())
    log_former_names(raw, {"stream": loaded.stream.Config, "learner": loaded.learner.Config})
    if (
        about.warm_from is not None
        and not warm
        and _learner(about.fingerprint) == _learner(loaded.fingerprint())
    ):
        raise JobError(
            f"{folder}: the recorded run was begun with what another one had learned: add "
            f"--warm-from {about.warm_from}"
        )
    return loaded


def _learner(fingerprint: dict[str, Any]) -> dict[str, Any]:
    said = {k: v for k, v in fingerprint.items() if k.startswith("learner.")}
    found: dict[str, Any] = json.loads(json.dumps(said))
    return found
