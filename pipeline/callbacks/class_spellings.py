"""Warn of classes of the stream that differ only in spelling, once for each."""

from __future__ import annotations

from pipeline.training.callback import Callback, RunContext, Say
from pipeline.training.loop import Loop, StepResult
from streams.core.batch import ClassName
from streams.decoding.class_names import spelling, warning_of


class ClassSpellings(Callback):
    """Warn when a class appears that differs from an earlier one only in spelling.

    Classes that the description of the job, or a checkpoint, names are known already.
    """

    def __init__(self) -> None:
        self._say: Say = print
        self._known: dict[ClassName, ClassName] = {}
        self._warned: set[ClassName] = set()
        self._seen = 0  # classes of the stream

    def on_start(self, context: RunContext, loop: Loop) -> None:
        self._say = context.say
        description = context.describe()
        sampled = () if description is None else description.stream.classes
        self._warned = {*sampled, *loop.learner.classes}

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        classes = result.batch.classes
        for name in classes[self._seen :]:
            other = self._known.setdefault(spelling(name), name)
            if other != name and not {name, other} <= self._warned:
                self._say(f"warning: {warning_of((other, name))}")
        self._seen = max(self._seen, len(classes))
