"""Rows for learners on frozen features."""

from __future__ import annotations

import numpy as np
import pytest

from learners.pretrained.rows import FeatureRows
from streams.core.batch import Array, Batch, Features
from streams.core.schema import Feature, Schema


def events(x: Features, n: int) -> Batch:
    at = np.arange(n)
    return Batch(at, at * 60.0, x, np.zeros(n, np.int32), at)


def numbers(n: int = 60, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(5, 3, (n, 4))


TABLE = Schema(tuple(Feature(f"x{i}", "numeric") for i in range(4)), "classification")


def test_a_vector_of_unit_scale_is_taken_without_a_copy() -> None:
    schema = Schema((Feature("v", "vector", (4,), unit=True),), "classification")
    rows, x = FeatureRows(schema), numbers().astype(np.float32)
    assert rows.fixed
    assert rows.dimension == 4
    assert np.shares_memory(rows.of(events(x, 60)), x)
    assert rows.state() == {}
    huge = rows.of(events(np.full((1, 4), 1e300), 1))
    assert np.isfinite(huge).all()


def test_the_scale_is_that_of_the_first_events_at_any_batch_size() -> None:
    x = numbers()
    expected = (x - x[:20].mean(0)) / x[:20].std(0)
    for size in (1, 7, 60):
        rows = FeatureRows(TABLE, warm_up=20)
        for batch in events(x, 60).micro_batches(size):
            rows.observe(batch)
        assert rows.fixed
        assert np.allclose(rows.of(events(x, 60)), expected, atol=1e-5)


def test_rows_continue_from_a_state() -> None:
    x = numbers()
    rows, loaded = FeatureRows(TABLE, warm_up=20), FeatureRows(TABLE, warm_up=20)
    rows.observe(events(x[:10], 10))
    loaded.load(rows.state())
    assert loaded.needed == 10
    for each in (rows, loaded):
        each.observe(events(x[10:], 50))
    assert np.array_equal(loaded.of(events(x, 60)), rows.of(events(x, 60)))


def test_columns_of_several_kinds_stand_beside_each_other() -> None:
    features = (Feature("n", "numeric"), Feature("v", "vector", (3,), unit=True))
    rows = FeatureRows(Schema(features, "classification"), warm_up=20)
    v = numbers()[:, :3].astype(np.float32)
    batch = events({"n": numbers()[:, 0], "v": v}, 60)
    rows.observe(batch)
    found = rows.of(batch)
    assert found.shape == (60, rows.dimension) == (60, 5)  # with an indicator of missing numbers
    assert np.array_equal(found[:, 2:], v)


def test_pixels_are_rows_from_0_to_1() -> None:
    rows = FeatureRows(Schema((Feature("i", "image", (1, 2, 2)),), "classification"), warm_up=20)
    assert rows.fixed
    x = np.full((3, 1, 2, 2), 255, np.uint8)
    assert np.array_equal(rows.of(events(x, 3)), np.ones((3, 4)))


def test_numbers_that_seldom_vary_do_not_outweigh_others() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 17, (1000, 4)).astype(float)
    x[:, 1] = 0  # as a pixel that has no ink in the first classes
    x[:, 2] = np.where(np.arange(1000) % 100 == 0, 16, 0)
    x[:, 3] *= 1e-6  # of another unit
    schema = Schema((Feature("v", "vector", (4,)),), "classification")
    rows = FeatureRows(schema)
    for batch in events(x, 1000).micro_batches(32):
        rows.observe(batch)
    assert rows.fixed
    largest = np.abs(rows.of(events(np.array([[16.0, 16, 16, 16e-6]]), 1)))[0]
    assert (largest > 1).all()
    assert (largest < 4).all()


def test_the_scale_of_vectors_continues_from_a_state() -> None:
    schema = Schema((Feature("v", "vector", (4,)), Feature("n", "numeric")), "classification")
    x = {"v": numbers(), "n": np.arange(60.0)}
    rows, loaded = FeatureRows(schema, warm_up=50), FeatureRows(schema, warm_up=50)
    rows.observe(events(x, 60)[:17])
    loaded.load(rows.state())
    for each in (rows, loaded):
        each.observe(events(x, 60)[17:])
    assert np.array_equal(loaded.of(events(x, 60)), rows.of(events(x, 60)))


@pytest.mark.parametrize("unit", [True, False])
def test_no_number_is_too_large_to_be_squared(unit: bool) -> None:
    schema = Schema((Feature("v", "vector", (4,), unit=unit),), "classification")
    x = np.full((3, 4), 3e38, np.float32)
    found = FeatureRows(schema, scale=False).of(events(x, 3))
    assert np.isfinite(np.einsum("nd,nd->n", found, found)).all()
