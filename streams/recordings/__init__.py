"""Recordings: a live run written to Parquet and read back exactly.

- ``stream`` reads a recording; ``table`` turns blocks into tables and back.
- ``manifest`` describes the recording and its parts; ``parts_read`` knows which parts were read.
"""

from __future__ import annotations

from streams.recordings.manifest import RecordingManifest
from streams.recordings.stream import RecordingConfig, RecordingStream

__all__ = ["RecordingConfig", "RecordingManifest", "RecordingStream"]
