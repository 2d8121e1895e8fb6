"""What checks compare: predictions, runs, states and random generators."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from safetensors.numpy import load, save

from learners.checks.case import LearnerRun
from learners.results import Prediction
from streams.core.batch import Array, Ints
from streams.core.schema import Task
from streams.core.state_dict import State, leaves, nested


def predicted_rows(prediction: Prediction) -> Array:
    """Return (n,) bool: the rows in which something is predicted."""
    if prediction.kind == "regression":
        return ~np.isnan(prediction.value)
    return prediction.value >= 0


def assert_fits(prediction: Prediction, ids: Ints, task: Task) -> None:
    """Assert that a prediction for events ``ids`` (n,) is as ``Prediction`` states."""
    n = len(ids)
    assert np.array_equal(prediction.ids, ids), "ids are not those of the events"
    assert prediction.ids.dtype == np.int64, f"ids are {prediction.ids.dtype}"
    kind = "classification" if task == "sequences" else task  # of the type of the next event
    assert prediction.kind == kind, f"kind is {prediction.kind}"
    assert prediction.value.shape == (n,), f"value has shape {prediction.value.shape}, not {(n,)}"
    dtype = np.float64 if task == "regression" else np.int64
    assert prediction.value.dtype == dtype, (
        f"value is {prediction.value.dtype}, not {dtype.__name__}"
    )
    if task == "regression":
        assert not np.isinf(prediction.value).any(), "a predicted target is infinite"
        assert prediction.proba is None, "a target has no probabilities"
        return
    width = len(prediction.classes)
    assert len(set(prediction.classes)) == width, f"a class has two codes: {prediction.classes}"
    assert (prediction.value >= -1).all(), "a class code is below -1"
    assert (prediction.value < max(width, 2)).all(), "a predicted class has no name"
    if prediction.proba is not None:
        _assert_probabilities(prediction.proba, prediction.value, width)
    if prediction.forecast is not None:
        _assert_forecast(prediction.forecast, n, width)


def _assert_forecast(forecast: Array, n: int, width: int) -> None:
    """Assert that a forecast is as ``learners/sequences/forecast.py`` states."""
    assert forecast.ndim == 3, f"the forecast has shape {forecast.shape}"
    assert len(forecast) == n, f"the forecast has {len(forecast)} rows for {n} events"
    assert forecast.dtype == np.float32, f"the forecast is {forecast.dtype}, not float32"
    cells = forecast[~np.isnan(forecast[:, :, 1]).all(1)]
    assert not np.isnan(cells).any(), "a cell of a forecast is NaN"
    assert (cells[:, 0, 0] == 0).all(), "the first cell does not begin at 0"
    assert (np.diff(cells[:, :, 0], axis=1) >= 0).all(), "cells are not in the order of time"
    assert (cells[:, :, 1] >= 0).all(), "an intensity is negative"
    assert np.isfinite(cells[:, :, :2]).all(), "an intensity, or the start of a cell, is infinite"
    if forecast.shape[2] > 2:
        assert forecast.shape[2] - 2 == max(width, 2), f"{forecast.shape[2] - 2} types of {width}"
        assert np.allclose(cells[:, :, 2:].sum(2), 1, atol=1e-4), "types do not sum to 1"


def _assert_probabilities(proba: Array, value: Array, width: int) -> None:
    n = len(value)
    assert proba.ndim == 2, f"proba has shape {proba.shape}"
    assert len(proba) == n, f"proba has {len(proba)} rows for {n} events"
    assert width <= proba.shape[1] <= max(width, 2), f"proba {proba.shape} for {width} classes"
    assert proba.dtype.kind == "f", f"proba is {proba.dtype}"
    assert np.isfinite(proba).all(), "a probability is not finite"
    assert (proba >= 0).all(), "a probability is negative"
    total = proba.sum(1)
    assert np.allclose(total, value >= 0, atol=1e-5), (
        "probabilities must sum to 1, or be all 0 in a row without a prediction"
    )


def assert_one_line(error: Exception) -> None:
    """Assert that the message of an error is one line and not empty."""
    assert str(error), "the error has no message"
    assert "\n" not in str(error), f"the error has more than one line: {error}"


def same_prediction(a: Prediction, b: Prediction) -> bool:
    """Return whether two predictions are equal, bit for bit."""
    probas = [np.zeros(0) if p.proba is None else p.proba for p in (a, b)]
    forecasts = [np.zeros(0) if p.forecast is None else p.forecast for p in (a, b)]
    return (
        np.array_equal(a.value, b.value, equal_nan=True)
        and np.array_equal(probas[0], probas[1], equal_nan=True)
        and np.array_equal(forecasts[0], forecasts[1], equal_nan=True)
        and np.array_equal(a.ids, b.ids)
        and (a.classes, a.version, a.kind) == (b.classes, b.version, b.kind)
    )


def same_predictions(a: LearnerRun, b: LearnerRun) -> bool:
    """Return whether two runs predicted the same all along."""
    if len(a.predictions) != len(b.predictions):
        return False
    return all(map(same_prediction, a.predictions, b.predictions))


def saved_and_read(state: State) -> State:
    """Return the state as a checkpoint gives it back: through safetensors and JSON."""
    arrays, values = {}, {}
    for path, leaf in leaves(state):
        if isinstance(leaf, np.ndarray | np.generic):
            arrays[path] = np.ascontiguousarray(leaf).reshape(leaf.shape)
        else:
            values[path] = leaf
    return nested({**load(save(arrays)), **json.loads(json.dumps(values))})


@contextmanager
def global_generators_unchanged(user: str) -> Iterator[None]:
    """Assert that the block draws nothing from the global generators. ``user`` is for the message.

    They are those of torch, NumPy and Python.
    """

    def states() -> list[str]:
        legacy = np.random.get_state()  # noqa: NPY002 (the global generator is what is watched)
        shared = torch.get_rng_state().tolist(), legacy, random.getstate()
        return [repr(state) for state in shared]

    before = states()
    yield
    for name, old, new in zip(("torch", "numpy", "Python"), before, states(), strict=True):
        assert old == new, f"{user} draws from the global generator of {name}"
