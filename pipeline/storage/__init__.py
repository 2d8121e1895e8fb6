"""Storage: what a run writes to disk, and reads again after a crash.

- ``run_folder`` names the files, locks the folder, and has the one atomic write.
- ``checkpoints`` keeps the whole state; ``offset_journal`` the blocks that a live run has read.
- ``metric_log`` is the queue of metrics to MLflow; ``recording_writer`` records a live stream.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.storage.checkpoints import Checkpoint, CheckpointError, Checkpoints
    from pipeline.storage.metric_log import MetricLog, read_rows
    from pipeline.storage.offset_journal import Journal
    from pipeline.storage.recording_writer import RecordingWriter
    from pipeline.storage.run_folder import (
        FolderLockedError,
        RunFolder,
        exclusive_lock,
        write_atomic,
    )

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Checkpoints",
    "FolderLockedError",
    "Journal",
    "MetricLog",
    "RecordingWriter",
    "RunFolder",
    "exclusive_lock",
    "read_rows",
    "write_atomic",
]

_MODULES = {
    "Checkpoint": "pipeline.storage.checkpoints",
    "CheckpointError": "pipeline.storage.checkpoints",
    "Checkpoints": "pipeline.storage.checkpoints",
    "FolderLockedError": "pipeline.storage.run_folder",
    "Journal": "pipeline.storage.offset_journal",
    "MetricLog": "pipeline.storage.metric_log",
    "RecordingWriter": "pipeline.storage.recording_writer",
    "RunFolder": "pipeline.storage.run_folder",
    "exclusive_lock": "pipeline.storage.run_folder",
    "read_rows": "pipeline.storage.metric_log",
    "write_atomic": "pipeline.storage.run_folder",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
