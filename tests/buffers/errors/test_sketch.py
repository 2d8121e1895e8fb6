"""The sketch: expectation of a read, half-life, exactness, constant bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from buffers.errors.base import LabelledKeys
from buffers.errors.sim_hash import collision_rate
from buffers.errors.sketch import ErrorSketch


def events(keys: np.ndarray, labels: np.ndarray, base: np.ndarray | None = None) -> LabelledKeys:
    m = len(keys)
    base = np.full((m, 2), 0.5) if base is None else base
    return LabelledKeys(np.arange(m), keys, labels, base, np.ones(m))


def sketch(width: int, **settings: Any) -> ErrorSketch:
    made = ErrorSketch(width, False, **settings)
    made.grow(2)
    return made


def test_mean_is_a_kernel_regression_by_the_collision_rate() -> None:
    """With many tables a read is the mean label weighted by (1 - angle / pi)^bits."""
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((40, 6)).astype(np.float32)
    labels = rng.integers(0, 2, 40)
    memory = sketch(6, tables=3000, bits=3)
    memory.write(events(keys, labels))
    query = rng.standard_normal((1, 6)).astype(np.float32)
    recalled = memory.read(query)
    cosine = (keys @ query[0]) / np.linalg.norm(keys, axis=1) / np.linalg.norm(query)
    kernel = collision_rate(cosine.astype(np.float64), 3)
    assert recalled.labels[0, 1] == pytest.approx(kernel @ labels / kernel.sum(), abs=0.02)
    assert recalled.support[0] == pytest.approx(kernel.sum(), rel=0.05)


def test_equal_key_gives_its_own_labels_and_predictions() -> None:
    """A key finds what was written under it; a key without events knows nothing."""
    key = np.array([[1.0, -2.0, 0.5]], np.float32)
    memory = sketch(3, tables=8, bits=14, keep_base=True)
    base = np.array([[0.2, 0.8], [0.6, 0.4]])
    memory.write(events(np.repeat(key, 2, 0), np.array([0, 1]), base))
    recalled = memory.read(np.concatenate([key * 7, -key]))
    assert recalled.support.tolist() == [2.0, 0.0]
    assert recalled.labels[0] == pytest.approx([0.5, 0.5])
    assert recalled.base[0] == pytest.approx([0.4, 0.6])
    assert not recalled.labels[1].any()


@pytest.mark.parametrize("half_life", [0.4, 3.0])
def test_half_life_weighs_events_by_their_age(half_life: float) -> None:
    """After any number of rescalings, a read is the weighted mean, and the support its sum."""
    labels = np.random.default_rng(1).integers(0, 2, 200)
    memory = sketch(2, tables=2, bits=4, half_life=half_life)
    keys = np.ones((200, 2), np.float32)
    for start in range(0, 200, 33):
        memory.write(events(keys[start : start + 33], labels[start : start + 33]))
    recalled = memory.read(keys[:1])
    weights = 0.5 ** (np.arange(200)[::-1] / half_life)
    assert recalled.labels[0, 1] == pytest.approx(weights @ labels / weights.sum(), rel=1e-5)
    assert recalled.support[0] == pytest.approx(weights.sum() * 0.5 ** (1 / half_life), rel=1e-5)


def test_cuts_make_no_difference_and_a_state_continues() -> None:
    """One write or many, and a resume between them, give the same bits and the same bytes."""
    rng = np.random.default_rng(2)
    keys, labels = rng.standard_normal((90, 5)).astype(np.float32), rng.integers(0, 2, 90)
    settings = {"tables": 4, "bits": 5, "half_life": 2.0}
    whole, parts = sketch(5, **settings), sketch(5, **settings)
    size = whole.memory_bytes()
    whole.write(events(keys, labels))
    for start in range(0, 90, 7):
        parts.write(events(keys[start : start + 7], labels[start : start + 7]))
        heir = sketch(5, **settings, seed=9)
        heir.load({name: np.copy(value) for name, value in parts.state().items()})
        parts = heir
    assert np.array_equal(whole.state()["sums"], parts.state()["sums"])
    assert whole.memory_bytes() == parts.memory_bytes() == size
    together, alone = whole.read(keys), [whole.read(key[None]) for key in keys]
    assert np.array_equal(together.labels, np.concatenate([one.labels for one in alone]))


def test_centred_keys_are_needed_in_one_orthant() -> None:
    """Without its mean, a key of ReLU shares its buckets with most others."""
    rng = np.random.default_rng(3)
    keys = np.maximum(rng.standard_normal((400, 32)) + 1.0, 0).astype(np.float32)
    support = []
    for rows in (keys, keys - keys.mean(0)):
        memory = sketch(32, tables=16, bits=8)
        memory.write(events(rows, np.zeros(400, int)))
        support.append(memory.read(rows).support.mean())
    assert support[0] > 10 * support[1]
