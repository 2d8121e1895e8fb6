"""Callbacks of a run on Ray that reach other actors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import PendingCallsLimitExceeded, RayError, RayTaskError

from pipeline.config.errors import JobError
from pipeline.training.callback import Callback, RunContext
from pipeline.training.loop import Loop
from streams.core.batch import Array, Ints
from streams.core.errors import one_line
from streams.core.stream import Cursor


class StartTracker(Callback):
    """Start the tracker once the folder is locked and the job is written into it.

    It waits as long as the tracker waits for MLflow: setting up a database takes a core for some
    seconds.
    """

    def __init__(self, tracker: Any) -> None:
        self.tracker = tracker

    def on_start(self, context: RunContext, loop: Loop) -> None:
        try:
            ray.get(self.tracker.start.remote())
        except RayTaskError as error:
            raise JobError(one_line(error.cause)) from None
        except RayError:
            pass  # it died: once Ray has started it again, it begins by itself


def commit_to(sources: Sequence[Any]) -> Callable[[Cursor], None]:
    """Return a function that commits a cursor to the source actors."""

    def commit(cursor: Cursor) -> None:
        for source in sources:
            source.commit.remote(cursor)

    return commit


def label_sender(evaluator: Any) -> Callable[[Ints, Array, Ints], None]:
    """Return a function that sends labels to the evaluator actor."""

    def send(ids: Ints, y: Array, before: Ints) -> None:
        # One that does not keep up loses scores of served predictions, and never slows training.
        with suppress(PendingCallsLimitExceeded):
            evaluator.labelled.remote(ids, y, before)

    return send
