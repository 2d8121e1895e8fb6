"""Commit the offsets of a stream after each checkpoint."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.training.callback import Callback, RunContext
from pipeline.training.loop import Loop
from streams.core.stream import Cursor


class OffsetCommits(Callback):
    """Commit the offsets that a checkpoint holds.

    Args:
        commit: takes the cursor; None commits to the stream of the run.
    """

    def __init__(self, commit: Callable[[Cursor], object] | None = None) -> None:
        self._commit = commit

    def on_start(self, context: RunContext, loop: Loop) -> None:
        self._commit = self._commit or context.stream.commit

    def on_checkpoint_saved(self, cursor: Cursor, dead_bytes: int) -> None:
        assert self._commit is not None
        self._commit(cursor)
