"""Streams of Parquet and CSV files, with features inferred from their first rows."""

from __future__ import annotations

from streams.files.stream import FileStream, LabelConfig, RecordedConfig

__all__ = ["FileStream", "LabelConfig", "RecordedConfig"]
