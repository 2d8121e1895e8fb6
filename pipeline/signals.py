"""Handle Ctrl-C and SIGTERM while a run goes on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol


class Stoppable(Protocol):
    """A run that can be asked to stop."""

    @property
    def stopping(self) -> bool: ...

    def stop(self) -> None: ...


@contextmanager
def stopping_on_signals(run: Stoppable, say: Callable[[str], None]) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM stop the run with a checkpoint, the second at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if run.stopping:
            raise KeyboardInterrupt
        say("stopping: a checkpoint is written first (once more to leave at once)")
        run.stop()

    with handling(handle):
        yield


@contextmanager
def handling(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM by a function while the block runs; restore the handlers then."""
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
