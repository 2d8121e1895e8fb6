"""Small streams of vectors for tests of learners in closed form."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import learners
from learners.pretrained.closed_form import ClosedFormLearner
from learners.registry import find
from streams.core.batch import Array, Batch, ClassName
from streams.core.schema import Feature, Schema
from streams.operators.label_join import Revealed

WIDTH, CLASSES = 8, 4
NAMES: tuple[ClassName, ...] = ("a", "b", "c", "d")


def vectors(n: int = 400, seed: int = 0, width: int = WIDTH) -> tuple[Array, Array]:
    """Return correlated rows (n, width) float32 of ``CLASSES`` classes, and their codes (n,)."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(CLASSES), rng.integers(0, CLASSES, n)])[:n]
    mixing = np.random.default_rng(99).normal(size=(width, width))
    centres = 2 * np.random.default_rng(98).normal(size=(CLASSES, width))
    return (centres[y] + rng.normal(size=(n, width)) @ mixing).astype(np.float32), y


def events(x: Array, y: Array) -> Batch:
    at = np.arange(len(x))
    return Batch(at, at * 1.0, x, np.zeros(len(x), np.int32), at, y, classes=NAMES)


def new(kind: str, width: int = WIDTH, **settings: Any) -> ClosedFormLearner:
    """Return a new learner over one vector of unit scale."""
    cls = find(learners.KINDS, ClosedFormLearner, kind)  # type: ignore[type-abstract]
    config = cls.Config.model_validate({"kind": kind, **settings})
    schema = Schema((Feature("v", "vector", (width,), unit=True),), "classification")
    return cls(config, schema, 0)


def learn(learner: ClosedFormLearner, batch: Batch, size: int = 32) -> ClosedFormLearner:
    """Let it learn all events in micro-batches of ``size``. Return it."""
    for part in batch.micro_batches(size):
        learner.step(replace(part[:0], y=None), Revealed(part, np.zeros(len(part), np.int64)))
    return learner


def predicted(learner: ClosedFormLearner, x: Array) -> Array:
    """Return the class codes (n,) for rows."""
    return learner.predict(replace(events(x, np.zeros(len(x), np.int64)), y=None)).value
