"""An adapter that is trained on the first events only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from learners.checks.case import Case, LearnerRun, with_example_settings
from learners.networks import modules
from learners.pretrained.adapters.adapter_first import AdapterFirst, AdapterFirstConfig
from streams.core.schema import Feature, Schema
from streams.core.state_dict import copied, digest

TEXT = Schema((Feature("text", "text"),), "classification")
CASE = Case(AdapterFirst, "classification", with_example_settings(AdapterFirst))
EXAMPLE = AdapterFirst.example("classification")


def learner_with(seed: int = 1, **settings: Any) -> AdapterFirst:
    return AdapterFirst(AdapterFirstConfig.model_validate(EXAMPLE | settings), TEXT, seed)


def parts_of(learner: AdapterFirst) -> str:
    return digest(modules.module_state(learner.parts))


def test_the_adapter_is_trained_on_the_first_events_only() -> None:
    """50 events: a micro-batch that these end in is learned as two."""
    learner, stream = learner_with(train_for=50, passes=3), CASE.stream(120)
    seen = [parts_of(learner)]
    for batch in stream[:48].micro_batches(16):
        learner._learn(batch)
        seen.append(parts_of(learner))
    assert len(set(seen)) == 4
    assert learner.gradient_steps == 9
    learner._learn(stream[48:64])  # two of its events end the first events
    assert not learner.trains
    assert learner.gradient_steps == 12
    trained = parts_of(learner)
    for batch in stream[64:].micro_batches(16):
        learner._learn(batch)
    assert parts_of(learner) == trained
    assert learner.gradient_steps == 12
    assert learner.metrics()["kept_rows"] == 0


def test_the_head_holds_features_of_the_final_adapter() -> None:
    stream = CASE.stream(100)
    learner = LearnerRun(learner_with(train_for=60, head="prototype"), delay=0).feed(stream).learner
    assert isinstance(learner, AdapterFirst)
    unit = learner.features(learner.rows(stream))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    expected = [unit[stream.y == c].sum(0) for c in range(3)]
    sums = learner.head.state()["statistics"]["sums"]
    np.testing.assert_allclose(sums, expected, atol=1e-4)


def test_features_of_the_frozen_backbone_beside() -> None:
    learner, stream = learner_with(concatenate=True), CASE.stream(160)
    rows = learner.rows(stream)
    both = learner.features(rows)
    assert both.shape == (160, 128)
    np.testing.assert_allclose(both[:, :64], both[:, 64:], atol=1e-6)  # it has not learned yet
    LearnerRun(learner).feed(stream)
    assert learner.head_width == 128
    after = learner.features(rows)
    np.testing.assert_array_equal(after[:, 64:], both[:, 64:])
    assert np.abs(after[:, :64] - both[:, :64]).max() > 1e-3
    y = CASE.stream(300, seed=3).y
    assert y is not None
    values = LearnerRun(learner).feed(CASE.stream(300, seed=3)).values()
    assert (values == y).mean() > 0.8


def test_resumes_exactly_in_the_middle_of_the_first() -> None:
    stream = CASE.stream(160)
    whole = LearnerRun(learner_with(), delay=0).feed(stream).learner
    for stop in (16, 64, 80, 112):
        donor = LearnerRun(learner_with(), delay=0).feed(stream[:stop]).learner
        heir = learner_with(seed=2)
        heir.load(copied(donor.state()))
        LearnerRun(heir, delay=0).feed(stream[stop:])
        assert digest(heir.state()) == digest(whole.state())


def test_rows_that_no_buffer_may_keep_are_not_drawn() -> None:
    """They are learned once more at most: by the new head."""
    learner, stream = learner_with(passes=4), CASE.stream(48)
    learner.never_buffer = lambda ids: np.ones(len(ids), np.bool_)
    LearnerRun(learner, delay=0).feed(stream)
    assert learner.gradient_steps == 3
    assert learner._kept["once"].all()


def test_labels_of_kept_rows_are_corrected() -> None:
    stream = CASE.stream(64)
    assert stream.y is not None
    wrong = replace(stream, y=np.roll(stream.y, 1))
    learner = learner_with(train_for=64, head="prototype")
    LearnerRun(learner, delay=0).feed(wrong[:48])
    learner.correct(stream.ids[:48], stream.y[:48])
    LearnerRun(learner, delay=0).feed(stream[48:])
    counts = learner.head.state()["statistics"]["counts"]
    np.testing.assert_array_equal(counts, np.bincount(stream.y))


def test_weights_of_the_backbone_stay() -> None:
    learner = learner_with()
    frozen = [weight.clone() for weight in learner.backbone.weights()]
    LearnerRun(learner).feed(CASE.stream(160))
    for before, after in zip(frozen, learner.backbone.weights(), strict=True):
        assert torch.equal(before, after)
