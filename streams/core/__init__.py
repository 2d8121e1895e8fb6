"""The foundation of all streams: batches, schemas, cursors, settings and state dicts."""

from __future__ import annotations

from streams.core.batch import COLUMNS, Batch, DeadLetter, Labels, Ragged
from streams.core.errors import StreamError, one_line
from streams.core.live_stream import BrokerUnavailableError, LiveStream
from streams.core.schema import Feature, Schema
from streams.core.settings import FormerName, Settings
from streams.core.state_dict import State
from streams.core.stream import Cursor, Stream
from streams.core.stream_config import StreamConfig

__all__ = [
    "COLUMNS",
    "Batch",
    "BrokerUnavailableError",
    "Cursor",
    "DeadLetter",
    "Feature",
    "FormerName",
    "Labels",
    "LiveStream",
    "Ragged",
    "Schema",
    "Settings",
    "State",
    "Stream",
    "StreamConfig",
    "StreamError",
    "one_line",
]
