"""The exact ring: equality with brute force, age, weights, limits, state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from buffers.errors.base import LabelledKeys
from buffers.errors.ring import METRICS, ErrorRing, Metric


def events(keys: np.ndarray, labels: np.ndarray, outputs: int = 2, **columns: Any) -> LabelledKeys:
    m = len(keys)
    given = {"ids": np.arange(m), "base": np.full((m, outputs), 1 / outputs), "weights": np.ones(m)}
    given |= columns
    return LabelledKeys(given["ids"], keys, labels, given["base"], given["weights"])


def ring(width: int, outputs: int = 2, **settings: Any) -> ErrorRing:
    made = ErrorRing(width, False, **settings)
    made.grow(outputs)
    return made


def brute_force(memory: ErrorRing, stored: np.ndarray, key: np.ndarray, k: int) -> list[int]:
    """Return the rows of ``stored`` (in order of writing) nearest to a key, in whole numbers."""
    grid = memory.on_grid(np.concatenate([stored, key[None]])).astype(np.int64)
    rows, query = grid[:-1], grid[-1]
    scores = -((rows - query) ** 2).sum(1) if memory.metric == "euclidean" else rows @ query
    order = np.lexsort((-np.arange(len(rows)), -scores))
    return order[:k].tolist()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("capacity", "written"), [(40, 25), (40, 100), (9000, 9500)])
def test_nearest_equals_brute_force_with_ties(metric: Metric, capacity: int, written: int) -> None:
    """Ties, duplicates, zeros and several blocks: the same events, in the same order."""
    rng = np.random.default_rng(capacity + written)
    keys = rng.integers(-1, 2, (written, 5)).astype(np.float32)  # 243 different keys
    keys[::7] = 0
    keys[3::11] *= 1e4  # beyond the reach
    memory = ring(5, capacity=capacity, metric=metric)
    for start in range(0, written, 37):
        memory.write(events(keys[start : start + 37], np.zeros(len(keys[start : start + 37]), int)))
    queries = np.concatenate([keys[:20], rng.standard_normal((10, 5)).astype(np.float32)])
    stored = keys[max(written - capacity, 0) :]
    found = memory.nearest(queries, 17)
    for query, ages in zip(queries, found.age, strict=True):
        assert (len(stored) - 1 - ages).tolist() == brute_force(memory, stored, query, 17)
    alone = [memory.nearest(query[None], 17) for query in queries]
    assert np.array_equal(found.places, np.concatenate([one.places for one in alone]))
    assert np.array_equal(found.similarity, np.concatenate([one.similarity for one in alone]))


def test_similarity_is_what_the_metric_says() -> None:
    """On random keys, each similarity is within the rounding of the grid."""
    rng = np.random.default_rng(1)
    keys = rng.standard_normal((60, 8)).astype(np.float32)
    queries = rng.standard_normal((7, 8)).astype(np.float32)
    unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    unit_queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    expected = {
        "cosine": unit_queries @ unit.T,
        "dot": queries @ keys.T / 8,
        "euclidean": -((queries[:, None] - keys) ** 2).sum(2) / 8,
    }
    for metric in METRICS:
        memory = ring(8, capacity=60, metric=metric)
        memory.write(events(keys, np.zeros(60, int)))
        found = memory.nearest(queries, 60)
        similar = np.take_along_axis(expected[metric], found.places, 1)
        assert np.abs(found.similarity - similar).max() < 0.02


def test_read_is_the_softmax_over_the_nearest() -> None:
    """Means and support of two neighbours, by hand: weights, half-life and temperature."""
    keys = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], np.float32)
    memory = ring(2, capacity=3, neighbours=2, temperature=0.5, half_life=2.0, keep_base=True)
    base = np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]])
    memory.write(events(keys, np.array([0, 1, 1]), base=base, weights=np.array([1.0, 3.0, 1.0])))
    recalled = memory.read(np.array([[2.0, 0.0]]))  # cosines 1, 0, -1; ages 2, 1, 0
    raw = np.array([np.exp(1 / 0.5) * 0.5 ** (2 / 2), 3 * np.exp(0.0) * 0.5 ** (1 / 2)])
    weights = raw / raw.sum()
    assert recalled.labels[0] == pytest.approx(weights, abs=1e-3)
    assert recalled.base[0] == pytest.approx(weights @ base[:2], abs=1e-3)
    assert recalled.support[0] == pytest.approx(1 / (weights**2).sum(), abs=1e-2)


def test_targets_have_a_weighted_mean() -> None:
    """Equal keys and a long temperature: the mean of the targets."""
    memory = ErrorRing(3, True, capacity=4, neighbours=4)
    memory.write(events(np.ones((4, 3), np.float32), np.array([1.0, 2.0, 3.0, 10.0]), 1))
    recalled = memory.read(np.ones((1, 3)))
    assert recalled.labels[0, 0] == pytest.approx(4.0)
    assert recalled.support[0] == pytest.approx(4.0)


def test_empty_ring_knows_nothing_and_clear_empties_it() -> None:
    """Support 0 without events; after ``clear`` nothing is left, and the bytes are the same."""
    memory = ring(4, capacity=10)
    size = memory.memory_bytes()
    assert memory.read(np.ones((2, 4))).support.tolist() == [0.0, 0.0]
    memory.write(events(np.ones((25, 4), np.float32), np.ones(25, int)))
    assert memory.events == 25
    assert len(memory) == 10
    memory.clear()
    assert memory.events == 0
    assert not any(np.any(column) for column in memory.state().values() if np.ndim(column))
    assert memory.memory_bytes() == size


def test_relabel_changes_the_stored_label() -> None:
    """A corrected label counts from then on; ids that are not stored are ignored."""
    memory = ring(2, capacity=4, neighbours=1)
    memory.write(events(np.eye(2, dtype=np.float32), np.array([0, 0])))
    memory.relabel(np.array([1, 99]), np.array([1, 1]))
    assert memory.read(np.eye(2)).labels.argmax(1).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "value"),
    [("capacity", 0), ("neighbours", 0), ("temperature", 0), ("half_life", 0), ("metric", "l1")],
)
def test_settings_out_of_range_are_refused(name: str, value: Any) -> None:
    """An impossible setting is named."""
    with pytest.raises(ValueError, match=f"{name}: "):
        ErrorRing(2, False, **{name: value})


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("written", [25, 100])
def test_replaced_keys_are_as_if_written(metric: Metric, written: int) -> None:
    """Ages, labels and weights stay; the keys are those of a memory that got them at once."""
    rng = np.random.default_rng(written)
    old, new = rng.standard_normal((2, written, 5)).astype(np.float32)
    labels, weights = rng.integers(0, 2, written), rng.random(written) + 0.5
    memory, other = (ring(5, capacity=40, metric=metric, half_life=20) for _ in range(2))
    for start in range(0, written, 7):
        rows = slice(start, start + 7)
        memory.write(events(old, labels, weights=weights).take(rows))
    memory.replace_keys(new[written - memory.stored :])
    other.write(events(new, labels, weights=weights))
    assert memory.stored == min(written, 40)
    queries = rng.standard_normal((9, 5)).astype(np.float32)
    for ours, theirs in zip(memory.read(queries), other.read(queries), strict=True):
        assert np.array_equal(ours, theirs)
