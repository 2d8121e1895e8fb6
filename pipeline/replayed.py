"""The job that a recording holds, on the recording in place of its stream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.job import JobError, LoadedJob, check, importable, override, values
from streams.recording import About
from streams.stream import StreamError


def replayed(
    folder: Path, speed: str, start: str | None, overrides: Sequence[str]
) -> tuple[LoadedJob, int | None]:
    """The job, named ``...-replay``; and how many events the recorded run had learned when it was
    stopped before the end of its stream (None: it was not, or another part is read).

    Raises ``JobError``.
    """
    file = folder / "job.yaml"
    try:
        about = About.read(folder)
    except StreamError as error:
        raise JobError(str(error)) from None
    raw = values(file)
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        raise JobError(f"{file}: not the job of a recording")
    raw["name"] += "-replay"
    raw["stream"] = {
        **about.stream,
        "kind": "recording",
        "path": str(folder.resolve()),
        "speed": speed,
        "start": start,
    }
    for setting in overrides:
        override(raw, setting)
    modules = Path(about.modules)
    importable(modules)
    loaded = check(raw, file, modules if modules.is_dir() else folder.resolve())
    stopped = start is None and not about.finished
    return loaded, about.events if stopped else None
