"""The base of closed forms: when it solves, at which scale, and what it saves."""

from dataclasses import replace

import numpy as np
import pytest

from learners.base import LearnerError, NotFiniteError
from learners.checks import check_learner
from learners.checks.case import Case, LearnerRun, with_example_settings
from learners.pretrained.closed_form.prototype import Prototype, PrototypeConfig
from learners.pretrained.closed_form.slda import Slda, SldaConfig
from learners.pretrained.closed_form.solve_schedule import SolveSchedule
from streams.core.schema import Feature, Schema
from streams.core.state_dict import copied, digest
from tests.learners.pretrained.closed_form.problems import (
    NAMES,
    WIDTH,
    events,
    learn,
    new,
    predicted,
    vectors,
)

KINDS = ("prototype", "slda", "fecam")


def test_a_solve_falls_due_by_new_classes_growth_and_events() -> None:
    schedule = SolveSchedule(None, 1.0, 0)

    def solves(rows: int, *counts: int) -> bool:
        schedule.add(rows)
        due = schedule.due(np.array(counts), width=30)
        if due:
            schedule.solved(np.array(counts))
        return due

    assert solves(2, 2), "new"
    assert not solves(1, 3)
    assert solves(1, 4), "doubled"
    assert solves(1, 4, 1), "new"
    assert solves(1, 4, 2), "doubled"
    assert not solves(499, 7, 3)
    assert solves(1, 7, 3), "500 events"
    assert solves(40, 47, 3)
    assert not solves(1, 94, 3), "doubled, right after a solve"
    assert solves(1, 94, 3), "a solve costs as much as 12 events"
    assert schedule.solves == 7


def test_weights_are_solved_as_the_schedule_says() -> None:
    x, y = vectors(400)
    learner = learn(new("slda", refit_every=50, refit_growth=10.0), events(x, y), 10)
    assert 8 <= learner.schedule.solves < 15
    assert learner.metrics() == {"solves": float(learner.schedule.solves)}


def test_weights_between_solves_are_in_the_state() -> None:
    x, y = vectors(500)
    learner = learn(new("slda", refit_every=1000, refit_growth=10.0), events(x, y))
    assert learner.schedule.state()["since"] > 0
    heir = new("slda", refit_every=1000, refit_growth=10.0)
    heir.load(copied(learner.state()))
    later, _ = vectors(50, seed=1)
    assert np.array_equal(predicted(heir, later), predicted(learner, later))
    assert digest(heir.state()) == digest(learner.state())


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_as_sure_as_they_are_right(kind: str) -> None:
    """Each number stands in a row eight times, which no form knows: the temperature mends that."""
    x, y = vectors(4000)
    learner = learn(new(kind, 8 * WIDTH), events(np.tile(x, 8), y))
    x, y = vectors(2000, seed=5)
    prediction = learner.predict(replace(events(np.tile(x, 8), y), y=None))
    assert prediction.proba is not None
    right = float((prediction.value == y).mean())
    assert 0.5 < right < 0.99
    assert abs(float(prediction.proba.max(1).mean()) - right) < 0.05


def test_the_scale_of_numbers_makes_no_difference_to_sums() -> None:
    """Sums begin anew when the scale changes, so that all rows have the last scale."""
    case = Case(Slda, "classification", with_example_settings(Slda))
    stream = case.stream(200)
    learner = LearnerRun(case.new(), delay=0).feed(stream).finish().learner
    assert isinstance(learner, Slda)
    x = learner.rows.of(stream)
    assert learner.rows.fixed
    assert not learner._kept
    assert stream.y is not None
    for code in range(3):
        expected = x[stream.y == code].astype(np.float64).mean(0)
        mean = learner.statistics.cross[code] / learner.statistics.counts[code]
        np.testing.assert_allclose(mean, expected, rtol=1e-10, atol=1e-12)


def test_labels_alone_fix_the_scale_too() -> None:
    schema = Schema(tuple(Feature(f"x{i}", "numeric") for i in range(3)), "classification")
    learner = Slda(SldaConfig(kind="slda", warm_up=20), schema, 0)
    x, y = vectors(60, width=3)
    learn(learner, events(x.astype(np.float64), y), 8)
    assert learner.rows.fixed
    assert learner.statistics.rows == 60


def test_fourier_features_wait_for_their_bandwidth_and_resume() -> None:
    x, y = vectors(700)
    settings = {"features": {"kind": "fourier", "dimension": 64}}
    whole = learn(new("slda", **settings), events(x, y))
    assert whole.features is not None
    assert whole.features.fitted
    assert not whole._kept
    first = learn(new("slda", **settings), events(x[:192], y[:192]))
    assert not first._settled
    heir = new("slda", **settings)
    heir.load(copied(first.state()))
    learn(heir, events(x[192:], y[192:]))
    assert digest(heir.state()) == digest(whole.state())
    server = new("slda", **settings)
    server.load_servable(copied(whole.servable()))
    assert np.array_equal(predicted(server, x), predicted(whole, x))


def test_example_with_fourier_features_passes_all_checks() -> None:
    def make(schema: Schema, seed: int) -> Slda:
        settings = Slda.example("classification") | {"features": {"kind": "fourier"}}
        settings["features"] |= {"dimension": 64, "bandwidth": 3.0}
        return Slda(SldaConfig.model_validate(settings), schema, seed)

    check_learner(Slda, lambda schema, seed: make(schema, seed))


def test_merge_refuses_what_cannot_be_added() -> None:
    x, y = vectors(40)
    learner = learn(new("prototype"), events(x, y))
    with pytest.raises(LearnerError, match="same kind and settings"):
        learner.merge(new("slda"))
    with pytest.raises(LearnerError, match="same kind and settings"):
        learner.merge(new("prototype", distance="euclidean"))
    with pytest.raises(LearnerError, match="with itself"):
        learner.merge(learner)
    with pytest.raises(LearnerError, match="same columns and label"):
        learner.merge(new("prototype", width=WIDTH + 1))
    for kind in ("rls", "knn"):
        with pytest.raises(LearnerError, match=f"learner '{kind}' cannot merge"):
            new(kind).merge(new(kind))
    numbers = Schema(tuple(Feature(f"x{i}", "numeric") for i in range(WIDTH)), "classification")
    config = PrototypeConfig(kind="prototype", warm_up=10)
    one, other = (Prototype(config, numbers, 0) for _ in range(2))
    with pytest.raises(LearnerError, match=r"learner\.warm_up"):
        one.merge(other)
    for each, rows in ((one, x), (other, 2 * x)):
        each.observe(replace(events(rows.astype(np.float64), y), y=None))
    with pytest.raises(LearnerError, match="same scale"):
        one.merge(other)


def test_unlearning_everything_leaves_nothing() -> None:
    x, y = vectors(60)
    for kind in KINDS:
        learner = learn(new(kind), events(x, y))
        learner.unlearn(events(x, y))
        prediction = learner.predict(replace(events(x, y), y=None))
        assert (prediction.value == -1).all()
        assert prediction.classes == NAMES
        learn(learner, events(x, y))
        assert (predicted(learner, x) >= 0).all()


def test_verify_names_the_sum_that_is_not_finite() -> None:
    x, y = vectors(40)
    x[3, 0] = np.nan
    for kind in KINDS:
        with pytest.raises(NotFiniteError, match="is no longer finite: mend"):
            learn(new(kind), events(x, y)).verify()
