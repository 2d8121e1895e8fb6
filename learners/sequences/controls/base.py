"""What the controls share: how often each type came, and how long it took, by the labels so far."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import numpy as np
from pydantic import PositiveFloat

from learners.base import Learner, LearnerConfig
from learners.results import Prediction
from learners.sequences.forecast import constant
from learners.sequences.history import EventHistory, history_of
from streams.core.batch import Batch, Floats
from streams.core.schema import Schema
from streams.core.state_dict import State

_HALF = 0.5
"""Events that each known type counts as before the first (Krichevsky and Trofimov 1981)."""


class CountsConfig(LearnerConfig):
    """Settings of a control.

    Attributes:
        half_life: the number of labels after which the weight of a label has halved; None: all
            labels weigh the same.
    """

    half_life: PositiveFloat | None = None


class Overall(NamedTuple):
    """What the labels of all keys have shown so far.

    Attributes:
        types: (classes,) the share of each type.
        rate: events per second after an event of the key; NaN where nothing came yet.
    """

    types: Floats
    rate: float


class SequenceControl(Learner):
    """Keep the weight of each type and the seconds waited in all, and predict from these.

    With n labels of which c are events, in t seconds of waiting together, the rate is c / t: the
    maximum of the likelihood of a Poisson process, where nothing came as well. A subclass says what
    it predicts for one history. Labels are learned one by one, so cuts of a stream do not matter.
    """

    Config = CountsConfig
    handles = frozenset({"sequences"})
    per_event = True
    handles_missing = True
    baseline = True

    def __init__(self, config: CountsConfig, schema: Schema, seed: int) -> None:
        super().__init__(config, schema, seed)
        assert schema.sequence is not None
        self._resolution = schema.sequence.resolution
        self._fade = 1.0 if config.half_life is None else 0.5 ** (1 / config.half_life)
        self._counts = np.zeros(len(self.classes))
        self._seconds = 0.0

    @abstractmethod
    def forecast(self, history: EventHistory, overall: Overall) -> tuple[Floats, Floats]:
        """Return the probabilities of types (n, classes) and the rates of events (n,) for n
        histories. Something came already. Row i depends on history i alone."""

    def notice(self, history: EventHistory, y: int, wait: float) -> None:
        """Learn from the label of one history besides the counts."""

    def predict(self, batch: Batch) -> Prediction:
        n, came = len(batch), self._counts.sum() > 0
        proba = np.zeros((n, max(len(self.classes), 2)))
        rates, code = np.full(n, np.nan), np.full(n, -1)
        if came and n:
            known = len(self.classes)
            proba[:, :known], rates = self.forecast(history_of(batch), self._overall())
            code = proba.argmax(1)
        ids, classes, version = batch.ids, self.classes, self.version
        return Prediction(
            ids, "classification", code, proba, classes, version, None, constant(rates)
        )

    def _overall(self) -> Overall:
        counts = np.zeros(len(self.classes))
        counts[: len(self._counts)] = self._counts
        shares = (counts + _HALF) / (counts.sum() + _HALF * len(counts))
        waited = max(self._seconds, self._resolution * float(counts.sum()))
        return Overall(shares, float(counts.sum()) / waited)

    def learn(self, batch: Batch) -> None:
        assert batch.y is not None
        assert batch.wait is not None
        grown = np.zeros(len(self.classes))
        grown[: len(self._counts)] = self._counts
        self._counts = grown
        history = history_of(batch)
        for i, (y, wait) in enumerate(zip(batch.y.tolist(), batch.wait.tolist(), strict=True)):
            self.notice(history.rows(slice(i, i + 1)), y, wait)
            self._counts *= self._fade
            self._seconds = self._seconds * self._fade + wait
            if y >= 0:
                self._counts[y] += 1.0

    def state(self) -> State:
        return {**self.common_state(), "counts": self._counts, "seconds": self._seconds}

    def load(self, state: State) -> None:
        self.load_common(state)
        self._counts, self._seconds = np.array(state["counts"]), state["seconds"]
