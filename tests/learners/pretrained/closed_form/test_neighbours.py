"""The nearest rows are those that comparing with every row finds."""

import numpy as np
import pytest

from learners.pretrained.closed_form.statistics.neighbours import Stored, nearest
from streams.core.batch import Array, Ints


def stored(x: Array, turns: Ints | None = None) -> Stored:
    turns = np.arange(len(x)) if turns is None else turns
    return Stored(x, np.einsum("md,md->m", x, x), turns)


def by_comparing_all(x: Array, rows: Stored, k: int) -> tuple[Ints, Array]:
    places, distances = [], []
    for row in x.astype(np.float64):
        squared = np.square(rows.x.astype(np.float64) - row).sum(1)
        order = np.lexsort((-rows.turns, squared))[:k]
        places.append(order)
        distances.append(squared[order])
    return np.array(places), np.array(distances)


def assert_nearest(x: Array, rows: Stored, k: int) -> None:
    places, distances = by_comparing_all(x, rows, k)
    found = nearest(x, rows, k)
    assert np.array_equal(found.places, places)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("k", [1, 5, 40, 500])
def test_rows_in_general_position(k: int) -> None:
    rng = np.random.default_rng(k)
    rows = rng.normal(size=(500, 12)).astype(np.float32)
    assert_nearest(rng.normal(size=(130, 12)).astype(np.float32), stored(rows), k)


def test_equal_rows_are_taken_from_the_latest_on() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2, (400, 3)).astype(np.float32)  # each about fifty times
    turns = rng.permutation(400)
    assert_nearest(rng.integers(0, 2, (70, 3)).astype(np.float32), stored(rows, turns), 7)


def test_rows_of_zeros_and_rows_far_from_the_origin() -> None:
    """Far from the origin, products in float32 lose the distances: they only choose candidates."""
    rng = np.random.default_rng(1)
    near = rng.normal(size=(300, 8))
    for shift in (0.0, 100.0):
        rows = (near + shift).astype(np.float32)
        rows[::10] = 0
        queries = np.concatenate([rows[5:15], np.zeros((2, 8), np.float32)])
        assert_nearest(queries, stored(rows), 6)


def test_fewer_rows_than_are_asked_for() -> None:
    rows = np.eye(3, dtype=np.float32)
    assert_nearest(rows[:1], stored(rows), 10)
