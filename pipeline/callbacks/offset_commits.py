"""Commit the offsets of a live stream after each checkpoint."""

from __future__ import annotations

from pipeline.training.builder import Parts
from pipeline.training.callback import Callback
from pipeline.training.run import Run
from streams.core.live_stream import LiveStream
from streams.core.stream import Cursor


class OffsetCommits(Callback):
    """Tells a live stream what checkpoints hold."""

    def begin(self, run: Run, parts: Parts, total: int | None) -> None:
        self._stream = parts.stream

    def kept(self, cursor: Cursor, dead_bytes: int) -> None:
        if isinstance(self._stream, LiveStream):
            self._stream.commit(cursor)
