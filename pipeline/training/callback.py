"""Callbacks: hooks that observe a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.training.builder import Parts
from pipeline.training.loop import Loop
from streams.core.stream import Cursor

if TYPE_CHECKING:
    from pipeline.training.run import Run

Say = Callable[[str], None]


class Callback:
    """Is shown a run as it goes on. It may look at everything, and changes nothing."""

    def begin(self, run: Run, parts: Parts, total: int | None) -> None:
        """Before the first micro-batch; events to come in all, where that is known."""

    def __call__(self, loop: Loop) -> None:
        """After every micro-batch."""

    def end(self, loop: Loop) -> None:
        """After the last."""

    def kept(self, cursor: Cursor, dead_bytes: int) -> None:
        """A checkpoint is on the disk that holds all before the cursor, with so many bytes of dead
        events. Called in the thread that wrote it."""

    def close(self) -> dict[str, float]:
        """The run is over, well or not, and its folder is still held; metrics to be told with its
        others."""
        return {}
