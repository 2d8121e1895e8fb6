"""A small network learner, and streams with a rare class."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import learners
from learners.base import Learner
from learners.networks.base import NetworkLearner
from learners.registry import find
from streams.core.batch import Array, Batch, ClassName
from streams.core.schema import Feature, Schema
from streams.operators.label_join import Revealed

FEATURES = (Feature("a", "numeric"), Feature("b", "numeric"))
SCHEMA = Schema(FEATURES, "classification")
LINEAR: dict[str, Any] = {
    "model": {"kind": "mlp", "hidden": []},
    "optimizer": {"kind": "sgd", "lr": 0.1},
    "scale": False,
}


def make(schema: Schema = SCHEMA, kind: str = "finetune", **settings: Any) -> NetworkLearner:
    """Return a linear model that is trained by gradient descent, with more settings."""
    cls = find(learners.KINDS, Learner, kind)
    made = cls(cls.Config.model_validate({"kind": kind, **LINEAR, **settings}), schema, 4)
    assert isinstance(made, NetworkLearner)
    return made


def events(y: Array, classes: tuple[ClassName, ...] = ("no", "yes", "late")) -> Batch:
    """Return events with labels (n,), whose features are near their class code."""
    i = np.arange(len(y))
    x = np.random.default_rng(1).normal(size=(len(y), 2)) + y[:, None]
    return Batch(i, i * 1.0, x, i.astype(np.int32), i, y.astype(np.int64), classes=classes)


def rare(n: int = 800, share: float = 0.05) -> Batch:
    """Return events of two classes, with a share of the second."""
    y = np.random.default_rng(0).random(n) < share
    y[:2] = False, True
    return events(y.astype(np.int64))


def learn(learner: Learner, batch: Batch, size: int = 16) -> None:
    """Predict and learn all events, in micro-batches whose labels are known at once."""
    for part in batch.micro_batches(size):
        learner.step(replace(part, y=None), Revealed(part, np.arange(len(part))))
