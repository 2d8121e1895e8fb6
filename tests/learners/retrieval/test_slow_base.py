"""A base on its own cadence: labels that wait for it are corrected, and travel with a state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import learners
from learners.base import Learner
from learners.checks.case import Case, LearnerRun
from learners.registry import find
from streams.core.batch import Batch
from streams.core.state_dict import digest
from streams.operators.label_join import Revealed

KINDS = ["error-memory", "segment-residuals"]
NETWORK = {
    "kind": "replay",
    "model": {"kind": "mlp", "hidden": [8]},
    "optimizer": {"kind": "adam", "lr": 0.01},
    "buffer": {"capacity": 50},
}


def case_of(kind: str, **settings: Any) -> Case:
    cls = find(learners.KINDS, Learner, kind)  # type: ignore[type-abstract]
    config = cls.Config.model_validate({"kind": kind, **settings})
    return Case(cls, "classification", lambda schema, seed: cls(config, schema, seed))  # type: ignore[call-arg]


def correct(run: LearnerRun, stream: Batch, ids: Any, y: Any) -> None:
    """Let a run know other labels of events, in a step without events."""
    nothing = stream[:0]
    known = Revealed(nothing, nothing.offset, (np.asarray(ids), np.asarray(y)))
    run.learner.step(replace(nothing, y=None), known)


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_labels_that_wait_for_the_base_are_corrected(kind: str, resumed: bool) -> None:
    """The base learns the corrected labels, as if they had been right at first."""
    case = case_of(kind, base="prior", learn_every=64)
    stream = case.stream(80)
    wrong = np.array(stream.y)
    wrong[:40:3] = (wrong[:40:3] + 1) % 3
    right, run = (LearnerRun(case.new(), 0) for _ in range(2))
    right.feed(stream, 16)
    run.feed(replace(stream, y=wrong)[:48], 16)
    if resumed:
        heir = case.new()
        heir.load(run.learner.state())
        run.learner = heir
    correct(run, stream, stream.ids[:40], np.asarray(stream.y)[:40])
    run.feed(stream[48:], 16)
    bases = [digest(each.learner.state()["base"]) for each in (right, run)]
    assert bases[0] == bases[1]


@pytest.mark.parametrize("base", ["prior", NETWORK])
@pytest.mark.parametrize("kind", KINDS)
def test_a_correction_may_bring_a_new_class(kind: str, base: Any) -> None:
    """The wrapper and its base know it, and probabilities have a column for it."""
    case = case_of(kind, base=base, learn_every=64)
    stream = case.stream(160)
    run = LearnerRun(case.new(), 0).feed(stream[:48], 16)
    more = replace(stream, classes=(*stream.classes, "d"))
    correct(run, more, stream.ids[:2], [3, 3])
    run.feed(more[48:], 16)
    last = run.predictions[-1]
    assert last.classes == ("a", "b", "c", "d")
    assert last.proba is not None
    assert last.proba.shape == (16, 4)
