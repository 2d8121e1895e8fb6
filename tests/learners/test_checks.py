"""Every learner passes its checks; and every check fails for a learner that breaks its promise."""

import random
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import learners
from learners.base import Learner, LearnerConfig, LearnerError
from learners.baselines.finetune import Finetune
from learners.baselines.no_change import NoChange
from learners.baselines.prior import Prior
from learners.checks import Check, check_learner, checks_for
from learners.integrations.river import RiverLearner
from learners.networks.base import NetworkLearner
from learners.pretrained.closed_form.prototype import Prototype
from learners.registry import find
from learners.rehearsal.replay import Replay
from learners.results import Prediction
from learners.sequences.controls.recent_history import RecentHistory
from streams.core.batch import Array, Batch, ClassName, Ints
from streams.core.schema import Schema
from streams.core.state_dict import State
from streams.operators.label_join import Revealed

torch.set_num_threads(1)
LEARNERS = {kind: find(learners.KINDS, Learner, kind) for kind in learners.KINDS}
CHECKS = [check for _, cls in sorted(LEARNERS.items()) for check in checks_for(cls)]
UNEQUAL = {
    "class_weight": "balanced",
    "calibration": "temperature",
    "decision": {"rule": "cost", "costs": {"b": {"a": 1.5}}},
}
"""Settings for unequal classes. All network learners have them from their base class."""
UNEQUAL_CHECKS = [
    check
    for check in CHECKS
    if check.cls.kind in ("replay", "er-ace", "lwf") and check.task == "classification"
]


def test_registry_lists_all_learners() -> None:
    assert {"replay", "finetune", "river", "no-change", "prior"} <= set(LEARNERS)


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_learner_passes_check(check: Check) -> None:
    check()


@pytest.mark.parametrize("check", UNEQUAL_CHECKS, ids=str)
def test_unequal_classes_pass_check(check: Check) -> None:
    def make(schema: Schema, seed: int) -> Learner:
        settings = check.cls.example(schema.task) | UNEQUAL
        return check.cls(check.cls.Config.model_validate(settings), schema, seed)

    check(make)


def test_checks_for_follows_declared_capabilities() -> None:
    names = {check.name for check in checks_for(Replay)}
    assert {"frozen_within_a_batch", "learns", "ignores_probes", "reads_no_segment"} <= names
    names = {check.name for check in checks_for(RiverLearner)}
    assert "same_at_any_batch_size" in names
    assert "ignores_probes" not in names, "an opaque state cannot be compared"
    assert "learns" not in {check.name for check in checks_for(Prior)}


# Learners that break a promise, by the check that must find them.


class ForgetsVersion(Prior):
    def _learn(self, batch: Batch) -> None:
        super()._learn(batch)
        self.version = 0


class WrongIds(Prior):
    def predict(self, batch: Batch) -> Prediction:
        return replace(super().predict(batch), ids=batch.ids[::-1])


class BadProbabilities(Prior):
    def predict(self, batch: Batch) -> Prediction:
        said = super().predict(batch)
        return replace(said, proba=None if said.proba is None else said.proba * 1.1)


class NeedsRows(Prior):
    def predict(self, batch: Batch) -> Prediction:
        batch.ids.max()
        return super().predict(batch)


class CountsQuestions(Prior):
    def predict(self, batch: Batch) -> Prediction:
        self._targets += 1
        return super().predict(batch)


class DrawsInPredict(Finetune):
    def predict(self, batch: Batch) -> Prediction:
        torch.rand(1)
        return super().predict(batch)


class Scribbles(Finetune):
    def learn(self, batch: Batch) -> None:
        assert isinstance(batch.x, np.ndarray)
        batch.x *= 1
        super().learn(batch)


class Warns(Finetune):
    def labels(self, y: Array) -> torch.Tensor:
        if self.schema.task == "classification":
            return torch.from_numpy(y)
        return super().labels(y)


class StateWithASlash(Prior):
    def state(self) -> State:
        return {**super().state(), "a/b": 1}


