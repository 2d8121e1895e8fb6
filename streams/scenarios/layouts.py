"""Scenarios: the ways to order a data set, and to change it, that make a stream of tasks of it.

Each is a pure function of a data set, its settings and a seed, and gives a ``Plan``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Discriminator, Field, PositiveInt, Tag, model_validator

from streams.core.batch import Ints
from streams.core.errors import StreamError
from streams.core.settings import Settings
from streams.scenarios.datasets import Dataset
from streams.scenarios.plans import (
    HeldOut,
    Phase,
    Plan,
    dealt,
    enough,
    of_classes,
    of_domains,
    permutations,
    shuffled,
    with_noise,
)
from streams.scenarios.transforms import Permuted, Rotated


class Layout(Settings, ABC):
    """Settings of a kind of scenario."""

    @abstractmethod
    def plan(self, data: Dataset, rng: np.random.Generator, events: int | None) -> Plan:
        """A plan with clean labels, and at most ``events`` events in a phase."""


class IidTasks(Layout):
    """The control: one task, shuffled."""

    kind: Literal["iid"]

    def plan(self, data: Dataset, rng: np.random.Generator, events: int | None) -> Plan:
        return of_domains(data, rng, events, 1, None)


class SplitTasks(Layout):
    """Class-incremental: each task brings classes of its own (van de Ven and Tolias 2019).

    Classes are dealt evenly, in the order of their codes or, with ``shuffle_classes``, at random.
    The events of a task come shuffled.
    """

    kind: Literal["split"]
    tasks: PositiveInt = 5
    shuffle_classes: bool = False

    def plan(self, data: Dataset, rng: np.random.Generator, events: int | None) -> Plan:
        owner = dealt(data, self.tasks, rng if self.shuffle_classes else None)
        task = owner[data.train_y]
        phases = [(t, shuffled(rng, task == t, events)) for t in range(self.tasks)]
        return of_classes(data, phases, owner)


class PermutedTasks(Layout):
    """Domain-incremental: every task has all classes, and a permutation of the pixels, or of the
    values of a vector, of its own; the first is the identity (Goodfellow et al. 2014)."""

    kind: Literal["permuted"]
    tasks: PositiveInt = 10

    def plan(self, data: Dataset, rng: np.random.Generator, events: int | None) -> Plan:
        transform = Permuted(permutations(rng, self.tasks, _places(data)))
        return of_domains(data, rng, events, self.tasks, transform)


class RotatedTasks(Layout):
    """Domain-incremental: every task has all classes, and images turned by an angle of its own
    (Lopez-Paz and Ranzato 2017): ``degrees``, or ``tasks`` angles from 0 to ``max_degrees``."""

    kind: Literal["rotated"]
    degrees: tuple[float, ...] = ()
    tasks: PositiveInt = 10
    max_degrees: float = 180.0

    @model_validator(mode="after")
    def _either(self) -> RotatedTasks:
        if self.degrees and (self.tasks, self.max_degrees) != (10, 180.0):
            raise ValueError("state either degrees, or tasks and max_degrees")
        return self

    def plan(self, data: Dataset, rng: np.random.Generator, events: int | None) -> Plan:
        if data.feature.kind != "image":
            raise StreamError(
                f"stream.tasks.kind: 'rotated' turns images, but {data.name} has a feature of kind "
                f"{data.feature.kind!r}"
            )
        degrees = self.degrees or np.linspace(0, self.max_degrees, self.tasks).tolist()
        _, height, width = data.feature.shape
        return of_domains(data, rng, events, len(degrees), Rotated(degrees, height, width))


class BlurryTasks(Layout):
    """Si-Blurry (Moon et al. 2023): a random number of classes in each task, and blurred borders.

    A share ``disjoint`` of the classes, chosen at random, occurs in one task only; the others are
    blurry. Each way to cut the classes, in random order, into ``tasks`` parts of at least one is
    equally likely. Then a share ``blur`` of the samples of the blurry classes, chosen at random,
    moves, each to any other task. A task is tested on its own classes. (Moon et al. cut disjoint
    and blurry classes apart, so that a task may have none, and let a sample move to its own task.)
    """

    kind: Literal["blurry"]
    tasks: int = Field(5, ge=2)
    disjoint: float = Field(0.5, ge=0, le=1)
    blur: float = Field(0.1, ge=0, le=1)

    def plan(self, data: Dataset, rng: np.random.Generator, events: int | None) -> Plan:
        enough(data, self.tasks)
        classes = len(data.classes)
        cuts = np.sort(rng.choice(np.arange(1, classes), self.tasks - 1, replace=False))
        owner = np.empty(classes, np.int64)
        owner[rng.permutation(classes)] = np.searchsorted(cuts, np.arange(classes), "right")
        blurry = np.ones(classes, bool)
        blurry[rng.permutation(classes)[: round(self.disjoint * classes)]] = False
        free = shuffled(rng, blurry[data.train_y], None)
        moved = free[: round(self.blur * len(free))]
        task = owner[data.train_y]
        task[moved] = (task[moved] + rng.integers(1, self.tasks, len(moved))) % self.tasks
        phases = [(t, shuffled(rng, task == t, events)) for t in range(self.tasks)]
        return of_classes(data, phases, owner)


class PowerLawTasks(Layout):
    """Tasks come back, and the sooner the more recently they were seen (Gandhi et al. 2024).

    Tasks are made as by ``split``, and introduced at even distances over the ``phases``. Each other
    phase revisits a task seen before, with a chance in proportion to age ** -exponent, where age is
    the number of phases since it was last seen. The samples of a task are divided evenly among its
    visits, so that none comes twice.
    """

    kind: Literal["power-law"]
    tasks: PositiveInt = 5
    phases: PositiveInt = 30
    exponent: float = Field(1.0, ge=0)
    shuffle_classes: bool = False

    @model_validator(mode="after")
    def _room(self) -> PowerLawTasks:
        if self.phases < self.tasks:
            raise ValueError(f"{self.tasks} tasks need at least as many phases")
        return self

    def plan(self, data: Dataset, rng: np.random.Generator, events: int | None) -> Plan:
        owner = dealt(data, self.tasks, rng if self.shuffle_classes else None)
        task, visits = owner[data.train_y], self.visits(rng)
        parts: dict[int, Ints] = {}
        for t in range(self.tasks):
            rows, mine = shuffled(rng, task == t, None), np.flatnonzero(visits == t)
            if len(mine) > len(rows):
                raise StreamError(
                    f"stream.tasks.phases: task {t} of {data.name} has {len(rows)} samples for "
                    f"{len(mine)} visits: state fewer phases"
                )
            parts |= zip(mine.tolist(), np.array_split(rows, len(mine)), strict=True)
        phases: list[Phase] = [(int(t), parts[p][:events]) for p, t in enumerate(visits)]
        return of_classes(data, phases, owner)

    def visits(self, rng: np.random.Generator) -> Ints:
        """(phases,) the task of each phase."""
        introduced = {t * self.phases // self.tasks: t for t in range(self.tasks)}
        visits = np.empty(self.phases, np.int64)
        last = np.full(self.tasks, -1.0)
        for phase in range(self.phases):
            task = introduced.get(phase)
            if task is None:
                chance = np.where(last >= 0, (phase - last) ** -self.exponent, 0.0)
                task = int(rng.choice(self.tasks, p=chance / chance.sum()))
            visits[phase], last[task] = task, phase
        return visits


class DriftTasks(Layout):
    """Concept drift: what is right under one concept is mostly wrong under the next.

    For each concept the codes of the labels, or the places of the ``features``, are permuted at
    random; under concept 0 they are as they were. ``sudden``: one concept after the other, equally
    long. ``recurring``: the same, the concepts in turn for as many ``phases``. ``gradual``: as
    sudden, but row t has the concept after the change at row p with probability
    1 / (1 + exp(-4 (t - p) / width)), as in MOA's ConceptDriftStream (Bifet et al. 2010).
    """

    kind: Literal["drift"]
    shape: Literal["sudden", "gradual", "recurring"] = "sudden"
    concepts: int = Field(4, ge=2)
    changes: Literal["labels", "features"] = "labels"
    width: PositiveInt | None = None
    phases: PositiveInt | None = None

    @model_validator(mode="after")
    def _fits(self) -> DriftTasks:
        for name, shape in (("width", "gradual"), ("phases", "recurring")):
            if (getattr(self, name) is None) == (self.shape == shape):
                verb = "needs" if self.shape == shape else "has no"
                raise ValueError(f"a {self.shape} drift {verb} {name}")
        if self.phases and self.phases < self.concepts:
            raise ValueError(f"{self.concepts} concepts need at least as many phases")
        return self

    def plan(self, data: Dataset, rng: np.random.Generator, events: int | None) -> Plan:
        labels = self.changes == "labels"
        places = len(data.classes) if labels else _places(data)
        permuted = permutations(rng, self.concepts, places)
        relabel = permuted if labels else np.tile(np.arange(len(data.classes)), (self.concepts, 1))
        phases = self.phases or self.concepts
        size = len(data.train_y) // phases
        if not size:
            raise StreamError(
                f"stream.tasks: {phases} phases, but {data.name} has {len(data.train_y)} rows"
            )
        size = min(size, events or size)
        n = size * phases
        index = rng.permutation(len(data.train_y))[:n]
        row = np.arange(n)
        concept = self._mixed(row, size, phases, rng) % self.concepts
        every = np.arange(len(data.test_y))
        return Plan(
            index,
            relabel[concept, data.train_y[index]],
            row // size % self.concepts,
            concept,
            tuple(HeldOut(every, codes[data.test_y], c) for c, codes in enumerate(relabel)),
            tuple((phase * size, phase % self.concepts) for phase in range(phases)),
            domain_incremental=True,
            transform=None if labels else Permuted(permuted),
            relabel=permuted if labels else None,
        )

    def _mixed(self, row: Ints, size: int, phases: int, rng: np.random.Generator) -> Ints:
        """(n,) the phase whose concept each row has."""
        if self.width is None:
            return row // size
        phase = np.zeros_like(row)
        for change in range(1, phases):
            # The logistic function, written so that it cannot overflow.
            chance = 0.5 + 0.5 * np.tanh(2 * (row - change * size) / self.width)
            phase[rng.random(len(row)) < chance] = change
        return phase


def _which(tasks: Any) -> str:
    return str(tasks.get("kind", "") if isinstance(tasks, dict) else getattr(tasks, "kind", ""))


Tasks = Annotated[
    Annotated[SplitTasks, Tag("split")]
    | Annotated[PermutedTasks, Tag("permuted")]
    | Annotated[RotatedTasks, Tag("rotated")]
    | Annotated[BlurryTasks, Tag("blurry")]
    | Annotated[PowerLawTasks, Tag("power-law")]
    | Annotated[DriftTasks, Tag("drift")]
    | Annotated[IidTasks, Tag("iid")],
    Discriminator(_which),
]


def make_plan(
    data: Dataset, tasks: Layout, seed: int, events: int | None = None, label_noise: float = 0.0
) -> Plan:
    """The plan of a scenario.

    Args:
        data: the data set.
        tasks: what is made of it.
        seed: of all that is drawn. Label noise is drawn apart, and leaves the order as it is.
        events: at most so many in a phase.
        label_noise: the share of training labels that another class replaces, any of all those of
            the data set. Tests stay clean.

    Raises:
        StreamError: this data set does not allow for it.
    """
    plan = tasks.plan(data, np.random.default_rng([seed, 0]), events)
    if label_noise:
        rng = np.random.default_rng([seed, 1])
        plan = replace(plan, y=with_noise(plan.y, label_noise, len(data.classes), rng))
    return plan


def _places(data: Dataset) -> int:
    """How many values, or pixels, of a row can be permuted."""
    if data.feature.kind == "text":
        raise StreamError(
            f"stream.tasks: {data.name} is text, and has no features that could be permuted"
        )
    return int(np.prod(data.feature.shape[-2:]))
