"""Ctrl-C and SIGTERM, as a run takes them."""

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
    """While open, Ctrl-C and SIGTERM let the run write a checkpoint and leave; a second one does
    not wait."""

    def handle(number: int, frame: FrameType | None) -> None:
        if run.stopping:
            raise KeyboardInterrupt
        say("stopping: a checkpoint is written first (once more to leave at once)")
        run.stop()

    with handling(handle):
        yield


@contextmanager
def handling(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """While open, Ctrl-C and SIGTERM are handled so; then as before."""
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