class StateWithAnObject(Prior):
    def state(self) -> State:
        return {**super().state(), "schema": self.schema}


class LosesItsOptimizer(Finetune):
    def load(self, state: State) -> None:
        super().load({**state, "optimizer": {}})


class Hides(Finetune):
    """Something that matters is not in the state."""

    hidden = 0

    def learn(self, batch: Batch) -> None:
        self.hidden += 1
        if self.hidden % 2:
            super().learn(batch)


class ServesUnscaled(Finetune):
    def load_servable(self, state: State) -> None:
        super().load_servable({**state, "inputs": self.inputs.state()})


class Unseeded(Finetune):
    def learn(self, batch: Batch) -> None:
        super().learn(batch)
        with torch.no_grad():
            noise = np.random.default_rng().normal(size=1)[0]
            self.net.head.weight.add_(0.01 * float(noise))


class UsesTorch(Finetune):
    def learn(self, batch: Batch) -> None:
        super().learn(batch)
        with torch.no_grad():
            self.net.head.weight.add_(0.01 * torch.randn(1))


class UsesPython(Prior):
    def learn(self, batch: Batch) -> None:
        random.random()
        super().learn(batch)


class Peeks(Finetune):
    """Learns what the batch reveals before it predicts the batch."""

    def step(self, batch: Batch, revealed: Revealed) -> Prediction:
        self._learn(revealed.batch)
        return super().step(batch, Revealed(revealed.batch[:0], revealed.insert_before[:0]))


class PeeksEventByEvent(Prior):
    def step(self, batch: Batch, revealed: Revealed) -> Prediction:
        self._learn(revealed.batch)
        return self.predict(batch)


class TrainsItself(Finetune):
    """Learns its own predictions as labels."""

    def step(self, batch: Batch, revealed: Revealed) -> Prediction:
        said = super().step(batch, revealed)
        if self.version:
            self.learn(replace(batch, y=said.value))
        return said


class LearnsCorrections(Prior):
    def correct(self, ids: Ints, y: Array) -> None:
        self.version += 1


class StumblesOverCorrections(Replay):
    def _correct(self, revealed: Revealed) -> None:
        if revealed.corrected is not None:  # the new class is not made known to the head
            self.correct(*revealed.corrected)

    def correct(self, ids: Ints, y: Array) -> None:
        super().correct(np.asarray(ids), np.asarray(y))


class NeverGrows(Prior):
    def _register_classes(self, y: Array, classes: Any) -> None:
        if not self.classes:
            self.classes = classes


class Renumbers(Prior):
    def predict(self, batch: Batch) -> Prediction:
        said = super().predict(batch)
        return replace(said, classes=said.classes[::-1])


class ForgetsStated(Prior):
    def __init__(self, config: LearnerConfig, schema: Schema, seed: int) -> None:
        super().__init__(config, replace(schema, classes=()), seed)


class MixesRows(Finetune):
    def predict(self, batch: Batch) -> Prediction:
        said = super().predict(batch)
        return replace(said, value=said.value + 0.1 * len(batch))


class NotExact(Prior):
    """Declares per_event, and learns by micro-batch."""

    def step(self, batch: Batch, revealed: Revealed) -> Prediction:
        said = self.predict(batch)
        self._learn(revealed.batch)
        return said


class OrderMatters(Finetune):
    """Takes numbers in the order in which they happen to lie in memory."""

    def step(self, batch: Batch, revealed: Revealed) -> Prediction:
        self.inputs.rows = as_they_lie  # type: ignore[method-assign]
        return super().step(batch, revealed)


def as_they_lie(batch: Batch) -> dict[str, Array]:
    assert isinstance(batch.x, np.ndarray)
    return {"x": batch.x.ravel("K").reshape(batch.x.shape)}


class ReadsSegments(Finetune):
    def learn(self, batch: Batch) -> None:
        if batch.segment is not None and batch.segment.sum() > 0:
            batch = batch[:1]
        super().learn(batch)


