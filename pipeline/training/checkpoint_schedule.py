"""When a run writes a checkpoint."""

from __future__ import annotations

import math
import time


class CheckpointSchedule:
    """Say after which micro-batches a checkpoint is due.

    Args:
        every_events: events between two checkpoints.
        every_s: seconds after which one is due however few events came.
        events: events that the run stands after.
    """

    def __init__(self, every_events: int, every_s: float = math.inf, events: int = 0) -> None:
        self._every_events = every_events
        self._every_s = every_s
        self._restart(events, time.monotonic())

    def due(self, events: int) -> bool:
        """Return whether to write a checkpoint after this many events; if so, count anew."""
        now = time.monotonic()
        if events < self._next_events and now - self._last < self._every_s:
            return False
        self._restart(events, now)
        return True

    def _restart(self, events: int, now: float) -> None:
        self._next_events = (events // self._every_events + 1) * self._every_events
        self._last = now
