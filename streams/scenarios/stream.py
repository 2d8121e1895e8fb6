"""The stream of kind ``scenario``: a data set as a sequence of tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, PositiveInt, field_validator, model_validator

from streams.core.batch import Array, Batch, Features, Ints, Ragged
from streams.core.schema import Schema
from streams.core.settings import unknown
from streams.core.stream import Cursor, Stream
from streams.core.stream_config import StreamConfig
from streams.scenarios.catalog import SCENARIOS
from streams.scenarios.datasets import (
    DATASETS,
    load,
    published_validation,
    split_validation,
)
from streams.scenarios.layouts import Tasks, make_plan


class ScenarioConfig(StreamConfig):
    """Settings of a scenario: its ``name``, or a ``dataset`` and the ``tasks`` to make of it.

    Settings given with a name override those of the named scenario; those of ``tasks`` key by key,
    if their kind is the same.

    Attributes:
        name: one of those in ``streams.scenarios.catalog.SCENARIOS``.
        dataset: one of those in ``streams.scenarios.datasets.DATASETS``.
        tasks: the kind of scenario and its settings.
        events: the maximum number of events in a phase; None: all.
        label_noise: the share of labels that are replaced by another class.
        seed: the seed of the order and of all other random choices, independent of the job's.
        known_classes: whether all classes are known from the start, or are found in the stream.
        boundaries: whether events have their task as ``segment``, for evaluation.
        validation: test on this share of the training rows, the last ones of each class, which are
            then not in the stream; ``published``: on the validation rows of the data set; None: on
            the test rows. For tuning without the test rows.
    """

    name: str | None = None
    dataset: str | None = None
    tasks: Tasks | None = None
    events: PositiveInt | None = None
    label_noise: float = Field(0.0, ge=0, lt=1)
    seed: int = Field(0, ge=0, lt=2**63)
    known_classes: bool = True
    boundaries: bool = True
    validation: Annotated[float, Field(gt=0, lt=1)] | Literal["published"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        named = SCENARIOS.get(str(data.get("name"))) if isinstance(data, dict) else None
        if named is None:
            return data
        tasks, given = named["tasks"], data.get("tasks")
        if isinstance(given, dict) and given.get("kind", tasks["kind"]) == tasks["kind"]:
            data = {**data, "tasks": {**tasks, **given}}
        return {**named, **data}

    @field_validator("name", "dataset")
    @classmethod
    def _known(cls, name: str | None, info: Any) -> str | None:
        what, names = {
            "name": ("scenario", SCENARIOS),
            "dataset": ("data set", DATASETS),
        }[info.field_name]
        if name is not None and name not in names:
            raise ValueError(f"unknown {what} {unknown(name, names)}")
        return name

    @model_validator(mode="after")
    def _whole(self) -> ScenarioConfig:
        if self.dataset is None or self.tasks is None:
            raise ValueError("state the name of a scenario, or dataset and tasks")
        return self


class ScenarioStream(Stream):
    """Events of a data set in the order of a plan; an event's id and time are its row in the plan.

    Attributes:
        data: the data set.
        plan: the order of the events, and the tests of each task.
        labels: the names of the labels, in the order of their codes.
    """

    kind = "scenario"
    Config = ScenarioConfig

    def __init__(self, config: ScenarioConfig, folder: Path) -> None:
        assert config.dataset is not None
        assert config.tasks is not None
        self.config = config
        self.has_segments = config.boundaries
        self.data = load(config.dataset)
        if config.validation == "published":
            self.data = published_validation(self.data)
        elif config.validation is not None:
            self.data = split_validation(self.data, config.validation)
        self.plan = make_plan(
            self.data, config.tasks, config.seed, config.events, config.label_noise
        )
        self.labels = self.plan.labels or self.data.classes
        classes = self.labels if config.known_classes else ()
        self.schema = Schema((self.data.feature,), "classification", classes)
        if self.data.feature.kind == "vector":
            self.dtype = "float32"

    @property
    def tasks(self) -> int:
        """The number of tasks with tests."""
        return len(self.plan.tests)

    @property
    def begins(self) -> tuple[tuple[int, int], ...]:
        """First row and task of each phase of the stream."""
        return self.plan.begins

    @property
    def domain_incremental(self) -> bool:
        """Whether all tasks have the same classes, so that one may be tested before it begins."""
        return self.plan.domain_incremental

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        plan = self.plan
        for start in range(cursor.get("0", 0), len(plan), block_size):
            rows = slice(start, start + block_size)
            index = plan.index[rows]
            offset = np.arange(start, start + len(index))
            yield Batch(
                offset,
                offset.astype(np.float64),
                self._x(self.data.train_x, index, plan.concept[rows]),
                np.zeros(len(index), np.int32),
                offset,
                plan.y[rows],
                segment=plan.segment[rows] if self.config.boundaries else None,
                classes=self.labels,
            )

    def __len__(self) -> int:
        return len(self.plan)

    def task_test(self, task: int) -> Batch:
        """Return the test events of a task as one batch. They are not part of the stream: their ids
        are negative, their partition is -1. Labels are codes into the batch's own ``classes``."""
        test = self.plan.tests[task]
        concept = np.full(len(test.index), test.concept)
        return self._test(test.index, concept, test.y, np.full(len(test.index), task))

    def segment_test(self, start: int, stop: int, n: int, seed: int = 0) -> Batch:
        """Return n test events with the mix of rows ``start`` to ``stop`` of the stream: the same
        shares of each class under each concept, with clean labels. None is repeated unless its
        class has too few."""
        if not 0 <= start < stop <= len(self):
            raise ValueError(f"no rows {start} to {stop} in a stream of {len(self)}")
        rng = np.random.default_rng([seed, start, stop])
        plan, names = self.plan, len(self.data.classes)
        rows = slice(start, stop)
        drawn = self.data.train_y[plan.index[rows]] + plan.concept[rows] * names
        kinds, counts = np.unique(drawn, return_counts=True)
        concept, code = np.divmod(rng.permutation(np.repeat(kinds, _shares(counts, n))), names)
        index = np.empty(n, np.int64)
        for one in np.unique(code):
            mine = code == one
            # ``resize`` repeats them if there are too few.
            index[mine] = np.resize(
                rng.permutation(np.flatnonzero(self.data.test_y == one)), np.count_nonzero(mine)
            )
        y = code if plan.relabel is None else plan.relabel[concept, code]
        return self._test(index, concept, y, None)

    def _test(self, index: Ints, concept: Ints, y: Ints, segment: Ints | None) -> Batch:
        n = len(index)
        return Batch(
            -1 - np.arange(n),
            np.full(n, float(len(self))),
            self._x(self.data.test_x, index, concept),
            np.full(n, -1, np.int32),
            index,
            y,
            segment=segment,
            classes=self.labels,
        )

    def _x(self, x: Array | Ragged, index: Ints, concept: Ints) -> Features:
        if isinstance(x, Ragged):
            return {self.data.feature.name: x.take(index)}
        transform = self.plan.transform
        return x[index] if transform is None else transform(x[index], concept)


def _shares(counts: Ints, n: int) -> Ints:
    """Return integers in proportion to ``counts`` that sum to n, by largest remainders."""
    exact = counts * n / counts.sum()
    whole: Ints = np.floor(exact).astype(np.int64)
    whole[np.argsort(whole - exact, kind="stable")[: n - whole.sum()]] += 1
    return whole
