"""Checks of what a learner learns: which labels, from when on, and from which rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from learners.checks.assertions import assert_fits, same_predictions
from learners.checks.case import KEYS, Case, LearnerRun, many_classes
from streams.core.state_dict import digest
from streams.operators.label_join import Revealed


def sees_no_label_early(case: Case) -> None:
    """No prediction depends on a label that was revealed after it."""
    stream, delay = case.stream(), 5
    assert stream.y is not None
    plain = LearnerRun(case.new(), delay).feed(stream).values()
    for change in (30, 61, 95):
        y = stream.y.copy()
        y[change:] = -500 if case.task == "regression" else np.roll(y[change:], 1)
        known = change + (0 if case.task == "sequences" else delay)
        changed = LearnerRun(case.new(), delay).feed(replace(stream, y=y)).values()
        early = slice(0, known if case.cls.per_event else known // 16 * 16 + 16)
        assert np.array_equal(plain[early], changed[early], equal_nan=True), (
            "a prediction depends on a label that was revealed after it"
        )


def learns_only_revealed_labels(case: Case) -> None:
    """Without revealed labels a step does what ``observe`` does and no more."""
    stream = case.stream()
    stepped = LearnerRun(case.new()).feed(stream[:80])
    observed = LearnerRun(case.new()).feed(stream[:80])
    version = stepped.learner.version
    for batch in stream[80:].micro_batches(16):
        stepped.step(batch, labels=False)
        observed.learner.observe(replace(batch, y=None))
    assert stepped.learner.version == version, "version counts a step without labels"
    assert case.fingerprint(stepped.learner) == case.fingerprint(observed.learner), (
        "something is learned where nothing was revealed"
    )


def accepts_corrections(case: Case) -> None:
    """Corrected labels are accepted, or ignored. Nothing is learned twice."""
    stream = case.stream()
    assert stream.y is not None
    run = LearnerRun(case.new()).feed(stream[:80])
    version = run.learner.version
    ids = np.append(stream.ids[:20], -5)  # the last id was never offered
    y = np.append(stream.y[:20][::-1], stream.y[0])
    if case.task != "regression" and many_classes(case.cls):
        y[0] = 3  # a class that no event had
        stream = replace(stream, classes=(*stream.classes, "d"))
    run.learner.correct(ids[1:], y[1:])
    nothing = Revealed(stream[:0], stream.offset[:0], (ids, y))
    run.learner.step(replace(stream[:0], y=None), nothing)
    assert run.learner.version == version, "a correction counts as learning"
    for batch in stream[80:].micro_batches(16):
        assert_fits(run.step(batch), batch.ids, case.task)


def reads_no_segment(case: Case) -> None:
    """The task or concept of an event makes no difference."""
    stream = case.stream()
    runs = []
    for segment in (None, np.arange(len(stream)) // 40, -np.arange(len(stream))):
        learner = case.new()
        run = LearnerRun(learner)
        run.join.segments = True
        runs.append(run)
        for batch in replace(stream, segment=segment).micro_batches(16):
            pushed = run.join.push(batch)
            prediction = learner.step(replace(batch, y=None), pushed.revealed)
            pushed.settle(prediction.value, prediction.proba, prediction.forecast)
            run.predictions.append(prediction)
    for run in runs[1:]:
        assert same_predictions(runs[0], run), "predictions depend on the segment"
        assert case.fingerprint(runs[0].learner) == case.fingerprint(run.learner), (
            "learning depends on the segment"
        )


def ignores_probes(case: Case) -> None:
    """A probe leaves no trace: it is predicted, and neither observed nor learned."""
    stream = case.stream()
    probe = np.arange(len(stream)) % 5 == 3
    runs = [
        LearnerRun(case.new()).feed(replace(events, probe=probe)).finish()
        for events in (stream, case.wild(stream, probe))
    ]
    assert digest(runs[0].learner.state()) == digest(runs[1].learner.state()), (
        "the state depends on the features of probes"
    )


def learns(case: Case) -> None:
    """On an easy stream the learner clearly beats class frequencies, or the mean."""
    stream = case.stream(960)
    value = LearnerRun(case.new()).feed(stream).values()[-320:]
    assert stream.y is not None
    y = stream.y[-320:]
    if case.task == "sequences":
        follows = value[:-KEYS] == y[KEYS:]
        assert follows.mean() > 0.6, f"accuracy {follows.mean():.2f} on types in a fixed order"
        return
    if case.task == "classification":
        accuracy = float((value == y).mean())
        assert accuracy > 0.8, f"accuracy {accuracy:.2f} on classes that lie well apart"
    else:
        ratio = float(np.abs(value - y).mean() / np.abs(y - y.mean()).mean())
        assert ratio < 0.5, f"its error is {ratio:.2f} times that of the mean, on a linear target"
