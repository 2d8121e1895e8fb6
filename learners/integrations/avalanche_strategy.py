"""Learners as Avalanche strategies, for its training loop and its metrics."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import learners
from learners.base import Learner, LearnerError
from learners.registry import find
from learners.results import Prediction
from streams.core.batch import Array, Batch
from streams.integrations.avalanche import schema_of
from streams.integrations.avalanche_library import import_avalanche
from streams.operators.label_join import Revealed

_MIN_PROBABILITY = 1e-7
"""The least probability: the loss of a certain and wrong prediction stays finite."""


def as_strategy(
    learner: Learner | Mapping[str, Any],
    benchmark: Any = None,
    *,
    seed: int = 0,
    train_mb_size: int = 32,
    eval_mb_size: int = 256,
    **settings: Any,
) -> Any:
    """Return an Avalanche strategy that learns and predicts with ``learner``.

    ``train`` learns an experience in micro-batches. Each is predicted first, then its labels are
    revealed. Training metrics see those predictions. ``eval`` predicts. ``mb_output`` is (n, c + 1)
    log-probabilities by label, where c is the largest label plus one. The last column is the
    likeliest in a row without a prediction.

    Args:
        learner: a learner, or its settings as in a job (``{"kind": "replay", ...}``).
        benchmark: the benchmark for the settings. Its training stream gives features and classes.
        seed: of a learner that is made here.
        train_mb_size: events in a micro-batch.
        eval_mb_size: events predicted at a time.
        settings: of ``SupervisedTemplate``, such as ``evaluator`` or ``plugins``.

    Raises:
        LearnerError: the classes of the learner are not stated, or are not labels of Avalanche.
        StreamError: Avalanche is not installed, or its benchmark cannot be read.
    """
    import_avalanche()
    if not isinstance(learner, Learner):
        if benchmark is None:
            raise LearnerError("as_strategy: settings of a learner need a benchmark to be made for")
        cls = find(learners.KINDS, Learner, str(learner["kind"]))  # type: ignore[type-abstract]
        learner = cls(cls.Config.model_validate(learner), schema_of(benchmark.streams), seed)
    model = _LearnerModule(learner)
    return _strategy_class()(
        model=model,
        optimizer=None,
        train_mb_size=train_mb_size,
        eval_mb_size=eval_mb_size,
        **settings,
    )


class _LearnerModule(nn.Module):
    """A learner as a module: (n, ...) events to (n, c + 1) log-probabilities."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        classes = learner.schema.classes
        if not classes or not all(type(name) is int and name >= 0 for name in classes):
            raise LearnerError(
                "as_strategy: the classes of the learner's schema must be stated, and be the "
                "labels that Avalanche has: integers from 0"
            )
        self.learner = learner
        self.labels = np.array(classes, np.int64)
        self._codes = np.full(int(self.labels.max()) + 1, -1)
        self._codes[self.labels] = np.arange(len(classes))
        self._events = 0

    def forward(self, x: Tensor) -> Tensor:
        return self._log_probabilities(self.learner.predict(self._batch(x)))

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the predictions for (n, ...) events, then learn their labels (n,)."""
        batch = self._batch(x)
        n = len(batch)
        labels = y.cpu().numpy()
        unknown = labels[~np.isin(labels, self.labels)]
        if len(unknown):
            raise LearnerError(f"as_strategy: label {unknown[0]} is none of the stated classes")
        revealed = Revealed(replace(batch, y=self._codes[labels]), np.arange(1, n + 1))
        prediction = self.learner.step(batch, revealed)
        self._events += n
        return self._log_probabilities(prediction)

    def _batch(self, x: Tensor) -> Batch:
        n = len(x)
        offset = np.arange(self._events, self._events + n)
        values: Array = x.cpu().numpy()
        if values.dtype != np.uint8 or values.ndim != 4:
            values = values.reshape(n, -1).astype(np.float32)
        partition = np.zeros(n, np.int32)
        classes = self.learner.schema.classes
        return Batch(offset, offset * 1.0, values, partition, offset, classes=classes)

    def _log_probabilities(self, prediction: Prediction) -> Tensor:
        n = len(prediction)
        by_label = np.full((n, len(self._codes) + 1), _MIN_PROBABILITY)
        proba = prediction.proba
        if proba is None:
            proba = np.zeros((n, len(self.labels)))
            predicted = np.flatnonzero(prediction.value >= 0)
            proba[predicted, prediction.value[predicted]] = 1
        width = min(proba.shape[1], len(self.labels))
        by_label[:, self.labels[:width]] = np.maximum(proba[:, :width], _MIN_PROBABILITY)
        by_label[prediction.value < 0, -1] = 1
        return torch.from_numpy(np.log(by_label))


@cache
def _strategy_class() -> type[Any]:
    """Return the strategy class. It is made on first use: its base takes seconds to import."""
    templates = importlib.import_module("avalanche.training.templates")

    class EverlearnStrategy(templates.SupervisedTemplate):  # type: ignore[misc,name-defined]
        """Avalanche's loop with ``learner.step`` in place of forward, backward and update."""

        def training_epoch(self, **kwargs: Any) -> None:
            for self.mbatch in self.dataloader:  # noqa: B020 (as in the loop that this overrides)
                if self._stop_training:
                    break
                self._unpack_minibatch()
                self._before_training_iteration(**kwargs)
                self._before_forward(**kwargs)
                self.mb_output = self.model.step(self.mb_x, self.mb_y)
                self._after_forward(**kwargs)
                self.loss = self.criterion()
                self._after_training_iteration(**kwargs)

        def check_model_and_optimizer(self, **kwargs: Any) -> None:
            """Do nothing: the learner adapts and optimizes itself."""

        def model_adaptation(self, model: Any = None) -> Any:
            return model or self.model

    return EverlearnStrategy
