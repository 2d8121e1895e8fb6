"""Plans: the order and labels of the rows of a data set in a stream, and the tests of tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streams.core.batch import Array, Ints
from streams.core.errors import StreamError
from streams.scenarios.datasets import Dataset
from streams.scenarios.transforms import Transform


@dataclass(frozen=True, slots=True, eq=False)
class TaskTest:
    """The m test events of one task.

    Attributes:
        index: (m,) rows of the test set.
        y: (m,) their clean labels.
        concept: the concept under which all of them are seen.
    """

    index: Ints
    y: Ints
    concept: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A stream of n events in tasks.

    Attributes:
        index: (n,) the row of the training set of each event.
        y: (n,) its label, with noise and concept applied.
        segment: (n,) the task of its phase.
        concept: (n,) the number of its concept, for ``transform`` and ``relabel``.
        tests: the test events of each task.
        begins: the first row and the task of each phase of the stream. A task may recur.
        domain_incremental: whether all tasks have the same classes, so that a task may be tested
            before it begins.
        transform: turns x into that of a concept. None: they are the same.
        relabel: (concepts, classes) the code of each class under each concept. None: its own.
        labels: the names of the labels, where they are not the classes of the data set.
    """

    index: Ints
    y: Ints
    segment: Ints
    concept: Ints
    tests: tuple[TaskTest, ...]
    begins: tuple[tuple[int, int], ...]
    domain_incremental: bool
    transform: Transform | None = None
    relabel: Ints | None = None
    labels: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.index)


Phase = tuple[int, Ints]
"""A task, and its rows of the training set in order."""


def class_plan(data: Dataset, phases: Sequence[Phase], owner: Ints) -> Plan:
    """Return a plan of tasks with different classes: ``owner`` (classes,) is the task of each."""
    index = np.concatenate([rows for _, rows in phases])
    mine = [np.flatnonzero(owner[data.test_y] == task) for task in range(int(owner.max()) + 1)]
    return Plan(
        index,
        data.train_y[index],
        _segment(phases),
        np.zeros(len(index), np.int64),
        tuple(TaskTest(rows, data.test_y[rows]) for rows in mine),
        _begins(phases),
        domain_incremental=len(mine) == 1,
    )


def domain_plan(
    data: Dataset,
    rng: np.random.Generator,
    events: int | None,
    tasks: int,
    transform: Transform | None,
) -> Plan:
    """Return a plan of tasks with all classes, task t under concept t. No sample is repeated in a
    task, nor across tasks until all have been used."""
    n = len(data.train_y)
    size = min(n, events or n)
    pool = np.empty(0, np.int64)
    phases: list[Phase] = []
    for task in range(tasks):
        if len(pool) < size:
            pool = rng.permutation(n)
        phases.append((task, pool[:size]))
        pool = pool[size:]
    index, segment = np.concatenate([rows for _, rows in phases]), _segment(phases)
    every = np.arange(len(data.test_y))
    tests = tuple(TaskTest(every, data.test_y, task) for task in range(tasks))
    y = data.train_y[index]
    return Plan(index, y, segment, segment, tests, _begins(phases), True, transform)


def assign_classes(data: Dataset, tasks: int, rng: np.random.Generator | None) -> Ints:
    """Return (classes,) the task of each class, as even as possible, in the order of their codes or
    (with ``rng``) at random. Raises ``StreamError``."""
    check_class_count(data, tasks)
    classes = np.arange(len(data.classes)) if rng is None else rng.permutation(len(data.classes))
    owner = np.empty_like(classes)
    for task, mine in enumerate(np.array_split(classes, tasks)):
        owner[mine] = task
    return owner


def check_class_count(data: Dataset, count: int, what: str = "tasks") -> None:
    """Raise ``StreamError`` if there are fewer classes than tasks, or ``what`` else needs some."""
    if count > len(data.classes):
        raise StreamError(
            f"stream.tasks.{what}: {count} {what}, but {data.name} has {len(data.classes)} classes"
        )


def shuffled_rows(rng: np.random.Generator, mask: Array, events: int | None) -> Ints:
    """Return at most ``events`` of the rows where the mask is True, in random order."""
    return rng.permutation(np.flatnonzero(mask))[:events]


def visit_phases(
    rng: np.random.Generator, data: Dataset, task: Ints, order: Ints, events: int | None
) -> list[Phase]:
    """Return a phase for each visit of a task. The samples of a task, shuffled, are divided evenly
    among its visits, and none is repeated.

    Args:
        rng: for the order of samples.
        data: the data set.
        task: (n,) the task of each of its training rows.
        order: (phases,) the task that each phase visits; none of the tasks is missing.
        events: the maximum number of events in a phase.

    Raises:
        StreamError: a task has more visits than samples.
    """
    parts: dict[int, Ints] = {}
    for t in range(int(order.max()) + 1):
        rows, mine = shuffled_rows(rng, task == t, None), np.flatnonzero(order == t)
        if len(mine) > len(rows):
            raise StreamError(
                f"stream.tasks: task {t} of {data.name} has {len(rows)} samples for {len(mine)} "
                "visits: state fewer phases or rounds"
            )
        parts |= zip(mine.tolist(), np.array_split(rows, len(mine)), strict=True)
    return [(int(t), parts[p][:events]) for p, t in enumerate(order)]


def permutations(rng: np.random.Generator, count: int, length: int) -> Ints:
    """Return (count, length) different permutations, the first of them the identity."""
    if length < 20 and count > math.factorial(length):
        raise StreamError(
            f"stream.tasks: {length} places have fewer than {count} different permutations"
        )
    drawn = {tuple(range(length)): None}
    while len(drawn) < count:
        drawn[tuple(rng.permutation(length).tolist())] = None
    return np.array(list(drawn), np.int64)


def add_label_noise(y: Ints, share: float, classes: int, rng: np.random.Generator) -> Ints:
    """Return ``y`` with a random share of its labels replaced by another class."""
    rows = rng.choice(len(y), round(share * len(y)), replace=False)
    noisy = y.copy()
    noisy[rows] = (y[rows] + rng.integers(1, classes, len(rows))) % classes
    return noisy


def _segment(phases: Sequence[Phase]) -> Ints:
    return np.repeat([task for task, _ in phases], [len(rows) for _, rows in phases])


def _begins(phases: Sequence[Phase]) -> tuple[tuple[int, int], ...]:
    starts = np.cumsum([0, *(len(rows) for _, rows in phases)]).tolist()
    return tuple((start, task) for start, (task, _) in zip(starts, phases, strict=False))
