"""The job file: its schema, how it is read, and how its mistakes are reported."""

from pipeline.config.errors import JobError
from pipeline.config.job import Job, LoadedJob, check, load
from pipeline.config.sections import (
    Alert,
    CheckpointConfig,
    Cut,
    EvaluateConfig,
    OnceSeenConfig,
    ProbesConfig,
    ServeConfig,
    TrackConfig,
)

__all__ = [
    "Alert",
    "CheckpointConfig",
    "Cut",
    "EvaluateConfig",
    "Job",
    "JobError",
    "LoadedJob",
    "OnceSeenConfig",
    "ProbesConfig",
    "ServeConfig",
    "TrackConfig",
    "check",
    "load",
]
