"""Checks of what a learner predicts, and for which batches."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import torch

from learners.base import Learner, LearnerError, NotFiniteError
from learners.checks.assertions import (
    assert_fits,
    assert_one_line,
    global_generators_unchanged,
    predicted_rows,
    same_prediction,
    same_predictions,
)
from learners.checks.case import Case, LearnerRun, read_only, read_only_array
from streams.core.batch import Features, Ragged
from streams.core.schema import Feature, FeatureKind, Schema
from streams.core.state_dict import digest, leaves, nested
from streams.operators.label_join import Revealed


def predictions_fit(case: Case) -> None:
    """Ids, shapes, dtypes and probabilities are as ``Prediction`` states, from the first event."""
    stream, run = case.stream(), LearnerRun(case.new())
    version, classes = 0, run.learner.classes
    for batch in stream.micro_batches(16):
        prediction = run.step(batch)
        assert_fits(prediction, batch.ids, case.task)
        assert prediction.version >= version, "version goes down"
        assert prediction.classes[: len(classes)] == classes, "class codes change their meaning"
        version, classes = prediction.version, prediction.classes
    run.finish()
    version = 0 if case.task == "sequences" else version  # what waits at the end has no label
    assert run.learner.version > version, "version does not count what was learned"
    last = run.learner.predict(replace(stream[:8], y=None))
    assert_fits(last, stream.ids[:8], case.task)
    if case.task == "classification":
        assert last.classes == stream.classes, f"{last.classes} are known of {stream.classes}"
    assert predicted_rows(last).all(), "it predicts nothing after it has learned"


def accepts_no_rows_and_one(case: Case) -> None:
    """A batch may be empty or have one row, before anything is learned and after."""
    stream, learner = case.stream(), case.new()
    for _ in range(2):
        for n in (0, 1):
            unlabelled = replace(stream[:n], y=None)
            assert_fits(learner.predict(unlabelled), stream.ids[:n], case.task)
            nothing = Revealed(stream[:0], stream.offset[:0])
            assert_fits(learner.step(unlabelled, nothing), stream.ids[:n], case.task)
        one = Revealed(stream[:1], np.zeros(1, np.int64))
        empty = learner.step(replace(stream[:0], y=None), one)
        assert_fits(empty, stream.ids[:0], case.task)
        LearnerRun(learner).feed(stream)


def predict_is_pure(case: Case) -> None:
    """``predict`` changes nothing however often it is called, and returns the same each time."""
    stream = case.stream()
    plain, asked = LearnerRun(case.new()), LearnerRun(case.new())
    other = replace(case.stream(7, seed=5), y=None)
    for batch in stream.micro_batches(16):
        plain.step(batch)
        with global_generators_unchanged("predict"):
            before = case.fingerprint(asked.learner)
            first, again = asked.learner.predict(other), asked.learner.predict(other)
            assert same_prediction(first, again), "predict differs when it is called again"
            assert case.fingerprint(asked.learner) == before, "predict changes the state"
        asked.step(batch)
    assert same_predictions(plain, asked), "calls of predict change later predictions"
    assert case.fingerprint(plain.learner) == case.fingerprint(asked.learner), (
        "calls of predict change learning"
    )


def accepts_read_only_arrays(case: Case) -> None:
    """Read-only arrays, as Ray passes them, are learned and loaded without a warning."""
    stream = case.stream()
    plain = LearnerRun(case.new()).feed(stream)
    always = torch.is_warn_always_enabled()  # by default torch warns only once
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            frozen = LearnerRun(case.new()).feed(read_only(stream))
            state = {path: read_only_array(leaf) for path, leaf in leaves(frozen.learner.state())}
            loaded = LearnerRun(case.new())
            loaded.learner.load(nested(state))
            loaded.feed(read_only(stream))
    finally:
        torch.set_warn_always(always)
    assert same_predictions(plain, frozen), "read-only arrays change the predictions"


def shows_that_it_is_not_finite(case: Case) -> None:
    """After one absurd number, predictions stay finite; or they, or ``verify``, show that they do
    not."""
    stream = case.stream()
    assert isinstance(stream.x, np.ndarray)
    assert stream.y is not None
    plain = _finite_leaves(LearnerRun(case.new()).feed(stream).learner)
    absurd = [replace(stream, x=np.where(stream.offset[:, None] == 80, 1e300, stream.x))]
    if case.task == "regression":
        absurd.append(replace(stream, y=np.where(stream.offset == 80, 1e300, stream.y)))
    for changed in absurd:
        run = LearnerRun(case.new())
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                last = run.feed(changed).learner.predict(replace(stream[:8], y=None))
                run.learner.verify()
            except NotFiniteError as error:
                assert_one_line(error)
                continue
            if any(len(prediction.not_finite()) for prediction in (*run.predictions, last)):
                continue  # the run stops there
        assert predicted_rows(last).all(), (
            "it abstains after one absurd number: NaN passes for an abstention"
        )
        lost = plain - _finite_leaves(run.learner)
        assert not lost, f"state {min(lost)!r} is not finite: verify must raise NotFiniteError"


def _finite_leaves(learner: Learner) -> set[str]:
    """Return the paths in the state of a learner that hold finite numbers only."""
    numbers = ((path, leaf) for path, leaf in leaves(learner.state()) if not isinstance(leaf, str))
    return {
        path
        for path, leaf in numbers
        if not isinstance(leaf, float | np.ndarray | np.generic) or np.isfinite(leaf).all()
    }


def accepts_any_layout(case: Case) -> None:
    """float32 and float64 numbers are accepted, and arrays that are not contiguous."""
    stream = case.stream()
    assert isinstance(stream.x, np.ndarray)
    plain = LearnerRun(case.new()).feed(stream)
    strided = np.asfortranarray(np.repeat(stream.x, 2, axis=0))[::2]
    other = LearnerRun(case.new()).feed(replace(stream, x=strided))
    assert same_predictions(plain, other), "strides change the predictions"
    narrow = LearnerRun(case.new())
    for batch in replace(stream, x=stream.x.astype(np.float32)).micro_batches(16):
        assert_fits(narrow.step(batch), batch.ids, case.task)


def accepts_or_refuses_columns(case: Case) -> None:
    """Text, categories, times, vectors and images are learned, or refused in one line."""
    n = 48
    rng = np.random.default_rng(0)
    words = ["", "red", "green leaf", "blue", "grün"]
    text = Ragged.of_text(str(w) for w in rng.choice(words, n))
    number = rng.normal(size=n)
    streams: list[tuple[list[tuple[str, FeatureKind, tuple[int, ...]]], Features]] = [
        (
            [("n", "numeric", ()), ("c", "categorical", ()), ("t", "text", ())],
            {"n": number, "c": text, "t": text},
        ),
        ([("n", "numeric", ()), ("w", "time", ())], {"n": number, "w": 1e9 + 1e7 * number}),
        ([("t", "text", ())], {"t": text}),
        ([("n", "numeric", ())], number[:, None]),
        ([("v", "vector", (4,))], rng.normal(size=(n, 4)).astype(np.float32)),
        ([("i", "image", (1, 8, 8))], rng.integers(0, 256, (n, 1, 8, 8)).astype(np.uint8)),
    ]
    for columns, x in streams:
        schema = Schema(tuple(Feature(*column) for column in columns), case.task)
        try:
            run = LearnerRun(case.make(schema, 1))
        except (LearnerError, ValueError) as error:
            assert_one_line(error)
            continue
        for batch in replace(case.stream(n), x=x).micro_batches(16):
            assert_fits(run.step(batch), batch.ids, case.task)


def same_at_any_batch_size(case: Case) -> None:
    """A learner that is exact per event predicts the same at any batch size and label delay."""
    stream = case.stream(100)
    for delay in (0, 1, 9, 40):
        runs = [
            LearnerRun(case.new(), delay).feed(stream, size).finish(size) for size in (1, 7, 32)
        ]
        width = max(max(len(r.learner.classes), 2) for r in runs)
        first = runs[0]
        for run in runs[1:]:
            assert np.array_equal(run.values(), first.values(), equal_nan=True), "values differ"
            assert np.array_equal(run.probabilities(width), first.probabilities(width)), (
                "probabilities differ"
            )
            assert np.array_equal(run.forecasts(), first.forecasts(), equal_nan=True), (
                "forecasts differ"
            )
            if not case.cls.opaque:
                version = {"version": 0}
                states = [digest({**r.learner.state(), **version}) for r in (run, first)]
                assert states[0] == states[1], "states differ"


def frozen_within_a_batch(case: Case) -> None:
    """A learner that is not exact per event predicts a whole batch before it learns from it."""
    run = LearnerRun(case.new())
    for batch in case.stream().micro_batches(16):
        unlabelled = replace(batch, y=None)
        before = run.learner.predict(unlabelled)
        rows = [run.learner.predict(unlabelled[i : i + 1]).value for i in range(len(batch))]
        prediction = run.step(batch)
        assert same_prediction(before, prediction), "step and predict just before it differ"
        if case.task == "regression":
            alone = np.concatenate(rows)
            assert np.allclose(alone, prediction.value, 1e-4, 1e-4, equal_nan=True), "rows mix"
