"""The index: recall, exactness of each row and of a resume, events that have left the ring."""

from __future__ import annotations

import numpy as np
import pytest

from buffers.errors.base import LabelledKeys
from buffers.errors.index import IndexedErrorRing
from buffers.errors.ring import ErrorRing

pytest.importorskip("faiss", reason="needs FAISS: the extra index")

CAPACITY = 10_000


def events(keys: np.ndarray, first: int = 0) -> LabelledKeys:
    m = len(keys)
    return LabelledKeys(
        first + np.arange(m), keys, np.arange(m) % 2, np.full((m, 2), 0.5), np.ones(m)
    )


def clustered(n: int, seed: int) -> np.ndarray:
    centres = np.random.default_rng(0).standard_normal((60, 16))
    rng = np.random.default_rng(seed)
    return (centres[rng.integers(0, 60, n)] + 0.5 * rng.standard_normal((n, 16))).astype(np.float32)


def test_index_finds_most_neighbours_and_resumes_exactly() -> None:
    """Over cuts, a resume, single rows, and events that have left the ring."""
    keys, queries = clustered(17_300, 1), clustered(60, 2)
    exact = ErrorRing(16, False, capacity=CAPACITY)
    whole, parts = (IndexedErrorRing(16, False, capacity=CAPACITY) for _ in range(2))
    for memory in (exact, whole, parts):
        memory.grow(2)
    exact.write(events(keys))
    whole.write(events(keys))
    for start in range(0, len(keys), 777):
        parts.write(events(keys[start : start + 777], start))
        if start in (9 * 777, 17 * 777):
            heir = IndexedErrorRing(16, False, capacity=CAPACITY)
            heir.load({name: np.copy(value) for name, value in parts.state().items()})
            parts = heir
    true, found, again = (m.nearest(queries, 50) for m in (exact, whole, parts))
    assert np.array_equal(found.places, again.places)
    assert np.array_equal(found.similarity, again.similarity)
    alone = [whole.nearest(query[None], 50).places for query in queries]
    assert np.array_equal(found.places, np.concatenate(alone))
    pairs = zip(found.places.tolist(), true.places.tolist(), strict=True)
    assert np.mean([len({*a} & {*b}) / 50 for a, b in pairs]) >= 0.95
    assert found.age.max() < CAPACITY


def test_index_finds_replaced_keys() -> None:
    """After all keys are replaced, most neighbours are found, and a resume is exact."""
    old, new, queries = clustered(12_000, 3), -clustered(12_000, 4), -clustered(60, 5)
    memory, exact = (kind(16, False, capacity=CAPACITY) for kind in (IndexedErrorRing, ErrorRing))
    for each in (memory, exact):
        each.grow(2)
        each.write(events(old))
        each.replace_keys(new[2000:])
    heir = IndexedErrorRing(16, False, capacity=CAPACITY)
    heir.load({name: np.copy(value) for name, value in memory.state().items()})
    found, again, true = (m.nearest(queries, 50).places for m in (memory, heir, exact))
    assert np.array_equal(found, again)
    pairs = zip(found.tolist(), true.tolist(), strict=True)
    assert np.mean([len({*a} & {*b}) / 50 for a, b in pairs]) >= 0.95


def test_index_knows_only_the_cosine() -> None:
    """Another metric is refused."""
    with pytest.raises(ValueError, match="metric"):
        IndexedErrorRing(4, False, metric="dot")
