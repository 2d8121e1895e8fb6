"""Publish snapshots of the model for servers."""

from __future__ import annotations

import threading
import time

from pipeline.models.snapshot import Snapshot
from pipeline.training.builder import Parts
from pipeline.training.callback import Callback
from pipeline.training.loop import Loop
from pipeline.training.run import Run

PUBLISH_S = 0.1
"""A snapshot is taken at most so often; with the time it takes to fetch and to warm it, what is
served stays well within a second of what is learned."""


_SHARE = 0.02  # of the training thread that snapshots may take, however large the model


class SnapshotPublisher(Callback):
    """Takes a snapshot ten times a second, and hands the newest to whoever waits for one.

    A model whose snapshot takes long is copied less often, so that no more than 2% of the training
    goes into it. Threads may wait in ``newer`` while the run goes on.
    """

    def __init__(self, every_s: float = PUBLISH_S) -> None:
        self.every_s = every_s
        self._parts: Parts | None = None
        self._due = 0.0
        self._events = -1
        self._number = 0
        self._newest: Snapshot | None = None
        self._changed = threading.Condition()

    def begin(self, run: Run, parts: Parts, total: int | None) -> None:
        self._parts = parts
        if parts.loop.events or parts.loop.learner.version:  # resumed, or warm: there is a model
            self._publish()

    def __call__(self, loop: Loop) -> None:
        if time.monotonic() >= self._due:
            self._publish()

    def idle(self) -> None:
        """Nothing more to learn just now: what was learned last is not kept back."""
        if self._parts is not None and self._parts.loop.events != self._events:
            self._publish()

    def end(self, loop: Loop) -> None:
        self._publish()

    def newer(self, than: int, timeout: float) -> tuple[int, Snapshot] | None:
        """The newest snapshot and its number, once that is above ``than``; None after ``timeout``
        seconds without one."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._number > than, timeout):
                return None
            assert self._newest is not None
            return self._number, self._newest

    def _publish(self) -> None:
        assert self._parts is not None
        start = time.monotonic()
        snapshot = self._parts.snapshot(self._parts.loop.results())
        with self._changed:
            self._number, self._newest = self._number + 1, snapshot
            self._changed.notify_all()
        self._events = snapshot.events
        now = time.monotonic()
        self._due = now + max(self.every_s, (now - start) / _SHARE)
