"""What is claimed of error memories: labels that flip over digits, with and without the flip."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from learners.checks.case import LearnerRun
from learners.retrieval.error_memory import ErrorMemoryConfig, ErrorMemoryLearner
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema

SCHEMA = Schema((Feature("pixels", "vector", (64,)),), "classification", ("even", "odd"))
EVENTS, FLIP = 8000, 2000
BASE = {
    "kind": "finetune",
    "model": {"kind": "mlp", "hidden": [64]},
    "optimizer": {"kind": "adam", "lr": 0.003},
    "steps": 4,
}
MEMORIES: dict[str, dict[str, Any]] = {
    "frozen base": {"lambda": 0},
    "ring": {},
    "sketch": {"memory": {"kind": "sketch", "bits": 12}},
}


class Score(NamedTuple):
    """AUC and log-loss of the events after the flip, and gradient steps taken in them."""

    auc: float
    log_loss: float
    steps: int


def digits(seed: int, flips: bool) -> Batch:
    """Return digits that are even or odd; after 2,000 events 2 and 7 change places."""
    x, digit = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.permutation(len(digit)) for _ in range(5)])[:EVENTS]
    place, y = np.arange(EVENTS), digit[rows] % 2
    if flips:
        y = np.where((place >= FLIP) & np.isin(digit[rows], (2, 7)), 1 - y, y)
    pixels = (x[rows] / 16).astype(np.float32)
    return Batch(
        place, place * 1.0, pixels, np.zeros(EVENTS, np.int32), place, y, classes=SCHEMA.classes
    )


@cache
def score(memory: str, seed: int, flips: bool) -> Score:
    """Return the score of a base that is frozen at the flip, under a memory."""
    settings = {"base": BASE, "frozen_after": FLIP, **MEMORIES[memory]}
    config = ErrorMemoryConfig.model_validate({"kind": "error-memory", **settings})
    learner, stream = ErrorMemoryLearner(config, SCHEMA, seed), digits(seed, flips)
    run = LearnerRun(learner, 0).feed(stream[:FLIP], 50)
    before = learner.base.version
    shares = run.feed(stream[FLIP:], 50).probabilities(2)[FLIP:]
    y = np.asarray(stream.y)[FLIP:]
    truth = np.maximum(shares[np.arange(len(y)), y], 1e-6)
    auc = float(roc_auc_score(y, shares[:, 1]))
    return Score(auc, float(-np.log(truth).mean()), learner.base.version - before)


@pytest.mark.claims
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("memory", "auc"), [("ring", 0.95), ("sketch", 0.86)])
def test_memory_follows_flips_without_a_gradient_step(memory: str, auc: float, seed: int) -> None:
    """The log-loss is less than half that of the frozen base, and the base learns nothing."""
    frozen, corrected = score("frozen base", seed, True), score(memory, seed, True)
    assert corrected.log_loss < 0.5 * frozen.log_loss
    assert corrected.auc >= auc
    assert corrected.steps == 0


@pytest.mark.claims
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("memory", ["ring", "sketch"])
def test_memory_does_no_harm_without_drift(memory: str, seed: int) -> None:
    """Where nothing flips, the AUC is the same within .005, and the log-loss no worse by .002."""
    frozen, corrected = score("frozen base", seed, False), score(memory, seed, False)
    assert abs(corrected.auc - frozen.auc) < 0.005
    assert corrected.log_loss < frozen.log_loss + 0.002
