"""Select the checks that a learner must pass, and run them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from learners.base import Learner
from learners.checks.case import Case, Make, handles, many_classes, with_example_settings
from learners.checks.classes import (
    accepts_classes_at_any_time,
    accepts_stated_classes,
    refuses_a_third_class,
    refuses_other_tasks,
)
from learners.checks.labels import (
    accepts_corrections,
    ignores_probes,
    learns,
    learns_only_revealed_labels,
    reads_no_segment,
    sees_no_label_early,
)
from learners.checks.missing import accepts_missing_numbers
from learners.checks.predictions import (
    accepts_any_layout,
    accepts_no_rows_and_one,
    accepts_or_refuses_columns,
    accepts_read_only_arrays,
    frozen_within_a_batch,
    predict_is_pure,
    predictions_fit,
    same_at_any_batch_size,
    shows_that_it_is_not_finite,
)
from learners.checks.state import (
    continues_from_a_state,
    memory_is_bounded,
    same_seed_same_result,
    serves_as_it_predicts,
    state_can_be_saved,
    uses_no_global_randomness,
)
from learners.checks.sums import (
    forgets_classes,
    merges_with_another,
    refuses_what_it_does_not_declare,
    unlearns_events,
)
from streams.core.schema import Task

Promise = Callable[[Case], None]

_TASKS: tuple[Task, ...] = ("classification", "regression", "sequences")
_FOR_ALL: tuple[Promise, ...] = (
    predictions_fit,
    accepts_no_rows_and_one,
    predict_is_pure,
    accepts_read_only_arrays,
    accepts_any_layout,
    shows_that_it_is_not_finite,
    state_can_be_saved,
    continues_from_a_state,
    serves_as_it_predicts,
    same_seed_same_result,
    uses_no_global_randomness,
    sees_no_label_early,
    learns_only_revealed_labels,
    accepts_corrections,
    accepts_or_refuses_columns,
    refuses_what_it_does_not_declare,
)
_OF_NUMBERS: tuple[Promise, ...] = (accepts_any_layout, shows_that_it_is_not_finite)
"""Those that are about features that are numbers."""
_OF_FEATURES: tuple[Promise, ...] = (*_OF_NUMBERS, accepts_or_refuses_columns)
"""Those that are about features: a sequence has its own."""


@dataclass(frozen=True)
class Check:
    """One promise of a learner on one task. Call it, with a function that makes the learner."""

    name: str
    task: Task
    cls: type[Learner]
    promise: Promise = field(repr=False)

    def __str__(self) -> str:
        return f"{self.cls.kind}-{self.task}-{self.name}"

    def __call__(self, make: Make | None = None) -> None:
        """Run the check. ``make`` defaults to the class with its example settings."""
        self.promise(Case(self.cls, self.task, make or with_example_settings(self.cls)))


def checks_for(cls: type[Learner]) -> Iterator[Check]:
    """Yield the checks that a learner must pass by what its class declares."""
    for task in _TASKS:
        for promise in _promises(cls, task):
            yield Check(promise.__name__, task, cls, promise)


def check_learner(cls: type[Learner], make: Make | None = None) -> None:
    """Run all of ``checks_for``. The first that fails raises, with a note that names it."""
    for check in checks_for(cls):
        try:
            check(make)
        except Exception as error:
            error.add_note(f"in the check {check}")
            raise


def _promises(cls: type[Learner], task: Task) -> list[Promise]:
    if not handles(cls, task):
        return [refuses_other_tasks]
    promises = [*_FOR_ALL]
    if cls.example_column != "numeric":
        promises = [promise for promise in promises if promise not in _OF_NUMBERS]
    if task == "sequences":
        promises = [promise for promise in promises if promise not in _OF_FEATURES]
        promises += [accepts_classes_at_any_time, accepts_stated_classes]
    if task == "classification":
        promises += [
            accepts_classes_at_any_time if many_classes(cls) else refuses_a_third_class,
            accepts_stated_classes,
        ]
    promises.append(same_at_any_batch_size if cls.per_event else frozen_within_a_batch)
    promises += [] if cls.needs_boundaries else [reads_no_segment]
    promises += [] if cls.opaque else [ignores_probes, memory_is_bounded]
    promises += [accepts_missing_numbers] if cls.handles_missing and task != "sequences" else []
    promises += [unlearns_events] if cls.unlearns else []
    promises += [forgets_classes] if cls.forgets_classes and task == "classification" else []
    promises += [merges_with_another] if cls.merges else []
    promises += [] if cls.baseline else [learns]
    return promises
