"""Layouts: ways to order and transform a data set into a stream of tasks.

Each is a pure function of a data set, its settings and a seed, and returns a ``Plan``.
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
    Plan,
    TaskTest,
    add_label_noise,
    assign_classes,
    check_class_count,
    class_plan,
    domain_plan,
    permutations,
    shuffled_rows,
    visit_phases,
)
from streams.scenarios.transforms import Permuted, Rotated


class Layout(Settings, ABC):
    """Settings of a kind of layout."""

    @abstractmethod
    def plan(self, data: Dataset, rng: np.random.Generator, events: int | None) -> Plan:
        """Return a plan with clean labels and at most ``events`` events in a phase."""


class IidTasks(Layout):
    """One task, shuffled: the control."""

    kind: Literal["iid"]

    def plan(self, data: Dataset, rng: np.random.Generator, events: int | None) -> Plan:
        return domain_plan(data, rng, events, 1, None)


class SplitTasks(Layout):
    """Class-incremental: each task has classes of its own (van de Ven and Tolias 2019).

    Classes are distributed evenly, in the order of their codes or, with ``shuffle_classes``, at
    random. The events of a task are shuffled.
    """

    kind: Literal["split"]
    tasks: PositiveInt = 5
    shuffle_classes: bool = False

    def plan(self, data: Dataset, rng: np.random.Generator, events: int | None) -> Plan:
        owner = assign_classes(data, self.tasks, rng if self.shuffle_classes else None)
        task = owner[data.train_y]
        phases = [(t, shuffled_rows(rng, task == t, events)) for t in range(self.tasks)]
        return class_plan(data, phases, owner)


class PermutedTasks(Layout):
    """Domain-incremental: every task has all classes, and its own permutation of the pixels or of
    the values of a vector; the first is the identity (Goodfellow et al. 2014)."""

    kind: Literal["permuted"]
    tasks: PositiveInt = 10

    def plan(self, data: Dataset, rng: np.random.Generator, events: int | None) -> Plan:
        transform = Permuted(permutations(rng, self.tasks, _places(data)))
        return domain_plan(data, rng, events, self.tasks, transform)


class RotatedTasks(Layout):
    """Domain-incremental: every task has all classes, and its own rotation of the images (Lopez-Paz
    and Ranzato 2017): ``degrees``, or ``tasks`` angles from 0 to ``max_degrees``."""

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
        return domain_plan(data, rng, events, len(degrees), Rotated(degrees, height, width))


class ContextTasks(Layout):
    """Domain-incremental: tasks have samples of their own classes, and the same few labels (van de
    Ven and Tolias 2019), so that a label means something else in each.

    Classes are distributed over the ``tasks`` as in ``split``. Those of a task are divided evenly
    among the ``labels``, at random. The tasks come one after another, and that ``rounds`` times.
    The samples of a task are divided evenly among its visits, so none is repeated.
    """

    kind: Literal["contexts"]
    tasks: PositiveInt = 5
    labels: int = Field(2, ge=2)
    rounds: PositiveInt = 1
    shuffle_classes: bool = False

    def plan(self, data: Dataset, rng: np.random.Generator, events: int | None) -> Plan:
        owner = assign_classes(data, self.tasks, rng if self.shuffle_classes else None)
        label = self._label_of(data, owner, rng)
        task = owner[data.train_y]
        order = np.tile(np.arange(self.tasks), self.rounds)
        plan = class_plan(data, visit_phases(rng, data, task, order, events), owner)
        return replace(
            plan,
            y=label[plan.y],
            concept=plan.segment,
            tests=tuple(TaskTest(t.index, label[t.y], c) for c, t in enumerate(plan.tests)),
            domain_incremental=True,
            relabel=np.tile(label, (self.tasks, 1)),
            labels=tuple(map(str, range(self.labels))),
        )

    def _label_of(self, data: Dataset, owner: Ints, rng: np.random.Generator) -> Ints:
        """Return (classes,) the label of each class of the data set."""
        label = np.empty_like(owner)
        for task in range(self.tasks):
            mine = np.flatnonzero(owner == task)
            if len(mine) < self.labels:
                raise StreamError(
                    f"stream.tasks.labels: {self.labels} labels, but task {task} of {data.name} "
                    f"has {len(mine)} classes"
                )
            label[rng.permutation(mine)] = np.arange(len(mine)) % self.labels
        return label


class BlurryTasks(Layout):
    """Si-Blurry (Moon et al. 2023): a random number of classes in each task, and blurred borders.

    A random share ``disjoint`` of the classes occurs in one task only; the others are blurry. The
    classes, in random order, are split into ``tasks`` non-empty parts; every split is equally
    likely. Then a random share ``blur`` of the samples of the blurry classes moves, each to any
    other task. A task is tested on its own classes. (Moon et al. split disjoint and blurry classes
    separately, so a task may have none, and let a sample move to its own task.)
    """

    kind: Literal["blurry"]
    tasks: int = Field(5, ge=2)
    disjoint: float = Field(0.5, ge=0, le=1)
    blur: float = Field(0.1, ge=0, le=1)

    def plan(self, data: Dataset, rng: np.random.Generator, events: int | None) -> Plan:
        check_class_count(data, self.tasks)
        classes = len(data.classes)
        cuts = np.sort(rng.choice(np.arange(1, classes), self.tasks - 1, replace=False))
        owner = np.empty(classes, np.int64)
        owner[rng.permutation(classes)] = np.searchsorted(cuts, np.arange(classes), "right")
        blurry = np.ones(classes, bool)
        blurry[rng.permutation(classes)[: round(self.disjoint * classes)]] = False
        free = shuffled_rows(rng, blurry[data.train_y], None)
        moved = free[: round(self.blur * len(free))]
        task = owner[data.train_y]
        task[moved] = (task[moved] + rng.integers(1, self.tasks, len(moved))) % self.tasks
        phases = [(t, shuffled_rows(rng, task == t, events)) for t in range(self.tasks)]
        return class_plan(data, phases, owner)


class PowerLawTasks(Layout):
    """Tasks recur, the sooner the more recently they were seen (Gandhi et al. 2024).

    Tasks are those of ``split``, introduced at even distances over the ``phases``. Every other
    phase revisits an earlier task, with a probability proportional to age ** -exponent, where age
    is the number of phases since it was last seen. The samples of a task are divided evenly among
    its visits, so none is repeated.
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
        owner = assign_classes(data, self.tasks, rng if self.shuffle_classes else None)
        phases = visit_phases(rng, data, owner[data.train_y], self.visits(rng), events)
        return class_plan(data, phases, owner)

    def visits(self, rng: np.random.Generator) -> Ints:
        """Return (phases,) the task of each phase."""
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

    Each concept permutes the codes of the labels, or the ``features``, at random; concept 0 leaves
    them as they are. ``sudden``: one concept after the other, equally long. ``recurring``: the
    same, with the concepts in turn for ``phases`` phases. ``gradual``: as sudden, but row t has the
    concept after the change at row p with probability 1 / (1 + exp(-4 (t - p) / width)), as in
    MOA's ConceptDriftStream (Bifet et al. 2010).
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
            tuple(TaskTest(every, codes[data.test_y], c) for c, codes in enumerate(relabel)),
            tuple((phase * size, phase % self.concepts) for phase in range(phases)),
            domain_incremental=True,
            transform=None if labels else Permuted(permuted),
            relabel=permuted if labels else None,
        )

    def _mixed(self, row: Ints, size: int, phases: int, rng: np.random.Generator) -> Ints:
        """Return (n,) the phase whose concept each row has."""
        if self.width is None:
            return row // size
        phase = np.zeros_like(row)
        for change in range(1, phases):
            # The logistic function, written so that it cannot overflow.
            chance = 0.5 + 0.5 * np.tanh(2 * (row - change * size) / self.width)
            phase[rng.random(len(row)) < chance] = change
        return phase


