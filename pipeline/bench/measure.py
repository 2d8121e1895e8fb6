"""One pass over a stream of tasks, with the accuracy on every task measured on its test events
during the stream."""

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

from learners.results import Prediction
from pipeline.evaluation.buffer_stats import BufferStats
from pipeline.evaluation.online.class_metrics import FLOOR
from pipeline.evaluation.online.sequence_metrics import log_likelihood
from pipeline.evaluation.plasticity import plasticity
from pipeline.evaluation.transfer_and_forgetting import Curves
from pipeline.storage.metric_log import MetricLog
from pipeline.training.builder import Parts, state_digest
from pipeline.training.reading.batch_reader import BLOCK, BatchReader
from streams.core.batch import Array, Batch, ClassName, Ints
from streams.core.state_dict import bytes_of
from streams.operators.features.sequences import Sequences

POINTS = 10
"""Default number of evaluations in a phase of the stream."""
_BATCH = 128  # test events predicted at a time: larger feature maps leave the cache
_PLASTICITY_ROWS = 1000  # test events on which plasticity is measured

Progress = Callable[[int, int], None]
"""Called with the events done and the total."""


class TaskStream(Protocol):
    """The interface of a stream for benchmarks, beyond that of every stream.

    Attributes:
        tasks: number of tasks.
        begins: first row and task of each phase of the stream.
        domain_incremental: whether a task may be tested before it begins.
    """

    @property
    def tasks(self) -> int: ...

    @property
    def begins(self) -> Sequence[tuple[int, int]]: ...

    @property
    def domain_incremental(self) -> bool: ...

    def task_test(self, task: int) -> Batch:
        """Return the test events of a task; labels are codes into the ``classes`` of the batch."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How a bench measures.

    Attributes:
        every: events between two evaluations; None: a tenth of the first phase.
        tests: largest number of test events of a task; None: all.
    """

    every: int | None = None
    tests: int | None = 2000


class _TaskTest(NamedTuple):
    """The test events of a task.

    Attributes:
        question: (n,) the events without labels.
        y: (n,) labels, codes into ``names``.
        names: class names.
        labelled: the events with their labels.
    """

    question: Batch
    y: Ints
    names: tuple[ClassName, ...]
    labelled: Batch


def measure(parts: Parts, budget: Budget, folder: Path, progress: Progress) -> dict[str, Any]:
    """Run a job to the end of its stream, a ``TaskStream``; return the result as plain JSON values.

    Each evaluation is written to ``metrics.jsonl`` and ``stability.jsonl`` in the folder.
    """
    with (
        closing(MetricLog(folder / "metrics.jsonl", _say)) as online,
        closing(MetricLog(folder / "stability.jsonl", _say)) as stability,
    ):
        return _Measurement(parts, budget, online, stability).run(progress)


class _Stopwatch:
    """Time of learning, without evaluations.

    Attributes:
        seconds: elapsed.
        cpu_seconds: of all threads of this process.
    """

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self._then = (0.0, 0.0)

    def start(self) -> None:
        self._then = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._then[0]
        self.cpu_seconds += time.process_time() - self._then[1]


