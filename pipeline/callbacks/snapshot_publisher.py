"""Publish snapshots of the model for servers."""

from __future__ import annotations

import threading
import time

from pipeline.models.snapshot import Snapshot
from pipeline.training.callback import Callback, RunContext
from pipeline.training.loop import Loop, StepResult

PUBLISH_S = 0.1
"""Seconds between two snapshots. With the time to fetch and warm one, the served model stays well
within a second of the learned one."""
_SHARE = 0.02  # of the training time that snapshots may take, however large the model


class SnapshotPublisher(Callback):
    """Take a snapshot ten times a second, and give the newest to threads that wait in ``newer``.

    Labels that come while there are no events are published at once, as nothing may follow them
    for long. A model that takes long to copy is copied less often: snapshots take at most 2% of the
    training time.
    """

    def __init__(self, every_s: float = PUBLISH_S) -> None:
        self.every_s = every_s
        self._due = 0.0
        self._free = 0.0  # from when on another snapshot keeps to its share of the time
        self._published = (-1, -1)  # events, and version of the learner
        self._number = 0
        self._newest: Snapshot | None = None
        self._changed = threading.Condition()

    def on_start(self, context: RunContext, loop: Loop) -> None:
        if loop.events or loop.learner.version:  # resumed, or warm: there is a model
            self._publish(loop)

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        labels_alone = not len(result.batch)
        if time.monotonic() >= (self._free if labels_alone else self._due):
            self._publish(loop)

    def on_idle(self, loop: Loop) -> None:
        """Publish what was learned last, as no event comes just now."""
        if (loop.events, loop.learner.version) != self._published:
            self._publish(loop)

    def on_end(self, loop: Loop, result: StepResult) -> None:
        self._publish(loop)

    def newer(self, than: int, timeout: float) -> tuple[int, Snapshot] | None:
        """Wait for a snapshot whose number is above ``than``.

        Returns:
            The number and the newest snapshot; None after ``timeout`` seconds without one.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._number > than, timeout):
                return None
            assert self._newest is not None
            return self._number, self._newest

    def _publish(self, loop: Loop) -> None:
        start = time.monotonic()
        snapshot = loop.snapshot(loop.results())
        with self._changed:
            self._number, self._newest = self._number + 1, snapshot
            self._changed.notify_all()
        self._published = snapshot.events, snapshot.version
        now = time.monotonic()
        self._free = now + (now - start) / _SHARE
        self._due = max(now + self.every_s, self._free)