class ObservesProbes(Finetune):
    def step(self, batch: Batch, revealed: Revealed) -> Prediction:
        return super().step(replace(batch, probe=None), revealed)


class KeepsAll(Prior):
    def __init__(self, config: LearnerConfig, schema: Schema, seed: int) -> None:
        super().__init__(config, schema, seed)
        self.all: list[Array] = []

    def learn(self, batch: Batch) -> None:
        super().learn(batch)
        assert isinstance(batch.x, np.ndarray)
        self.all.append(batch.x)

    def state(self) -> State:
        return {**super().state(), "all": np.concatenate([np.zeros((0, 6)), *self.all])}


class LearnsNothing(Finetune):
    def learn(self, batch: Batch) -> None:
        pass


class SaysTooMuch(Prior):
    def __init__(self, config: LearnerConfig, schema: Schema, seed: int) -> None:
        if len(schema.features) == 1:
            raise LearnerError("no\nnot one feature")
        super().__init__(config, schema, seed)


class TakesAnything(Prior):
    handles = frozenset({"classification"})

    def __init__(self, config: LearnerConfig, schema: Schema, seed: int) -> None:
        super().__init__(config, replace(schema, task="classification"), seed)


class TakesAThird(Prior):
    handles = frozenset({"binary"})

    def _check_class_count(self, classes: int) -> None:
        pass


class PassesGapsOn(Prior):
    def predict(self, batch: Batch) -> Prediction:
        found = super().predict(batch)
        if found.proba is not None and np.isnan(np.asarray(batch.x)).any():
            found = replace(found, proba=np.full_like(found.proba, np.nan))
        return found


class Unmoved(NoChange):
    """A baseline that does not say so."""

    baseline: ClassVar[bool] = False


class AbstainsByNan(Prior):
    """The mean of the squares of what it saw: infinity minus infinity after one absurd number."""

    handles = frozenset({"regression"})

    def learn(self, batch: Batch) -> None:
        assert isinstance(batch.x, np.ndarray)
        assert batch.y is not None
        self._targets += len(batch)
        self._mean += float((batch.x * np.abs(batch.x)).sum()) - self._mean / 9

    def predict(self, batch: Batch) -> Prediction:
        said = super().predict(batch)
        value = said.value - np.where(np.isinf(said.value), said.value, 0)
        return replace(said, value=value, abstains=np.isnan(value))


class LosesItsState(Prior):
    """It never shows in a prediction what became of its state."""

    sums = 0.0

    def learn(self, batch: Batch) -> None:
        assert isinstance(batch.x, np.ndarray)
        self.sums += float((batch.x * batch.x).sum())
        super().learn(batch)

    def state(self) -> State:
        return {**super().state(), "sums": self.sums}


class KeepsUnlearned(Prototype):
    def unlearn(self, batch: Batch) -> None:
        self.version += 1


class KeepsForgotten(Prototype):
    def forget_class(self, name: ClassName) -> None:
        self._codes((name,))


class MergesByCode(Prototype):
    """Class i of the other learner counts as class i here, whatever its name."""

    def merge(self, other: Learner) -> None:
        names = other.classes
        other.classes = (*self.classes, *names)[: len(names)]
        try:
            super().merge(other)
        finally:
            other.classes = names


class ForgetsSilently(Prior):
    """It does nothing where it cannot do what it is asked for."""

    def forget_class(self, name: ClassName) -> None:
        self.version += 1


class ForecastsBackwards(RecentHistory):
    """Its second cell begins before the first."""

    def predict(self, batch: Batch) -> Prediction:
        said = super().predict(batch)
        assert said.forecast is not None
        cells = np.repeat(said.forecast, 2, axis=1)
        cells[:, 1, 0] = -1
        return replace(said, forecast=cells)


class ForecastsTheFrozenRate(RecentHistory):
    """Its forecasts do not change within a micro-batch, unlike its types."""

    def step(self, batch: Batch, revealed: Revealed) -> Prediction:
        frozen = self.predict(batch)
        return replace(super().step(batch, revealed), forecast=frozen.forecast)


