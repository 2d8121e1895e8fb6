"""A multivariate Hawkes process with exponential kernels, fitted online."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from learners.base import Learner, LearnerConfig
from learners.results import Prediction
from learners.sequences.forecast import TYPES, types_of
from learners.sequences.history import EventHistory, history_of
from streams.core.batch import Batch, Floats
from streams.core.schema import Schema, Task
from streams.core.state_dict import State

_SPREAD = 4.0
"""Ratio of neighbouring decays."""
_PRIOR = 1.0
"""Events that the start values count as."""
_SHARE = 4.0
"""Of the labels so far, about the last quarter counts: the first parameters are far off."""
_FIRST, _LAST = 0.05, 6.0
"""Where the second cell of a forecast begins, and the last, in times of the fastest and of the
slowest decay."""


class HawkesConfig(LearnerConfig):
    """Settings of ``hawkes``.

    Attributes:
        decays: how many exponential kernels, each four times as fast as the one before.
        warm_up: labels after which the decays are set around the median wait, and fitting begins.
        half_life: the number of labels after which the weight of a label has halved; None: all
            labels weigh the same.
        cells: of a forecast.
    """

    decays: PositiveInt = Field(5, le=16)
    warm_up: PositiveInt = 200
    half_life: PositiveFloat | None = 20_000.0
    cells: PositiveInt = Field(48, ge=4, le=512)


class _Sums(NamedTuple):
    """Expected events by their cause, and what they were exposed to, for k types and r decays.

    Attributes:
        base: (k,) events that came unprompted.
        caused: (k, k) events of the first type that events of the second caused.
        kernels: (r,) events that were caused through each kernel.
        seconds: waited in all.
        exposed: (k, r) how much of the kernels of events of each type has passed while waiting.
    """

    base: Floats
    caused: Floats
    kernels: Floats
    seconds: Floats
    exposed: Floats


class Hawkes(Learner):
    """Fit the process of all keys by expectation and maximisation, one label at a time.

    After events of types k_j, t_j seconds before, of the history of the key, type k comes at

        lambda_k(t) = mu_k + sum_j alpha[k, k_j] sum_r w_r b_r exp(-b_r (t_j + t)),  sum_r w_r = 1.

    A label says which event came after w seconds, or none. Each event has one cause: it came
    unprompted, or a past event caused it through one kernel; the probabilities are the shares of
    lambda (Veen and Schoenberg 2008, "Estimation of space-time branching process models in
    seismology using an EM-type algorithm"). With the sums of these, and of the integrals of the
    kernels over the waits, mu and alpha are events by exposure, and so is w, in turn. The sums are
    updated with each label under the parameters before it (Cappé and Moulines 2009, "On-line
    expectation-maximization algorithm for latent data models"), and fade: with n labels about the
    last n / 4 count, and no more than ``half_life`` says.

    Decays b_r are a geometric series around the median wait of the first labels, and stay: sums of
    exponentials come close to any kernel that falls. Events that left the history have no effect.
    """

    kind = "hawkes"
    Config = HawkesConfig
    handles = frozenset({"sequences"})
    per_event = True
    handles_missing = True
    baseline = True
    config: HawkesConfig

    def __init__(self, config: HawkesConfig, schema: Schema, seed: int) -> None:
        super().__init__(config, schema, seed)
        assert schema.sequence is not None
        self.config = config
        self._resolution = schema.sequence.resolution
        self._fade = 1.0 if config.half_life is None else 0.5 ** (1 / config.half_life)
        self._waits: Floats = np.zeros(0)  # of the first labels
        self._b: Floats = np.zeros(0)  # decays, once they are known
        self._sums = self._start(0, 1.0)
        self._labels = 0  # fitted

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return {"kind": cls.kind, "warm_up": 20, "cells": 8, "decays": 3}

    def predict(self, batch: Batch) -> Prediction:
        n, known = len(batch), len(self.classes)
        width = max(known, 2)
        cells = np.full((n, self.config.cells, TYPES + width), np.nan, np.float32)
        proba: Floats = np.zeros((n, width))
        code = np.full(n, -1)
        if len(self._b) and n:
            mu, alpha = self._parameters(self._grown(known))
            start = self._starts()
            for i, history in enumerate(_each(history_of(batch), n)):
                causes = alpha * self._excitement(history, known)  # (k, k, r)
                cells[i, :, : TYPES + known] = self._cells(start, mu, causes.sum(1))
                cells[i, :, TYPES + known :] = 0.0
            proba = types_of(cells)
            code = proba.argmax(1)
        ids, classes = batch.ids, self.classes
        return Prediction(ids, "classification", code, proba, classes, self.version, None, cells)

    def learn(self, batch: Batch) -> None:
        assert batch.y is not None
        assert batch.wait is not None
        known = len(self.classes)
        self._sums = self._grown(known)
        histories = _each(history_of(batch), len(batch))
        for history, y, wait in zip(histories, batch.y.tolist(), batch.wait.tolist(), strict=True):
            if len(self._b):
                self._fit(self._excitement(history, known), y, wait)
            else:
                self._warm_up(y, wait)

    def _warm_up(self, y: int, wait: float) -> None:
        """Count an early label; set the decays after the last of them."""
        self._waits = np.append(self._waits, max(wait, self._resolution))
        if y >= 0:
            self._sums.base[y] += 1
        if len(self._waits) == self.config.warm_up:
            middle = 1 / float(np.median(self._waits))
            steps = np.arange(self.config.decays) - (self.config.decays - 1) / 2
            self._b = middle * _SPREAD**steps
            counts = self._sums.base
            self._sums = self._start(len(counts), float(self._waits.sum()), counts)
            self._waits = np.zeros(0)

    def _start(self, k: int, seconds: float, counts: Floats | None = None) -> _Sums:
        """Return the sums of the first labels: half of the events unprompted, and the others caused
        by any type through any kernel alike."""
        r = max(len(self._b), 1)
        counts = np.zeros(k) if counts is None else counts
        total = max(float(counts.sum()), 1.0)
        caused = np.repeat(counts[:, None] / (2 * max(k, 1)), k, axis=1)
        exposed = np.full((k, r), total / max(k, 1))
        return _Sums(counts / 2, caused, np.full(r, total / 2 / r), np.array(seconds), exposed)

    def _grown(self, k: int) -> _Sums:
        """Return the sums with room for k types."""
        add = k - len(self._sums.base)
        if not add:
            return self._sums
        base, caused, kernels, seconds, exposed = self._sums
        caused, exposed = np.pad(caused, (0, add)), np.pad(exposed, ((0, add), (0, 0)))
        return _Sums(np.pad(base, (0, add)), caused, kernels, seconds, exposed)

    def _parameters(self, sums: _Sums) -> tuple[Floats, Floats]:
        """Return mu (k,), and alpha times w (k, k, r). A type that never came has a little of both.

        alpha follows from the exposure under the w that the sums of kernels alone would give.
        """
        k = len(sums.base)
        mu = (sums.base + _PRIOR / k) / max(float(sums.seconds), self._resolution)
        w = sums.kernels / sums.kernels.sum()
        alpha = sums.caused / (sums.exposed @ w + _PRIOR)
        w = sums.kernels / (alpha.sum(0) @ sums.exposed + _PRIOR / len(w))
        return mu, np.multiply.outer(alpha, w / w.sum())

    def _excitement(self, history: EventHistory, k: int) -> Floats:
        """Return (k, r) the sums over the past events of each type of exp(-b_r t_j)."""
        m = int(history.lengths[0])
        excited = np.zeros((k, len(self._b)))
        types, gaps = history.types[0, :m], history.gaps[0, 1:m].astype(np.float64)
        ages = np.append(np.cumsum(gaps[::-1])[::-1], 0.0)[:m]
        inside = types < k
        np.add.at(excited, types[inside], np.exp(-np.multiply.outer(ages[inside], self._b)))
        return excited

    def _fit(self, excited: Floats, y: int, wait: float) -> None:
        mu, alpha = self._parameters(self._sums)
        base, caused, kernels, seconds, exposed = self._sums
        fall = np.exp(-self._b * wait)
        self._labels += 1
        fade = min(self._fade, 1 - 1 / (self.config.warm_up + self._labels / _SHARE))
        for column in (base, caused, kernels, exposed):
            column *= fade
        if y >= 0:
            causes = alpha[y] * self._b * excited * fall  # (k, r)
            total = mu[y] + causes.sum()
            base[y] += mu[y] / total
            caused[y] += causes.sum(1) / total
            kernels += causes.sum(0) / total
        exposed += excited * (1 - fall)
        self._sums = _Sums(base, caused, kernels, seconds * fade + wait, exposed)

    def _starts(self) -> Floats:
        """Return where cells begin: at 0, then at geometric distances."""
        later = np.geomspace(_FIRST / self._b[-1], _LAST / self._b[0], self.config.cells - 1)
        return np.append(0.0, later)

    def _cells(self, start: Floats, mu: Floats, causes: Floats) -> Floats:
        """Return the cells (cells, 2 + k) of one forecast: the mean of each intensity in the cell,
        so that the integral is exact where cells begin; behind the last start mu alone.

        Args:
            start: (cells,) where they begin.
            mu: (k,) as above.
            causes: (k, r) the integrals of the kernels of all past events from now on.
        """
        passed = -np.expm1(-np.multiply.outer(start, self._b))  # (cells, r)
        rates = np.tile(mu, (len(start), 1))
        rates[:-1] += np.diff(passed, axis=0) @ causes.T / np.diff(start)[:, None]
        total = rates.sum(1, keepdims=True)
        return np.concatenate([start[:, None], total, rates / total], axis=1)

    def state(self) -> State:
        sums = {name: np.array(value) for name, value in self._sums._asdict().items()}
        parameters = {"labels": self._labels, "waits": self._waits, "decays": self._b}
        return {**self.common_state(), **parameters, "sums": sums}

    def load(self, state: State) -> None:
        self.load_common(state)
        self._waits, self._b = np.array(state["waits"]), np.array(state["decays"])
        self._labels = state["labels"]
        self._sums = _Sums(**{name: np.array(value) for name, value in state["sums"].items()})


def _each(history: EventHistory, n: int) -> list[EventHistory]:
    return [history.rows(slice(i, i + 1)) for i in range(n)]
