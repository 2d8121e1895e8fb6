"""Keep the current state of a run for other threads."""

from __future__ import annotations

import time
from typing import Any

from pipeline.training.callback import Callback, RunContext
from pipeline.training.loop import Loop, StepResult


class RunStatus(Callback):
    """Keep events, events in all and metrics of a run, renewed a few times a second.

    Attributes:
        current: the newest status; a new dict each time, so that other threads may read it.
    """

    def __init__(self, every_s: float = 0.3) -> None:
        self.every_s = every_s
        self.current: dict[str, Any] = {"events": 0, "total": None, "metrics": {}}
        self._due = 0.0

    def on_start(self, context: RunContext, loop: Loop) -> None:
        self.current = {"events": loop.events, "total": context.total, "metrics": {}}

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self.every_s
            self.current = {**self.current, "events": loop.events, "metrics": loop.results()}