BROKEN: list[tuple[type[Learner], str]] = [
    (ForgetsVersion, "predictions_fit"),
    (WrongIds, "predictions_fit"),
    (BadProbabilities, "predictions_fit"),
    (Renumbers, "predictions_fit"),
    (NeedsRows, "accepts_no_rows_and_one"),
    (CountsQuestions, "predict_is_pure"),
    (DrawsInPredict, "predict_is_pure"),
    (Scribbles, "accepts_read_only_arrays"),
    (Warns, "accepts_read_only_arrays"),
    (OrderMatters, "accepts_any_layout"),
    (AbstainsByNan, "shows_that_it_is_not_finite"),
    (LosesItsState, "shows_that_it_is_not_finite"),
    (StateWithASlash, "state_can_be_saved"),
    (StateWithAnObject, "state_can_be_saved"),
    (LosesItsOptimizer, "continues_from_a_state"),
    (Hides, "continues_from_a_state"),
    (ServesUnscaled, "serves_as_it_predicts"),
    (Unseeded, "same_seed_same_result"),
    (UsesTorch, "uses_no_global_randomness"),
    (UsesPython, "uses_no_global_randomness"),
    (Peeks, "sees_no_label_early"),
    (Peeks, "frozen_within_a_batch"),
    (PeeksEventByEvent, "sees_no_label_early"),
    (TrainsItself, "learns_only_revealed_labels"),
    (LearnsCorrections, "accepts_corrections"),
    (StumblesOverCorrections, "accepts_corrections"),
    (SaysTooMuch, "accepts_or_refuses_columns"),
    (NeverGrows, "accepts_classes_at_any_time"),
    (ForgetsStated, "accepts_stated_classes"),
    (MixesRows, "frozen_within_a_batch"),
    (NotExact, "same_at_any_batch_size"),
    (ForecastsBackwards, "predictions_fit"),
    (ForecastsTheFrozenRate, "same_at_any_batch_size"),
    (ReadsSegments, "reads_no_segment"),
    (ObservesProbes, "ignores_probes"),
    (KeepsAll, "memory_is_bounded"),
    (PassesGapsOn, "accepts_missing_numbers"),
    (LearnsNothing, "learns"),
    (Unmoved, "learns"),
    (TakesAnything, "refuses_other_tasks"),
    (TakesAThird, "refuses_a_third_class"),
    (KeepsUnlearned, "unlearns_events"),
    (KeepsForgotten, "forgets_classes"),
    (MergesByCode, "merges_with_another"),
    (ForgetsSilently, "refuses_what_it_does_not_declare"),
]


@pytest.mark.parametrize(("cls", "name"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_check_fails_for_broken_learner(cls: type[Learner], name: str) -> None:
    checks = [check for check in checks_for(cls) if check.name == name]
    assert checks, "the check is not asked of this learner"
    failed = 0
    for check in checks:  # on one task or the other
        try:
            check()
        except Exception:  # a broken learner may fail in any way
            failed += 1
    assert failed, "the check does not notice"


def test_every_check_has_a_broken_learner() -> None:
    names = {check.name for cls in LEARNERS.values() for check in checks_for(cls)}
    assert not names - {name for _, name in BROKEN}, "no broken learner for these"


def test_check_learner_with_segments_and_two_classes_passes() -> None:
    class Two(NetworkLearner):
        kind = "two"
        handles = frozenset({"binary"})
        needs_boundaries = True

        def learn(self, batch: Batch) -> None:
            assert batch.y is not None
            x, y = self.tensor(self.inputs.rows(batch)), self.labels(batch.y)
            self.optimizer.step(self.loss(x, y))

    check_learner(Two)


def test_check_learner_error_names_the_check() -> None:
    with pytest.raises(AssertionError, match="ids are not") as error:
        check_learner(WrongIds)
    assert error.value.__notes__ == ["in the check prior-classification-predictions_fit"]
