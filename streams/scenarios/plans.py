"""Plans: which rows of a data set come when, as what, and what each task is tested on."""

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
class HeldOut:
    """What one task is tested on: ``index`` (m,) rows of the test set, all seen through
    ``concept``, and their clean labels ``y`` (m,)."""

    index: Ints
    y: Ints
    concept: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A stream of n events in tasks.

    Attributes:
        index: (n,) the row of the training set that each event is.
        y: (n,) its label, noise and concept included.
        segment: (n,) the task in whose phase it comes.
        concept: (n,) what is done to it: a number that ``transform`` and ``relabel`` know.
        tests: for each task what to test on.
        begins: for each phase of the stream its first row and its task. A task may come back.
        domain_incremental: whether all tasks have the same classes, so that a task may be tested
            before it has begun.
        transform: makes the x of a concept of that of the data set. None: they are the same.
        relabel: (concepts, classes) the code that a class has under each concept. None: its own.
    """

    index: Ints
    y: Ints
    segment: Ints
    concept: Ints
    tests: tuple[HeldOut, ...]
    begins: tuple[tuple[int, int], ...]
    domain_incremental: bool
    transform: Transform | None = None
    relabel: Ints | None = None

    def __len__(self) -> int:
        return len(self.index)


Phase = tuple[int, Ints]
"""A task, and the rows of the training set that come one after the other."""


def of_classes(data: Dataset, phases: Sequence[Phase], owner: Ints) -> Plan:
    """A plan of tasks that have classes of their own: ``owner`` (classes,) is the task of each."""
    index = np.concatenate([rows for _, rows in phases])
    mine = [np.flatnonzero(owner[data.test_y] == task) for task in range(int(owner.max()) + 1)]
    return Plan(
        index,
        data.train_y[index],
        _segment(phases),
        np.zeros(len(index), np.int64),
        tuple(HeldOut(rows, data.test_y[rows]) for rows in mine),
        _begins(phases),
        domain_incremental=len(mine) == 1,
    )


def of_domains(
    data: Dataset,
    rng: np.random.Generator,
    events: int | None,
    tasks: int,
    transform: Transform | None,
) -> Plan:
    """A plan of tasks that have all classes, task t under concept t. Samples are fresh as long as
    they last; within a task none comes twice."""
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
    tests = tuple(HeldOut(every, data.test_y, task) for task in range(tasks))
    y = data.train_y[index]
    return Plan(index, y, segment, segment, tests, _begins(phases), True, transform)


def dealt(data: Dataset, tasks: int, rng: np.random.Generator | None) -> Ints:
    """(classes,) the task of each class: dealt evenly, in the order of their codes or at random."""
    enough(data, tasks)
    classes = np.arange(len(data.classes)) if rng is None else rng.permutation(len(data.classes))
    owner = np.empty_like(classes)
    for task, mine in enumerate(np.array_split(classes, tasks)):
        owner[mine] = task
    return owner


def enough(data: Dataset, tasks: int) -> None:
    """Raises ``StreamError`` where there are not as many classes as tasks."""
    if tasks > len(data.classes):
        raise StreamError(
            f"stream.tasks.tasks: {tasks} tasks, but {data.name} has {len(data.classes)} classes"
        )


def shuffled(rng: np.random.Generator, mask: Array, events: int | None) -> Ints:
    """At most ``events`` of the rows where the mask holds, at random."""
    return rng.permutation(np.flatnonzero(mask))[:events]


def permutations(rng: np.random.Generator, count: int, length: int) -> Ints:
    """(count, length) permutations, no two alike, the first of them the identity."""
    if length < 20 and count > math.factorial(length):
        raise StreamError(
            f"stream.tasks: {length} places have fewer than {count} different permutations"
        )
    found = {tuple(range(length)): None}
    while len(found) < count:
        found[tuple(rng.permutation(length).tolist())] = None
    return np.array(list(found), np.int64)


def with_noise(y: Ints, share: float, classes: int, rng: np.random.Generator) -> Ints:
    """``y`` with a share of its labels, chosen at random, replaced by any other class."""
    rows = rng.choice(len(y), round(share * len(y)), replace=False)
    noisy = y.copy()
    noisy[rows] = (y[rows] + rng.integers(1, classes, len(rows))) % classes
    return noisy


def _segment(phases: Sequence[Phase]) -> Ints:
    return np.repeat([task for task, _ in phases], [len(rows) for _, rows in phases])


def _begins(phases: Sequence[Phase]) -> tuple[tuple[int, int], ...]:
    starts = np.cumsum([0, *(len(rows) for _, rows in phases)]).tolist()
    return tuple((start, task) for start, (task, _) in zip(starts, phases, strict=False))
