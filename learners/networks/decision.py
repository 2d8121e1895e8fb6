"""Rules that choose a class by the probabilities: the least expected cost, or the best F1."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Discriminator, NonNegativeFloat, PositiveInt, Tag

from learners.base import LearnerError
from learners.networks.class_weights import ByClassName, check_names, class_text
from streams.core.batch import Array, ClassName, Ints
from streams.core.settings import Settings
from streams.core.state_dict import State

_BINS = 512
_REACH = 16.0  # log-odds that the bins cover, either way; beyond, events are in the last bin
_WIDTH = 2 * _REACH / _BINS
_MIN_WINDOW = 64.0  # events, also at the start
_MIN_POSITIVES = 10.0  # in the window, before a threshold is chosen by them

Costs = Annotated[dict[str, float], ByClassName]


class ArgmaxDecision(Settings):
    """Predict the likeliest class; with ``class_weight`` that of the largest weight * p."""

    rule: Literal["argmax"]

    def class_names(self) -> set[str]:
        """Return the names of the classes that are stated."""
        return set()


class CostDecision(Settings):
    """Predict the class of the least expected cost.

    Attributes:
        costs: by the name of the true class: the cost where another one is predicted, or a mapping
            from predicted classes to costs. What is not stated costs 1, and 0 where the prediction
            is right.
    """

    rule: Literal["cost"]
    costs: Annotated[dict[str, NonNegativeFloat | Costs], ByClassName]

    def class_names(self) -> set[str]:
        """Return the names of the classes that are stated."""
        inner = [set(row) for row in self.costs.values() if isinstance(row, dict)]
        return set(self.costs).union(*inner)


class F1Decision(Settings):
    """Predict the positive class from the probability on that has given the largest F1 of late.

    Attributes:
        positive: the name of the positive class; None: the second one, as in the metrics.
        window: about as many events count; older ones fade.
    """

    rule: Literal["f1"]
    positive: Annotated[str, BeforeValidator(class_text)] | None = None
    window: PositiveInt = 5000

    def class_names(self) -> set[str]:
        """Return the names of the classes that are stated."""
        return set() if self.positive is None else {self.positive}


def _rule(decision: Any) -> str | None:
    rule = decision.get("rule") if isinstance(decision, dict) else getattr(decision, "rule", None)
    return None if rule is None else str(rule)


DecisionConfig = Annotated[
    Annotated[ArgmaxDecision, Tag("argmax")]
    | Annotated[CostDecision, Tag("cost")]
    | Annotated[F1Decision, Tag("f1")],
    Discriminator(_rule),
]


class Decision(ABC):
    """A rule that chooses a class by the probabilities of all classes.

    Attributes:
        evaluates: it learns from events that are predicted before they are learned.
    """

    evaluates = False

    def register(self, classes: tuple[ClassName, ...]) -> None:  # noqa: B027 (not all need names)
        """Note the classes known by now, in the order of their codes."""

    @abstractmethod
    def choose(self, proba: Array) -> Ints:
        """Return the class codes (n,) for probabilities (n, k), k >= 1. Pure."""

    def update(self, proba: Array, y: Ints) -> None:  # noqa: B027 (most rules are fixed)
        """Learn from probabilities (n, k) that were predicted for labels (n,), before learning."""

    def servable(self) -> State:
        """Return what ``choose`` needs."""
        return {}

    def state(self) -> State:
        return self.servable()

    def load(self, state: State) -> None:  # noqa: B027 (most rules are fixed)
        """Load a ``state``, or start anew from an empty one."""


class LeastCost(Decision):
    """Choose argmin_j sum_i p_i * cost[i, j] (Elkan 2001, "Foundations of Cost-Sensitive
    Learning"). The class of the lower code wins ties."""

    def __init__(self, config: CostDecision, classes: tuple[ClassName, ...]) -> None:
        self._stated = config.costs
        check_names("learner.decision.costs", config.class_names(), classes)
        self.register(classes)

    def register(self, classes: tuple[ClassName, ...]) -> None:
        names = [class_text(name) for name in classes]
        self._costs = np.ones((len(names), len(names)))
        for i, true in enumerate(names):
            stated = self._stated.get(true, 1.0)
            if isinstance(stated, dict):
                self._costs[i, i] = 0.0
                self._costs[i] = [
                    stated.get(name, cost)
                    for name, cost in zip(names, self._costs[i].tolist(), strict=True)
                ]
            else:
                self._costs[i] = stated
                self._costs[i, i] = 0.0

    def choose(self, proba: Array) -> Ints:
        costs: Ints = (proba @ self._costs).argmin(1)
        return costs


class BestF1(Decision):
    """Choose the positive class of two where its log-odds reach a threshold.

    The threshold is the one that would have given the largest F1 = 2 TP / (2 TP + FP + FN) on
    recent events, each predicted before it was learned. They are counted in 512 bins of log-odds,
    and fade. The window is at most half of the events so far: what a network gave before it had
    learned says nothing of its threshold. A tie is resolved by the middle of the first stretch of
    equals. Until ten positive events are in the window, the likelier class is chosen.

    Raises:
        LearnerError: there are more than two classes, or ``positive`` is not one of those stated.
    """

    evaluates = True

    def __init__(self, config: F1Decision, classes: tuple[ClassName, ...]) -> None:
        self._config = config
        if config.positive is not None:
            check_names("learner.decision.positive", {config.positive}, classes)
        self._threshold: float | None = None  # on the log-odds of the positive class
        self._histogram = np.zeros((2, _BINS))  # by label and log-odds of class 1
        self._events = 0
        self.register(classes)

    def register(self, classes: tuple[ClassName, ...]) -> None:
        if len(classes) > 2:
            raise LearnerError(
                f"learner.decision.rule: 'f1' is for two classes, and the stream has "
                f"{len(classes)} or more: use 'cost' or 'argmax'"
            )
        first = [class_text(name) for name in classes[:1]]
        self._positive = 0 if first == [self._config.positive] else 1

    def choose(self, proba: Array) -> Ints:
        if self._threshold is None or proba.shape[1] < 2:
            likeliest: Ints = proba.argmax(1)
            return likeliest
        reached = _log_odds(proba, self._positive) >= self._threshold
        return np.where(reached, self._positive, 1 - self._positive)

    def update(self, proba: Array, y: Ints) -> None:
        if proba.shape[1] < 2:
            return
        bins = np.floor((_log_odds(proba, 1) + _REACH) / _WIDTH).astype(np.int64)
        places = y * _BINS + np.minimum(bins, _BINS - 1)
        window = min(self._config.window, max(self._events / 2, _MIN_WINDOW))
        self._events += len(y)
        self._histogram *= (1 - 1 / window) ** len(y)
        self._histogram += np.bincount(places, minlength=2 * _BINS).reshape(2, _BINS)
        self._threshold = self._best_threshold()

    def _best_threshold(self) -> float | None:
        histogram = self._histogram if self._positive else self._histogram[::-1, ::-1]
        negatives, positives = histogram[:, ::-1].cumsum(1)[:, ::-1]  # from each threshold on
        if positives[0] < _MIN_POSITIVES:
            return None
        f1 = 2 * positives / (positives[0] + positives + negatives)
        first = int(f1.argmax())
        worse = np.flatnonzero(f1[first:] < f1[first])
        last = first + int(worse[0]) - 1 if len(worse) else _BINS - 1
        return -_REACH + _WIDTH * ((first + last) // 2)  # the start of a bin

    def servable(self) -> State:
        return {"threshold": self._threshold}

    def state(self) -> State:
        return {**self.servable(), "histogram": self._histogram, "events": self._events}

    def load(self, state: State) -> None:
        self._threshold = state.get("threshold")
        self._histogram = np.array(state.get("histogram", np.zeros((2, _BINS))))
        self._events = state.get("events", 0)


def _log_odds(proba: Array, code: int) -> Array:
    """Return the log-odds (n,) of a class of two from probabilities (n, 2).

    They lie within the bins, so that all events reach the threshold of the first bin.
    """
    with np.errstate(divide="ignore"):
        logs = np.log(proba.astype(np.float64))
    odds: Array = np.clip(logs[:, code] - logs[:, 1 - code], -_REACH, _REACH)
    return odds


def decision_of(
    config: ArgmaxDecision | CostDecision | F1Decision | None, classes: tuple[ClassName, ...]
) -> Decision | None:
    """Return the rule of some settings; None for the largest output.

    Raises:
        LearnerError: it does not fit the stated classes.
    """
    if isinstance(config, CostDecision):
        return LeastCost(config, classes)
    return BestF1(config, classes) if isinstance(config, F1Decision) else None
