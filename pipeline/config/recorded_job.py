"""The job of a recording, with the recording as its stream."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config.errors import JobError
from pipeline.config.former_names import log_former_names
from pipeline.config.job import LoadedJob, add_import_path, check, override
from pipeline.config.yaml_file import read_yaml
from streams.core.errors import StreamError
from streams.core.stream_config import StreamConfig
from streams.recordings.manifest import RecordingManifest


def load_recorded_job(
    folder: Path,
    speed: str,
    start: str | None,
    overrides: Sequence[str],
    max_events: int | None = None,
    warm: bool = False,
) -> LoadedJob:
    """Load the job of a recording, to run it again on the recorded stream.

    Args:
        folder: the recording.
        speed: ``max``, or how many times as fast as the stream was recorded.
        start: event time to start at, ISO 8601 or seconds; None: the beginning.
        overrides: ``key=value`` settings.
        max_events: limit of the run. Without it and without ``start``, the job ends where the
            recorded run was stopped.
        warm: whether the run starts from a checkpoint.

    Returns:
        The job, named ``NAME-replay``.

    Raises ``JobError``, also where the recorded run started from a checkpoint and this one, with
    the same learner, does not.
    """
    file = folder / "job.yaml"
    try:
        manifest = RecordingManifest.read(folder)
    except StreamError as error:
        raise JobError(str(error)) from None
    raw = read_yaml(file)
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        raise JobError(f"{file}: not the job of a recording")
    raw["name"] += "-replay"
    raw["stream"] = {
        **StreamConfig.with_current_names(manifest.stream),
        "kind": "recording",
        "path": str(folder.resolve()),
        "speed": speed,
        "start": start,
        "stop": "run" if start is None and max_events is None else "end",
    }
    for setting in overrides:
        override(raw, setting)
    modules = Path(manifest.module_folder)
    add_import_path(modules)
    loaded = check(raw, file, modules if modules.is_dir() else folder.resolve())
    configs = {"stream": loaded.stream.Config, "learner": loaded.learner.Config}
    log_former_names(loaded.raw, configs)
    if (
        manifest.warm_from is not None
        and not warm
        and _learner(manifest.fingerprint) == _learner(loaded.fingerprint())
    ):
        raise JobError(
            f"{folder}: the recorded run started from a checkpoint of another run: add "
            f"--warm-from {manifest.warm_from}"
        )
    return loaded


def _learner(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of the learner, as they are after JSON."""
    keys = {key: value for key, value in fingerprint.items() if key.startswith("learner.")}
    settings: dict[str, Any] = json.loads(json.dumps(keys))
    return settings
