"""Callbacks: hooks that observe a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.models.recipe import Recipe
from pipeline.training.description import JobDescription
from pipeline.training.loop import Loop, StepResult
from streams.core.stream import Cursor, Stream

Say = Callable[[str], None]
"""Takes a line for a person."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """What is known of a run before its first micro-batch.

    Attributes:
        folder: the run folder.
        job: name of the job.
        job_file: the job file, for messages.
        stream: the stream of the job.
        recipe: how to build the model.
        say: takes lines for a person.
        resumed_from: the checkpoint that the run resumed from; None where it is new.
        total: events that the run will have seen at its end, where that is known.
        dead_bytes: bytes of ``dead.jsonl`` that the state stands after.
        checkpoint_seconds: returns how long the last checkpoint took to write.
        describe: returns what the job reads.
        encoder_metrics: returns the metrics of the encoders by name.
    """

    folder: Path
    job: str
    job_file: Path
    stream: Stream
    recipe: Recipe
    say: Say
    resumed_from: str | None = None
    total: int | None = None
    dead_bytes: int = 0
    checkpoint_seconds: Callable[[], float] = float
    describe: Callable[[], JobDescription | None] = lambda: None
    encoder_metrics: Callable[[], dict[str, float]] = dict


class Callback:
    """Observe a run. A callback reads what it is given, and changes nothing of it.

    The hooks run in the thread of the training, but for ``on_checkpoint_saved``.
    """

    def on_start(self, context: RunContext, loop: Loop) -> None:
        """Run before the first micro-batch."""

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        """Run after each micro-batch."""

    def on_idle(self, loop: Loop) -> None:
        """Run a few times a second while no event comes."""

    def on_checkpoint_saved(self, cursor: Cursor, dead_bytes: int) -> None:
        """Run once a checkpoint is on the disk, in the thread that wrote it.

        Args:
            cursor: the checkpoint holds all events before it.
            dead_bytes: bytes of ``dead.jsonl`` that belong to it.
        """

    def on_end(self, loop: Loop, result: StepResult) -> None:
        """Run after the last micro-batch; ``result`` holds what was scored since then."""

    def teardown(self) -> dict[str, float]:
        """Release what the callback holds. Runs also after a failure, while the folder is locked.

        Returns:
            Metrics for the summary, by name.
        """
        return {}

    def on_summary(self, summary: dict[str, Any]) -> None:
        """Complete the summary of a run that ended well, before it is written."""


class Callbacks(Callback):
    """Pass each hook on to a list of callbacks, in its order."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._callbacks = tuple(callbacks)
        self._torn_down = False

    def on_start(self, context: RunContext, loop: Loop) -> None:
        for callback in self._callbacks:
            callback.on_start(context, loop)

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        for callback in self._callbacks:
            callback.on_batch_end(loop, result)

    def on_idle(self, loop: Loop) -> None:
        for callback in self._callbacks:
            callback.on_idle(loop)

    def on_checkpoint_saved(self, cursor: Cursor, dead_bytes: int) -> None:
        for callback in self._callbacks:
            callback.on_checkpoint_saved(cursor, dead_bytes)

    def on_end(self, loop: Loop, result: StepResult) -> None:
        for callback in self._callbacks:
            callback.on_end(loop, result)

    def teardown(self) -> dict[str, float]:
        """Tear all down, once, also where one fails; raise the first failure at the end."""
        metrics: dict[str, float] = {}
        failures: list[Exception] = []
        callbacks = () if self._torn_down else self._callbacks
        self._torn_down = True
        for callback in callbacks:
            try:
                metrics |= callback.teardown()
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return metrics

    def on_summary(self, summary: dict[str, Any]) -> None:
        for callback in self._callbacks:
            callback.on_summary(summary)
