"""A small stream of two segments, and a small network that learns it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from learners.networks.base import NetworkLearner
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema
from streams.operators.label_join import Revealed

FEATURES = tuple(Feature(f"x{i}", "numeric") for i in range(3))
SCHEMA = Schema(FEATURES, "classification", (0, 1, 2, 3))
SEED = 9


def stream(n: int = 36, first: int = 22) -> Batch:
    """Classes 0 and 1, then from event ``first`` on 2 and 3, in another segment."""
    rng = np.random.default_rng(1)
    x, i = rng.normal(size=(n, 3)).astype(np.float32), np.arange(n)
    y = np.where(i < first, i % 2, 2 + i % 2)
    segment = np.where(i < first, 5, 8)
    classes = (0, 1, 2, 3)
    return Batch(i, i * 1.0, x, i.astype(np.int32), i, y, segment=segment, classes=classes)


def make(cls: type[NetworkLearner], classes: Any = SCHEMA.classes, **settings: Any) -> Any:
    given: dict[str, Any] = {
        "kind": cls.kind,
        "model": {"kind": "mlp", "hidden": [8]},
        "optimizer": {"kind": "sgd", "lr": 0.2},
        "scale": False,
    }
    config = cls.Config.model_validate(given | settings)
    return cls(config, replace(SCHEMA, classes=classes), SEED)


def learn(learner: NetworkLearner, batch: Batch) -> None:
    learner.step(replace(batch, y=None), Revealed(batch, np.arange(len(batch))))


def weights(learner: NetworkLearner) -> torch.Tensor:
    return learner.optimizer.weights.clone()
