"""Learners with a network of sequences: likelihoods in seconds, all networks, replay, growth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from learners.base import Learner
from learners.checks.case import NAMES, Case, LearnerRun
from learners.checks.labels import ignores_probes, learns
from learners.checks.predictions import predictions_fit
from learners.checks.state import continues_from_a_state, serves_as_it_predicts
from learners.sequences import forecast as forecasts
from learners.sequences.history import history_of
from learners.sequences.tpp import SequenceExamples, Tpp
from streams.core.batch import Batch
from streams.core.schema import Schema
from streams.core.state_dict import bytes_of, digest
from streams.operators.features.sequences import GAPS

RECURRENT = ("log-normal-mixture", "rmtpp", "point")


def _case(**settings: Any) -> Case:
    def make(schema: Schema, seed: int) -> Learner:
        config = {**Tpp.example("sequences"), **settings}
        return Tpp(Tpp.Config.model_validate(config), schema, seed)

    return Case(Tpp, "sequences", make)


def _recurrent(kind: str) -> dict[str, Any]:
    return {"model": {"kind": kind, "hidden": 16, "times": 8}}


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize("check", [predictions_fit, serves_as_it_predicts, learns])
def test_other_networks_pass_checks(kind: str, check: Any) -> None:
    check(_case(**_recurrent(kind), steps=3 if check is learns else 1))


@pytest.mark.parametrize("check", [continues_from_a_state, ignores_probes])
def test_replay_passes_checks(check: Any) -> None:
    check(_case(**_recurrent("rmtpp"), steps=1, replay_size=8, buffer={"capacity": 40}))


def _labelled(n: int = 200) -> tuple[Batch, Batch]:
    """Return events, and the first of them with what came next as labels."""
    stream = _case().stream(n + 4)
    first = stream[:n]
    assert stream.y is not None
    y, wait = stream.y[4:], stream.time[4:] - stream.time[:n]  # the next event of one of 4 keys
    y, wait = np.where(np.arange(n) % 9 == 5, -1, y), np.where(np.arange(n) % 7 == 3, 0.0, wait)
    return replace(first, y=None), replace(first, y=y, wait=wait)


@pytest.mark.parametrize(
    ("kind", "close"), [("attentive", 2e-4), ("rmtpp", 0.05), ("log-normal-mixture", 0.05)]
)
def test_what_is_trained_is_the_likelihood_of_what_is_predicted(kind: str, close: float) -> None:
    """In seconds, with ties and where nothing came: exactly for intensities in cells, and nearly
    for others, whose forecast is in cells."""
    model = {"kind": kind, "hidden": 8, "times": 8}
    learner = _case(model=model, cells=64).new()
    assert isinstance(learner, Tpp)
    run = LearnerRun(learner).feed(_case().stream(480))
    events, labelled = _labelled()
    assert labelled.y is not None
    assert labelled.wait is not None
    prediction = run.learner.predict(events)
    assert prediction.forecast is not None
    assert prediction.proba is not None
    came, wait = labelled.y >= 0, labelled.wait
    time = forecasts.time_scores(prediction.forecast, wait, came, 1e-6)
    types = forecasts.type_scores(prediction.forecast, prediction.proba, wait, labelled.y)
    history = history_of(labelled)
    examples = SequenceExamples(history.types, history.gaps, labelled.y, wait)
    found = learner.likelihood(learner._encoded(examples), examples)
    trained = -found.time.detach().numpy() + np.where(came, np.log(1e-6), 0.0)
    ties = came & (wait == 0)
    assert np.abs(trained - time)[~ties].mean() < close
    if kind != "log-normal-mixture":  # it has seen no ties: one has 1e-30 of the probability
        assert trained[ties] == pytest.approx(time[ties], abs=max(close, 0.02))
    trained_types = -found.types.detach().numpy()
    assert trained_types == pytest.approx(np.where(came, types, 0.0), abs=1e-3)


@pytest.mark.parametrize("clock", [1e-3, 3600.0])
def test_the_clock_of_the_stream_makes_no_difference(clock: float) -> None:
    """Likelihoods in units, types and probabilities are the same in other seconds."""
    stream = _case().stream(320)
    other = replace(stream, time=stream.time * clock)
    other = replace(
        other, x={**other.x, "sequence_gaps": np.asarray(other.x["sequence_gaps"]) * clock}
    )  # type: ignore[dict-item]
    runs = []
    for events, seconds in ((stream, 1.0), (other, clock)):
        case = _case(steps=1)
        schema = case.schema()
        assert schema.sequence is not None
        resolution = 1e-6 * seconds
        sequence = schema.sequence.model_copy(update={"resolution": resolution})
        run = LearnerRun(case.make(replace(schema, sequence=sequence), 1))
        runs.append(run.feed(events))
    assert runs[0].probabilities(3) == pytest.approx(runs[1].probabilities(3), abs=2e-3)
    assert np.array_equal(runs[0].values(), runs[1].values())


def test_types_grow_and_the_rest_stays() -> None:
    case = _case(steps=1)
    stream = case.stream(160, names=(*NAMES, "d", "e"))
    run = LearnerRun(case.new()).feed(stream)
    assert isinstance(run.learner, Tpp)
    assert run.learner.net.count == len(run.learner.classes) == 5
    prediction = run.learner.predict(replace(stream[:4], y=None))
    assert prediction.forecast is not None
    assert prediction.forecast.shape == (4, 16, 7)


def test_replay_takes_bounded_memory_and_excludes_probes() -> None:
    case = _case(replay_size=8, buffer={"capacity": 40}, steps=1)
    learner = case.new()
    learner.never_buffer = lambda ids: ids % 2 == 0
    run = LearnerRun(learner).feed(case.stream(400))
    assert isinstance(run.learner, Tpp)
    assert len(run.learner.buffer) == 40
    assert (run.learner.buffer.sample(40).columns["ids"] % 2 == 1).all()
    assert learner.buffer_bytes >= 40 * (8 * 8 + 16)
    assert learner.memory_bytes() > bytes_of(_case(steps=1).new().state())
    summary = learner.buffer_summary()
    assert summary is not None
    assert summary.stored == 40


def test_replayed_events_change_what_is_learned() -> None:
    stream = _case().stream(160)
    states = [
        digest(LearnerRun(_case(replay_size=size, steps=1).new()).feed(stream).learner.servable())
        for size in (0, 8)
    ]
    assert states[0] != states[1]


def test_point_predicts_no_distribution() -> None:
    run = LearnerRun(_case(**_recurrent("point")).new()).feed(_case().stream(320))
    forecast = run.predictions[-1].forecast
    assert forecast is not None
    assert not forecasts.has_forecast(forecast).any()
    assert (forecasts.mean(forecast) > 0).all()


def test_an_absurd_gap_leaves_weights_finite() -> None:
    for kind in ("attentive", *RECURRENT):
        case = _case(model={"kind": kind, "hidden": 8, "times": 8}, steps=1)
        stream = case.stream(160)
        time = np.where(np.arange(160) >= 80, 1e15, 0.0) + stream.time
        gaps = history_of(stream).gaps.copy()
        gaps[80:84, -1] = 1e15
        run = LearnerRun(case.new()).feed(replace(stream, time=time, x={**stream.x, GAPS: gaps}))
        run.learner.verify()
        assert all(not len(p.not_finite()) for p in run.predictions)
