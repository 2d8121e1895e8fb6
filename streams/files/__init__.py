"""Streams of Parquet and CSV files, with features inferred from their first rows.

- ``stream`` is the stream; ``readers`` opens its files, and ``formats`` reads their blocks.
- ``sample`` and ``schema_inference`` infer columns; ``row_batches`` makes batches of rows.
- ``time_order`` sets rows apart whose time is wrong; ``files_read`` keeps fingerprints of files.
- ``config`` holds the settings; ``description`` says what is read, ``warnings`` what looks wrong.
"""

from __future__ import annotations

from streams.files.config import LabelConfig, RecordedConfig
from streams.files.stream import FileStream

__all__ = ["FileStream", "LabelConfig", "RecordedConfig"]