class _Measurement:
    """The state of one pass over the stream."""

    def __init__(
        self, parts: Parts, budget: Budget, online: MetricLog, stability: MetricLog
    ) -> None:
        self.parts, self.loop = parts, parts.loop
        stream = cast(TaskStream, parts.stream)
        self.total = len(parts.stream)
        self.begins = [*stream.begins, (self.total, -1)]
        self.order = list(dict.fromkeys(task for _, task in stream.begins))
        self.domain_incremental = stream.domain_incremental
        segments = self.loop.learner.needs_boundaries
        self.tests = [
            _test(parts.reader, stream.task_test(task), budget.tests, segments)
            for task in range(stream.tasks)
        ]
        self.every = budget.every or max(1, (self.begins[1][0] - self.begins[0][0]) // POINTS)
        self.curves = Curves()
        self.events: list[int] = []
        self.accuracy: list[list[float | None]] = []
        self.begun = 0  # number of tasks in order that have begun
        self.task = self.order[0]  # the current one
        self.stopwatch = _Stopwatch()
        self.loss = np.full(len(self.tests), np.nan)  # log-loss by task, at the last evaluation
        self.online, self.stability = online, stability
        self.buffer_stats = BufferStats(self.loop.learner)

    def run(self, progress: Progress) -> dict[str, Any]:
        untrained = self._accuracies() if self.domain_incremental else None
        for (start, task), (stop, _) in pairwise(self.begins):
            known = self.order.index(task)
            first = math.nan if untrained is None else untrained[task]
            self.curves.begin(first, known if known < self.begun else None)
            self.begun, self.task = max(self.begun, known + 1), task
            due = (start // self.every + 1) * self.every
            self.stopwatch.start()
            for batch in self._batches(stop):
                self.loop.step(batch)
                if due <= self.loop.events < stop:
                    due = (self.loop.events // self.every + 1) * self.every
                    self.stopwatch.stop()
                    self._evaluate(ended=False)
                    progress(self.loop.events, self.total)
                    self.stopwatch.start()
            if stop == self.total:
                self.loop.finish(self.parts.reader.size)
            self.stopwatch.stop()
            self._evaluate(ended=True)
            progress(self.loop.events, self.total)
        self.loop.verify()
        return self._result()

    def _batches(self, stop: int) -> Iterator[Batch]:
        """Yield the micro-batches of the rest of a phase; the last may be shorter."""

        def blocks() -> Iterator[Batch]:
            at = self.loop.events
            for block in self.parts.reader.blocks(self.loop.ledger.cursor(), min(BLOCK, stop - at)):
                yield block[: stop - at]
                at += len(block)
                if at >= stop:
                    return

        return self.parts.reader.batches(blocks())

    def _accuracies(self) -> Array:
        """Return the accuracy on each task now, (tasks,); store the log-loss on each task.

        Future tasks are NaN, except in a domain-incremental stream. For sequences it is the mean
        log-likelihood of the next event in place of the accuracy.
        """
        learner = self.loop.learner
        codes = {name: code for code, name in enumerate(learner.classes)}
        accuracy = np.full(len(self.tests), np.nan)
        for task in range(len(self.tests)) if self.domain_incremental else self._begun():
            test = self.tests[task]
            y = np.array([codes.get(name, -2) for name in test.names])[test.y]
            question = self._transform(test.question)
            parts = [learner.predict(part) for part in question.micro_batches(_BATCH)]
            if learner.schema.task == "sequences":  # whose types are known from the start
                labelled = zip(parts, test.labelled.micro_batches(_BATCH), strict=True)
                nats = [log_likelihood(p, part, learner.schema) for p, part in labelled]
                accuracy[task] = float(np.concatenate(nats).mean())
                self.loss[task] = -accuracy[task]
                continue
            accuracy[task] = float(np.mean(np.concatenate([part.value for part in parts]) == y))
            self.loss[task] = _log_loss(parts, y)
        return accuracy

    def _begun(self) -> list[int]:
        """Return the tasks that have begun, in order."""
        return self.order[: self.begun]

    def _transform(self, question: Batch) -> Batch:
        """Return the events as the operators of the stream show them to the learner now. Test
        events of sequences have their own."""
        for operator in self.loop.operators:
            if not isinstance(operator, Sequences):
                question = operator.view(question)
        return question

    def _evaluate(self, ended: bool) -> None:
        """Evaluate all tasks and write a row of metrics; ``ended``: at the end of a phase."""
        accuracy = self._accuracies()
        events = self.loop.events
        self.curves.add(events, accuracy[self.order], ended)
        self.events.append(events)
        begun = np.isin(np.arange(len(accuracy)), self._begun())
        self.accuracy.append(_jsonable(np.where(begun, accuracy, np.nan)))
        system = {"system/events_per_s": events / max(self.stopwatch.seconds, 1e-9)}
        memory, _ = self.buffer_stats.read()
        self.online.write(events, {**self.loop.results(), **memory, **system})
        self.network = self._network()
        self.stability.write(events, self.curves.results().named() | self.network)

    def _network(self) -> dict[str, float]:
        """Return the plasticity of the network on test events of the current task."""
        question = self.tests[self.task].question[:_PLASTICITY_ROWS]
        return plasticity(self.loop.learner, self._transform(question))

    def _result(self) -> dict[str, Any]:
        learner, loop = self.loop.learner, self.loop
        loss = float(np.mean(self.loss))
        continual = self.curves.results().named() | self.network
        matrix = np.full((len(self.curves.matrix), len(self.tests)), np.nan)
        matrix[:, self.order] = self.curves.matrix
        return {
            "metrics": {
                **{name.split("/")[1]: value for name, value in continual.items()},
                **{name.replace("/", "_"): value for name, value in loop.results().items()},
                **({"test_log_loss": loss} if math.isfinite(loss) else {}),
            },
            "matrix": [_jsonable(row) for row in matrix],
            "evaluations": {"events": self.events, "accuracy": self.accuracy},
            "events": loop.events,
            "gradient_steps": learner.gradient_steps,
            "buffer_bytes": learner.buffer_bytes,
            "state_bytes": learner.memory_bytes()
            + sum(bytes_of(operator.state()) for operator in loop.operators),
            "state_digest": None if learner.opaque else state_digest(self.parts.state()),
            "seconds": round(self.stopwatch.seconds, 3),
            "cpu_seconds": round(self.stopwatch.cpu_seconds, 3),
        }


def _test(reader: BatchReader, test: Batch, most: int | None, segments: bool) -> _TaskTest:
    """Return test events of a task as a learner may see them: encoded, unlabelled and read-only.

    Of more than ``most`` events a fixed random choice is taken, in order.
    """
    if most is not None and len(test) > most:
        rows = np.random.default_rng(0).choice(len(test), most, replace=False)
        test = test.take(np.sort(rows))
    if reader.encode is not None:
        test = Batch.concat(list(reader.encode([test])))
    assert test.y is not None
    if isinstance(test.x, np.ndarray):
        test.x.flags.writeable = False
    question = replace(test, y=None, segment=test.segment if segments else None, classes=())
    return _TaskTest(replace(question, wait=None), test.y, test.classes, test)


def _log_loss(predictions: Sequence[Prediction], y: Ints) -> float:
    """Return the mean of -ln of the probability of each label, at least ``FLOOR``; NaN where the
    learner gives no probabilities. A label that the learner does not know has probability 0."""
    losses = []
    for prediction in predictions:
        labels, y = y[: len(prediction)], y[len(prediction) :]
        if prediction.proba is None:
            return math.nan
        known = (labels >= 0) & (labels < prediction.proba.shape[1])
        of_label = np.zeros(len(labels))
        of_label[known] = prediction.proba[known, labels[known]]
        losses.append(-np.log(np.maximum(of_label, FLOOR)))
    return float(np.mean(np.concatenate(losses)))


def _jsonable(values: Array) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _say(what: str) -> None:
    sys.stderr.write(f"everlearn: {what}\n")