class LabelFlips(Layout):
    """Concept drift that some classes take part in: the others keep their labels.

    Class c has the label c modulo ``labels``; with two labels, digits are even or odd. After
    ``before`` events the classes ``flipped`` have the label after theirs (modulo ``labels``), and
    ``after`` more events follow. The rows come in random order, once more where there are too few,
    so that a learner that remembers the rows themselves remembers what was right before.
    """

    kind: Literal["label-flips"]
    flipped: Annotated[tuple[int, ...], Field(min_length=1)]
    labels: int = Field(2, ge=2)
    before: PositiveInt = 2000
    after: PositiveInt = 6000

    def plan(self, data: Dataset, rng: np.random.Generator, events: int | None) -> Plan:
        codes = np.arange(len(data.classes))
        check_class_count(data, self.labels, "labels")
        if not set(self.flipped) <= set(codes.tolist()):
            raise StreamError(
                f"stream.tasks.flipped: {data.name} has the classes 0 to {len(codes) - 1}"
            )
        label = codes % self.labels
        flipped = (label + np.isin(codes, self.flipped)) % self.labels
        relabel = np.stack([label, flipped])
        sizes = [min(size, events or size) for size in (self.before, self.after)]
        rows = len(data.train_y)
        passes = -(-sum(sizes) // rows)
        index = np.concatenate([rng.permutation(rows) for _ in range(passes)])[: sum(sizes)]
        concept = np.repeat([0, 1], sizes)
        every = np.arange(len(data.test_y))
        return Plan(
            index,
            relabel[concept, data.train_y[index]],
            concept,
            concept,
            tuple(TaskTest(every, relabel[c][data.test_y], c) for c in (0, 1)),
            ((0, 0), (sizes[0], 1)),
            domain_incremental=True,
            relabel=relabel,
            labels=tuple(map(str, range(self.labels))),
        )


def _which(tasks: Any) -> str:
    return str(tasks.get("kind", "") if isinstance(tasks, dict) else getattr(tasks, "kind", ""))


Tasks = Annotated[
    Annotated[SplitTasks, Tag("split")]
    | Annotated[PermutedTasks, Tag("permuted")]
    | Annotated[RotatedTasks, Tag("rotated")]
    | Annotated[ContextTasks, Tag("contexts")]
    | Annotated[BlurryTasks, Tag("blurry")]
    | Annotated[PowerLawTasks, Tag("power-law")]
    | Annotated[DriftTasks, Tag("drift")]
    | Annotated[LabelFlips, Tag("label-flips")]
    | Annotated[IidTasks, Tag("iid")],
    Discriminator(_which),
]


def make_plan(
    data: Dataset, tasks: Layout, seed: int, events: int | None = None, label_noise: float = 0.0
) -> Plan:
    """Return the plan of a scenario.

    Args:
        data: the data set.
        tasks: the layout.
        seed: the seed of all random choices. Label noise is drawn separately, and does not change
            the order.
        events: the maximum number of events in a phase.
        label_noise: the share of training labels that are replaced by any other class. Tests stay
            clean.

    Raises:
        StreamError: the data set does not allow this layout.
    """
    plan = tasks.plan(data, np.random.default_rng([seed, 0]), events)
    if label_noise:
        rng = np.random.default_rng([seed, 1])
        classes = plan.labels or data.classes
        plan = replace(plan, y=add_label_noise(plan.y, label_noise, len(classes), rng))
    return plan


def _places(data: Dataset) -> int:
    """Return the number of values, or pixels, of a row that can be permuted."""
    if data.feature.kind == "text":
        raise StreamError(
            f"stream.tasks: {data.name} is text, and has no features that could be permuted"
        )
    return int(np.prod(data.feature.shape[-2:]))
