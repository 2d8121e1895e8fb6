"""Checks of the state of a learner: saving, loading, serving, seeds and size."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import torch

from learners.checks.assertions import (
    global_generators_unchanged,
    same_prediction,
    same_predictions,
    saved_and_read,
)
from learners.checks.case import WIDTH, Case, LearnerRun
from streams.core.state_dict import copied, digest, leaves


def state_can_be_saved(case: Case) -> None:
    """The state is arrays and JSON values under keys without a slash, and reads back equal."""
    run = LearnerRun(case.new())
    for learner in (run.learner, run.feed(case.stream()).learner):
        state = learner.state()
        for path, leaf in leaves(state):
            if isinstance(leaf, np.ndarray | np.generic):
                assert leaf.dtype.kind in "biuf", f"{path}: {leaf.dtype} cannot be saved"
            else:
                again = json.loads(json.dumps(leaf, allow_nan=False))
                assert again == leaf, f"{path}: {leaf!r} reads back from JSON as {again!r}"
        assert digest(saved_and_read(state)) == digest(state), "the state does not read back equal"
        assert state["state_version"] == learner.state_version
        assert state["version"] == learner.version


def continues_from_a_state(case: Case) -> None:
    """``load`` into a new learner continues exactly, at any moment."""
    stream = case.stream(240)
    unbroken = LearnerRun(case.new()).feed(stream)
    for stop in np.random.default_rng(3).integers(0, 15, 4).tolist():
        donor = LearnerRun(case.new()).feed(stream[: 16 * stop])
        heir = LearnerRun(case.new(seed=2))
        state = copied(donor.learner.state())
        heir.learner.load(heir.learner.migrate(saved_and_read(state)))
        assert case.fingerprint(heir.learner) == case.fingerprint(donor.learner), (
            "load misses something"
        )
        heir.join, heir.predictions = donor.join, list(donor.predictions)
        heir.feed(stream[16 * stop :])
        assert same_predictions(unbroken, heir), f"predictions differ after a load at {16 * stop}"
        assert case.fingerprint(heir.learner) == case.fingerprint(unbroken.learner)
    used = case.new(seed=2)
    LearnerRun(used).feed(stream[:100])
    fresh = copied(case.new().state())
    used.load(saved_and_read(fresh))
    again = LearnerRun(used).feed(stream)
    assert same_predictions(unbroken, again), "load keeps something that was learned before it"


def serves_as_it_predicts(case: Case) -> None:
    """A new learner that loads ``servable``, or the state, predicts as the one that saved it.

    That holds after its head has grown, and while the other one continues to learn.
    """
    stream = case.stream(240)
    unlabelled = replace(stream, y=None, segment=None)
    for stop in (0, 48, 160):
        run = LearnerRun(case.new())
        if stop:
            run.feed(stream[:stop])
        expected = run.learner.predict(unlabelled)
        for state in (run.learner.servable(), run.learner.state()):
            server = case.new(seed=2)
            server.load_servable(saved_and_read(copied(state)))
            assert same_prediction(server.predict(unlabelled), expected), (
                "the served prediction differs from the learner's"
            )
        saved = saved_and_read(copied(run.learner.servable()))
        run.feed(stream[stop : stop + 64])
        server = case.new(seed=3)
        server.load_servable(saved)
        assert same_prediction(server.predict(unlabelled), expected), (
            "what is served changes while the learner learns"
        )


def same_seed_same_result(case: Case) -> None:
    """Two learners with one seed are equal all along."""
    stream = case.stream()
    one, two = LearnerRun(case.new(7)), LearnerRun(case.new(7))
    assert case.fingerprint(one.learner) == case.fingerprint(two.learner), "new learners differ"
    assert same_predictions(one.feed(stream), two.feed(stream)), "predictions differ"
    assert case.fingerprint(one.learner) == case.fingerprint(two.learner), "states differ"


def uses_no_global_randomness(case: Case) -> None:
    """The learner neither uses nor advances the global generators of torch, NumPy and Python."""
    stream = case.stream()
    with global_generators_unchanged("the learner"):
        alone = [LearnerRun(case.new(seed)).feed(stream) for seed in (1, 2)]
        together = [LearnerRun(case.new(seed)) for seed in (1, 2)]
    torch_state = torch.get_rng_state()
    try:
        for batch in stream.micro_batches(16):
            torch.randn(3)
            for run in together:
                run.step(batch)
    finally:
        torch.set_rng_state(torch_state)
    for one, other in zip(alone, together, strict=True):
        assert same_predictions(one, other), "two learners in one process disturb each other"
        assert case.fingerprint(one.learner) == case.fingerprint(other.learner)


def memory_is_bounded(case: Case) -> None:
    """``memory_bytes`` is positive, and does not grow with every event."""
    run = LearnerRun(case.new())
    sizes = [run.learner.memory_bytes()]
    stream = case.stream(2400)
    for part in (stream[:600], stream[600:]):
        run.feed(part, 32)
        sizes.append(run.learner.memory_bytes())
    assert all(isinstance(size, int) and size > 0 for size in sizes), f"{sizes} bytes"
    stored = 1800 * 8 * (WIDTH + 2)
    assert sizes[2] - sizes[1] < stored / 4, f"1,800 events more made it {sizes[1:]} bytes"
