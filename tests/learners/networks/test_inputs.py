"""Inputs of one array: numbers alone, a vector, an image."""

from __future__ import annotations

import numpy as np
import pytest

from learners.networks.inputs import MatrixInputs
from streams.core.batch import Array, Batch
from streams.core.schema import Feature, Schema


def batch_of(x: Array) -> Batch:
    n = np.arange(len(x))
    return Batch(n, n / 1.0, x, np.zeros(len(x), np.int32), n)


def test_inputs_store_images_as_bytes_and_scale_to_1() -> None:
    inputs = MatrixInputs(Schema((Feature("i", "image", (1, 2, 2)),), "classification"))
    batch = batch_of(np.array([[[[0, 255], [51, 204]]]], np.uint8))
    rows = inputs.rows(batch)
    assert rows["x"].dtype == np.uint8
    assert not inputs.observes
    np.testing.assert_allclose(inputs.tensor(rows).numpy().ravel(), [0, 1, 0.2, 0.8], atol=1e-6)


def test_tensor_scales_at_call_time_unless_disabled() -> None:
    schema = Schema((Feature("a", "numeric"),), "regression")
    inputs, plain = MatrixInputs(schema), MatrixInputs(schema, scale=False)
    batch = batch_of(np.array([[10.0], [20.0]]))
    assert inputs.tensor(inputs.rows(batch)).numpy().ravel().tolist() == [10, 20]
    for each in (inputs, plain):
        each.observe(batch)
    assert inputs.tensor(inputs.rows(batch)).numpy().ravel().tolist() == [-1, 1]
    assert plain.tensor(plain.rows(batch)).numpy().ravel().tolist() == [10, 20]
    assert inputs.tensor(inputs.rows(batch_of(np.array([15.0])))).shape == (1, 1)


@pytest.mark.parametrize("scale", [False, True])
def test_tensor_clips_numbers_beyond_float32(scale: bool) -> None:
    """Warnings are errors here."""
    features = (Feature("a", "numeric"), Feature("b", "numeric"))
    inputs = MatrixInputs(Schema(features, "classification"), scale)
    batch = batch_of(np.stack([[1e39, -1e300, 0.5], np.zeros(3)], 1))
    inputs.observe(batch)
    found = inputs.tensor(inputs.rows(batch)).numpy()[:, 0]
    assert np.isfinite(found).all()
    assert scale or found.tolist() == [np.finfo(np.float32).max, np.finfo(np.float32).min, 0.5]
