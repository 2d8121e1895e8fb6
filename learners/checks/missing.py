"""Check of what a learner makes of missing numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from learners.checks.assertions import assert_fits, predicted_rows, same_predictions, saved_and_read
from learners.checks.case import Case, LearnerRun
from streams.core.state_dict import copied

_FIRST = 32  # the first event with a missing number


def accepts_missing_numbers(case: Case) -> None:
    """NaN in an event leaves predictions finite, and states exact, before the first one and after.

    A probe with NaN leaves no trace.
    """
    stream = case.stream(96)
    assert isinstance(stream.x, np.ndarray)
    x = stream.x.copy()
    rng = np.random.default_rng(4)
    x[_FIRST:][rng.random(x[_FIRST:].shape) < 0.3] = np.nan
    x[_FIRST + 10] = np.nan
    stream = replace(stream, x=x)
    run = LearnerRun(case.new())
    for batch in stream.micro_batches(16):
        assert_fits(run.step(batch), batch.ids, case.task)
    assert predicted_rows(run.predictions[-1]).all(), "it predicts nothing for a missing number"
    for stop in (_FIRST - 16, _FIRST + 16):
        donor = LearnerRun(case.new()).feed(stream[:stop])
        heir = LearnerRun(case.new(seed=2))
        heir.learner.load(heir.learner.migrate(saved_and_read(copied(donor.learner.state()))))
        heir.join, heir.predictions = donor.join, list(donor.predictions)
        heir.feed(stream[stop:])
        assert same_predictions(run, heir), f"predictions differ after a load at {stop}"
        assert case.fingerprint(run.learner) == case.fingerprint(heir.learner), "load misses a part"
    _ignores_probes_with_gaps(case)


def _ignores_probes_with_gaps(case: Case) -> None:
    stream = case.stream(64)
    assert isinstance(stream.x, np.ndarray)
    probe = np.arange(len(stream)) % 5 == 3
    gaps = np.where(probe[:, None], np.nan, stream.x)
    runs = [
        LearnerRun(case.new()).feed(replace(stream, x=x, probe=probe)).finish()
        for x in (stream.x, gaps)
    ]
    assert case.fingerprint(runs[0].learner) == case.fingerprint(runs[1].learner), (
        "the state depends on missing numbers of probes"
    )
