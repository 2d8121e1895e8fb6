"""Recordings: a live run written to Parquet and read back exactly."""

from __future__ import annotations

from streams.recordings.manifest import RecordingManifest
from streams.recordings.stream import RecordingConfig, RecordingStream

__all__ = ["RecordingConfig", "RecordingManifest", "RecordingStream"]
