"""Gaussians of classes, and the linear layer trained on draws from them."""

from __future__ import annotations

import numpy as np
import pytest

from learners.pretrained.adapters.aligned_linear import AlignedLinear, AlignmentConfig
from learners.pretrained.adapters.gaussians import Gaussians
from streams.core.batch import Array, Batch
from streams.core.schema import Feature, Schema

SCHEMA = Schema((Feature("x", "vector", (8,), unit=True),), "classification")


def rows(n: int, seed: int = 0) -> Array:
    """Rows around a mean with two main directions."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(2, 8))
    return (1 + rng.normal(size=(n, 2)) @ directions + 0.01 * rng.normal(size=(n, 8))).astype("f4")


def covariance(gaussians: Gaussians, code: int) -> Array:
    factor = gaussians.factors[code]
    rest = np.broadcast_to(gaussians.rest[code], 8)
    dense: Array = factor.T @ factor + np.diag(rest)
    return dense


@pytest.mark.parametrize("parts", [[40], [1, 1, 38], [10, 10, 10, 10]])
def test_all_directions_give_the_covariance(parts: list[int]) -> None:
    x, gaussians = rows(40), Gaussians(8, 8)
    gaussians.grow(1)
    for part in np.split(x, np.cumsum(parts)[:-1]):
        gaussians.add(part, np.zeros(len(part), np.int64))
    np.testing.assert_allclose(gaussians.means[0], x.mean(0), atol=1e-5)
    np.testing.assert_allclose(covariance(gaussians, 0), np.cov(x.T, bias=True), atol=1e-4)


def test_few_directions_keep_the_trace() -> None:
    x, gaussians = rows(60), Gaussians(8, 2)
    gaussians.grow(1)
    for part in np.split(x, 6):
        gaussians.add(part, np.zeros(10, np.int64))
    expected = np.cov(x.T, bias=True)
    found = covariance(gaussians, 0)
    assert np.trace(found) == pytest.approx(np.trace(expected), rel=1e-5)
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_a_variance_for_each_number() -> None:
    x, gaussians = rows(30), Gaussians(8, 0)
    gaussians.grow(1)
    for part in np.split(x, 3):
        gaussians.add(part, np.zeros(10, np.int64))
    np.testing.assert_allclose(gaussians.rest[0], x.var(0), rtol=1e-4)


def test_joined_classes_are_those_of_all_rows() -> None:
    x, y = rows(60), np.repeat([0, 1, 2], 20)
    gaussians, together = Gaussians(8, 8), Gaussians(8, 8)
    gaussians.grow(3)
    together.grow(2)
    gaussians.add(x, y)
    together.add(x, np.array([0, 1, 0])[y])
    gaussians.join(np.array([0, 1, 0]))
    np.testing.assert_array_equal(gaussians.counts, [40, 20])
    for code in range(2):
        np.testing.assert_allclose(gaussians.means[code], together.means[code], atol=1e-5)
        np.testing.assert_allclose(
            covariance(gaussians, code), covariance(together, code), atol=1e-4
        )


def batch_of(x: Array, y: Array) -> Batch:
    i = np.arange(len(x))
    return Batch(i, i * 1.0, x, i.astype(np.int32), i, y, classes=("a", "b", "c"))


@pytest.mark.parametrize("align", [True, False])
def test_the_layer_separates_classes(align: bool) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = (np.eye(8)[y] + 0.2 * rng.normal(size=(120, 8))).astype(np.float32)
    layer = AlignedLinear(AlignmentConfig(align=align, every=60), SCHEMA, 1)
    for part in batch_of(x, y).micro_batches(12):
        layer._learn(part)
    found = layer.predict(batch_of(x, y))
    assert (found.value == y).mean() > 0.95
    # aligned at 12, 24, 36, 60, 96 and 120 events
    assert layer.metrics()["alignments"] == (6 if align else 0)


def test_new_classes_are_aligned_sooner() -> None:
    x, y = rows(400), np.arange(400) % 2
    y[310:] = 2
    layer = AlignedLinear(AlignmentConfig(every=200), SCHEMA, 1)
    aligned = []
    for stop, part in enumerate(batch_of(x, y).micro_batches(10), 1):
        before = layer.metrics()["alignments"]
        layer._learn(part)
        if layer.metrics()["alignments"] > before:
            aligned.append(10 * stop)
    assert aligned == [10, 20, 30, 50, 80, 120, 180, 200, 300, 350, 400]


def test_draws_follow_from_the_seed() -> None:
    x, y = rows(24), np.arange(24) % 3
    layers = [AlignedLinear(AlignmentConfig(), SCHEMA, seed) for seed in (1, 1, 2)]
    for layer in layers:
        layer._learn(batch_of(x, y))
    weights = [layer.state()["weights"] for layer in layers]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert (weights[0] != weights[2]).any()
