"""Checks of which tasks and classes a learner accepts, and from when on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from learners.base import LearnerError
from learners.checks.assertions import (
    assert_fits,
    assert_one_line,
    same_prediction,
    saved_and_read,
)
from learners.checks.case import NAMES, Case, LearnerRun
from streams.core.batch import ClassName
from streams.core.state_dict import copied


def accepts_classes_at_any_time(case: Case) -> None:
    """A late class widens the predictions, and changes the code of no other class."""
    names: tuple[ClassName, ...] = (*NAMES, "d")
    stream = case.stream(320, names=names)
    assert stream.y is not None
    for codes in (np.arange(320) < 100, np.arange(320) < 200):  # only two until 100, three to 200
        late = 2 if codes.sum() == 100 else 3
        stream = replace(stream, y=np.where(codes & (stream.y >= late), 0, stream.y))
    run = LearnerRun(case.new())
    for batch in stream.micro_batches(16):
        assert_fits(run.step(batch), batch.ids, case.task)
    widths = [len(prediction.classes) for prediction in run.predictions]
    assert widths == sorted(widths), "classes are forgotten"
    early = run.predictions[5].classes
    assert early == names[:2], f"{early} after 80 events of a and b"
    assert run.predictions[-1].classes == names
    state = copied(run.learner.state())
    heir = case.new(seed=2)
    heir.load(saved_and_read(state))
    unlabelled = replace(stream[:9], y=None)
    assert same_prediction(heir.predict(unlabelled), run.learner.predict(unlabelled)), (
        "load loses a class"
    )


def refuses_a_third_class(case: Case) -> None:
    """A learner of two classes refuses a third in one line, in the stream or in the job."""
    stream = replace(case.stream(names=NAMES), classes=NAMES)
    for schema in (case.schema(), case.schema(NAMES)):
        try:
            LearnerRun(case.make(schema, 1)).feed(stream)
        except LearnerError as error:
            assert_one_line(error)
        else:
            raise AssertionError("it accepts a third class, and does not declare classification")


def accepts_stated_classes(case: Case) -> None:
    """Classes that the job states are known from the start, by code and name."""
    stream = case.stream()
    run = LearnerRun(case.make(case.schema(stream.classes), 1))
    assert run.learner.classes == stream.classes
    for batch in stream.micro_batches(16):
        prediction = run.step(batch)
        assert_fits(prediction, batch.ids, case.task)
        assert prediction.classes == stream.classes


def refuses_other_tasks(case: Case) -> None:
    """A task that the class does not declare is refused in one line."""
    try:
        case.new()
    except LearnerError as error:
        assert_one_line(error)
    else:
        raise AssertionError(f"it accepts {case.task}, and does not declare it")
