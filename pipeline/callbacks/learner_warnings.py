"""Warn of what a learner finds wrong while it learns, once for each line."""

from __future__ import annotations

from pipeline.training.callback import Callback, RunContext, Say
from pipeline.training.loop import Loop, StepResult


class LearnerWarnings(Callback):
    """Say each of ``Learner.current_warnings`` once."""

    def __init__(self) -> None:
        self._say: Say = print
        self._said: set[str] = set()

    def on_start(self, context: RunContext, loop: Loop) -> None:
        self._say = context.say

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        for line in loop.learner.current_warnings():
            if line not in self._said:
                self._said.add(line)
                self._say(f"warning: {line}")
