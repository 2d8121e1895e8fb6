"""Checks of learners that take back what they have learned, or add what others have learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from learners.base import Learner, LearnerError
from learners.checks.assertions import assert_one_line
from learners.checks.case import NAMES, Case
from learners.results import Prediction
from streams.core.batch import Batch, ClassName
from streams.core.state_dict import copied, digest
from streams.operators.label_join import Revealed


def unlearns_events(case: Case) -> None:
    """After events are unlearned, it predicts as if it had never learned them."""
    stream = _stream(case)
    start, kept = _start(case), stream[:120]
    learners = []
    for others in (stream[120:160], stream[160:]):
        learner = _copy(case, start)
        version = _learn(learner, kept).version
        _learn(learner, others).unlearn(others)
        assert learner.version > version, "version does not count what was unlearned"
        learners.append(learner)
    _assert_same_values(case, learners[0], learners[1], "unlearned events leave a trace")
    if case.task == "classification":
        _unlearns_all_events_of_a_class(case, stream, start)


def _unlearns_all_events_of_a_class(case: Case, stream: Batch, start: Learner) -> None:
    assert stream.y is not None
    learner = _learn(_copy(case, start), stream)
    learner.unlearn(stream.take(stream.y == 1))
    _assert_not_predicted(case, learner, 1)
    try:
        learner.unlearn(stream.take(stream.y == 1))
    except LearnerError as error:
        assert_one_line(error)
    else:
        raise AssertionError("it unlearns more events of a class than it has learned")


def forgets_classes(case: Case) -> None:
    """After a class is forgotten, it predicts as if it had never learned that class."""
    names: tuple[ClassName, ...] = (*NAMES, "d")
    stream, start = _stream(case, names), _start(case)
    assert stream.y is not None
    learner = _learn(_copy(case, start), stream)
    learner.forget_class("b")
    learner.forget_class("d")
    assert learner.classes == names, "the classes that are left have other codes"
    other = _learn(_copy(case, start), stream.take(stream.y != 1))
    other.forget_class("d")
    _assert_same_values(case, learner, other, "a forgotten class leaves a trace")
    _assert_not_predicted(case, learner, 1)
    _learn(learner, stream.take(stream.y == 1))
    assert (_predict(case, learner).value == 1).any(), "a forgotten class is never learned again"
    _assert_refuses(lambda: learner.forget_class("unheard of"), "it forgets a class without events")


def merges_with_another(case: Case) -> None:
    """Two learners that have learned a part each and are merged predict as one that learned both.

    The other one may have met the classes in another order. It does not change.
    """
    stream, start = _stream(case), _start(case)
    one, two = stream[:100], stream[100:]
    whole = _learn(_copy(case, start), stream)
    whole.merge(_copy(case, start))
    merged = _learn(_copy(case, start), one)
    other = _learn(_copy(case, start), _with_codes_reversed(case, two))
    before = digest(other.state())
    merged.merge(other)
    assert digest(other.state()) == before, "merge changes the other learner"
    assert set(merged.classes) == set(whole.classes), f"{merged.classes} are known"
    _assert_same_values(case, merged, whole, "a merged learner differs from one that has all")


def refuses_what_it_does_not_declare(case: Case) -> None:
    """What it cannot take back or add is refused in one line."""
    learner, batch = case.new(), case.stream(40)
    _learn(learner, batch)
    if not learner.unlearns:
        _assert_refuses(lambda: learner.unlearn(batch), "it unlearns, and does not declare it")
    if not learner.forgets_classes:
        refused = "it forgets a class, and does not declare it"
        _assert_refuses(lambda: learner.forget_class(NAMES[0]), refused)
    if not learner.merges:
        _assert_refuses(lambda: learner.merge(case.new()), "it merges, and does not declare it")


def _assert_refuses(act: Callable[[], None], why: str) -> None:
    try:
        act()
    except LearnerError as error:
        assert_one_line(error)
    else:
        raise AssertionError(why)


def _stream(case: Case, names: tuple[ClassName, ...] = ()) -> Batch:
    return case.stream(200, names=names)


def _start(case: Case) -> Learner:
    """Return a learner that has seen the scale of the features, and learned nothing."""
    learner = case.new()
    for batch in case.stream(1200, seed=5).micro_batches(100):
        learner.observe(replace(batch, y=None))
    return learner


def _copy(case: Case, learner: Learner) -> Learner:
    copy = case.new()
    copy.load(copied(learner.state()))
    return copy


def _learn(learner: Learner, batch: Batch) -> Learner:
    for part in batch.micro_batches(16):
        learner.step(replace(part[:0], y=None), Revealed(part, np.zeros(len(part), np.int64)))
    return learner


def _with_codes_reversed(case: Case, batch: Batch) -> Batch:
    if case.task != "classification":
        return batch
    assert batch.y is not None
    classes = batch.classes[::-1]
    return replace(batch, y=len(classes) - 1 - batch.y, classes=classes)


def _predict(case: Case, learner: Learner) -> Prediction:
    return learner.predict(replace(case.stream(100, seed=7), y=None))


def _assert_same_values(case: Case, one: Learner, other: Learner, why: str) -> None:
    first, second = _predict(case, one), _predict(case, other)
    if case.task == "regression":
        assert np.allclose(first.value, second.value, 1e-3, 1e-3), why
        return
    names = [[p.classes[code] for code in p.value.tolist()] for p in (first, second)]
    same = np.mean([a == b for a, b in zip(*names, strict=True)])
    assert same >= 0.99, f"{why}: {same:.0%} of its predictions are the same"


def _assert_not_predicted(case: Case, learner: Learner, code: int) -> None:
    prediction = _predict(case, learner)
    assert (prediction.value != code).all(), "it predicts a class of which it knows nothing"
    assert prediction.proba is None or not prediction.proba[:, code].any(), (
        "a class of which it knows nothing has a probability"
    )
