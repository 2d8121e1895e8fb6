"""Poll the actors of a run from its driver."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from pipeline.callbacks.progress import LiveProgress
from pipeline.training.callback import Say

SERVED_ROW_S = 1.0
"""Seconds between two rows of metrics of what was served."""


class ActorPoller:
    """Fetch the messages of the actors and the status of the trainer, without waiting for any.

    Args:
        actors: the actors by name; sources and encoders are not polled.
        say: takes the messages.
        progress: shows where the trainer stands.
        serves: whether predictions are served, and their scores to be written.
    """

    def __init__(
        self, actors: dict[str, Any], say: Say, progress: LiveProgress, serves: bool
    ) -> None:
        self._actors = {k: v for k, v in actors.items() if not k.startswith(("source", "encoder"))}
        self._say = say
        self._progress = progress
        self._serves = serves
        self._requests: dict[str, Any] = {}  # requests to each actor without an answer yet
        self._events = 0
        self._next = 0.0

    def poll(self) -> None:
        """Take the answers that have arrived, and ask anew."""
        for name, actor in self._actors.items():
            for line in self._answer(name, actor.lines) or ():
                self._say(line)
        status = self._answer("status", self._actors["trainer"].status)
        if status is not None:
            self._events = status["events"]
            self._progress.expect(status["total"])
            if status["metrics"]:
                self._progress.show(status["events"], status["metrics"])
        evaluator = self._actors.get("evaluator")
        if self._serves and evaluator is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + SERVED_ROW_S
            with suppress(RayError):
                evaluator.write.remote(self._events)

    def drain(self) -> None:
        """Fetch the last messages of all actors."""
        for name, actor in self._actors.items():
            for request in (self._requests.pop(name, None), actor.lines.remote()):
                with suppress(RayError):
                    for line in [] if request is None else ray.get(request, timeout=2):
                        self._say(line)

    def _answer(self, what: str, method: Any) -> Any:
        """Return the answer to the last request, if it has arrived; then ask anew."""
        request = self._requests.get(what)
        if request is not None and not ray.wait([request], timeout=0)[0]:
            return None
        with suppress(RayError):  # where it died: ask the one that is started again
            self._requests[what] = method.remote()
        with suppress(RayError):
            return None if request is None else ray.get(request)
        return None
