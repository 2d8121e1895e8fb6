"""One pass over a stream of tasks, with what is known of every task measured on its test events as
the stream goes on."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from pipeline.evaluation.buffer_stats import BufferStats
from pipeline.evaluation.plasticity import plasticity
from pipeline.evaluation.transfer_and_forgetting import Curves
from pipeline.storage.metric_log import MetricLog
from pipeline.training.batch_reader import BLOCK
from pipeline.training.builder import Parts, state_digest
from streams.core.batch import Array, Batch, ClassName, Ints

POINTS = 10
"""Evaluations in a phase of the stream, where nothing else is stated."""
_AT_ONCE = 128  # test events that are predicted at a time: feature maps of more leave the cache
_LOOKED_INTO = 1000  # that plasticity is measured on

Progress = Callable[[int, int], None]
"""Is told of events done, and of events in all."""


class Tested(Protocol):
    """What a stream must have to be a benchmark, beside what every stream has.

    Attributes:
        tasks: how many there are.
        begins: first row and task of each phase of the stream.
        domain_incremental: whether a task may be tested before it has begun.
    """

    @property
    def tasks(self) -> int: ...

    @property
    def begins(self) -> Sequence[tuple[int, int]]: ...

    @property
    def domain_incremental(self) -> bool: ...

    def task_test(self, task: int) -> Batch:
        """What the task is tested on, labels as codes into the batch's own ``classes``."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How a bench measures.

    Attributes:
        every: events between two evaluations; None: a tenth of the first phase.
        tests: test events of each task at most; None: all.
    """

    every: int | None = None
    tests: int | None = 2000


class _Test(NamedTuple):
    """What a task is tested on: a question without labels, and its labels, codes into ``names``."""

    question: Batch
    y: Ints
    names: tuple[ClassName, ...]


def measure(parts: Parts, budget: Budget, folder: Path, progress: Progress) -> dict[str, Any]:
    """Runs a job to the end of its stream, which is ``Tested``; what was found, as JSON has it.

    The curves are written to ``metrics.jsonl`` and ``stability.jsonl`` in the folder as they come.
    """
    with (
        closing(MetricLog(folder / "metrics.jsonl", _say)) as online,
        closing(MetricLog(folder / "stability.jsonl", _say)) as stability,
    ):
        return _Pass(parts, budget, online, stability).run(progress)


class _Pass:
    def __init__(
        self, parts: Parts, budget: Budget, online: MetricLog, stability: MetricLog
    ) -> None:
        self.parts, self.loop = parts, parts.loop
        stream = cast(Tested, parts.stream)
        self.total = len(parts.stream)
        self.begins = [*stream.begins, (self.total, -1)]
        self.order = list(dict.fromkeys(task for _, task in stream.begins))
        self.domain_incremental = stream.domain_incremental
        segments = self.loop.learner.needs_boundaries
        self.tests = [
            _test(stream.task_test(task), budget.tests, segments) for task in range(stream.tasks)
        ]
        self.every = budget.every or max(1, (self.begins[1][0] - self.begins[0][0]) // POINTS)
        self.curves = Curves()
        self.events: list[int] = []
        self.accuracy: list[list[float | None]] = []
        self.begun = 0  # of the tasks in order
        self.task = self.order[0]  # that is learned
        self.seconds = 0.0  # of learning, evaluations left out
        self.online, self.stability = online, stability
        self.buffer_stats = BufferStats(self.loop.learner)

    def run(self, progress: Progress) -> dict[str, Any]:
        untrained = self._all() if self.domain_incremental else None
        for (start, task), (stop, _) in pairwise(self.begins):
            known = self.order.index(task)
            first = math.nan if untrained is None else untrained[task]
            self.curves.begin(first, known if known < self.begun else None)
            self.begun, self.task = max(self.begun, known + 1), task
            due = (start // self.every + 1) * self.every
            then = time.perf_counter()
            for batch in self._batches(stop):
                self.loop.step(batch)
                if due <= self.loop.events < stop:
                    due = (self.loop.events // self.every + 1) * self.every
                    self.seconds += time.perf_counter() - then
                    self._evaluate(ended=False)
                    progress(self.loop.events, self.total)
                    then = time.perf_counter()
            if stop == self.total:
                self.loop.finish(self.parts.source.size)
            self.seconds += time.perf_counter() - then
            self._evaluate(ended=True)
            progress(self.loop.events, self.total)
        self.loop.learner.verify()
        return self._found()

    def _batches(self, stop: int) -> Iterator[Batch]:
        """Micro-batches of the rest of a phase; the last is as short as it comes out."""

        def blocks() -> Iterator[Batch]:
            at = self.loop.events
            for block in self.parts.source.blocks(self.loop.ledger.cursor(), min(BLOCK, stop - at)):
                yield block[: stop - at]
                at += len(block)
                if at >= stop:
                    return

        return self.parts.source.batches(blocks())

    def _all(self) -> Array:
        """(tasks,) accuracy on each task as of now; those to come too where that means anything,
        NaN where it does not."""
        learner = self.loop.learner
        codes = {name: code for code, name in enumerate(learner.classes)}
        found = np.full(len(self.tests), np.nan)
        for task in range(len(self.tests)) if self.domain_incremental else self._begun():
            test = self.tests[task]
            y = np.array([codes.get(name, -2) for name in test.names])[test.y]
            question = self._seen(test.question)
            values = [learner.predict(part).value for part in question.micro_batches(_AT_ONCE)]
            found[task] = float(np.mean(np.concatenate(values) == y))
        return found

    def _begun(self) -> list[int]:
        return self.order[: self.begun]

    def _seen(self, question: Batch) -> Batch:
        """As the learner would see it in the stream now."""
        for operator in self.loop.operators:
            question = operator.view(question)
        return question

    def _evaluate(self, ended: bool) -> None:
        accuracy = self._all()
        events = self.loop.events
        self.curves.add(events, accuracy[self.order], ended)
        self.events.append(events)
        begun = np.isin(np.arange(len(accuracy)), self._begun())
        self.accuracy.append(_jsonable(np.where(begun, accuracy, np.nan)))
        system = {"system/events_per_s": events / max(self.seconds, 1e-9)}
        memory, _ = self.buffer_stats.read()
        self.online.write(events, {**self.loop.results(), **memory, **system})
        self.inside = self._inside()
        self.stability.write(events, self.curves.results().named() | self.inside)

    def _inside(self) -> dict[str, float]:
        """The plasticity of the network, on test events of the task that is learned."""
        question = self.tests[self.task].question[:_LOOKED_INTO]
        return plasticity(self.loop.learner, self._seen(question))

    def _found(self) -> dict[str, Any]:
        learner, loop = self.loop.learner, self.loop
        continual = self.curves.results().named() | self.inside
        matrix = np.full((len(self.curves.matrix), len(self.tests)), np.nan)
        matrix[:, self.order] = self.curves.matrix
        return {
            "metrics": {
                **{name.split("/")[1]: value for name, value in continual.items()},
                **{name.replace("/", "_"): value for name, value in loop.results().items()},
            },
            "matrix": [_jsonable(row) for row in matrix],
            "evaluations": {"events": self.events, "accuracy": self.accuracy},
            "events": loop.events,
            "gradient_steps": learner.gradient_steps,
            "buffer_bytes": learner.buffer_bytes,
            "memory_bytes": learner.memory_bytes(),
            "state_digest": None if learner.opaque else state_digest(self.parts.state()),
            "seconds": round(self.seconds, 3),
        }


def _test(test: Batch, most: int | None, segments: bool) -> _Test:
    """At most so many test events of a task, the same each time, in their order, as a learner may
    see them: without labels, without names of classes, and none that it could write to."""
    if most is not None and len(test) > most:
        rows = np.random.default_rng(0).choice(len(test), most, replace=False)
        test = test.take(np.sort(rows))
    assert test.y is not None
    if isinstance(test.x, np.ndarray):
        test.x.flags.writeable = False
    question = replace(test, y=None, segment=test.segment if segments else None, classes=())
    return _Test(question, test.y, test.classes)


def _jsonable(values: Array) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _say(what: str) -> None:
    sys.stderr.write(f"everlearn: {what}\n")
