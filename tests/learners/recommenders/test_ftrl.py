"""FTRL-proximal against river's, one event at a time; micro-batches against their formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from river import linear_model, optim

from learners.recommenders.ftrl import Ftrl, FtrlConfig
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema
from streams.core.state_dict import copied, digest

CLASSES = ("no", "click")
SCHEMA = Schema(
    (Feature("user", "categorical"), Feature("price", "numeric")), "classification", CLASSES
)


def ftrl(**settings: Any) -> Ftrl:
    settings = {"bins": 0, "scale": False, "bits": 20, **settings}
    return Ftrl(FtrlConfig.model_validate({"kind": "ftrl", **settings}), SCHEMA, 0)


def clicks(n: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    user, price = rng.integers(0, 20, n), rng.normal(size=n)
    y = (rng.random(n) < 1 / (1 + np.exp(-(user % 3 - 1 + price)))).astype(np.int64)
    offset = np.arange(n)
    x = {"user": user, "price": price}
    return Batch(offset, offset * 1.0, x, np.zeros(n, np.int32), offset, y, classes=CLASSES)


def fed(learner: Ftrl, batch: Batch, size: int) -> Ftrl:
    for part in batch.micro_batches(size):
        learner._observe(part)
        learner._learn(part)
    return learner


@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.0, 0.5), (0.2, 0.1)])
def test_one_event_at_a_time_equals_river(l1: float, l2: float) -> None:
    """River predicts by weights that are one event behind its sums: here they are brought up to
    date. Its intercept learns by another rule: here the bias is a value, which has no l1."""
    batch, alpha = clicks(300), 0.1
    assert not isinstance(batch.x, np.ndarray)
    optimizer = optim.FTRLProximal(alpha=alpha, beta=1.0, l1=l1, l2=l2)
    theirs = linear_model.LogisticRegression(optimizer, intercept_lr=0.0)
    ours = ftrl(alpha=alpha, beta=1.0, l1=l1, l2=l2)
    for i in range(len(batch)):
        event = batch[i : i + 1]
        x = {str(batch.x["user"][i]): 1.0, "price": float(np.asarray(batch.x["price"])[i])}
        if l1:
            ours._sums[ours._numbers - 1] = 0  # no bias
        else:
            x["bias"] = 1.0
        for name, z in optimizer.z.items():
            rate = (1.0 + optimizer.n[name] ** 0.5) / alpha + l2
            theirs._weights[name] = -np.sign(z) * max(abs(z) - l1, 0.0) / rate
        proba = ours.predict(event).proba
        assert proba is not None
        assert proba[0, 1] == pytest.approx(theirs.predict_proba_one(x)[True], abs=1e-6)
        fed(ours, event, 1)
        theirs.learn_one(x, bool(np.asarray(event.y)[0]))


def test_micro_batch_is_one_by_one_with_weights_held() -> None:
    """Sums of squares telescope: the loop below moves z and n event by event, and w not at all."""
    learner = fed(ftrl(), clicks(100), 10)
    batch = clicks(40, seed=1)
    numbers, places = learner._encode(batch)
    weights = learner.weight_vector().copy()
    sums = learner._sums.copy()
    assert batch.y is not None
    for row in range(40):
        values = [(i, numbers[row, i]) for i in range(numbers.shape[1])]
        values += [(int(place), 1.0) for place in places[row]]
        odds = sum(weights[i] * x for i, x in values)
        error = 1 / (1 + np.exp(-odds)) - batch.y[row]
        for i, x in values:
            g, before = error * x, sums[i, 1]
            sums[i, 1] = before + g * g
            sums[i, 0] += g - (np.sqrt(sums[i, 1]) - np.sqrt(before)) / 0.1 * weights[i]
    learner._learn(batch)
    np.testing.assert_allclose(learner._sums, sums, rtol=1e-9, atol=1e-12)


def test_l1_leaves_most_weights_at_zero() -> None:
    dense, sparse = fed(ftrl(), clicks(500), 32), fed(ftrl(l1=5.0), clicks(500), 32)
    assert sparse.metrics()["weights"] < dense.metrics()["weights"] / 2


def test_resume_and_serving_continue_bit_for_bit() -> None:
    events = clicks(300)
    whole, half, other = fed(ftrl(bins=8), events, 32), fed(ftrl(bins=8), events[:128], 32), None
    other = ftrl(bins=8)
    other.load(copied(half.state()))
    assert digest(fed(other, events[128:], 32).state()) == digest(whole.state())
    served = ftrl(bins=8)
    served.load_servable(copied(whole.servable()))
    fresh = clicks(50, seed=5)
    assert np.array_equal(served.predict(fresh).proba, whole.predict(fresh).proba)  # type: ignore[arg-type]
